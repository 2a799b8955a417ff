//! Words from outside that would be lines of the log, headers or commands of a terminal.

use std::collections::BTreeMap;

use axum::body::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use scanlogin::scene::s256;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, VERIFIER, with_form};
use crate::support::service::Service;

/// What a terminal or a reader of lines takes for more than text, with a line after it that would say that somebody else was there.
fn poisons() -> Vec<String> {
    let controls = (0..=0x1f).chain([0x7f, 0x85, 0x2028, 0x2029, 0x9b, 0x202e]);
    let alone = controls.map(|code| char::from_u32(code).expect("a character").to_string());
    let together = ["\r\n", "\u{1b}[2J\u{1b}[31m", "\u{1b}]0;title\u{7}"].map(str::to_owned);
    let forged = |control: String| format!("a{control}2026-01-01T00:00:00Z WARN forged: line request_id=\"forged\"");
    alone.chain(together).map(forged).collect()
}

/// Each place where a caller's words go in, filled with these.
fn requests(service: &Service, browser: &Browser, phone: &Phone, words: &str) -> Vec<RequestBuilder> {
    let encoded = percent_encode(words.as_bytes(), NON_ALPHANUMERIC).to_string();
    let mut requests = bodies(service, browser, phone, words);
    requests.extend(
        addresses(&browser.scene, &encoded)
            .iter()
            .map(|path| service.get(path).bearer_auth(&browser.secret)),
    );
    requests.extend(forms(service, words));
    let token = service.call(Method::POST, "/token");
    requests.push(token.basic_auth(&encoded, Some(&encoded)));
    // Only a few of these may stand in a header at all.
    if let Ok(value) = HeaderValue::from_bytes(words.as_bytes()) {
        let start = || service.post("/scenes", &json!({}));
        requests.extend(HEADERS.map(|name| start().header(name, value.clone())));
    }
    requests
}

/// Those that somebody here or before us reads.
const HEADERS: [&str; 14] = [
    "user-agent",
    "origin",
    "sec-fetch-site",
    "referer",
    "cookie",
    "authorization",
    "last-event-id",
    "accept",
    "accept-language",
    "content-type",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "traceparent",
];

fn bodies(service: &Service, browser: &Browser, phone: &Phone, words: &str) -> Vec<RequestBuilder> {
    let fields = [
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "env_version",
        "authorization_request",
        words,
    ];
    let start = |field: &str| service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER), field: words }));
    let of_phone = |path: &str, body: Value| {
        let request = service.post(&format!("/scenes/{}/{path}", browser.scene), &body);
        request.bearer_auth(&phone.token)
    };
    let profile = json!({ "nickname": words, "avatar_url": words });
    let mut bodies: Vec<RequestBuilder> = fields.map(start).into();
    bodies.extend([
        of_phone("scan", json!({ "code": words })),
        of_phone("confirm", json!({ "match_number": words, "profile": profile })),
        of_phone("confirm", json!({ "profile": words })),
        of_phone("decline", json!({ "reason": words })),
        service.post("/demo/callback", &json!({ "code": words, "state": words })),
    ]);
    bodies
}

fn addresses(scene: &str, encoded: &str) -> [String; 9] {
    [
        format!("/{encoded}"),
        format!("/scenes/{encoded}"),
        format!("/scenes/{encoded}/code"),
        format!("/events/{encoded}"),
        format!("/avatars/{encoded}"),
        format!("/assets/{encoded}"),
        format!("/scenes/{scene}?wait=0&after={encoded}"),
        format!("/scenes/{scene}?wait={encoded}"),
        format!("/scenes/{scene}?{encoded}={encoded}"),
    ]
}

/// Token requests that are right but for one parameter.
fn forms(service: &Service, words: &str) -> Vec<RequestBuilder> {
    let right = [
        ("grant_type", "authorization_code"),
        ("code", "x"),
        ("client_id", "demo"),
        ("code_verifier", VERIFIER),
    ];
    let fields = right.map(|(name, _)| name).into_iter();
    let fields = fields.chain(["client_secret", "redirect_uri", words]);
    let form = |field| {
        let others = right.into_iter().filter(|(name, _)| *name != field);
        let form: Vec<(&str, &str)> = others.chain([(field, words)]).collect();
        with_form(service.call(Method::POST, "/token"), &form)
    };
    fields.map(form).collect()
}

#[tokio::test]
async fn t21_no_input_makes_a_second_line_or_a_terminals_command() {
    for format in ["text", "json"] {
        let service = Service::builder().with("LOG", format).rust_log("debug").start().await;
        let browser = Browser::start(&service).await;
        let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
        let mut named = 0;
        for words in poisons() {
            for request in requests(&service, &browser, &phone, &words) {
                named += 1;
                let reply = Reply::to(request.header("x-request-id", format!("r{named}r"))).await;
                assert!(reply.status < 500, "{words:?}: {}", reply.text());
                for value in reply.headers.values() {
                    assert!(!value.as_bytes().windows(6).any(|part| part == b"forged"), "{value:?}");
                }
            }
            // As WeChat's own words, and as a request's name.
            let said = json!({ "errcode": 40_029, "errmsg": words }).to_string();
            for call in ["jscode2session", "getwxacodeunlimit"] {
                service.fault(json!({ "call": call, "body": said })).await;
            }
            let other = Browser::start(&service).await;
            other.code_image().await;
            Phone::of("bob").scan(&service, &other.scene).await;
            named += 1;
            let mut request = service.get("/nothing").header("x-request-id", format!("r{named}r"));
            if let Ok(value) = HeaderValue::from_bytes(words.as_bytes()) {
                named -= 1;
                request = service.get("/nothing").header("x-request-id", value);
            }
            Reply::to(request).await.problem(404, "not_found");
        }
        assert_eq!(browser.status().await["state"], "scanned");
        service.log().line_with(&[&format!("r{named}r")]).await;
        let lines = service.log().lines();
        let mut lines_of = BTreeMap::<String, u32>::new();
        for line in &lines {
            let is_whole = match format {
                "text" => line.starts_with("20") && !line.contains(['\u{85}', '\u{2028}', '\u{2029}', '\u{9b}']),
                _ => serde_json::from_str::<Value>(line).is_ok_and(|line| line["timestamp"].is_string()),
            };
            assert!(is_whole && !line.chars().any(|c| c.is_ascii_control()), "{line:?}");
            let id = line.split(['"', ' ', '=']).find(|word| {
                word.starts_with('r') && word.ends_with('r') && word[1..word.len() - 1].parse::<u32>().is_ok()
            });
            if let Some(id) = id.filter(|_| line.contains("millis")) {
                *lines_of.entry(id.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(lines_of.len(), named, "{format}");
        assert!(lines_of.values().all(|lines| *lines == 1), "{lines_of:?}");
    }
}

/// What no library would send.
#[tokio::test]
async fn t21_a_header_with_a_control_character_is_no_request() {
    let service = Service::start().await;
    let addr = service.base.strip_prefix("http://").unwrap();
    for control in (0..=0x1f_u8)
        .chain([0x7f])
        .filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r'))
    {
        let mut request = b"GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: forged".to_vec();
        request.push(control);
        request.extend(b"forged\r\n\r\n");
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = Bytes::from(answer);
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{control}: {answer:?}");
    }
    Reply::to(service.get("/nothing").header("x-request-id", "the-last")).await;
    service.log().line_with(&["the-last"]).await;
    let lines = service.log().lines();
    assert!(!lines.iter().any(|line| line.contains("forged")), "{lines:?}");
}
