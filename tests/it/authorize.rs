//! A site that speaks OpenID Connect sends its people to `/authorize`, and gets them back.

use reqwest::{Method, Url};
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER, with_form};
use crate::support::service::Service;

const BLOG: Site = Site::Basic("blog", "s3cret");
const CALLBACK: &str = "https://blog.example/callback?from=scan";

/// A confidential client, a public one, one that may frame, one that wants RS256 and names of its own.
const SITES: &str = r#"
    pairwise_secret = "0123456789abcdef0123456789abcdef"
    [[client]]
    client_id = "blog"
    client_secret = "s3cret"
    name = "My <b>Blog</b>"
    logo_url = "https://cdn.blog.example/logo.png"
    redirect_uris = ["https://blog.example/callback?from=scan", "https://blog.example/other"]
    [[client]]
    client_id = "app"
    origins = ["https://app.example", "https://www.app.example"]
    redirect_uris = ["https://app.example/cb"]
    [[client]]
    client_id = "shop"
    client_secret = "shop-secret"
    redirect_uris = ["https://shop.example/cb"]
    subject_type = "pairwise"
    id_token_signed_response_alg = "RS256"
"#;

async fn sites() -> Service {
    Service::builder().config_toml(SITES).start().await
}

/// Changes of parameters: a value of none leaves one out.
type Changes<'a> = &'a [(&'a str, Option<&'a str>)];

/// What the blog asks, with these changes.
fn asked(changes: Changes<'_>) -> String {
    let mut asked: Vec<(&str, &str)> = vec![
        ("client_id", "blog"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid profile"),
        ("state", "af0ifjsldkj&=%"),
        ("nonce", "n-0S6_WzA2Mj"),
    ];
    for (name, value) in changes {
        asked.retain(|(known, _)| known != name);
        asked.extend(value.map(|value| (*name, value)));
    }
    query(&asked)
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs).finish()
}

async fn authorize(service: &Service, query: &str) -> Reply {
    Reply::to(service.get(&format!("/authorize?{query}"))).await
}

/// Starts a scene as the page does.
async fn start(service: &Service, query: &str) -> Browser {
    Browser::start_with(service, json!({ "authorization_request": query })).await
}

/// The parameters with which the browser comes back, and whose they are.
#[track_caller]
fn came_back(address: &str) -> (String, Value) {
    let address = Url::parse(address).unwrap();
    let pairs = address.query_pairs().into_owned();
    let pairs = pairs.map(|(name, value)| (name, value.into())).collect();
    (address.origin().ascii_serialization(), Value::Object(pairs))
}

#[tokio::test]
async fn a_sites_picture_is_on_its_page_and_on_the_phone() {
    let logo = "https://cdn.blog.example/logo.png";
    let service = sites().await;
    let page = authorize(&service, &asked(&[])).await;
    let html = page.text();
    assert!(html.contains(&format!("data-logo=\"{logo}\"")), "{html}");
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains(" https://cdn.blog.example;"),
        "it may be shown: {policy}"
    );
    let browser = start(&service, &asked(&[])).await;
    let shown = Phone::of("alice").scan(&service, &browser.scene).await.ok();
    let client = &shown["client"];
    assert_eq!(
        (&client["name"], &client["logo_url"]),
        (&json!("My <b>Blog</b>"), &json!(logo))
    );
}

