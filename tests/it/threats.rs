//! What an attacker tries and is not given, each under the name of its row in docs/security.md. Rows that other files tell whole are there.

mod cookies;
mod floods;
mod injection;
mod json;
mod keys;
mod origins;
mod races;
mod secrets;

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::cli::cli;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER, with_form};
use crate::support::service::Service;

#[tokio::test]
async fn t01_the_phone_is_told_who_asks_from_which_browser_from_where_and_since_when() {
    let site = r#"
        [[client]]
        client_id = "blog"
        name = "My Blog"
        redirect_uris = ["https://blog.example/callback"]
    "#;
    let service = Service::builder()
        .config_toml(site)
        .with("TRUSTED_PROXIES", "127.0.0.0/8");
    let service = service.start().await;
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0";
    let start = start
        .header("user-agent", agent)
        .header("x-forwarded-for", "203.0.113.7");
    let scene = Reply::to(start).await.json()["scene"].as_str().unwrap().to_owned();
    let scanned = Phone::scan_with(&service, &scene, &service.wx_code("alice").await)
        .await
        .ok();
    assert_eq!(
        scanned["client"],
        json!({"client_id": "blog", "name": "My Blog", "domain": "blog.example"})
    );
    assert_eq!(
        scanned["browser"],
        json!({"name": "Firefox 143", "os": "Windows 10", "ip": "203.0.113.7"})
    );
    assert!(scanned["requested_seconds_ago"].as_u64().unwrap() < 5, "{scanned}");
    assert!(scanned["requested_at"].as_str().unwrap().ends_with('Z'), "{scanned}");
}

/// Every call that names a scene: what it is sent by somebody who knows the scene and nothing else, and what that is answered.
fn calls_of(service: &Service, scene: &str) -> Vec<(&'static str, RequestBuilder, u16)> {
    let at = |rest: &str| format!("/scenes/{scene}{rest}");
    let json = |path: String| service.post(&path, &json!({}));
    vec![
        ("status", service.get(&at("")), 401),
        ("long-poll", service.get(&at("?wait=1&after=x")), 401),
        ("cancel", service.call(Method::DELETE, &at("")), 401),
        ("events", service.get(&format!("/events/{scene}")), 401),
        ("confirm", json(at("/confirm")), 401),
        ("decline", json(at("/decline")), 401),
        ("avatar", service.call(Method::PUT, &at("/avatar")).body("x"), 401),
        ("short code", service.call(Method::POST, &at("/short-code")), 401),
        ("scan without a code", json(at("/scan")), 400),
        ("code image", service.get(&at("/code")), 200),
    ]
}

#[tokio::test]
async fn t03_whoever_photographed_the_code_opens_nothing_but_its_picture() {
    let service = Service::builder().with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let started = Reply::to(start.header("x-forwarded-for", "203.0.113.7")).await;
    let browser = Browser::started(&service, &started);
    for (what, request, status) in calls_of(&service, &browser.scene) {
        let reply = Reply::to(request).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        if status == 401 {
            for told in ["203.0.113.7", "waiting", "expires_in", "version"] {
                assert!(!reply.text().contains(told), "{what} tells {told}: {}", reply.text());
            }
        }
    }
    assert_eq!(browser.status().await["state"], "waiting");
    // Whatever takes a scene is among them.
    let contract: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let paths = contract["paths"].as_object().unwrap().iter();
    let with_scene = paths.filter(|(path, _)| path.contains("{scene}"));
    assert_eq!(
        with_scene
            .map(|(_, calls)| calls.as_object().unwrap().len())
            .sum::<usize>(),
        9,
        "a call that this test does not know takes a scene"
    );
}

#[tokio::test]
async fn t04_no_secret_is_taken_from_an_address() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    for name in [
        "secret",
        "token",
        "access_token",
        "browser_secret",
        "key",
        "authorization",
        "auth",
    ] {
        let (scene, secret) = (&browser.scene, &browser.secret);
        for path in [
            format!("/scenes/{scene}?{name}={secret}"),
            format!("/events/{scene}?{name}={secret}"),
        ] {
            Reply::to(service.get(&path))
                .await
                .problem(401, "browser_secret_required");
        }
    }
}

