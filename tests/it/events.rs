//! What a browser hears: the event stream and its long-poll twin.

use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, timeout};

use crate::stores::{Store, on_each_store};
use crate::support::cli::cli_ok;
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::nginx::Nginx;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;
use crate::support::stopwatch::Stopwatch;

on_each_store! {
    a_stream_begins_with_when_to_come_again_and_the_state_as_it_is,
    a_browser_that_comes_back_hears_only_what_it_missed,
    the_final_event_is_told_again_with_the_same_code_until_that_is_redeemed,
    a_browser_that_has_the_final_event_is_told_to_stop,
    a_fourth_stream_takes_the_place_of_the_first_which_does_not_come_back,
    a_long_poll_is_answered_when_something_happens,
}

fn names(json: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

async fn a_stream_begins_with_when_to_come_again_and_the_state_as_it_is(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(events.response.headers()[name], value);
    }
    assert!(events.response.headers().contains_key("x-request-id"));
    let waiting = events.next_is("waiting").await;
    assert!((1000..=3000).contains(&events.retry.unwrap()), "{:?}", events.retry);
    let data = &waiting.data;
    assert_eq!(
        names(data),
        ["expires_at", "expires_in", "id", "scene", "state", "version"]
    );
    for (name, value) in [
        ("scene", json!(browser.scene)),
        ("id", json!(waiting.id)),
        ("state", json!("waiting")),
        ("version", json!(1)),
        ("expires_at", browser.started["expires_at"].clone()),
    ] {
        assert_eq!(data[name], value, "{name}");
    }
    assert_eq!(browser.started["id"], data["id"]);
    let status = browser.status().await;
    assert_eq!(names(&status), names(data), "the status says the same");
    assert_eq!(status["id"], data["id"]);
}

async fn a_browser_that_comes_back_hears_only_what_it_missed(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let waiting = browser.events().await.next_is("waiting").await;
    let mut back = browser.events_after(&waiting.id).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let scanned = back.next_is("scanned").await;
    assert!((1000..=3000).contains(&back.retry.unwrap()));
    drop(back);
    alice.confirm(&service, &browser.scene).await.ok();
    let mut back = browser.events_after(&scanned.id).await;
    back.next_is("confirmed").await;
    back.ends().await;
    browser.events_after("rubbish").await.next_is("confirmed").await;
}

async fn the_final_event_is_told_again_with_the_same_code_until_that_is_redeemed(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let code = browser.code_of("alice", &service).await;
    let mut first = browser.events().await;
    let told = first.next_is("confirmed").await;
    first.ends().await;
    assert_eq!(told.data["code"], code);
    let mut again = browser.events().await;
    let repeated = again.next_is("confirmed").await;
    again.ends().await;
    assert_eq!((&repeated.id, &repeated.data["code"]), (&told.id, &told.data["code"]));

    Site::demo().redeem(&service, &code).await.ok();
    let mut after = browser.events().await;
    let redeemed = after.next_is("confirmed").await;
    after.ends().await;
    assert_eq!(
        (&redeemed.id, &redeemed.data["version"]),
        (&told.id, &told.data["version"])
    );
    assert!(redeemed.data.get("code").is_none(), "{redeemed:?}");
}

async fn a_browser_that_has_the_final_event_is_told_to_stop(store: Store) {
    let service = store.service().with("SCENE_TTL", 1).start().await;
    let expiring = Browser::start(&service).await;
    let cancelled = Browser::start(&service).await;
    cancelled.cancel().await;
    for (browser, last) in [(expiring, "expired"), (cancelled, "cancelled")] {
        let mut events = browser.events().await;
        let id = loop {
            let event = events.next().await.unwrap();
            if event.event == last {
                break event.id;
            }
        };
        let over = Reply::to(browser.events_request().header("last-event-id", id)).await;
        assert_eq!((over.status, over.text().as_str()), (204, ""));
    }
}