#[tokio::test]
async fn a_person_logs_in_and_goes_back_to_the_site_with_a_code() {
    let service = sites().await;
    let asked = asked(&[]);
    let page = authorize(&service, &asked).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    let html = page.text();
    assert!(
        html.contains("My &lt;b&gt;Blog&lt;/b&gt;") && !html.contains("<b>"),
        "{html}"
    );
    assert!(
        html.contains(&asked.replace('&', "&amp;")),
        "the page knows what to start: {html}"
    );

    let browser = start(&service, &asked).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    assert!(
        browser.status().await.get("redirect_to").is_none(),
        "not before the yes"
    );
    let yes = json!({"profile": {"nickname": "Alice"}});
    alice.confirm_with(&service, &browser.scene, yes).await.ok();
    let told = browser.status().await;
    let redirect_to = told["redirect_to"].as_str().unwrap();
    assert!(redirect_to.starts_with(CALLBACK), "{redirect_to}");
    let (_, answer) = came_back(redirect_to);
    let expected = json!({
        "from": "scan", "code": told["code"], "state": "af0ifjsldkj&=%", "iss": service.public_url
    });
    assert_eq!(answer, expected);
    assert_eq!(
        browser.events().await.next().await.unwrap().data["redirect_to"],
        redirect_to
    );

    let code = told["code"].as_str().unwrap();
    let without = BLOG.token(&service, &[("code", code)]).await;
    without.oauth_error(400, "invalid_grant");
    let other = [("code", code), ("redirect_uri", "https://blog.example/other")];
    BLOG.token(&service, &other).await.oauth_error(400, "invalid_grant");
    let given = BLOG
        .token(&service, &[("code", code), ("redirect_uri", CALLBACK)])
        .await
        .ok();
    assert_eq!(given["scope"], "openid profile");
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    assert_eq!(
        (&claims["nonce"], &claims["nickname"], &claims["sub"]),
        (&json!("n-0S6_WzA2Mj"), &json!("Alice"), &json!("alice"))
    );
}

#[tokio::test]
async fn a_site_that_does_not_ask_for_the_profile_is_not_told_it() {
    let service = sites().await;
    let browser = start(&service, &asked(&[("scope", Some("openid email"))])).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let yes = json!({"profile": {"nickname": "Alice"}});
    alice.confirm_with(&service, &browser.scene, yes).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    let given = BLOG
        .token(&service, &[("code", &code), ("redirect_uri", CALLBACK)])
        .await
        .ok();
    assert_eq!(given["scope"], "openid");
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    let told = Site::userinfo(&service, given["access_token"].as_str().unwrap())
        .await
        .ok();
    for known in [&claims, &told] {
        assert!(known.get("nickname").is_none() && known["sub"] == "alice", "{known}");
    }
}

#[tokio::test]
async fn who_says_no_or_gives_up_goes_back_with_access_denied() {
    let service = sites().await;
    let asked = asked(&[]);
    let declined = start(&service, &asked).await;
    let alice = Phone::that_scanned("alice", &service, &declined.scene).await;
    alice.decline(&service, &declined.scene).await.ok();
    let cancelled = start(&service, &asked).await;
    assert_eq!(cancelled.cancel().await.status, 204);
    for browser in [declined, cancelled] {
        let told = browser.status().await;
        let (origin, answer) = came_back(told["redirect_to"].as_str().unwrap());
        assert_eq!(origin, "https://blog.example");
        assert_eq!(
            (&answer["error"], &answer["state"], &answer["iss"], &answer["from"]),
            (
                &json!("access_denied"),
                &json!("af0ifjsldkj&=%"),
                &json!(service.public_url),
                &json!("scan")
            )
        );
        assert!(answer.get("code").is_none());
    }
}

#[tokio::test]
async fn t11_every_answer_says_who_gives_it() {
    let service = sites().await;
    let metadata = Reply::to(service.get("/.well-known/openid-configuration")).await.ok();
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    let refused = authorize(&service, &asked(&[("response_type", Some("token"))])).await;
    let (_, answer) = came_back(refused.header("location"));
    assert_eq!(answer["iss"], metadata["issuer"]);
    let browser = start(&service, &asked(&[])).await;
    browser.code_of("alice", &service).await;
    let (_, answer) = came_back(browser.status().await["redirect_to"].as_str().unwrap());
    assert_eq!(answer["iss"], metadata["issuer"]);
}

