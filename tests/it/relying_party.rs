//! What a site's backend gets for a code, and what it gets when something about it is wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::reply::Reply;
use crate::support::roles::{Browser, Site, VERIFIER, with_form};
use crate::support::service::Service;

const SECRET: &str = "blog's secret: 100% + é";

/// A confidential client, another, and a public one.
async fn three_sites() -> Service {
    Service::builder()
        .config_toml(&format!(
            r#"
            [[client]]
            client_id = "blog"
            client_secret = "{SECRET}"
            [[client]]
            client_id = "shop"
            client_secret = "shop-secret"
            [[client]]
            client_id = "app"
            "#
        ))
        .start()
        .await
}

async fn code_for(client_id: &str, service: &Service) -> String {
    let request = json!({ "client_id": client_id, "code_challenge": s256(VERIFIER) });
    Browser::start_with(service, request)
        .await
        .code_of("alice", service)
        .await
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn each_way_of_proving_a_client_works() {
    let service = three_sites().await;
    let encoded_secret: &'static str = encoded(SECRET).leak();
    for site in [
        Site::Post("blog", SECRET),
        Site::Basic("blog", encoded_secret),
        Site::Basic("shop", "shop-secret"),
        Site::Public("app"),
    ] {
        let code = code_for(site.client_id(), &service).await;
        let given = site.redeem(&service, &code).await;
        let body = given.ok();
        assert_eq!(given.header("cache-control"), "no-store");
        assert_eq!(
            (&body["token_type"], &body["expires_in"], &body["scope"]),
            (&json!("Bearer"), &json!(600), &json!("openid"))
        );
        let claims = Site::verified(&service, body["id_token"].as_str().unwrap()).await;
        assert_eq!(claims["aud"], site.client_id());
    }
}

#[tokio::test]
async fn past_the_limit_no_answer_tells_which_secret_was_right() {
    const FORMS: [&[(&str, &str)]; 3] = [
        &[("grant_type", "x")],
        &[("grant_type", "authorization_code")],
        &[("grant_type", "authorization_code"), ("code", "x")],
    ];
    let service = Service::builder()
        .config_toml("[[client]]\nclient_id = \"blog\"\nclient_secret = \"the-right-secret-of-32-characters\"")
        .with("LIMITS", "on")
        .with("LIMIT_FAILED_REDEMPTIONS", 5)
        .start()
        .await;
    let ask = |secret: &'static str, form: &'static [(&'static str, &'static str)]| {
        let request = service.call(Method::POST, "/token").basic_auth("blog", Some(secret));
        async move { Reply::to(with_form(request, form)).await }
    };
    for _ in 0..5 {
        let guess = ask("a-wrong-secret", FORMS[0]).await;
        guess.oauth_error(401, "invalid_client");
    }
    for form in FORMS {
        for secret in ["a-wrong-secret", "the-right-secret-of-32-characters"] {
            let refused = ask(secret, form).await;
            refused.oauth_error(429, "temporarily_unavailable");
        }
    }
}

#[tokio::test]
async fn a_basic_secret_is_taken_form_encoded_or_as_it_is() {
    const ODD: &str = "a+b/c==&d%41%zz e";
    let service = Service::builder()
        .config_toml(&format!("[[client]]\nclient_id = \"a+b&c\"\nclient_secret = \"{ODD}\""))
        .start()
        .await;
    let percent_encoded = |text: &str| -> &'static str {
        let each = text.bytes().map(|byte| format!("%{byte:02x}"));
        each.collect::<String>().leak()
    };
    for (id, secret) in [
        ("a+b&c", ODD),
        (encoded("a+b&c").leak(), encoded(ODD).leak()),
        (percent_encoded("a+b&c"), percent_encoded(ODD)),
    ] {
        let code = code_for("a+b&c", &service).await;
        let named_again = [("client_id", "a+b&c"), ("code", &code), ("code_verifier", VERIFIER)];
        Site::Basic(id, secret).token(&service, &named_again).await.ok();
    }
    for wrong in ["a b/c==&d%41%zz e", "a+b/c==&dA%zz e", "a+b/c", ""] {
        let refused = Site::Basic("a+b&c", wrong).redeem(&service, "x").await;
        refused.oauth_error(401, "invalid_client");
    }
}

