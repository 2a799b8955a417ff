//! What operators are told of a trouble while it lasts, and once it is over: by `/readyz`, which sends nobody elsewhere for it, and
//! by the log, which says it once.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::cli::{cli, cli_ok};
use crate::support::clock::WallClock;
use crate::support::eventually;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone};
use crate::support::service::Service;

/// More often than any call is retried.
const ALWAYS: u32 = 10_000;

/// How long durable writes are refused for want of a replica.
const WITHOUT_A_REPLICA: Duration = Duration::from_secs(10);

/// One of the checks of `/readyz`, which takes the process out for none of them.
async fn check(service: &Service, name: &str) -> Value {
    let reply = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
    let told = reply.json();
    assert_eq!((reply.status, &told["status"]), (200, &json!("ready")), "{told}");
    told["checks"][name].clone()
}

/// Whether the check is degraded for this reason.
async fn seen_degraded(service: &Service, name: &str, cause: &str) -> Option<()> {
    let check = check(service, name).await;
    let detail = check["detail"].as_str().unwrap_or_default();
    (check["status"] == "degraded" && detail.contains(cause)).then_some(())
}

/// Waits until it is.
async fn is_degraded(service: &Service, name: &str, cause: &str) {
    let what = format!("{name} is degraded: {cause}");
    eventually(&what, || seen_degraded(service, name, cause)).await;
}

/// Waits until the check finds nothing wrong any more.
async fn is_ok(service: &Service, name: &str) {
    eventually(&format!("{name} is ok"), || async {
        (check(service, name).await == json!({"status": "ok"})).then_some(())
    })
    .await;
}

/// The lines of the log that contain all of `words`.
fn lines_with(service: &Service, words: &[&str]) -> Vec<String> {
    let lines = service.log().lines().into_iter();
    lines
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .collect()
}

#[track_caller]
fn is_logged_once(service: &Service, words: &[&str]) {
    let lines = lines_with(service, words);
    assert_eq!(lines.len(), 1, "{words:?}: {lines:#?}");
}

#[track_caller]
fn is_not_logged(service: &Service, words: &[&str]) {
    let lines = lines_with(service, words);
    assert_eq!(lines, [""; 0], "{words:?}");
}

async fn until_a_start(service: &Service) {
    eventually("a new scene", || async { Browser::try_start(service).await }).await;
}

async fn refuses_a_start(service: &Service) {
    let request = service.post("/scenes", &json!({ "code_challenge": "a".repeat(43) }));
    Reply::to(request).await.problem(503, "store_unavailable");
}

/// It answers as before, and does nothing.
fn take_no_writes(redis: &RedisServer) {
    cli_ok(redis.addr(), &["REPLICAOF", "127.0.0.1", "1"]);
}

fn take_writes(redis: &RedisServer) {
    cli_ok(redis.addr(), &["REPLICAOF", "NO", "ONE"]);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_degrades_the_store_until_it_takes_one() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    is_ok(&service, "store").await;
    take_no_writes(&redis);
    eventually("the store is degraded", || async {
        // A try whose connection is being made anew tells of that.
        refuses_a_start(&service).await;
        seen_degraded(&service, "store", "READONLY").await
    })
    .await;
    take_writes(&redis);
    until_a_start(&service).await;
    is_ok(&service, "store").await;
}

#[tokio::test]
async fn connections_to_redis_are_counted_the_first_and_those_that_replace_one() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let made = async |purpose: &str| {
        let purpose = format!("use=\"{purpose}\"");
        let count = service.metric("scanlogin_store_connections_total", &purpose).await;
        count.to_string()
    };
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    assert_eq!([made("commands").await, made("news").await], ["1", "1"]);
    let another = async |purpose: &str| {
        eventually(&format!("another for {purpose}"), || async {
            (made(purpose).await == "2").then_some(())
        })
        .await;
    };
    assert_eq!(cli(redis.addr(), &["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
    another("news").await;
    assert_eq!(made("commands").await, "1", "nothing happened to that");
    eventually("news are subscribed to again", || async {
        (!cli(redis.addr(), &["CLIENT", "LIST", "TYPE", "pubsub"]).is_empty()).then_some(())
    })
    .await;
    cli(redis.addr(), &["CLIENT", "KILL", "TYPE", "normal"]);
    another("commands").await;
    assert_eq!(made("news").await, "2", "nothing happened to that");
    let scanned = eventually("a scan", || async {
        let scanned = Phone::of("alice").scan(&service, &browser.scene).await;
        (scanned.status == 200).then_some(())
    });
    scanned.await;
    events.next_is("scanned").await;
}

#[tokio::test]
async fn what_redis_does_not_answer_is_counted_also_when_nobody_waits_for_it_any_more() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let given_up = async || {
        let labels = "op=\"create\",outcome=\"given_up\"";
        let count = service.metric("scanlogin_store_request_seconds_count", labels).await;
        count.to_string()
    };
    let frozen = Frozen::new(redis.pid());
    let request = service.post("/scenes", &json!({ "code_challenge": "a".repeat(43) }));
    let error = request.timeout(Duration::from_secs(1)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    eventually("it is counted", || async { (given_up().await == "1").then_some(()) }).await;
    drop(frozen);
    until_a_start(&service).await;
}

#[tokio::test]
async fn a_redis_that_is_full_degrades_the_store_until_it_has_room() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    is_ok(&service, "store").await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "1"]);
    refuses_a_start(&service).await;
    is_degraded(&service, "store", "the store is full").await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "0"]);
    until_a_start(&service).await;
    is_ok(&service, "store").await;
}

