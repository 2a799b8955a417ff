//! What bad input gets: a 4xx that says what to change, nothing lost, no 5xx, no hang.

use axum::body::Bytes;
use reqwest::Method;
use serde_json::json;

use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone};
use crate::support::service::Service;

/// A scene that alice has scanned.
async fn scanned(service: &Service) -> (Browser, Phone) {
    let browser = Browser::start(service).await;
    let alice = Phone::that_scanned("alice", service, &browser.scene).await;
    (browser, alice)
}

#[tokio::test]
async fn a_body_that_is_not_what_was_asked_for_is_told_so_and_loses_nothing() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    let scene = &browser.scene;
    let paths = [
        "/scenes".to_owned(),
        format!("/scenes/{scene}/scan"),
        format!("/scenes/{scene}/confirm"),
        format!("/scenes/{scene}/decline"),
    ];
    let send = |path: &str, body: Vec<u8>, media_type: &str| {
        let request = service.call(Method::POST, path).bearer_auth(&alice.token);
        Reply::to(request.header("content-type", media_type).body(body))
    };
    for path in &paths {
        let bodies: [&[u8]; 8] = [
            b"{",
            b"[]",
            b"[null, null, null, null]",
            b"null",
            b"7",
            b"\"text\"",
            b"{} {}",
            b"{\"code\": \"\xff\xfe\"}",
        ];
        for body in bodies {
            let refused = send(path, body.to_vec(), "application/json").await;
            refused.problem(400, "invalid_request");
        }
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "",
        ] {
            for body in [&b"{\"code\": \"x\"}"[..], b"{}"] {
                let refused = send(path, body.to_vec(), media_type).await;
                refused.problem(415, "unsupported_media_type");
            }
        }
    }
    assert_eq!(browser.status().await["version"], 2);
    alice.confirm(&service, scene).await.ok();
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_named() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    let scene = &browser.scene;
    for (path, body, field) in [
        ("/scenes".to_owned(), json!({"client_id": 7}), "client_id"),
        ("/scenes".to_owned(), json!({"code_challenge": [1]}), "code_challenge"),
        ("/scenes".to_owned(), json!({"nonce": {"a": 1}}), "nonce"),
        (format!("/scenes/{scene}/scan"), json!({"code": 12_345_678}), "code"),
        (format!("/scenes/{scene}/scan"), json!({}), "code"),
        (
            format!("/scenes/{scene}/confirm"),
            json!({"profile": "Alice"}),
            "profile",
        ),
        (
            format!("/scenes/{scene}/confirm"),
            json!({"profile": {"nickname": 5}}),
            "profile.nickname",
        ),
        (
            format!("/scenes/{scene}/confirm"),
            json!({"profile": ["Alice", null]}),
            "profile",
        ),
        (format!("/scenes/{scene}/decline"), json!({"reason": "bored"}), "reason"),
        (format!("/scenes/{scene}/decline"), json!({"reason": true}), "reason"),
    ] {
        let refused = Reply::to(service.post(&path, &body).bearer_auth(&alice.token)).await;
        let problem = refused.problem(400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{problem}");
    }
    let extra = json!({"profile": {"nickname": "Alice", "shoe": 44}, "else": [1, 2]});
    alice.confirm_with(&service, scene, extra).await.ok();
}

#[tokio::test]
async fn an_empty_body_counts_as_an_empty_object() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    let request = service.call(Method::POST, &format!("/scenes/{}/confirm", browser.scene));
    Reply::to(request.bearer_auth(&alice.token)).await.ok();
}