#[tokio::test]
async fn a_client_that_does_not_prove_itself_gets_nothing_and_burns_nothing() {
    let service = three_sites().await;
    let code = code_for("shop", &service).await;
    for site in [
        Site::Basic("shop", "wrong"),
        Site::Basic("shop", ""),
        Site::Post("shop", "wrong"),
        Site::Post("shop", SECRET),
        Site::Public("shop"),
        Site::Post("nobody", "shop-secret"),
        Site::Public("nobody"),
        Site::Post("app", "shop-secret"),
        Site::Post("app", "x"),
    ] {
        let refused = site.redeem(&service, &code).await;
        refused.oauth_error(401, "invalid_client");
    }
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", VERIFIER),
    ];
    let request = |authorization: &str| {
        let request = with_form(service.call(Method::POST, "/token"), &form);
        request.header("authorization", authorization)
    };
    let nobody = with_form(service.call(Method::POST, "/token"), &form);
    Reply::to(nobody).await.oauth_error(401, "invalid_client");
    for unreadable in [
        "Basic",
        "Basic ",
        "Basic !!!",
        &format!("Basic {}", STANDARD.encode("no colon")),
    ] {
        Reply::to(request(unreadable)).await.oauth_error(401, "invalid_client");
    }
    Site::Basic("shop", "shop-secret").redeem(&service, &code).await.ok();
}

/// The client hears one thing; whoever reads the log is told which it was, and never what was sent.
#[tokio::test]
async fn what_was_wrong_with_a_redemption_is_told_to_the_log_alone() {
    let service = three_sites().await;
    let code = code_for("shop", &service).await;
    let right = Site::Basic("shop", "shop-secret");
    for (site, why) in [
        (Site::Basic("shop", "a-guess"), "client shop has another secret"),
        (Site::Public("shop"), "client shop has a secret, and sent none"),
        (
            Site::Post("app", "a-guess"),
            "client app has no secret in the settings, and sent one",
        ),
        (
            Site::Post("a-guess", "x"),
            "no client of the settings has this client_id",
        ),
    ] {
        site.redeem(&service, &code).await.oauth_error(401, "invalid_client");
        service.log().line_with(&["invalid_client", why]).await;
    }
    let form = [("grant_type", "authorization_code"), ("code", &code)];
    let send = |authorization: &str| {
        let request = with_form(service.call(Method::POST, "/token"), &form);
        Reply::to(request.header("authorization", authorization))
    };
    send("Bearer x").await.oauth_error(401, "invalid_client");
    service
        .log()
        .line_with(&["invalid_client", "no client_id was sent"])
        .await;
    send("Basic !a-guess").await.oauth_error(401, "invalid_client");
    service.log().line_with(&["invalid_client", "is not base64"]).await;
    let mute = with_form(service.call(Method::POST, "/token"), &form[1..]);
    let mute = Reply::to(mute.basic_auth("shop", Some("shop-secret"))).await;
    mute.oauth_error(400, "invalid_request");
    service
        .log()
        .line_with(&["invalid_request", "grant_type is missing"])
        .await;
    right.redeem(&service, &code).await.ok();
    right.redeem(&service, &code).await.oauth_error(400, "invalid_grant");
    let why = ["invalid_grant", "client shop", "the code was used before"];
    service.log().line_with(&why).await;
    let lines = service.log().lines();
    assert!(!lines.iter().any(|line| line.contains("a-guess")), "{lines:#?}");
}

#[tokio::test]
async fn a_client_proves_itself_in_one_way_at_a_time() {
    let service = three_sites().await;
    let basic = Site::Basic("shop", "shop-secret");
    let twice = basic.token(&service, &[("client_secret", "shop-secret"), ("client_id", "shop")]);
    twice.await.oauth_error(400, "invalid_request");
    let two = basic.token(&service, &[("client_id", "blog"), ("code", "x")]);
    two.await.oauth_error(400, "invalid_request");
    let code = code_for("shop", &service).await;
    let named_again = [("client_id", "shop"), ("code", &code), ("code_verifier", VERIFIER)];
    basic.token(&service, &named_again).await.ok();
}

#[tokio::test]
async fn t09_another_clients_code_is_worth_nothing_and_stays_good_for_its_own() {
    let service = three_sites().await;
    let code = code_for("blog", &service).await;
    for thief in [Site::Basic("shop", "shop-secret"), Site::Public("app")] {
        thief.redeem(&service, &code).await.oauth_error(400, "invalid_grant");
    }
    Site::Post("blog", SECRET).redeem(&service, &code).await.ok();
}