async fn a_fourth_stream_takes_the_place_of_the_first_which_does_not_come_back(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = browser.events().await;
        stream.next_is("waiting").await;
        streams.push(stream);
    }
    let first = streams.remove(0).ends().await;
    let next_try = browser.events_request().header("last-event-id", &first.last_event_id);
    assert_eq!(Reply::to(next_try).await.status, 204);
    Phone::that_scanned("alice", &service, &browser.scene).await;
    for stream in &mut streams {
        stream.next_is("scanned").await;
    }
}

async fn a_long_poll_is_answered_when_something_happens(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let id = browser.started["id"].as_str().unwrap();
    let asked = Instant::now();
    let (scanned, alice) = tokio::join!(
        browser.long_poll(30, id),
        Phone::that_scanned("alice", &service, &browser.scene)
    );
    assert_eq!(scanned["state"], "scanned");
    assert_eq!(
        browser.long_poll(30, id).await["id"],
        scanned["id"],
        "what happened before is told at once"
    );
    let scanned_id = scanned["id"].as_str().unwrap();
    let (confirmed, _) = tokio::join!(
        browser.long_poll(30, scanned_id),
        alice.confirm(&service, &browser.scene)
    );
    assert_eq!(confirmed["state"], "confirmed");
    assert!(confirmed["code"].is_string());
    let final_id = confirmed["id"].as_str().unwrap();
    assert_eq!(
        browser.long_poll(30, final_id).await["id"],
        final_id,
        "nothing follows what is final"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "each was answered before its time"
    );
}

#[tokio::test]
async fn a_long_poll_without_after_waits_for_what_happens_from_now_on() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let asked = Stopwatch::start();
    let (answer, ()) = tokio::join!(Reply::to(browser.status_request("?wait=30")), async {
        eventually("the long-poll is open", || async {
            (service.metric("scanlogin_streams_open", "").await > 0.0).then_some(())
        })
        .await;
        Phone::that_scanned("alice", &service, &browser.scene).await;
    });
    assert_eq!(answer.ok()["state"], "scanned");
    asked.took_less_than(Duration::from_secs(10));
}