#[tokio::test]
async fn t06_nothing_is_done_for_another_sites_page() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let cookie = format!("scanlogin_{}={}", browser.scene, browser.secret);
    let elsewhere = [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ];
    for (name, value) in elsewhere {
        let json = |path: &str| service.post(path, &json!({ "code": "x", "state": "x" }));
        let empty = |path: &str| service.call(Method::POST, path);
        let calls = [
            json("/scenes"),
            empty("/scenes"),
            empty("/scenes").header("content-type", "text/plain"),
            service.call(Method::DELETE, &format!("/scenes/{}", browser.scene)),
            empty("/demo/start"),
            json("/demo/callback"),
            empty("/demo/logout"),
            service.get("/demo/profile"),
        ];
        for call in calls {
            let sent = call.header(name, value).header("cookie", &cookie);
            let path = sent.try_clone().unwrap().build().unwrap().url().path().to_owned();
            let refused = Reply::to(sent).await;
            assert_eq!(refused.status, 403, "{path} from {value}: {}", refused.text());
            assert!(!refused.headers.contains_key("set-cookie"), "{path}");
            assert!(!refused.headers.contains_key("access-control-allow-origin"), "{path}");
        }
    }
    assert_eq!(browser.status().await["state"], "waiting");
    let created = service.metric("scanlogin_scenes_created_total", "").await;
    assert!((created - 1.0).abs() < f64::EPSILON, "{created}");
}

#[tokio::test]
async fn t16_who_it_is_wechat_says_and_nobody_else() {
    let service = Service::start().await;
    let forged = |request: RequestBuilder| {
        let names = [
            "x-wx-openid",
            "x-wx-unionid",
            "x-wx-from-openid",
            "x-wx-appid",
            "x-openid",
        ];
        names
            .iter()
            .fold(request, |request, name| request.header(*name, "mallory"))
    };
    let claims = json!({ "openid": "mallory", "unionid": "mallory", "from_openid": "mallory", "sub": "mallory" });
    let with = |mut body: Value| {
        body.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        body
    };
    let start = with(json!({ "code_challenge": s256(VERIFIER) }));
    let started = Reply::to(forged(service.post("/scenes", &start))).await.json();
    let scene = started["scene"].as_str().unwrap();
    let scan = with(json!({ "code": service.wx_code("alice").await }));
    let scanned = Reply::to(forged(service.post(&format!("/scenes/{scene}/scan"), &scan)))
        .await
        .ok();
    let confirm = forged(service.post(&format!("/scenes/{scene}/confirm"), &with(json!({ "profile": claims }))));
    let token = scanned["confirm_token"].as_str().unwrap();
    Reply::to(confirm.bearer_auth(token)).await.ok();
    let status = service.get(&format!("/scenes/{scene}"));
    let told = Reply::to(status.bearer_auth(started["browser_secret"].as_str().unwrap()))
        .await
        .ok();
    let redeemed = Site::demo().redeem(&service, told["code"].as_str().unwrap()).await.ok();
    let identity = Site::verified(&service, redeemed["id_token"].as_str().unwrap()).await;
    assert_eq!(
        (&identity["sub"], &identity["wechat_openid"]),
        (&json!("alice"), &json!("alice"))
    );
}

#[tokio::test]
async fn t20_every_reply_says_what_a_browser_may_do_with_it() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let api = "default-src 'none'; frame-ancestors 'none'";
    let pages = ["/", "/assets/demo/demo.js", "/simulator/phone"];
    let calls = calls_of(&service, &browser.scene)
        .into_iter()
        .map(|(what, request, _)| (what, request));
    let others = [
        ("nothing", service.get("/nothing")),
        ("another method", service.call(Method::PUT, "/scenes")),
        (
            "too large",
            service.call(Method::POST, "/scenes").body("x".repeat(20_000)),
        ),
        ("discovery", service.get("/.well-known/openid-configuration")),
        ("keys", service.get("/jwks.json")),
        ("token", with_form(service.call(Method::POST, "/token"), &[])),
        ("userinfo", service.get("/userinfo")),
        ("own status", browser.status_request("")),
    ];
    for (what, request) in calls.chain(others) {
        let reply = Reply::to(request).await;
        let is_shown_elsewhere = what == "code image";
        assert_eq!(reply.header("content-security-policy"), api, "{what}");
        assert_eq!(reply.header("x-frame-options"), "DENY", "{what}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(reply.header("referrer-policy"), "no-referrer", "{what}");
        assert_eq!(reply.header("cross-origin-opener-policy"), "same-origin", "{what}");
        let policy = if is_shown_elsewhere {
            "cross-origin"
        } else {
            "same-origin"
        };
        assert_eq!(reply.header("cross-origin-resource-policy"), policy, "{what}");
        let cached = matches!(what, "keys");
        assert_eq!(reply.header("cache-control").contains("no-store"), !cached, "{what}");
    }
    for page in pages {
        let reply = Reply::to(service.get(page)).await;
        let policy = reply.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{page}: {policy}"
        );
        // The simulated phone shows whatever avatar was chosen.
        let is_open = |source: &str| match source.trim_end_matches(';') {
            "*" | "http:" | "data:" => true,
            "https:" => page != "/simulator/phone",
            _ => false,
        };
        assert!(
            !policy.contains("unsafe") && !policy.split(' ').any(is_open),
            "{page}: {policy}"
        );
        assert_eq!(reply.header("x-frame-options"), "DENY", "{page}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{page}");
    }
}