/// Addresses that are near to one that the site listed, and are not it.
fn near_misses() -> Vec<String> {
    let listed = CALLBACK;
    let replaced = [
        ("https:", "http:"),
        ("https:", "HTTPS:"),
        ("https://", "https:/"),
        ("https://", "https:\\\\"),
        ("https://", "//"),
        ("blog.example", "BLOG.example"),
        ("blog.example", "blog.example."),
        ("blog.example", "blog.example:443"),
        ("blog.example", "blog.example:8443"),
        ("blog.example", "www.blog.example"),
        ("blog.example", "blog.example.evil.example"),
        ("blog.example", "evil.example"),
        ("blog.example", "blog.example@evil.example"),
        ("blog.example", "user@blog.example"),
        ("blog.example", "user:password@blog.example"),
        ("blog.example", "evil.example#blog.example"),
        ("blog.example", "evil.example\\@blog.example"),
        ("blog.example", "bl%6Fg.example"),
        ("blog.example", "blog\u{3002}example"),
        ("blog.example", "bl\u{43e}g.example"),
        ("blog.example", "[::1]"),
        ("/callback", "/Callback"),
        ("/callback", "/callback/"),
        ("/callback", "/callback/../callback"),
        ("/callback", "/./callback"),
        ("/callback", "/x/../callback"),
        ("/callback", "/%2e%2e/callback"),
        ("/callback", "/c%61llback"),
        ("/callback", "//callback"),
        ("/callback", "/callback;x"),
        ("/callback", "/callback%00"),
        ("/callback", "/callback\n"),
        ("/callback", "\\callback"),
        ("?from=scan", ""),
        ("?from=scan", "?"),
        ("?from=scan", "?from=scan&a=b"),
        ("?from=scan", "?from=SCAN"),
        ("?from=scan", "?from=scan#"),
        ("?from=scan", "?from=scan#fragment"),
        ("?from=scan", "?from=scan "),
        (listed, " https://blog.example/callback?from=scan"),
        (listed, "javascript:alert(1)"),
        (listed, "data:text/html,x"),
        (listed, "https://app.example/cb"),
        (listed, "https://*"),
        (listed, "https://blog.example"),
    ];
    replaced.iter().map(|(from, to)| listed.replacen(from, to, 1)).collect()
}

#[tokio::test]
async fn t12_nobody_is_sent_to_an_address_that_the_site_did_not_list() {
    let service = sites().await;
    let misses = near_misses();
    assert!(misses.len() >= 40 && misses.iter().all(|miss| miss != CALLBACK));
    let faulty = ("response_type", Some("nonsense"));
    for miss in &misses {
        // However wrong the rest is, too.
        for changes in [
            vec![("redirect_uri", Some(miss.as_str()))],
            vec![("redirect_uri", Some(miss)), faulty],
        ] {
            let asked = asked(&changes);
            let refused = authorize(&service, &asked).await;
            assert_eq!((refused.status, refused.header("location")), (400, ""), "{miss}");
            assert_eq!(refused.header("content-type"), "text/html; charset=utf-8");
            assert!(
                !refused.text().contains("evil"),
                "nothing of the request is repeated: {miss}"
            );
            let start = service.post("/scenes", &json!({ "authorization_request": asked }));
            Reply::to(start).await.problem(400, "invalid_request");
        }
    }
    for (asked, what) in [
        (asked(&[("client_id", None)]), "no client"),
        (asked(&[("client_id", Some("nobody"))]), "an unknown client"),
        (asked(&[("redirect_uri", None)]), "no redirect_uri"),
        (asked(&[("redirect_uri", Some(""))]), "an empty redirect_uri"),
        (format!("{}&client_id=app", asked(&[])), "two clients"),
        (
            format!("{}&redirect_uri=https%3A%2F%2Fevil.example", asked(&[])),
            "two redirect_uris",
        ),
        (String::new(), "nothing"),
    ] {
        let refused = authorize(&service, &asked).await;
        assert_eq!((refused.status, refused.header("location")), (400, ""), "{what}");
    }
}