#[tokio::test]
async fn what_is_no_scene_is_unknown_like_one_that_never_was() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let id = &browser.scene;
    let dashed = format!(
        "{}-{}-{}-{}-{}",
        &id[..8],
        &id[8..12],
        &id[12..16],
        &id[16..20],
        &id[20..]
    );
    let wrong = [
        "0".repeat(32),
        "f".repeat(32),
        id.to_uppercase(),
        dashed,
        id[1..].to_owned(),
        format!("{id}0"),
        id.repeat(100),
        format!("{}%C3%A9", &id[2..]),
        "%FF%FE".repeat(8),
        "%00".to_owned(),
        "x".to_owned(),
    ];
    for scene in wrong {
        for (method, path) in [
            (Method::GET, format!("/scenes/{scene}")),
            (Method::GET, format!("/scenes/{scene}?wait=1")),
            (Method::GET, format!("/scenes/{scene}/code")),
            (Method::GET, format!("/events/{scene}")),
            (Method::DELETE, format!("/scenes/{scene}")),
            (Method::POST, format!("/scenes/{scene}/confirm")),
            (Method::POST, format!("/scenes/{scene}/decline")),
            (Method::PUT, format!("/scenes/{scene}/avatar")),
        ] {
            let request = service.call(method.clone(), &path);
            let with_secret = Reply::to(request.bearer_auth(&browser.secret)).await;
            with_secret.problem(404, "unknown_scene");
            Reply::to(service.call(method, &path))
                .await
                .problem(404, "unknown_scene");
        }
        let scan = Phone::scan_with(&service, &scene, "0123456789").await;
        scan.problem(404, "unknown_scene");
    }
    assert_eq!(service.wechat_calls("jscode2session").await, 0, "WeChat was not asked");
    for avatar in ["x", "%FF", &format!("{id}.%FF"), &format!("{id}.{}", "A".repeat(22))] {
        let gone = Reply::to(service.get(&format!("/avatars/{avatar}"))).await;
        gone.problem(404, "not_found");
    }
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_problems_too() {
    let service = Service::start().await;
    for path in ["/nothing", "/scenes/a/b/c", "/events", "/scenes/", "/assets/nothing.js"] {
        Reply::to(service.get(path)).await.problem(404, "not_found");
    }
    let id = "0".repeat(32);
    for (method, path, allowed) in [
        (Method::GET, "/scenes".to_owned(), "POST"),
        (Method::PUT, format!("/scenes/{id}"), "DELETE,GET,HEAD"),
        (Method::POST, format!("/events/{id}"), "GET,HEAD"),
        (Method::GET, format!("/scenes/{id}/scan"), "POST"),
        (Method::POST, format!("/scenes/{id}/avatar"), "PUT"),
        (Method::GET, "/token".to_owned(), "POST"),
        (Method::DELETE, "/userinfo".to_owned(), "GET,HEAD,POST"),
        (Method::DELETE, "/".to_owned(), "GET,HEAD"),
    ] {
        let refused = Reply::to(service.call(method.clone(), &path)).await;
        refused.problem(405, "method_not_allowed");
        let mut allow: Vec<&str> = refused.header("allow").split(',').collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_request_keeps_its_harmless_id_and_gets_one_otherwise() {
    let service = Service::start().await;
    for id in ["a", "A.b_c-9", &"x".repeat(64)] {
        let reply = Reply::to(service.get("/nothing").header("x-request-id", id)).await;
        assert_eq!(reply.problem(404, "not_found")["request_id"], id);
        service.log().line_with(&["request", id]).await;
    }
    for id in ["", &"x".repeat(65), "a b", "a\"b", "é", "a/b"] {
        let reply = Reply::to(service.get("/").header("x-request-id", id)).await;
        let made = reply.header("x-request-id");
        assert!(made.len() == 32 && made != id, "{id:?} became {made:?}");
    }
}

#[tokio::test]
async fn the_operators_listener_names_its_answers_too_and_lets_none_be_kept() {
    let service = Service::start().await;
    for path in ["/livez", "/readyz", "/metrics", "/nothing"] {
        let request = || service.http.get(format!("{}{path}", service.ops));
        let reply = Reply::to(request().header("x-request-id", "mine")).await;
        assert_eq!(reply.header("x-request-id"), "mine", "{path}");
        assert_eq!(reply.header("cache-control"), "no-store", "{path}");
        assert_eq!(Reply::to(request()).await.header("x-request-id").len(), 32, "{path}");
    }
}

#[tokio::test]
async fn the_operators_listener_has_words_for_what_it_does_not_serve() {
    let service = Service::start().await;
    let ops = |method, path| Reply::to(service.http.request(method, format!("{}{path}", service.ops)));
    ops(Method::GET, "/nothing").await.problem(404, "not_found");
    let refused = ops(Method::POST, "/livez").await;
    refused.problem(405, "method_not_allowed");
    assert!(refused.header("allow").contains("GET"));
}

#[tokio::test]
async fn a_field_of_a_wrong_type_or_of_what_is_not_here_yet_is_refused_and_does_nothing() {
    let service = Service::start().await;
    for wrong in [
        json!({"env_version": 5}),
        json!({"env_version": "trial"}),
        json!({"authorization_request": 5}),
        json!({"authorization_request": "scope=openid"}),
    ] {
        let start = Reply::to(service.post("/scenes", &wrong)).await;
        start.problem(400, "invalid_request");
    }
    let (browser, alice) = scanned(&service).await;
    let scan = json!({"code": service.wx_code("alice").await, "entry_scene": "1047"});
    let scan = Reply::to(service.post(&format!("/scenes/{}/scan", browser.scene), &scan)).await;
    scan.problem(400, "invalid_request");
    let confirm = alice
        .confirm_with(&service, &browser.scene, json!({"match_number": 12}))
        .await;
    confirm.problem(400, "invalid_request");
    for reason in [json!(5), json!("bored")] {
        let decline = alice
            .decline_with(&service, &browser.scene, json!({ "reason": reason }))
            .await;
        decline.problem(400, "invalid_request");
    }
    assert_eq!(browser.status().await["state"], "scanned");
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    let fitting = json!({"profile": {"nickname": "Alice"}, "padding": "x".repeat(16_000)});
    let large = json!({"padding": "x".repeat(16 * 1024)});
    let confirm = alice.confirm_with(&service, &browser.scene, large).await;
    confirm.problem(413, "body_too_large");
    let image = |len: usize| [&[0xff, 0xd8, 0xff], Bytes::from(vec![0; len - 3]).as_ref()].concat();
    let avatar = |len| alice.upload_avatar(&service, &browser.scene, image(len));
    avatar(64 * 1024 + 1).await.problem(413, "body_too_large");
    avatar(64 * 1024).await.ok();

    alice.confirm_with(&service, &browser.scene, fitting).await.ok();
    // Where OAuth clients call they hear what they can read.
    for path in ["/token", "/userinfo"] {
        let large = service.call(Method::POST, path).body("x".repeat(20_000));
        Reply::to(large).await.oauth_error(413, "invalid_request");
    }
}

#[tokio::test]
async fn methods_that_callers_invent_make_no_new_series() {
    let service = Service::start().await;
    for invented in ["BREW", "brew", "X0", "X1"] {
        let refused = service.call(invented.parse().unwrap(), "/scenes");
        Reply::to(refused).await.problem(405, "method_not_allowed");
    }
    let counted = async |label: &str| service.metric("scanlogin_http_request_seconds_count", label).await > 0.0;
    assert!(counted("method=\"other\"").await);
    for invented in ["method=\"BREW\"", "method=\"brew\"", "method=\"X"] {
        assert!(!counted(invented).await, "{invented}");
    }
}
