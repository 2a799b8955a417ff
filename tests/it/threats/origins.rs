//! Which page may read what: only a listed one, named exactly, and none else learns anything.

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::calls_of;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, with_form};
use crate::support::service::Service;

const LISTED: [&str; 2] = ["https://blog.example", "https://shop.example"];

/// What a page of nobody's, or somebody who can't spell, might send as `Origin`.
const UNLISTED: [&[u8]; 20] = [
    b"null",
    b"",
    b"*",
    b"https://evil.example",
    b"https://blog.example.evil.example",
    b"https://evilblog.example",
    b"https://blog.exampl",
    b"https://www.blog.example",
    b"http://blog.example",
    b"https://blog.example:8443",
    b"https://blog.example:443",
    b"https://BLOG.example",
    b"HTTPS://blog.example",
    b"https://blog.example.",
    b"https://blog.example/",
    b"https://user@blog.example",
    b"https://blog.example, https://evil.example",
    b"https://xn--blg-sna.example",
    "https://bl\u{f6}g.example".as_bytes(),
    b"file://",
];

const SITES: &str = r#"
    [[client]]
    client_id = "blog"
    client_secret = "s3cret"
    origins = ["https://blog.example"]
    [[client]]
    client_id = "shop"
    client_secret = "s4cret"
    origins = ["https://shop.example"]
"#;

/// Every route: by its own method, and by a wrong one.
fn calls(service: &Service, browser: &Browser, avatar: &str) -> Vec<(&'static str, RequestBuilder)> {
    let of_scene = calls_of(service, &browser.scene).into_iter();
    let others = [
        ("start", service.post("/scenes", &json!({ "client_id": "nobody" }))),
        ("served avatar", service.get(avatar)),
        ("own status", browser.status_request("")),
        ("token", with_form(service.call(Method::POST, "/token"), &[])),
        ("userinfo", service.get("/userinfo")),
        ("discovery", service.get("/.well-known/openid-configuration")),
        ("keys", service.get("/jwks.json")),
        ("page", service.get("/")),
        ("profile", service.get("/demo/profile")),
        ("demo start", service.call(Method::POST, "/demo/start")),
        ("demo callback", service.post("/demo/callback", &json!({}))),
        ("demo logout", service.call(Method::POST, "/demo/logout")),
        ("asset", service.get("/assets/demo/demo.js")),
        ("problems", service.get("/problems")),
        ("nothing", service.get("/nothing")),
        ("another method", service.call(Method::PUT, "/scenes")),
    ];
    of_scene.map(|(what, call, _)| (what, call)).chain(others).collect()
}

/// What a browser asks before it.
fn preflight(call: RequestBuilder) -> RequestBuilder {
    let (client, call) = call.build_split();
    let call = call.unwrap();
    let request = client.request(Method::OPTIONS, call.url().clone());
    request.header("access-control-request-method", call.method().as_str())
}

fn values<'a>(reply: &'a Reply, name: &str) -> Vec<&'a [u8]> {
    let values = reply.headers.get_all(name).iter();
    values.map(HeaderValue::as_bytes).collect()
}

#[tokio::test]
async fn t05_no_page_but_a_listed_one_reads_anything() {
    let service = Service::builder().config_toml(SITES).start().await;
    let start = || Browser::start_with(&service, json!({ "client_id": "blog" }));
    let (browser, pictured) = (start().await, start().await);
    let alice = Phone::that_scanned("alice", &service, &pictured.scene).await;
    let image = b"\xff\xd8\xff".as_slice();
    let kept = alice.upload_avatar(&service, &pictured.scene, image).await.ok();
    let avatar = kept["avatar_url"].as_str().unwrap();
    let avatar = avatar.strip_prefix(&service.public_url).unwrap();
    let origins = UNLISTED.iter().copied().chain(LISTED.map(str::as_bytes));
    for origin in origins.map(Some).chain([None]) {
        let listed = origin.filter(|origin| LISTED.iter().any(|listed| listed.as_bytes() == *origin));
        let from = |call: RequestBuilder| match origin {
            Some(origin) => call.header("origin", HeaderValue::from_bytes(origin).unwrap()),
            None => call,
        };
        for (what, call) in calls(&service, &browser, avatar) {
            let asks = from(preflight(call.try_clone().unwrap()));
            for (is_preflight, call) in [(false, from(call)), (true, asks)] {
                let reply = Reply::to(call).await;
                let told = origin.map(String::from_utf8_lossy);
                let at = format!("{what} from {told:?}, preflight {is_preflight}: {:?}", reply.headers);
                let allowed = values(&reply, "access-control-allow-origin");
                assert_eq!(allowed, listed.into_iter().collect::<Vec<_>>(), "{at}");
                let vary = values(&reply, "vary").join(&b", "[..]).to_ascii_lowercase();
                assert!(vary.windows(6).any(|name| name == b"origin"), "{at}");
                let is_shown_elsewhere = matches!(what, "code image" | "served avatar") && !is_preflight;
                let policy = if is_shown_elsewhere {
                    "cross-origin"
                } else {
                    "same-origin"
                };
                assert_eq!(reply.header("cross-origin-resource-policy"), policy, "{at}");
            }
        }
    }
    assert_eq!(browser.status().await["state"], "waiting");
}

#[tokio::test]
async fn t05_a_cookie_from_a_page_of_another_client_opens_nothing() {
    let service = Service::builder().config_toml(SITES).start().await;
    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let never = "0".repeat(32);
    for (method, path) in [
        (Method::GET, "/scenes/S"),
        (Method::GET, "/scenes/S?wait=0&after=x"),
        (Method::GET, "/scenes/S?wait=1&after=x"),
        (Method::GET, "/events/S"),
        (Method::DELETE, "/scenes/S"),
    ] {
        let from = |origin: &str, scene: &str| {
            let request = service.call(method.clone(), &path.replace('S', scene));
            let request = request.header("cookie", format!("scanlogin_{scene}={}", browser.secret));
            request.header("origin", origin).send()
        };
        for (origin, scene, status) in [
            ("https://shop.example", browser.scene.as_str(), 403),
            ("https://evil.example", &browser.scene, 403),
            ("https://shop.example", &never, 404),
            ("https://evil.example", &never, 404),
        ] {
            let refused = from(origin, scene).await.unwrap();
            assert_eq!(refused.status(), status, "{method} {path} from {origin}");
        }
        if method != Method::DELETE {
            // Only the head: a stream goes on.
            let opened = from("https://blog.example", &browser.scene).await.unwrap();
            assert_eq!(opened.status(), 200, "{method} {path} from its own site");
        }
    }
    let no_text = HeaderValue::from_bytes("https://bl\u{f6}g.example".as_bytes()).unwrap();
    let request = service.call(Method::GET, &format!("/scenes/{}", browser.scene));
    let request = request.header("cookie", format!("scanlogin_{}={}", browser.scene, browser.secret));
    let refused = Reply::to(request.header("origin", no_text)).await;
    refused.problem(403, "origin_not_allowed");
    assert_eq!(browser.status().await["state"], "waiting");
    let bearer = browser.status_request("").header("origin", "https://shop.example");
    Reply::to(bearer).await.ok();
}
