//! WeChat down, slow or lying: what the phone and the browser are told, and that the next try works.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::support::eventually;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;
use crate::support::stopwatch::Stopwatch;

/// More often than any call is retried.
const ALWAYS: u32 = 100;

async fn forgets_its_faults(service: &Service) {
    let reply = Reply::to(service.simulator(Method::DELETE, "faults")).await;
    assert_eq!(reply.status, 204);
}

#[tokio::test]
async fn a_scan_tells_what_wechat_said_and_asks_once_for_each_code() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let mut asked = 0;
    for (fault, status, code, errcode) in [
        (json!({"errcode": 40029}), 400, "invalid_wx_code", json!(40029)),
        (json!({"errcode": 40163}), 400, "invalid_wx_code", json!(40163)),
        (json!({"errcode": 40226}), 403, "wechat_blocked_user", json!(40226)),
        (json!({"errcode": 45011}), 429, "wechat_quota", json!(45011)),
        (json!({"errcode": 40013}), 502, "wechat_error", json!(40013)),
        (json!({"errcode": 40125}), 502, "wechat_error", json!(40125)),
        (json!({"errcode": -1}), 503, "wechat_unavailable", json!(-1)),
        (json!({"status": 500}), 503, "wechat_unavailable", Value::Null),
        (json!({"status": 503}), 503, "wechat_unavailable", Value::Null),
        (json!({"reset": true}), 503, "wechat_unavailable", Value::Null),
        (json!({"body": "<html>a page</html>"}), 502, "wechat_error", Value::Null),
        (
            json!({"body": "{\"session_key\":\"k\"}"}),
            502,
            "wechat_error",
            Value::Null,
        ),
    ] {
        let mut order = fault.clone();
        order["call"] = json!("jscode2session");
        service.fault(order).await;
        let reply = Phone::of("alice").scan(&service, &browser.scene).await;
        let problem = reply.problem(status, code);
        assert_eq!(problem["errcode"], errcode, "{fault}");
        if matches!(status, 429 | 503) || errcode.is_null() {
            assert_ne!(reply.header("retry-after"), "", "{fault}: it passes");
        }
        asked += 1;
        assert_eq!(service.wechat_calls("jscode2session").await, asked, "{fault}: once");
    }
    assert_eq!(browser.status().await["version"], 1, "nothing was lost");
    Phone::of("alice").scan(&service, &browser.scene).await.ok();
}

#[tokio::test]
async fn a_wx_code_is_good_once_and_only_if_it_looks_like_one() {
    let service = Service::start().await;
    let first = Browser::start(&service).await;
    let second = Browser::start(&service).await;
    let code = service.wx_code("alice").await;
    Phone::scan_with(&service, &first.scene, &code).await.ok();
    let again = Phone::scan_with(&service, &second.scene, &code).await;
    again.problem(400, "invalid_wx_code");
    let asked = service.wechat_calls("jscode2session").await;
    for wrong in [
        "",
        "x",
        "with space 123",
        "é23456789",
        &"x".repeat(200),
        "a&b=c&secret=d",
    ] {
        let refused = Phone::scan_with(&service, &second.scene, wrong).await;
        refused.problem(400, "invalid_wx_code");
    }
    assert_eq!(
        service.wechat_calls("jscode2session").await,
        asked,
        "WeChat was not asked"
    );
}

#[tokio::test]
async fn of_many_scans_with_one_wx_code_one_is_served() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let code = service.wx_code("alice").await;
    let replies = join_all((0..8).map(|_| Phone::scan_with(&service, &browser.scene, &code))).await;
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(served, 1);
    for refused in replies.iter().filter(|reply| reply.status != 200) {
        refused.problem(400, "invalid_wx_code");
    }
}

#[tokio::test]
async fn a_scan_that_wechat_does_not_answer_ends_within_six_seconds() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    service
        .fault(json!({"call": "jscode2session", "delay_ms": 30_000}))
        .await;
    let asked = Stopwatch::start();
    let reply = Phone::of("alice").scan(&service, &browser.scene).await;
    reply.problem(504, "wechat_timeout");
    asked.took_less_than(Duration::from_secs(6));
    let after: u32 = reply
        .header("retry-after")
        .parse()
        .expect("it says that trying again helps");
    assert!(after >= 1);
    Phone::of("alice").scan(&service, &browser.scene).await.ok();
}