#[tokio::test]
async fn a_redirect_uri_that_is_not_listed_is_told_to_the_log_without_its_secrets() {
    let service = sites().await;
    for (sent, logged) in [
        ("https://blog.example/near-miss/", "https://blog.example/near-miss/\\\""),
        ("https://blog.example/q?code=hidden", "https://blog.example/q?…\\\""),
        ("https://blog.example/f#hidden", "https://blog.example/f#…\\\""),
        ("https://blog.example/p;id=hidden", "https://blog.example/p;…\\\""),
        ("https%3A%2F%2Fblog.example%2Fe%3Ftoken%3Dhidden", "%2Fe%3f…\\\""),
        ("https://me:hidden@blog.example/u", "https://…@blog.example/u\\\""),
        ("https://blog.example/@alice/u", "https://blog.example/@alice/u\\\""),
        ("me%3Ahidden%40blog.example", "…%40blog.example\\\""),
    ] {
        let refused = authorize(&service, &asked(&[("redirect_uri", Some(sent))])).await;
        assert_eq!(refused.status, 400, "{sent}");
        assert!(!refused.text().contains("blog.example"), "{sent}");
        service
            .log()
            .line_with(&["client blog: redirect_uri is none of those", logged])
            .await;
    }
    let long = format!("https://blog.example/{}", "x".repeat(1_000));
    authorize(&service, &asked(&[("redirect_uri", Some(&long))])).await;
    let line = service.log().line_with(&["/xxxxxx"]).await;
    let kept = 200 - "https://blog.example/".len();
    assert!(
        line.contains(&"x".repeat(kept)) && !line.contains(&"x".repeat(kept + 1)),
        "{line}"
    );
    let lines = service.log().lines();
    assert!(!lines.iter().any(|line| line.contains("hidden")), "{lines:#?}");
}

#[tokio::test]
async fn why_nobody_is_sent_anywhere_is_said_in_the_language_of_who_reads_it() {
    let service = sites().await;
    let wrong = asked(&[("redirect_uri", Some("https://blog.example/else"))]);
    let (zh, en) = ("与网站登记的地址都不是逐字符相同", "none of those that the site listed");
    for (asked, accepted, said, not_said, lang) in [
        (wrong.clone(), "zh-CN,en;q=0.5", zh, en, "zh-CN"),
        (wrong.clone(), "en-GB,zh;q=0.5", en, zh, "en"),
        (wrong.clone(), "fr-FR,fr;q=0.5", en, zh, "en"),
        (wrong.clone(), "fr,zh;q=0.5", zh, en, "zh-CN"),
        (wrong.clone(), "ZH-hant", zh, en, "zh-CN"),
        (format!("{wrong}&ui_locales=EN"), "zh", en, zh, "en"),
        (wrong.clone(), "*", zh, en, "zh-CN"),
        (wrong.clone(), "", zh, en, "zh-CN"),
        (format!("{wrong}&ui_locales=fr"), "de", en, zh, "en"),
        (format!("{wrong}&ui_locales=zh"), "en", zh, en, "zh-CN"),
        (format!("{wrong}&ui_locales=fr+en"), "zh", en, zh, "en"),
        (String::new(), "zh", "client_id 缺失", "missing", "zh-CN"),
        (
            "client_id=blog".to_owned(),
            "zh",
            "缺少 redirect_uri",
            "missing",
            "zh-CN",
        ),
        (
            "client_id=blog&client_id=blog".to_owned(),
            "zh",
            "不止一次",
            "more than once",
            "zh-CN",
        ),
    ] {
        let request = service.get(&format!("/authorize?{asked}"));
        let refused = Reply::to(request.header("accept-language", accepted)).await;
        let page = refused.text();
        assert_eq!(refused.status, 400, "{page}");
        assert!(page.contains(said) && !page.contains(not_said), "{page}");
        assert!(page.contains(&format!("<html lang=\"{lang}\">")), "{page}");
    }
}

