//! What an operator is told of logins as a whole: how far they come, how they end, and how long people take.

use std::fs;
use std::path::Path;

use reqwest::{Error, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::stores::{Store, on_each_store};
use crate::support::cli::{cli, cli_ok};
use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;
use crate::support::{eventually, temporary_directory};

on_each_store! {
    each_login_is_counted_as_far_as_it_came,
}

async fn steps(service: &Service, step: &str) -> f64 {
    service
        .metric("scanlogin_login_steps_total", &format!("step=\"{step}\""))
        .await
}

/// How many took a time to this step, and how many seconds all of them did.
async fn times(service: &Service, step: &str) -> (f64, f64) {
    let labels = format!("step=\"{step}\"");
    let of = async |what| {
        let name = format!("scanlogin_login_step_seconds_{what}");
        service.metric(&name, &labels).await
    };
    (of("count").await, of("sum").await)
}

#[expect(clippy::float_cmp, reason = "they count")]
async fn each_login_is_counted_as_far_as_it_came(store: Store) {
    let service = store.service().with("SCENE_TTL", 5).start().await;
    // What does not happen at all after a start is seen as nothing, and not as not known.
    let known = service.series("scanlogin_login_steps_total").await;
    assert!(known.values().all(|count| *count == 0.0), "{known:?}");
    // Nobody ever watches the first.
    Browser::start(&service).await;
    let expiring = Browser::start(&service).await;
    let mut expires = expiring.events().await;

    let completed = Browser::start(&service).await;
    assert_eq!(completed.code_image().await.status, 200);
    let mut events = completed.events().await;
    events.next_is("waiting").await;
    let code = completed.code_of("alice", &service).await;
    Site::demo().redeem(&service, &code).await.ok();

    let refused = Browser::start(&service).await;
    let mallory = Phone::that_scanned("mallory", &service, &refused.scene).await;
    mallory.decline(&service, &refused.scene).await.ok();
    let given_up = Browser::start(&service).await;
    assert_eq!(given_up.cancel().await.status, 204);

    expires.next_is("waiting").await;
    expires.next_is("expired").await;
    let mut counted = Vec::new();
    for step in [
        "shown",
        "watched",
        "scanned",
        "confirmed",
        "redeemed",
        "declined",
        "cancelled",
        "expired",
    ] {
        counted.push((step, steps(&service, step).await));
    }
    let expected = [1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    assert_eq!(
        counted.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
        expected,
        "{counted:?}"
    );
    let counted = service.series("scanlogin_login_steps_total").await;
    assert!(counted.keys().eq(known.keys()), "{counted:?}");
    assert_eq!(service.metric("scanlogin_scenes_created_total", "").await, 5.0);
    for (step, count) in [
        ("scanned", 2.0),
        ("confirmed", 1.0),
        ("redeemed", 1.0),
        ("declined", 1.0),
        ("cancelled", 1.0),
    ] {
        let (counted, seconds) = times(&service, step).await;
        assert_eq!(counted, count, "{step}");
        assert!(seconds < 5.0 * count, "{step} took {seconds} s of a scene's five");
    }
}

/// From here on writes wait in Redis.
fn pause_writes(redis: &RedisServer) {
    cli_ok(redis.addr(), &["CLIENT", "PAUSE", "60000", "WRITE"]);
}

/// Hangs up when the write that was asked for waits, and only then lets it go on.
async fn hang_up(service: &Service, redis: &RedisServer, asked: JoinHandle<Result<Response, Error>>, method: &str) {
    eventually("a write waits", || async {
        let clients = cli(redis.addr(), &["INFO", "clients"]);
        (!clients.contains("blocked_clients:0")).then_some(())
    })
    .await;
    assert!(!asked.is_finished(), "it was answered");
    asked.abort();
    let method = format!("method={method}");
    service.log().line_with(&["status=499", &method]).await;
    cli_ok(redis.addr(), &["CLIENT", "UNPAUSE"]);
}

/// The events of the audit log that are about this scene.
fn written_of(path: &Path, browser: &Browser) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let is_of_it = |record: &Value| {
        browser
            .scene
            .starts_with(record["scene"].as_str().unwrap().trim_end_matches('…'))
    };
    let of_it = records.filter(is_of_it);
    of_it
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_step_is_counted_and_written_down_though_whoever_took_it_hung_up() {
    let (redis, dir) = (RedisServer::start(), temporary_directory());
    let path = dir.path().join("audit.log");
    let service = Service::builder()
        .redis(&redis)
        .audit_log(&path)
        .rust_log("info")
        .start()
        .await;
    // The scripts are there from then on.
    Browser::start(&service).await.code_of("bob", &service).await;

    let scanned = Browser::start(&service).await;
    let code = service.wx_code("alice").await;
    let calls = service.wechat_calls("jscode2session").await;
    service
        .fault(json!({"call": "jscode2session", "delay_ms": 1_000}))
        .await;
    let scan = service.post(&format!("/scenes/{}/scan", scanned.scene), &json!({ "code": code }));
    let scan = TaskTracker::new().spawn(scan.send());
    eventually("WeChat is asked", || async {
        (service.wechat_calls("jscode2session").await > calls).then_some(())
    })
    .await;
    pause_writes(&redis);
    hang_up(&service, &redis, scan, "POST").await;
    eventually("the scan is written down", || async {
        (written_of(&path, &scanned) == ["scanned"]).then_some(())
    })
    .await;
    assert_eq!(scanned.status().await["state"], "scanned");

    let cancelled = Browser::start(&service).await;
    let at = format!("{}/scenes/{}", service.base, cancelled.scene);
    let cancel = service.http.delete(at).bearer_auth(&cancelled.secret);
    pause_writes(&redis);
    hang_up(&service, &redis, TaskTracker::new().spawn(cancel.send()), "DELETE").await;
    eventually("the cancel is written down", || async {
        (written_of(&path, &cancelled) == ["cancelled"]).then_some(())
    })
    .await;
    assert_eq!(cancelled.status().await["state"], "cancelled");
    let counted = [steps(&service, "scanned").await, steps(&service, "cancelled").await];
    assert_eq!(
        counted.map(|count| count.to_string()),
        ["2", "1"],
        "that of who hung up, and bob's scan"
    );
}