#[tokio::test]
async fn a_long_poll_waits_no_longer_than_asked_and_not_for_nonsense() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let id = browser.started["id"].as_str().unwrap();
    let asked = Stopwatch::start();
    assert_eq!(browser.long_poll(0, id).await["state"], "waiting");
    asked.took_less_than(Duration::from_millis(900));
    assert_eq!(browser.long_poll(1, id).await["state"], "waiting");
    assert!(asked.elapsed() >= Duration::from_millis(990));
    for more_than_thirty in ["31", "99999999999999999999999"] {
        let other = browser.status_request(&format!("?wait={more_than_thirty}&after=other"));
        Reply::to(other).await.ok();
    }
    for nonsense in ["-1", "1.5", "", "x", "1s", "%2B1", "0x1", "1&wait=2"] {
        let refused = Reply::to(browser.status_request(&format!("?wait={nonsense}"))).await;
        refused.problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_silent_stream_beats() {
    let service = Service::builder().with("HEARTBEAT", 1).start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let silent_since = Instant::now();
    events.heartbeat().await;
    events.heartbeat().await;
    let two_beats = silent_since.elapsed();
    assert!(
        (Duration::from_millis(1500)..Duration::from_secs(6)).contains(&two_beats),
        "{two_beats:?}"
    );
}

/// Where a compressor that was told to flush ends what it has so far (RFC 7692 §7.2.1).
const FLUSHED: &[u8] = b"\0\0\xff\xff";

#[tokio::test]
async fn a_proxy_that_buffers_and_compresses_passes_each_event_on_at_once() {
    let service = Service::start().await;
    let addr = service.base.strip_prefix("http://").unwrap().parse().unwrap();
    let nginx = Nginx::start(&[addr]).await;
    for (takes, ends) in [("identity", &b"\n\n"[..]), ("gzip", FLUSHED)] {
        let browser = Browser::start(&service).await;
        let through = service.http.get(format!("{}/events/{}", nginx.base(), browser.scene));
        let through = through.bearer_auth(&browser.secret).header("accept-encoding", takes);
        let asked = Stopwatch::start();
        let response = timeout(PATIENCE, through.send()).await.expect("an answer");
        let mut response = response.unwrap();
        let compressed = response.headers().get("content-encoding").is_some();
        assert_eq!(compressed, takes == "gzip", "nginx heeds no `no-transform`");
        until_chunk_ends(&mut response, ends).await;
        asked.took_less_than(AT_ONCE);

        let mut alice = Phone::of("alice");
        let (scanned, ()) = tokio::join!(
            async {
                alice.scan(&service, &browser.scene).await.ok();
                Stopwatch::start()
            },
            until_chunk_ends(&mut response, ends)
        );
        scanned.took_less_than(AT_ONCE);
    }
}

/// How long the proxy waits for a stream that says nothing.
const SILENT_MAX: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_silent_stream_outlives_the_patience_of_a_proxy_if_it_beats_within_it_and_else_is_cut() {
    tokio::join!(
        through_an_impatient_proxy(1, async |mut events, service, scene| {
            let began = Instant::now();
            while began.elapsed() < 3 * SILENT_MAX {
                events.heartbeat().await;
            }
            Phone::that_scanned("alice", &service, &scene).await;
            events.next_is("scanned").await;
        }),
        through_an_impatient_proxy(60, async |events, _service, _scene| {
            events.ends().await;
        })
    );
}

/// A stream that has said all that there is to say.
async fn through_an_impatient_proxy(heartbeat: u64, then: impl AsyncFnOnce(EventStream, Service, String)) {
    let service = Service::builder().with("HEARTBEAT", heartbeat).start().await;
    let addr = service.base.strip_prefix("http://").unwrap().parse().unwrap();
    let mut nginx = Nginx::start(&[addr]).await;
    nginx.restart_cutting(SILENT_MAX).await;
    let browser = Browser::start(&service).await;
    let through = service.http.get(format!("{}/events/{}", nginx.base(), browser.scene));
    let response = through.bearer_auth(&browser.secret).send().await.unwrap();
    let mut events = EventStream::new(response);
    events.next_is("waiting").await;
    then(events, service, browser.scene).await;
}

/// A proxy that keeps what it has until there is more, or until the stream ends, takes minutes.
const AT_ONCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

async fn until_chunk_ends(response: &mut Response, ends: &[u8]) {
    loop {
        let chunk = timeout(PATIENCE, response.chunk()).await;
        let chunk = chunk.expect("something").unwrap().expect("it goes on");
        if chunk.ends_with(ends) {
            return;
        }
    }
}

#[tokio::test]
async fn an_event_stream_hears_of_passing_trouble_and_any_other_caller_gets_the_problem() {
    let service = Service::builder().with("LIMIT_STREAMS_PER_ADDRESS", 1).start().await;
    let browser = Browser::start(&service).await;
    let mut only = browser.events().await;
    only.next_is("waiting").await;

    let response = browser.events_request().send().await.unwrap();
    assert_eq!(response.status(), 200);
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut told = EventStream::new(response);
    let unavailable = told.next_is("unavailable").await;
    assert_eq!(unavailable.id, "", "not an event of the scene");
    assert_eq!(unavailable.data["code"], "rate_limited");
    assert_eq!(unavailable.data["request_id"], request_id);
    // As long as a plain caller is told, and then not all at once.
    assert!((10_000..=13_000).contains(&told.retry.unwrap()), "{:?}", told.retry);
    told.ends().await;

    let plain = browser.call(reqwest::Method::GET, &format!("/events/{}", browser.scene));
    let refused = Reply::to(plain.bearer_auth(&browser.secret)).await;
    refused.problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "10");
    drop(only);
    eventually("there is room again", || async {
        let stream = browser.events().await.next().await.unwrap();
        (stream.event == "waiting").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_record_that_can_not_be_read_is_no_passing_trouble() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let browser = Browser::start(&service).await;
    let key = format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene);
    cli_ok(redis.addr(), &["SET", &key, "nonsense", "KEEPTTL"]);
    let refused = Reply::to(browser.events_request()).await;
    refused.problem(500, "internal");
    assert!(refused.text().contains("Start a new scene"), "{}", refused.text());
}