#[tokio::test]
async fn an_error_is_never_served_as_a_picture() {
    let service = Service::start().await;
    for (fault, status, code, errcode) in [
        (json!({"errcode": 41030}), 502, "wechat_error", json!(41030)),
        (json!({"errcode": 45009}), 429, "wechat_quota", json!(45009)),
        (json!({"errcode": -1}), 503, "wechat_unavailable", json!(-1)),
        (json!({"status": 502}), 503, "wechat_unavailable", Value::Null),
        (json!({"reset": true}), 503, "wechat_unavailable", Value::Null),
        (json!({"truncate": true}), 503, "wechat_unavailable", Value::Null),
        (json!({"body": "{\"errcode\":0}"}), 502, "wechat_error", Value::Null),
        (json!({"body": ""}), 502, "wechat_error", Value::Null),
        (json!({"body": "<html>a page</html>"}), 502, "wechat_error", Value::Null),
    ] {
        let browser = Browser::start(&service).await;
        let mut order = fault.clone();
        order["call"] = json!("getwxacodeunlimit");
        order["times"] = json!(ALWAYS);
        service.fault(order).await;
        let refused = browser.code_image().await;
        assert_eq!(refused.problem(status, code)["errcode"], errcode, "{fault}");
        if matches!(status, 429 | 503) || errcode.is_null() {
            assert_ne!(refused.header("retry-after"), "", "{fault}: it passes");
        }
        forgets_its_faults(&service).await;
        let image = browser.code_image().await;
        assert_eq!(
            image.header("content-type"),
            "image/jpeg",
            "{fault}: the next try works: {}",
            image.text()
        );
    }
}

#[tokio::test]
async fn a_wechat_that_refuses_the_token_that_it_gives_is_told_as_what_passes() {
    let service = Service::start().await;
    service
        .fault(json!({"call": "getwxacodeunlimit", "errcode": 40001, "times": ALWAYS}))
        .await;
    // At first each refusal is WeChat's own, at last it is repeated: so many tokens are not fetched so soon.
    for _ in 0..6 {
        let refused = Browser::start(&service).await.code_image().await;
        let problem = refused.problem(503, "wechat_unavailable");
        assert_eq!(problem["errcode"], 40001);
        assert_ne!(refused.header("retry-after"), "");
    }
}

#[tokio::test]
async fn a_picture_survives_what_passes_by_itself() {
    let service = Service::start().await;
    for fault in [
        json!({"call": "getwxacodeunlimit", "errcode": -1}),
        json!({"call": "getwxacodeunlimit", "errcode": 40001}),
        json!({"call": "getwxacodeunlimit", "truncate": true}),
        json!({"call": "stable_token", "errcode": -1}),
        json!({"call": "getwxacodeunlimit", "delay_ms": 1500}),
    ] {
        service.fault(fault.clone()).await;
        let image = Browser::start(&service).await.code_image().await;
        assert_eq!(image.status, 200, "{fault}: {}", image.text());
    }
}

#[tokio::test]
async fn while_wechat_can_not_be_reached_at_one_address_it_is_at_the_other() {
    let redis = RedisServer::start();
    let first = Service::builder().redis(&redis).start().await;
    let wechat = first.simulator(Method::GET, "calls").build().unwrap();
    let service = first
        .replica()
        .with("WECHAT_API_BASE", format!("http://{}", free_addr()))
        .with("WECHAT_API_FAIL_OVER", wechat.url().origin().ascii_serialization());
    let service = service.start().await;
    let image = Browser::start(&service).await.code_image().await;
    assert_eq!(image.status, 200, "{}", image.text());
}

#[tokio::test]
async fn what_is_set_up_wrong_is_told_with_the_errcode_and_what_to_change() {
    for (errcode, named) in [
        (40001, "SCANLOGIN_WECHAT_SECRET"),
        (40013, "SCANLOGIN_WECHAT_APPID"),
        (40125, "SCANLOGIN_WECHAT_SECRET"),
        (40164, "whitelist"),
    ] {
        // The service gets its token as soon as it can, so the fault waits for it at another process.
        let redis = RedisServer::start();
        let set_up_right = Service::builder().redis(&redis).start().await;
        set_up_right
            .fault(json!({"call": "stable_token", "errcode": errcode, "times": ALWAYS}))
            .await;
        let service = set_up_right
            .replica()
            .with("WECHAT_APPID", "wx0000000000000000")
            .with("WECHAT_SECRET", "x");
        let service = service.start().await;
        let browser = Browser::start(&service).await;
        let problem = browser.code_image().await.problem(502, "wechat_error");
        assert_eq!(problem["errcode"], errcode);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
}

#[tokio::test]
async fn however_often_a_code_is_reloaded_wechat_is_asked_for_it_once() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let images = join_all((0..8).map(|_| browser.code_image())).await;
    for image in &images {
        assert_eq!((image.status, &image.body), (200, &images[0].body));
    }
    assert_eq!(service.wechat_calls("getwxacodeunlimit").await, 1);
}