#[tokio::test]
async fn a_redis_whose_replica_does_not_keep_up_degrades_the_store_until_it_does() {
    let redis = RedisServer::start();
    let copy = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    is_ok(&service, "store").await;
    let browser = Browser::start(&service).await;
    let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
    let frozen = Frozen::new(copy.pid());
    let refused = phone.confirm(&service, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    is_degraded(&service, "store", "no replica keeps up").await;
    drop(frozen);
    eventually("the phone's retry succeeds", || async {
        let confirmed = phone.confirm(&service, &browser.scene).await;
        (confirmed.status == 200).then_some(())
    })
    .await;
    is_ok(&service, "store").await;
}

#[tokio::test]
async fn a_wechat_that_does_not_answer_scans_or_gives_no_codes_is_degraded_until_it_does() {
    let service = Service::start().await;
    is_ok(&service, "wechat").await;
    let browser = Browser::start(&service).await;
    for call in ["jscode2session", "getwxacodeunlimit"] {
        let asked = async || match call {
            "jscode2session" => Phone::of("alice").scan(&service, &browser.scene).await,
            _ => Browser::start(&service).await.code_image().await,
        };
        service
            .fault(json!({"call": call, "status": 503, "times": ALWAYS}))
            .await;
        let refused = async || asked().await.problem(503, "wechat_unavailable");
        eventually("it is asked but once in a while", || async {
            refused().await;
            let open = service.metric("scanlogin_wechat_circuit_open", call).await;
            (open > 0.0).then_some(())
        })
        .await;
        is_degraded(&service, "wechat", "is not asked just now").await;

        let forgotten = Reply::to(service.simulator(reqwest::Method::DELETE, "faults")).await;
        assert_eq!(forgotten.status, 204);
        eventually("it answers", || async { (asked().await.status == 200).then_some(()) }).await;
        is_ok(&service, "wechat").await;
    }
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_logged_once_for_each_kind_of_request_and_is_not_called_unreachable() {
    let redis = RedisServer::start();
    // Codes made ahead would be written at any time.
    let service = Service::builder().redis(&redis).with("CODE_POOL", 0).start().await;
    let browser = Browser::start(&service).await;
    take_no_writes(&redis);
    for _ in 0..5 {
        let (cancelled, ()) = tokio::join!(browser.cancel(), refuses_a_start(&service));
        cancelled.problem(503, "store_unavailable");
    }
    let kinds = ["op=\"create\"", "op=\"replace\""];
    for kind in kinds {
        is_logged_once(&service, &["WARN", "redis does not do this", kind]);
    }
    take_writes(&redis);
    until_a_start(&service).await;
    eventually("the browser's retry succeeds", || async {
        (browser.cancel().await.status == 204).then_some(())
    })
    .await;
    for kind in kinds {
        let words = ["INFO", "redis does this again", kind];
        // A busy machine may have kept back the answer to the first write of all, which the retry then found done.
        eventually("it is told that Redis does this again", || async {
            let further = Browser::start(&service).await;
            assert_eq!(further.cancel().await.status, 204);
            let lines = service.log().lines();
            lines
                .iter()
                .any(|line| words.iter().all(|word| line.contains(word)))
                .then_some(())
        })
        .await;
        is_logged_once(&service, &words);
        is_logged_once(&service, &["redis does not do this", kind]);
    }
    is_not_logged(&service, &["redis can't be reached"]);
    is_not_logged(&service, &["redis answers again"]);
}

#[tokio::test]
async fn an_outage_whose_cause_changes_is_told_once_for_each_kind_of_cause() {
    let mut redis = RedisServer::start_with(&["--requirepass", "old"]);
    let url = format!("redis://:old@{}", redis.addr());
    let service = Service::builder().redis_url(&url).start().await;
    redis.kill();
    is_degraded(&service, "store", "refused").await;
    // Somebody brings it back with another password.
    let redis = RedisServer::start_at(redis.addr(), &["--requirepass", "new"]);
    service.log().line_with(&["redis can't be reached", "WRONGPASS"]).await;
    is_degraded(&service, "store", "WRONGPASS").await;
    eventually("it is tried again and again", || async {
        let stats = cli(redis.addr(), &["INFO", "stats"]);
        let refused = stats.split("total_error_replies:").nth(1)?;
        let refused = refused.split_whitespace().next()?.parse::<u32>().ok()?;
        (refused > 20).then_some(())
    })
    .await;
    is_logged_once(&service, &["WARN", "redis can't be reached", "WRONGPASS"]);
    is_logged_once(&service, &["WARN", "redis can't be reached", "IO Error"]);
    cli_ok(redis.addr(), &["CONFIG", "SET", "requirepass", "old"]);
    service.log().line_with(&["INFO", "redis answers again"]).await;
    until_a_start(&service).await;
    is_ok(&service, "store").await;
    is_logged_once(&service, &["redis answers again"]);
}

#[tokio::test]
async fn a_redis_that_would_evict_live_scenes_is_warned_about_at_the_start() {
    const WARNING: [&str; 3] = ["WARN", "evicts live scenes", "noeviction"];
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let redis = RedisServer::start_with(&["--maxmemory-policy", policy]);
        let service = Service::builder().redis(&redis).start().await;
        is_logged_once(&service, &WARNING);
        is_logged_once(&service, &["evicts live scenes", policy]);
    }
    let redis = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let service = Service::builder().redis(&redis).start().await;
    is_not_logged(&service, &WARNING);
}

#[tokio::test]
async fn a_redis_whose_last_replica_is_gone_refuses_confirms_and_says_why_and_then_warns_that_it_goes_on_without_one() {
    const WARNING: [&str; 2] = ["WARN", "durable writes go on without a replica"];
    let redis = RedisServer::start();
    let mut copy = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    let browser = Browser::start(&service).await;
    let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
    let killed = Instant::now();
    copy.kill();
    let refused = phone.confirm(&service, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    let no_replica = "cause=\"no replica of the store confirmed the write in time\"";
    service.log().line_with(&["request failed", no_replica]).await;
    is_degraded(&service, "store", "no replica keeps up").await;
    is_not_logged(&service, &WARNING);

    service.log().line_with(&WARNING).await;
    assert!(killed.elapsed() > WITHOUT_A_REPLICA, "{:?}", killed.elapsed());
    is_ok(&service, "store").await;
    phone.confirm(&service, &browser.scene).await.ok();
    // It is seen in many slots, and looked at each second.
    let looks = async || {
        service
            .metric("scanlogin_store_request_seconds_count", "op=\"ready\"")
            .await
    };
    let before = looks().await;
    eventually("it is asked a while longer", || async {
        check(&service, "store").await;
        (looks().await > before + 20.0).then_some(())
    })
    .await;
    is_logged_once(&service, &WARNING);
}

#[tokio::test]
async fn t37_a_clock_that_differs_from_redis_is_told_once_and_once_when_it_agrees_again() {
    const DIFFERS: [&str; 2] = ["WARN", "clock is not redis's"];
    const AGREES: [&str; 2] = ["INFO", "clock agrees with redis's again"];
    let redis = RedisServer::start();
    let clock = WallClock::new("+300");
    let service = clock.of(Service::builder().redis(&redis)).start().await;
    let skew_is = async |about: f64| {
        eventually(&format!("a skew of {about} s"), || async {
            let skew = service.metric("scanlogin_clock_skew_seconds", "").await;
            ((skew - about).abs() < 1.0).then_some(())
        })
        .await;
    };
    skew_is(300.0).await;
    service.log().line_with(&DIFFERS).await;
    // It is looked at again and again.
    clock.set("-400");
    skew_is(-400.0).await;
    is_logged_once(&service, &DIFFERS);
    is_not_logged(&service, &AGREES);
    // What NTP leaves is nothing to tell.
    clock.set("+1");
    skew_is(1.0).await;
    service.log().line_with(&AGREES).await;
    is_logged_once(&service, &DIFFERS);
    clock.set("+3");
    eventually("told anew", || async {
        (lines_with(&service, &DIFFERS).len() == 2).then_some(())
    })
    .await;
    Browser::start(&service).await.code_of("alice", &service).await;
}