#[tokio::test]
async fn a_failed_try_does_not_burn_the_code_and_only_the_right_verifier_fits() {
    let service = three_sites().await;
    let site = Site::Basic("shop", "shop-secret");
    let code = code_for("shop", &service).await;
    let challenge = s256(VERIFIER);
    for wrong in ["", "wrong", &challenge, &VERIFIER[1..], &format!("{VERIFIER} ")] {
        let refused = site.token(&service, &[("code", &code), ("code_verifier", wrong)]).await;
        refused.oauth_error(400, "invalid_grant");
    }
    site.token(&service, &[("code", &code)])
        .await
        .oauth_error(400, "invalid_grant");
    site.redeem(&service, &code).await.ok();

    let without_challenge = Browser::start_with(&service, json!({"client_id": "shop"})).await;
    let code = without_challenge.code_of("alice", &service).await;
    let downgraded = site.redeem(&service, &code).await;
    downgraded.oauth_error(400, "invalid_grant");
    site.token(&service, &[("code", &code)]).await.ok();
}

#[tokio::test]
async fn t13_a_client_without_a_secret_must_use_pkce_and_nobody_may_use_plain() {
    let service = three_sites().await;
    let start = |request: Value| Reply::to(service.post("/scenes", &request));
    let missing = start(json!({"client_id": "app"})).await;
    let problem = missing.problem(400, "invalid_request");
    assert!(
        problem["detail"].as_str().unwrap().contains("code_challenge"),
        "{problem}"
    );
    for (challenge, method) in [
        (s256(VERIFIER), "plain"),
        (VERIFIER.to_owned(), "plain"),
        (s256(VERIFIER), "s256"),
        (s256(VERIFIER), ""),
        (VERIFIER.to_owned(), "S256"),
        (format!("{}=", s256(VERIFIER)), "S256"),
        (String::new(), "S256"),
    ] {
        for client_id in ["app", "shop"] {
            let request = json!({
                "client_id": client_id, "code_challenge": challenge, "code_challenge_method": method
            });
            start(request).await.problem(400, "invalid_request");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_no_token_request_is_told_what_is_wrong_with_it() {
    let service = three_sites().await;
    let site = |form: &[(&str, &str)]| {
        let mut form = form.to_vec();
        form.extend([("client_id", "shop"), ("client_secret", "shop-secret")]);
        Reply::to(with_form(service.call(Method::POST, "/token"), &form))
    };
    for (form, error) in [
        (vec![], "invalid_request"),
        (vec![("code", "x")], "invalid_request"),
        (vec![("grant_type", "authorization_code")], "invalid_request"),
        (
            vec![("grant_type", "authorization_code"), ("code", "")],
            "invalid_request",
        ),
        (
            vec![("grant_type", "authorization_code"), ("code", "x"), ("code", "x")],
            "invalid_request",
        ),
        (
            vec![("grant_type", "refresh_token"), ("code", "x")],
            "unsupported_grant_type",
        ),
    ] {
        site(&form).await.oauth_error(400, error);
    }
    let as_json = service.post("/token", &json!({"grant_type": "authorization_code"}));
    Reply::to(as_json).await.oauth_error(400, "invalid_request");
    let not_utf8 = service.call(Method::POST, "/token").body(vec![0xff, 0xfe, 0x00]);
    Reply::to(not_utf8).await.oauth_error(400, "invalid_request");
}

#[tokio::test]
async fn what_is_no_code_gives_invalid_grant() {
    let service = three_sites().await;
    let code = code_for("shop", &service).await;
    let (scene_and_event, secret) = code.rsplit_once('.').unwrap();
    let (scene, event) = scene_and_event.split_once('.').unwrap();
    let site = Site::Basic("shop", "shop-secret");
    let never = "0".repeat(32);
    for wrong in [
        "x",
        "é",
        "...",
        scene,
        scene_and_event,
        &format!("{code}."),
        &format!("{code}A"),
        &code.to_uppercase(),
        &format!("{never}.{event}.{secret}"),
        &format!("{scene}.{}.{secret}", "A".repeat(22)),
        &format!("{scene}.{event}.{}", "A".repeat(43)),
    ] {
        site.redeem(&service, wrong).await.oauth_error(400, "invalid_grant");
    }
    let unconfirmed = Browser::start_with(&service, json!({"client_id": "shop"})).await;
    let id = unconfirmed.started["id"].as_str().unwrap();
    let forged = format!("{}.{id}.{secret}", unconfirmed.scene);
    site.redeem(&service, &forged).await.oauth_error(400, "invalid_grant");
    site.redeem(&service, &code).await.ok();
}