#[tokio::test]
async fn t24_what_never_was_what_is_gone_and_what_is_none_are_answered_alike() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let gone = Browser::start(&service).await.scene;
    cli(redis.addr(), &["DEL", &format!("scanlogin:{{{}}}:{gone}", &gone[..2])]);
    let never = "0123456789abcdef0123456789abcdef";
    let told = async |scene: &str| {
        let mut told = Vec::new();
        for (what, request, _) in calls_of(&service, scene) {
            let reply = Reply::to(request).await;
            let mut body = reply.json();
            body.as_object_mut().unwrap().remove("request_id");
            let headers: BTreeSet<String> = reply.headers.keys().map(ToString::to_string).collect();
            told.push((what, reply.status, body, headers));
        }
        told
    };
    let expected = told(never).await;
    assert_eq!(told(&gone).await, expected);
    let malformed = told("not-a-scene").await;
    for (malformed, never) in malformed.iter().zip(&expected) {
        if never.0 != "scan without a code" {
            assert_eq!(malformed, never);
        }
    }
}

#[tokio::test]
async fn t24_at_the_token_endpoint_a_wrong_guess_looks_like_any_other() {
    let sites = "[[client]]\nclient_id = \"blog\"\nclient_secret = \"s3cret\"\n[[client]]\nclient_id = \"shop\"\nclient_secret = \"s4cret\"";
    let service = Service::builder().config_toml(sites).start().await;
    let blog = Site::Basic("blog", "s3cret");
    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let code = browser.code_of("alice", &service).await;
    let of_shop = Browser::start_with(&service, json!({ "client_id": "shop" })).await;
    let of_shop = of_shop.code_of("alice", &service).await;
    blog.token(&service, &[("code", &code)]).await.ok();

    let live = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let live = live.code_of("bob", &service).await;

    let mut answers = BTreeSet::new();
    for site in [
        Site::Basic("blog", "wrong"),
        Site::Basic("nobody", "s3cret"),
        Site::Post("blog", ""),
        Site::Public("blog"),
        Site::Public("nobody"),
    ] {
        for code in ["x", &code, &live] {
            let reply = site.token(&service, &[("code", code)]).await;
            assert_eq!(reply.status, 401);
            answers.insert((reply.text(), reply.header("www-authenticate").to_owned()));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    blog.token(&service, &[("code", &live)]).await.ok();

    let mut answers = BTreeSet::new();
    let unknown = code.replacen(&code[..8], "00000000", 1);
    for code in ["x", &unknown, &code, &of_shop, &format!("{code}x")] {
        let reply = blog.token(&service, &[("code", code)]).await;
        assert_eq!(reply.status, 400);
        answers.insert(reply.text());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

/// Who can publish to Redis tells a page what it likes: it gives nothing away, and nobody a login.
#[tokio::test]
async fn t26_a_forged_confirm_gives_a_code_for_nothing() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
    events.next_is("scanned").await;
    let channel = format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene);
    let forged = json!({ "v": 9, "e": "A".repeat(22), "s": "confirmed", "c": 60_000 }).to_string();
    let heard = cli(redis.addr(), &["SPUBLISH", &channel, &forged]);
    assert_eq!(heard.trim(), "1", "nobody listens");
    if let Some(told) = events.next().await
        && let Some(code) = told.data["code"].as_str()
    {
        Site::demo()
            .redeem(&service, code)
            .await
            .oauth_error(400, "invalid_grant");
    }
    assert_eq!(browser.status().await["state"], "scanned");
    phone.confirm(&service, &browser.scene).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    let redeemed = Site::demo().redeem(&service, &code).await.ok();
    let identity = Site::verified(&service, redeemed["id_token"].as_str().unwrap()).await;
    assert_eq!(identity["sub"], "alice");
}

#[tokio::test]
async fn t22_the_process_leaves_no_core() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let pid = service.process.id();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let fields: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(&fields[4..6], ["0", "0"], "{core}");
}