#[tokio::test]
async fn a_sites_own_mistake_is_told_to_the_site() {
    let service = sites().await;
    let challenge = s256(VERIFIER);
    let long = "n".repeat(256);
    let cases: &[(Changes<'_>, &str)] = &[
        (&[("response_type", None)], "invalid_request"),
        (&[("response_type", Some("token"))], "unsupported_response_type"),
        (&[("response_type", Some("code id_token"))], "unsupported_response_type"),
        (&[("response_mode", Some("fragment"))], "invalid_request"),
        (&[("scope", Some("profile"))], "invalid_scope"),
        (&[("scope", Some("openidx"))], "invalid_scope"),
        (&[("prompt", Some("none"))], "login_required"),
        (&[("prompt", Some("none login"))], "invalid_request"),
        (&[("max_age", Some("-1"))], "invalid_request"),
        (&[("request", Some("eyJ"))], "request_not_supported"),
        (
            &[("request_uri", Some("https://blog.example/r"))],
            "request_uri_not_supported",
        ),
        (&[("registration", Some("{}"))], "registration_not_supported"),
        (&[("code_challenge", Some(&challenge))], "invalid_request"),
        (
            &[
                ("code_challenge", Some(&challenge)),
                ("code_challenge_method", Some("plain")),
            ],
            "invalid_request",
        ),
        (&[("code_challenge_method", Some("S256"))], "invalid_request"),
        (
            &[
                ("code_challenge", Some("short")),
                ("code_challenge_method", Some("S256")),
            ],
            "invalid_request",
        ),
        (&[("nonce", Some(&long))], "invalid_request"),
        (
            &[
                ("client_id", Some("app")),
                ("redirect_uri", Some("https://app.example/cb")),
            ],
            "invalid_request",
        ),
    ];
    for (changes, error) in cases {
        let asked = asked(changes);
        let refused = authorize(&service, &asked).await;
        assert_eq!(refused.status, 303, "{asked}");
        let (_, answer) = came_back(refused.header("location"));
        assert_eq!(
            (&answer["error"], &answer["state"]),
            (&json!(error), &json!("af0ifjsldkj&=%")),
            "{asked}"
        );
        assert!(answer["error_description"].as_str().unwrap().ends_with('.'), "{answer}");
        let start = service.post("/scenes", &json!({ "authorization_request": asked }));
        Reply::to(start).await.problem(400, "invalid_request");
    }
    let twice = authorize(&service, &format!("{}&nonce=other", asked(&[]))).await;
    assert_eq!(came_back(twice.header("location")).1["error"], "invalid_request");
}

/// What is no text can't be repeated as it came (RFC 6749 Appendix B): to repeat it as something else would be worse.
#[tokio::test]
async fn what_is_no_text_is_refused_and_never_sent_back_as_another() {
    let service = sites().await;
    let without_state = asked(&[("state", None)]);
    let with_state = asked(&[]);
    for (asked, state) in [
        (format!("{without_state}&state=a%FFb"), None),
        (format!("{without_state}&state=%C3"), None),
        (format!("{without_state}&state=%ED%A0%80"), None),
        (format!("{without_state}&state=a&state=%FF"), None),
        (format!("{with_state}&max_age=%FF"), Some("af0ifjsldkj&=%")),
        (format!("{with_state}&request=%FF"), Some("af0ifjsldkj&=%")),
    ] {
        let posted = service
            .call(Method::POST, "/authorize")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(asked.clone());
        for refused in [authorize(&service, &asked).await, Reply::to(posted).await] {
            assert_eq!(refused.status, 303, "{asked}");
            let (origin, answer) = came_back(refused.header("location"));
            assert_eq!(origin, "https://blog.example");
            assert_eq!(answer["error"], "invalid_request", "{answer}");
            assert_eq!(answer.get("state").and_then(Value::as_str), state, "{answer}");
        }
        let start = service.post("/scenes", &json!({ "authorization_request": asked }));
        Reply::to(start).await.problem(400, "invalid_request");
    }
    // A form may hold bytes that no address does.
    let raw = [without_state.as_bytes(), b"&state=a\xffb"].concat();
    let escaped_in_part = [without_state.as_bytes(), b"&state=a\xc3%A9"].concat();
    for body in [raw, escaped_in_part] {
        let posted = service
            .call(Method::POST, "/authorize")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let refused = Reply::to(posted).await;
        let (_, answer) = came_back(refused.header("location"));
        assert_eq!(
            (&answer["error"], answer.get("state")),
            (&json!("invalid_request"), None)
        );
    }
    // A second one is a second one however its name is written.
    let body = [without_state.as_bytes(), b"&%72edirect_uri=\xff"].concat();
    let posted = service
        .call(Method::POST, "/authorize")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    let refused = Reply::to(posted).await;
    assert_eq!((refused.status, refused.header("location")), (400, ""));
    // Of whom nothing is known, nobody is told.
    for (name, value) in [("client_id", "blog%FF"), ("redirect_uri", "https://blog.example/%FF")] {
        let asked = format!("{}&{name}={value}", asked(&[(name, None)]));
        let refused = authorize(&service, &asked).await;
        assert_eq!((refused.status, refused.header("location")), (400, ""), "{asked}");
    }
}

/// One that is ignored in place of being refused would ask for less than the site did.
#[tokio::test]
async fn whatever_decides_something_must_be_text() {
    let service = sites().await;
    for name in [
        "code_challenge",
        "code_challenge_method",
        "max_age",
        "nonce",
        "prompt",
        "registration",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    ] {
        let asked = format!("{}&{name}=%FF", asked(&[(name, None)]));
        let refused = authorize(&service, &asked).await;
        let (_, answer) = came_back(refused.header("location"));
        assert_eq!(answer["error"], "invalid_request", "{name}: {answer}");
        let words = answer["error_description"].as_str().unwrap();
        assert!(words.starts_with(&format!("{name} is no text")), "{words}");
    }
}

/// Nobody knows which of two the site will compare.
#[tokio::test]
async fn of_two_states_none_is_sent_back() {
    let service = sites().await;
    let refused = authorize(&service, &format!("{}&state=other", asked(&[]))).await;
    let (_, answer) = came_back(refused.header("location"));
    assert_eq!(
        (&answer["error"], answer.get("state")),
        (&json!("invalid_request"), None)
    );
}

/// People are sent there; no page may call (RFC 9700 §2.6), not even one of a site that is listed.
#[tokio::test]
async fn no_page_reads_what_authorize_answers() {
    let service = sites().await;
    let path = format!("/authorize?{}", asked(&[]));
    for method in [Method::GET, Method::OPTIONS] {
        let request = service.call(method, &path).header("origin", "https://app.example");
        let reply = Reply::to(request.header("access-control-request-method", "POST")).await;
        assert_eq!(reply.header("access-control-allow-origin"), "");
    }
}

/// RFC 6749 §3.1: a parameter that is not known is ignored.
#[tokio::test]
async fn what_decides_nothing_may_be_no_text() {
    let service = sites().await;
    let with_state = asked(&[]);
    for ignored in [
        "login_hint=Andr%E9",
        "ui_locales=%FF",
        "utm_term=%E4",
        "%FF=x",
        "\u{e9}=\u{e9}",
    ] {
        let asked = format!("{with_state}&{ignored}");
        assert_eq!(authorize(&service, &asked).await.status, 200, "{ignored}");
        let start = service.post("/scenes", &json!({ "authorization_request": asked }));
        assert_eq!(Reply::to(start).await.status, 201, "{ignored}");
    }
}

#[tokio::test]
async fn a_state_is_sent_back_sign_for_sign() {
    let service = sites().await;
    for state in [
        "a+b c%20&=?/#",
        "\u{fffd}",
        "\u{72b6}\u{6001} \u{1f43c}",
        "\"quoted\"<b>",
        "%zz%",
        "a\u{0}\n\tb",
    ] {
        let asked = asked(&[("state", Some(state))]);
        assert_eq!(authorize(&service, &asked).await.status, 200, "{asked}");
        let browser = start(&service, &asked).await;
        assert_eq!(browser.cancel().await.status, 204);
        let (_, answer) = came_back(browser.status().await["redirect_to"].as_str().unwrap());
        assert_eq!(answer["state"], state);
        let refused = authorize(&service, &format!("{asked}&prompt=none")).await;
        assert_eq!(came_back(refused.header("location")).1["state"], state);
    }
}

#[tokio::test]
async fn what_means_nothing_here_is_ignored_and_what_always_holds_is_granted() {
    let service = sites().await;
    let changes = [
        ("prompt", Some("login consent")),
        ("max_age", Some("0")),
        ("login_hint", Some("alice@blog.example")),
        ("acr_values", Some("1 2")),
        ("display", Some("touch")),
        ("claims_locales", Some("fr")),
        ("id_token_hint", Some("eyJ.e30.x")),
        ("resource", Some("https://blog.example")),
        ("state", None),
        ("nonce", None),
    ];
    let asked = asked(&changes);
    assert_eq!(authorize(&service, &asked).await.status, 200);
    let browser = start(&service, &asked).await;
    let code = browser.code_of("alice", &service).await;
    let (_, answer) = came_back(browser.status().await["redirect_to"].as_str().unwrap());
    assert!(answer.get("state").is_none(), "{answer}");
    let given = BLOG
        .token(&service, &[("code", &code), ("redirect_uri", CALLBACK)])
        .await
        .ok();
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    assert!(
        claims.get("nonce").is_none() && claims["auth_time"].is_i64(),
        "{claims}"
    );
}

#[tokio::test]
async fn what_the_basic_profile_lets_a_site_ask_is_no_error() {
    let service = sites().await;
    let challenge = s256(VERIFIER);
    let cases: &[Changes<'_>] = &[
        &[("scope", Some("openid email"))],
        &[("scope", Some("openid address"))],
        &[("scope", Some("openid phone"))],
        &[("scope", Some("openid profile email address phone"))],
        &[("scope", Some("profile openid"))],
        &[("display", Some("page"))],
        &[("display", Some("popup"))],
        &[("prompt", Some("login"))],
        &[("max_age", Some("1"))],
        &[("max_age", Some("10000"))],
        &[("extra", Some("foobar"))],
        &[("login_hint", Some("alice@blog.example"))],
        &[("ui_locales", Some("se"))],
        &[("claims_locales", Some("se"))],
        &[("acr_values", Some("1 2"))],
        &[("claims", Some(r#"{"userinfo": {"name": {"essential": true}}}"#))],
        &[
            ("code_challenge", Some(&challenge)),
            ("code_challenge_method", Some("S256")),
        ],
    ];
    for changes in cases {
        let asked = asked(changes);
        assert_eq!(authorize(&service, &asked).await.status, 200, "{asked}");
        let browser = start(&service, &asked).await;
        let code = browser.code_of("alice", &service).await;
        let mut form = vec![("code", &*code), ("redirect_uri", CALLBACK)];
        if changes.iter().any(|(name, _)| *name == "code_challenge") {
            form.push(("code_verifier", VERIFIER));
        }
        let given = BLOG.token(&service, &form).await.ok();
        let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
        let told = Site::userinfo(&service, given["access_token"].as_str().unwrap())
            .await
            .ok();
        assert_eq!(
            (&claims["sub"], &told["sub"]),
            (&json!("alice"), &json!("alice")),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn a_second_login_is_scanned_anew_and_says_when() {
    let service = sites().await;
    let mut times = Vec::new();
    for changes in [
        &[("max_age", Some("15000"))],
        &[("max_age", Some("1"))],
        &[("prompt", Some("login"))],
    ] {
        let asked = asked(changes);
        let browser = start(&service, &asked).await;
        assert_eq!(browser.status().await["state"], "waiting", "{asked}");
        // auth_time counts whole seconds.
        let before = jiff::Timestamp::now().as_second();
        eventually("a later second", || async {
            (jiff::Timestamp::now().as_second() > before).then_some(())
        })
        .await;
        let code = browser.code_of("alice", &service).await;
        let given = BLOG
            .token(&service, &[("code", &code), ("redirect_uri", CALLBACK)])
            .await
            .ok();
        let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
        let auth_time = claims["auth_time"].as_i64().unwrap();
        assert!(auth_time > before, "{claims}");
        times.push(auth_time);
    }
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "{times:?}");
}

#[tokio::test]
async fn the_page_speaks_the_language_that_the_site_wants() {
    let service = sites().await;
    for (ui_locales, accepted, spoken) in [
        (Some("en"), "zh-CN", "lang=\"en\""),
        (Some("fr zh-TW en"), "en", "lang=\"zh-CN\""),
        (Some("fr"), "en-GB,zh;q=0.5", "lang=\"en\""),
        (None, "zh-CN", "lang=\"zh-CN\""),
    ] {
        let path = format!("/authorize?{}", asked(&[("ui_locales", ui_locales)]));
        let page = Reply::to(service.get(&path).header("accept-language", accepted)).await;
        assert!(page.text().contains(spoken), "{ui_locales:?} {accepted}");
    }
}

#[tokio::test]
async fn a_posted_request_is_the_same_and_other_bodies_are_none() {
    let service = sites().await;
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(asked(&[]).as_bytes())
        .into_owned()
        .collect();
    let form: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    let page = Reply::to(with_form(service.call(Method::POST, "/authorize"), &form)).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains(&asked(&[]).replace('&', "&amp;")));
    let json = Reply::to(service.post("/authorize", &json!({"client_id": "blog"}))).await;
    json.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn t20_a_page_of_the_site_may_frame_its_code_and_nobody_elses_may() {
    let service = sites().await;
    let policy = |reply: &Reply| {
        let policy = reply.header("content-security-policy").to_owned();
        policy.split_once("frame-ancestors ").unwrap().1.to_owned()
    };
    let blog = authorize(&service, &asked(&[])).await;
    assert_eq!((&*policy(&blog), blog.header("x-frame-options")), ("'none'", "DENY"));
    let challenge = s256(VERIFIER);
    let app = asked(&[
        ("client_id", Some("app")),
        ("redirect_uri", Some("https://app.example/cb")),
        ("code_challenge", Some(&challenge)),
        ("code_challenge_method", Some("S256")),
    ]);
    let app = authorize(&service, &app).await;
    assert_eq!(policy(&app), "https://app.example https://www.app.example");
    let stranger = authorize(&service, "client_id=app&redirect_uri=https%3A%2F%2Fevil.example").await;
    assert_eq!(
        (&*policy(&stranger), stranger.header("x-frame-options")),
        ("'none'", "DENY")
    );
}

#[tokio::test]
async fn a_site_may_have_names_of_its_own_for_people_and_rs256() {
    let service = sites().await;
    let asked = asked(&[
        ("client_id", Some("shop")),
        ("redirect_uri", Some("https://shop.example/cb")),
    ]);
    let mut known = Vec::new();
    for _ in 0..2 {
        let browser = start(&service, &asked).await;
        let code = browser.code_of("alice", &service).await;
        let form = [("code", &*code), ("redirect_uri", "https://shop.example/cb")];
        let given = Site::Basic("shop", "shop-secret").token(&service, &form).await.ok();
        let id_token = given["id_token"].as_str().unwrap();
        assert_eq!(Site::alg(id_token), "RS256");
        let claims = Site::verified(&service, id_token).await;
        let told = Site::userinfo(&service, given["access_token"].as_str().unwrap())
            .await
            .ok();
        assert_eq!(claims["sub"], told["sub"]);
        for name in ["wechat_openid", "wechat_unionid", "wechat_appid"] {
            assert!(
                claims.get(name).is_none() && told.get(name).is_none(),
                "{name}: {claims}"
            );
        }
        assert!(!claims.to_string().contains("alice"), "{claims}");
        known.push(claims["sub"].clone());
    }
    assert_eq!(known[0], known[1], "the same person has the same name");
    let metadata = Reply::to(service.get("/.well-known/openid-configuration")).await.ok();
    assert_eq!(
        metadata["id_token_signing_alg_values_supported"],
        json!(["ES256", "RS256"])
    );
}

#[tokio::test]
async fn userinfo_takes_the_token_from_a_form_and_not_from_two_places() {
    let service = sites().await;
    let browser = start(&service, &asked(&[])).await;
    let code = browser.code_of("alice", &service).await;
    let given = BLOG
        .token(&service, &[("code", &code), ("redirect_uri", CALLBACK)])
        .await
        .ok();
    let token = given["access_token"].as_str().unwrap();
    let posted = |form: &[(&str, &str)]| with_form(service.call(Method::POST, "/userinfo"), form);
    assert_eq!(Reply::to(posted(&[("access_token", token)])).await.ok()["sub"], "alice");
    let twice = posted(&[("access_token", token)]).bearer_auth(token);
    Reply::to(twice).await.oauth_error(400, "invalid_request");
    Reply::to(posted(&[("access_token", "x")]))
        .await
        .oauth_error(401, "invalid_token");
}

#[tokio::test]
async fn a_site_may_open_the_page_in_a_window_of_its_own_and_hear_from_it() {
    let service = sites().await;
    let all = [
        (asked(&[]), 200),
        (asked(&[("prompt", Some("none"))]), 303),
        (asked(&[("client_id", Some("nobody"))]), 400),
    ];
    for (query, status) in all {
        let reply = authorize(&service, &query).await;
        assert_eq!(reply.status, status, "{query}");
        assert_eq!(reply.header("cross-origin-opener-policy"), "unsafe-none", "{query}");
    }
    let elsewhere = Reply::to(service.get("/")).await;
    assert_eq!(elsewhere.header("cross-origin-opener-policy"), "same-origin");
}
