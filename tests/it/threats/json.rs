//! JSON that is made to cost, or that two readers would read differently.

use std::convert::Infallible;

use axum::body::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::{Body, Method, RequestBuilder};
use serde_json::json;

use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone};
use crate::support::service::Service;

/// An object in which an object nests so deep that there are so many levels.
fn nested(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}

/// The same of arrays within one object.
fn arrays(levels: usize) -> String {
    format!(r#"{{"a":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
}

/// A scene that alice has scanned, and everything that takes JSON.
struct Stage {
    service: Service,
    browser: Browser,
    alice: Phone,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::start().await;
        let browser = Browser::start(&service).await;
        let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
        Self {
            service,
            browser,
            alice,
        }
    }

    fn paths(&self) -> [String; 5] {
        let of_scene = |rest: &str| format!("/scenes/{}/{rest}", self.browser.scene);
        let [scan, confirm, decline] = ["scan", "confirm", "decline"].map(of_scene);
        [
            "/scenes".to_owned(),
            scan,
            confirm,
            decline,
            "/demo/callback".to_owned(),
        ]
    }

    /// As from its own page and its own phone.
    fn post(&self, path: &str, body: impl Into<Body>) -> RequestBuilder {
        let request = self.service.call(Method::POST, path).bearer_auth(&self.alice.token);
        let request = request.header("origin", &self.service.public_url);
        request.header("content-type", "application/json").body(body)
    }
}

#[tokio::test]
async fn t33_what_nests_too_deep_or_says_a_thing_twice_is_refused_and_does_nothing() {
    let stage = Stage::new().await;
    let wx_code = stage.service.wx_code("alice").await;
    let twice = [
        r#"{"code":"C","code":"C"}"#.replace('C', &wx_code),
        r#"{"profile":{"nickname":"a"},"profile":{"nickname":"b"}}"#.to_owned(),
        r#"{"profile":{"nickname":"a","nickname":"b"}}"#.to_owned(),
        r#"{"reason":"not_me","reason":"not_me"}"#.to_owned(),
        r#"{"client_id":"demo","client_id":"demo"}"#.to_owned(),
        r#"{"unknown":1,"unknown":1}"#.to_owned(),
        r#"{"unknown":1,"\u0075nknown":1}"#.to_owned(),
        r#"{"unknown":[{"a":{"b":1,"b":1}}]}"#.to_owned(),
    ];
    for path in &stage.paths() {
        let deep = [nested(17), arrays(17), nested(2_000), arrays(8_000)];
        for body in deep.iter().chain(&twice) {
            let refused = Reply::to(stage.post(path, body.clone())).await;
            let problem = refused.problem(400, "invalid_request");
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains("nests deeper") || detail.contains("twice"),
                "{path}: {problem}"
            );
        }
    }
    assert_eq!(stage.browser.status().await["version"], 2);
    // As deep as may be.
    for body in [nested(16), arrays(16)] {
        let start = stage.post("/scenes", body.replacen('{', r#"{"client_id":"nobody","#, 1));
        Reply::to(start).await.problem(403, "unknown_client");
    }
    let deepest = format!(r#"{{"profile":{{"nickname":"Alice"}},"else":{}}}"#, arrays(15));
    let [_, _, confirm, ..] = stage.paths();
    Reply::to(stage.post(&confirm, deepest)).await.ok();
}

#[tokio::test]
async fn t33_what_nests_a_million_deep_is_not_read_at_all() {
    let stage = Stage::new().await;
    for path in &stage.paths() {
        let refused = Reply::to(stage.post(path, arrays(9_000))).await;
        refused.problem(413, "body_too_large");
    }
    for path in &stage.paths() {
        for levels in [100_000, 1_000_000] {
            // In pieces, of which nobody says how many there are.
            let pieces = arrays(levels).into_bytes();
            let pieces: Vec<Bytes> = pieces.chunks(1_024).map(Bytes::copy_from_slice).collect();
            let pieces = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            let body = Body::wrap(StreamBody::new(futures_util::stream::iter(pieces)));
            // Who goes on sending may find the connection closed.
            for sending in [stage.post(path, body), stage.post(path, arrays(levels))] {
                if let Ok(refused) = sending.header("connection", "close").send().await {
                    assert_eq!(refused.status(), 413, "{path}");
                }
            }
        }
    }
    assert_eq!(stage.browser.status().await["version"], 2);
}

#[tokio::test]
async fn t33_however_deep_wechat_answers_the_service_goes_on() {
    let service = Service::start().await;
    let deep = format!("{}{}", "[".repeat(7_000), "]".repeat(7_000));
    for (call, body) in [
        ("stable_token", format!(r#"{{"access_token":"T","expires_in":{deep}}}"#)),
        (
            "stable_token",
            format!(r#"{{"access_token":{deep},"expires_in":7200}}"#),
        ),
        ("stable_token", deep.clone()),
        ("getwxacodeunlimit", format!(r#"{{"errcode":0,"errmsg":{deep}}}"#)),
        ("getwxacodeunlimit", nested(2_000)),
        ("jscode2session", format!(r#"{{"openid":{deep}}}"#)),
        ("jscode2session", format!(r#"{{"errcode":{deep}}}"#)),
        ("jscode2session", nested(2_000)),
    ] {
        service.fault(json!({ "call": call, "body": body })).await;
        let browser = Browser::start(&service).await;
        let picture = browser.code_image().await;
        let scan = Phone::of("alice").scan(&service, &browser.scene).await;
        if call == "jscode2session" {
            assert_eq!(scan.problem(502, "wechat_error")["status"], 502);
        } else {
            assert!(matches!(picture.status, 200 | 502 | 503), "{}", picture.text());
            assert_eq!(scan.status, 200, "{}", scan.text());
        }
        Reply::to(service.simulator(Method::DELETE, "faults")).await;
    }
    let browser = Browser::start(&service).await;
    browser.code_of("alice", &service).await;
}