#[tokio::test]
async fn a_person_whose_unionid_appears_between_two_scans_is_the_same_person() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    Phone::that_scanned("alice", &service, &browser.scene).await;
    let login = json!({"openid": "alice", "unionid": "alice-everywhere"});
    let given = Reply::to(service.simulator(Method::POST, "login").json(&login))
        .await
        .ok();
    let again = Phone::scan_with(&service, &browser.scene, given["code"].as_str().unwrap()).await;
    again.ok();
}

/// So many failures in a row, and WeChat is asked but once in a while.
const FAILURES: usize = 5;

#[tokio::test]
async fn a_dead_wechat_is_told_at_once_while_logins_under_way_go_on_and_new_ones_work_soon_after_its_return() {
    let service = Service::start().await;
    let confirming = Browser::start(&service).await;
    let mut events = confirming.events().await;
    events.next_is("waiting").await;
    let alice = Phone::that_scanned("alice", &service, &confirming.scene).await;
    events.next_is("scanned").await;
    let redeeming = Browser::start(&service).await.code_of("bob", &service).await;

    for call in ["jscode2session", "getwxacodeunlimit", "stable_token"] {
        service
            .fault(json!({"call": call, "status": 503, "times": 10_000}))
            .await;
    }
    let waiting = Browser::start(&service).await;
    let mut carol = Phone::of("carol");
    for _ in 0..FAILURES {
        let refused = carol.scan(&service, &waiting.scene).await;
        refused.problem(503, "wechat_unavailable");
        let refused = waiting.code_image().await;
        refused.problem(503, "wechat_unavailable");
    }
    let asked = Stopwatch::start();
    for refused in [carol.scan(&service, &waiting.scene).await, waiting.code_image().await] {
        refused.problem(503, "wechat_unavailable");
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=5).contains(&seconds), "{seconds}");
    }
    asked.took_less_than(Duration::from_secs(2));
    for call in ["jscode2session", "getwxacodeunlimit"] {
        assert_eq!(
            service.wechat_calls(call).await,
            FAILURES + usize::from(call == "jscode2session") * 2,
            "{call}"
        );
        let labels = format!("call=\"{call}\",host=\"primary\"");
        assert!(
            service.metric("scanlogin_wechat_circuit_open", &labels).await > 0.0,
            "{call}"
        );
    }

    alice.confirm(&service, &confirming.scene).await.ok();
    events.next_is("confirmed").await;
    Site::demo().redeem(&service, &redeeming).await.ok();

    forgets_its_faults(&service).await;
    let back = Stopwatch::start();
    eventually("a scan and a picture", || async {
        let scanned = Phone::of("carol").scan(&service, &waiting.scene).await;
        let another = Browser::start(&service).await;
        let seen = another.code_image().await;
        (scanned.status == 200 && seen.status == 200).then_some(())
    })
    .await;
    back.took_less_than(Duration::from_secs(6));
}

#[tokio::test]
async fn a_wechat_whose_name_does_not_resolve_is_told_at_once_and_harms_no_login_that_needs_it_no_more() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let nameless = service.replica().with("WECHAT_API_BASE", "http://wechat.invalid");
    let nameless = nameless.start().await;
    let confirming = Browser::start(&nameless).await;
    let mut events = confirming.events().await;
    events.next_is("waiting").await;
    let alice = Phone::that_scanned("alice", &service, &confirming.scene).await;
    events.next_is("scanned").await;
    let redeeming = Browser::start(&service).await.code_of("bob", &service).await;

    let waiting = Browser::start(&nameless).await;
    let asked = Stopwatch::start();
    let refused = Phone::of("carol").scan(&nameless, &waiting.scene).await;
    asked.took_less_than(Duration::from_secs(3));
    refused.problem(503, "wechat_unavailable");
    assert_ne!(refused.header("retry-after"), "");
    waiting.code_image().await.problem(503, "wechat_unavailable");
    nameless.log().line_with(&["request failed", "lookup"]).await;

    alice.confirm(&nameless, &confirming.scene).await.ok();
    events.next_is("confirmed").await;
    Site::demo().redeem(&nameless, &redeeming).await.ok();
    // Another replica, to which the name means something, takes the same code.
    Phone::of("carol").scan(&service, &waiting.scene).await.ok();
}

#[tokio::test]
async fn a_wechat_that_hangs_costs_the_first_callers_five_seconds_and_the_next_none() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    service
        .fault(json!({"call": "jscode2session", "delay_ms": 60_000, "times": 10_000}))
        .await;
    let first = (0..FAILURES).map(|_| async { Phone::of("alice").scan(&service, &browser.scene).await });
    for refused in join_all(first).await {
        refused.problem(504, "wechat_timeout");
    }
    let asked = Stopwatch::start();
    let refused = Phone::of("alice").scan(&service, &browser.scene).await;
    refused.problem(503, "wechat_unavailable");
    asked.took_less_than(Duration::from_secs(2));
}
