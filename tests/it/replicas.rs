//! Several replicas on one Redis: what is done at one is told at every other, whatever happens to Redis meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::support::cli::{cli, cli_ok};
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;
use crate::support::shape::{Security, Shape, Topology};
use crate::support::stopwatch::Stopwatch;

/// Logins with an event stream whose confirm is placed around its subscription.
const STREAMED: usize = 3_000;
/// The same by long-poll.
const POLLED: usize = 300;
/// Logins under way at once.
const AT_ONCE: usize = 50;

/// How long a phone tries.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two replicas on one Redis: browsers are at `a`, phones at `b`.
struct Pair {
    redis: RedisServer,
    a: Service,
    b: Service,
}

impl Pair {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let a = Service::builder().redis(&redis).start().await;
        let b = a.replica().start().await;
        Self { redis, a, b }
    }

    /// Browsers with open streams that have seen the scan, and the phones that scanned.
    async fn scanned(&self, count: usize) -> Vec<(Browser, EventStream, Phone)> {
        scanned(&self.a, &self.b, count).await
    }
}

/// Browsers at `a` with open streams that have seen the scan, and the phones that scanned at `b`.
async fn scanned(a: &Service, b: &Service, count: usize) -> Vec<(Browser, EventStream, Phone)> {
    let open = |number| async move {
        let browser = Browser::start(a).await;
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        let phone = Phone::that_scanned(&format!("person-{number}"), b, &browser.scene).await;
        events.next_is("scanned").await;
        (browser, events, phone)
    };
    join_all((0..count).map(open)).await
}

#[tokio::test]
async fn a_confirm_made_at_one_replica_right_around_the_subscription_at_another_is_never_lost() {
    let pair = Pair::start().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let began = Instant::now();
    let rng = &mut StdRng::seed_from_u64(seed);
    let offsets: Vec<i64> = (0..STREAMED + POLLED)
        .map(|_| rng.random_range(-5_000..=5_000))
        .collect();
    let pair = &pair;
    let rounds = stream::iter(offsets.into_iter().enumerate()).map(|(number, micros)| round(pair, number, micros));
    let all = rounds.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;

    let mut histories = BTreeMap::new();
    for history in all {
        *histories.entry(history).or_insert(0) += 1;
    }
    println!("{} logins in {:?}: {histories:?}", STREAMED + POLLED, began.elapsed());
    assert_eq!(histories.values().sum::<usize>(), STREAMED + POLLED);
    // It would have come to the help of a long-poll that was deaf.
    let slow = pair
        .a
        .metric("scanlogin_rereads_total", "cause=\"slow\",found=\"new\"")
        .await;
    assert!(slow < 1.0, "{slow} were told by the slow re-read alone");
    assert!(
        histories.len() >= 2,
        "the confirm was never on both sides of the subscription"
    );
}

/// One login, its confirm `micros` after the subscription was asked for: the states its browser was told.
async fn round(pair: &Pair, number: usize, micros: i64) -> String {
    let openid = format!("person-{number}");
    let browser = Browser::start(&pair.a).await;
    let mut phone = Phone::of(&openid);
    let scanned = async { while comes_again(&phone.scan(&pair.b, &browser.scene).await) {} };
    timeout(PATIENCE, scanned).await.expect("a scan");
    let seen = browser.status().await["id"].as_str().unwrap().to_owned();
    let wait = |micros: i64| sleep(Duration::from_micros(micros.max(0).unsigned_abs()));
    let confirm = async {
        wait(micros).await;
        let confirmed = async { while comes_again(&phone.confirm(&pair.b, &browser.scene).await) {} };
        timeout(PATIENCE, confirmed).await.expect("a confirm");
    };
    let follow = async {
        wait(-micros).await;
        if number < STREAMED {
            streamed(&browser).await
        } else {
            polled(&browser, &seen).await
        }
    };
    let (told, ()) = futures_util::future::join(follow, confirm).await;

    for (earlier, later) in told.iter().zip(&told[1..]) {
        assert!(
            earlier["version"].as_u64() < later["version"].as_u64(),
            "seed and round {number}: {told:?}"
        );
    }
    let last = told.last().expect("a state");
    assert_eq!(
        (&last["state"], &last["version"]),
        (&json!("confirmed"), &json!(3)),
        "round {number}: {told:?}"
    );
    assert!(told.iter().all(|state| state["scene"] == *browser.scene), "{told:?}");
    let redeem = async || {
        let code = last["code"].as_str().expect("a code");
        Site::demo().redeem(&pair.b, code).await
    };
    let mut redeemed = redeem().await;
    if redeemed.status == 503 {
        println!(
            "a busy machine: {:?}",
            pair.b
                .log()
                .lines()
                .into_iter()
                .rfind(|line| line.contains("request failed"))
        );
        redeemed = redeem().await;
    }
    let redeemed = redeemed.ok();
    assert_eq!(subject(&redeemed), openid);
    let states = told.iter().map(|state| state["state"].as_str().unwrap());
    states.collect::<Vec<_>>().join(" ")
}

/// A 503 says that the same request shall come again, as phones do: on a machine that is too busy it may.
fn comes_again(reply: &Reply) -> bool {
    if reply.status == 503 {
        return true;
    }
    reply.ok();
    false
}

async fn streamed(browser: &Browser) -> Vec<Value> {
    let mut events = browser.events().await;
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        if event.event == "unavailable" {
            events = browser.events().await;
            continue;
        }
        assert_eq!(event.data["state"], *event.event);
        assert_eq!(event.data["id"], *event.id);
        told.push(event.data);
    }
    told
}

/// From the state `seen` on, so that it waits.
async fn polled(browser: &Browser, seen: &str) -> Vec<Value> {
    let mut told = vec![browser.long_poll(30, seen).await];
    while let Some(last) = told.last().filter(|last| last["state"] != "confirmed") {
        let after = last["id"].as_str().unwrap().to_owned();
        told.push(browser.long_poll(30, &after).await);
    }
    told
}

/// Whose id_token it is; its signature is another test's.
fn subject(redeemed: &Value) -> String {
    let claims = redeemed["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

async fn all_confirm(logins: &[(Browser, EventStream, Phone)], service: &Service) {
    let confirms = logins
        .iter()
        .map(|(browser, _, phone)| phone.confirm(service, &browser.scene));
    for confirmed in join_all(confirms).await {
        confirmed.ok();
    }
}

async fn all_confirm_in_the_end(logins: &[(Browser, EventStream, Phone)], service: &Service) {
    let confirms = logins.iter().map(|(browser, _, phone)| {
        eventually("the phone's retry succeeds", || async {
            let confirmed = phone.confirm(service, &browser.scene).await;
            (confirmed.status == 200).then_some(())
        })
    });
    join_all(confirms).await;
}

async fn all_are_told(logins: Vec<(Browser, EventStream, Phone)>) {
    let told = logins.into_iter().map(|(_, mut events, _)| async move {
        events.next_is("confirmed").await;
        events.ends().await;
    });
    join_all(told).await;
}

#[tokio::test]
async fn what_was_published_while_the_subscriptions_were_cut_is_told_within_two_seconds() {
    let pair = Pair::start().await;
    for _ in 0..3 {
        let logins = pair.scanned(40).await;
        let addr = pair.redis.addr();
        assert_eq!(
            cli(addr, &["CLIENT", "KILL", "TYPE", "pubsub"]),
            "1",
            "only one replica listens"
        );
        all_confirm(&logins, &pair.b).await;
        let confirmed = Stopwatch::start();
        all_are_told(logins).await;
        confirmed.took_less_than(Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_redis_that_came_back_empty_costs_the_logins_under_way_and_no_later_one() {
    let mut pair = Pair::start().await;
    let logins = pair.scanned(20).await;
    let restarted = Stopwatch::start();
    pair.redis.restart();
    for (browser, mut events, phone) in logins {
        let told = events.next_is("expired").await;
        assert_eq!(told.data["reason"], "lost");
        assert_eq!(told.data["expires_in"], 0, "nothing is left of it");
        events.ends().await;
        Reply::to(browser.status_request(""))
            .await
            .problem(404, "unknown_scene");
        phone
            .confirm(&pair.b, &browser.scene)
            .await
            .problem(404, "unknown_scene");
    }
    restarted.took_less_than(Duration::from_secs(3));
    assert_eq!(round(&pair, 0, 0).await.split(' ').next_back(), Some("confirmed"));
}

#[tokio::test]
async fn while_redis_hangs_streams_stay_open_and_requests_are_told_to_come_again() {
    let pair = Pair::start().await;
    let mut logins = pair.scanned(3).await;
    let (idle, _, _) = logins.pop().unwrap();
    let waits = idle.status().await["id"].as_str().unwrap().to_owned();
    streams(&pair.a, 2.0).await;
    let mut waiting = JoinSet::new();
    waiting.spawn(idle.status_request(&format!("?wait=30&after={waits}")).send());
    streams(&pair.a, 3.0).await;
    let frozen = Frozen::new(pair.redis.pid());
    let stopped = Stopwatch::start();
    let code = format!("/scenes/{}/code", idle.scene);
    let events = format!("/events/{}", idle.scene);
    let refused = [
        pair.a.post("/scenes", &json!({ "code_challenge": "a".repeat(43) })),
        pair.a.get(&code),
        idle.status_request(""),
        idle.status_request("?wait=30&after=x"),
        pair.a.get(&events).bearer_auth(&idle.secret),
        pair.b
            .post(&format!("/scenes/{}/confirm", idle.scene), &json!({}))
            .bearer_auth(&idle.secret),
    ];
    let refused = refused.map(|request| async move { store_unavailable(request).await });
    let (_, ()) = futures_util::future::join(join_all(refused), event_unavailable(&idle)).await;
    let waited = waiting.join_next().await.unwrap().unwrap().unwrap();
    stopped.took_less_than(Duration::from_secs(3));
    assert_eq!(waited.status(), 503, "a long-poll that waits is told as well");
    sleep(Duration::from_secs(2).saturating_sub(stopped.elapsed())).await;

    drop(frozen);
    let back = Stopwatch::start();
    for (browser, mut events, phone) in logins {
        assert_eq!(events.comments, 0);
        eventually("the phone's retry succeeds", || async {
            let confirmed = phone.confirm(&pair.b, &browser.scene).await;
            (confirmed.status == 200).then_some(())
        })
        .await;
        events.next_is("confirmed").await;
    }
    back.took_less_than(Duration::from_secs(2));
}

/// Four heartbeats, and nothing else: longer than any request to Redis is tried.
async fn only_beat(logins: &mut [(Browser, EventStream, Phone)]) {
    let beating = logins.iter_mut().map(|(_, events, _)| async move {
        for _ in 0..4 {
            events.heartbeat().await;
        }
    });
    join_all(beating).await;
}

#[tokio::test]
async fn streams_beat_on_through_every_outage_and_tell_what_was_missed_within_two_seconds_of_its_end() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let a = Service::builder().redis_url(&link.url()).with("HEARTBEAT", 1);
    let a = a.start().await;
    let b = a.replica().redis(&redis).start().await;
    let mut logins = scanned(&a, &b, 20).await;

    let frozen = Frozen::new(redis.pid());
    only_beat(&mut logins).await;
    drop(frozen);
    // Nothing has happened, so there is nothing to tell afterwards either.
    only_beat(&mut logins).await;

    link.blackhole();
    all_confirm(&logins, &b).await;
    only_beat(&mut logins).await;
    link.heal();
    let back = Stopwatch::start();
    all_are_told(logins).await;
    back.took_less_than(Duration::from_secs(2));
}

/// Whoever connects meanwhile is refused, while a Redis that hangs lets everybody wait.
#[tokio::test]
async fn streams_beat_on_while_redis_is_dead_and_then_go_on_or_say_that_their_scenes_are_lost() {
    let mut redis = RedisServer::start();
    let a = Service::builder().redis(&redis).with("HEARTBEAT", 1).start().await;
    let b = a.replica().start().await;
    let mut logins = scanned(&a, &b, 20).await;

    redis.kill_saved().await;
    only_beat(&mut logins).await;
    redis.come_back();
    let back = Stopwatch::start();
    let confirmed = logins.split_off(10);
    all_confirm_in_the_end(&confirmed, &b).await;
    all_are_told(confirmed).await;
    back.took_less_than(Duration::from_secs(3));
    // What was there and is there again is nothing to tell of.
    only_beat(&mut logins).await;

    redis.kill();
    only_beat(&mut logins).await;
    redis.restart();
    let back = Stopwatch::start();
    join_all(logins.into_iter().map(|(_, mut events, _)| async move {
        let told = events.next_is("expired").await;
        assert_eq!(told.data["reason"], "lost");
        events.ends().await;
    }))
    .await;
    back.took_less_than(Duration::from_secs(3));
}

#[tokio::test]
async fn streams_beat_on_while_sentinels_replace_a_dead_primary() {
    streams_beat_on_through_a_fail_over(Topology::Sentinel, 2).await;
}

#[tokio::test]
async fn streams_beat_on_while_a_cluster_replaces_a_dead_primary() {
    streams_beat_on_through_a_fail_over(Topology::Cluster, 0).await;
}

async fn streams_beat_on_through_a_fail_over(topology: Topology, primary: usize) {
    let mut shape = Shape::start(topology, Security::Plain).await;
    let a = shape.tell(Service::builder()).with("HEARTBEAT", 1).start().await;
    let b = shape.tell(a.replica()).start().await;
    let mut logins = scanned(&a, &b, 12).await;
    only_beat(&mut logins).await;
    shape.nodes_mut()[primary].server.kill();
    for _ in 0..3 {
        only_beat(&mut logins).await;
    }
    all_confirm_in_the_end(&logins, &b).await;
    all_are_told(logins).await;
}

/// How long a change at most stays untold of which nothing is heard: the slow re-read's 15 s and 20 % of them, and a moment to
/// tell it.
const UNHEARD: Duration = Duration::from_secs(19);

#[tokio::test]
async fn what_one_replica_may_not_publish_is_told_all_the_same_by_the_slow_re_read() {
    let redis = RedisServer::start();
    let mute = "ACL SETUSER mute on >opensesame ~* &* +@all";
    cli_ok(redis.addr(), &mute.split(' ').collect::<Vec<_>>());
    // A silent stream is one of which nothing has come for ten seconds.
    let a = Service::builder().redis(&redis).with("HEARTBEAT", 5).start().await;
    let b = a
        .replica()
        .redis_url(&format!("redis://mute:opensesame@{}", redis.addr()));
    let b = b.start().await;
    let logins = scanned(&a, &b, 20).await;

    cli_ok(redis.addr(), &["ACL", "SETUSER", "mute", "resetchannels"]);
    let confirms = logins
        .iter()
        .map(|(browser, _, phone)| phone.confirm(&b, &browser.scene));
    for confirmed in join_all(confirms).await {
        confirmed.ok();
    }
    let confirmed = Stopwatch::start();
    let told = join_all(logins.into_iter().map(|(_, mut events, _)| async move {
        let told = events.next_is("confirmed").await;
        events.ends().await;
        told
    }))
    .await;
    confirmed.took_less_than(UNHEARD);
    let reread = a.metric("scanlogin_rereads_total", "cause=\"slow\",").await;
    assert!(reread >= 20.0, "{reread}: it was told in another way");
    for told in told {
        let code = told.data["code"].as_str().unwrap();
        Site::demo().redeem(&b, code).await.ok();
    }
}

/// Waits until so many are open at a replica, long-polls included.
async fn streams(replica: &Service, count: f64) {
    eventually("so many streams are open", || async {
        let open = replica.metric("scanlogin_streams_open", "").await;
        (open.to_bits() == count.to_bits()).then_some(())
    })
    .await;
}

async fn store_unavailable(request: RequestBuilder) {
    let asked = Stopwatch::start();
    let reply = timeout(Duration::from_secs(5), Reply::to(request))
        .await
        .expect("an answer");
    asked.took_less_than(Duration::from_secs(3));
    reply.problem(503, "store_unavailable");
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
}

/// An EventSource would never come again after anything but a 200.
async fn event_unavailable(browser: &Browser) {
    let asked = Stopwatch::start();
    let mut events = browser.events().await;
    asked.took_less_than(Duration::from_secs(3));
    assert_eq!(events.response.headers()["content-type"], "text/event-stream");
    let told = events.next_is("unavailable").await;
    assert_eq!(
        (&told.data["code"], &told.data["status"]),
        (&json!("store_unavailable"), &json!(503))
    );
    assert_eq!(told.id, "", "the browser's last event stays what it was");
    assert!((1_000..=3_000).contains(&events.retry.expect("when to come again")));
    events.ends().await;
}

#[tokio::test]
async fn who_gives_up_in_a_scenes_last_moment_has_given_up() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder()
        .redis_url(&link.url())
        .with("SCENE_TTL", 1)
        .start()
        .await;
    let browser = Browser::start(&service).await;
    let expired = Instant::now() + Duration::from_secs(1);
    link.stall_at("EVALSHA");
    let late = async {
        link.stalled().await;
        sleep_until(expired).await;
        link.heal();
    };
    let (cancelled, ()) = tokio::join!(browser.cancel(), late);
    assert_eq!(cancelled.status, 204, "{}", cancelled.text());
    assert_eq!(browser.status().await["state"], "expired");
    assert_eq!(browser.cancel().await.status, 204, "and again");
}

#[tokio::test]
async fn a_redis_that_hangs_makes_no_probe_wait() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let _frozen = Frozen::new(redis.pid());
    let asked = Stopwatch::start();
    let reply = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
    // Kubernetes waits a second, if nobody says otherwise.
    asked.took_less_than(Duration::from_millis(800));
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("ready")));
    assert_eq!(reply.json()["checks"]["store"]["status"], "degraded");
}

#[tokio::test]
async fn a_replica_that_starts_before_its_redis_waits_for_it() {
    let mut redis = RedisServer::start();
    redis.kill();
    let service = Service::builder().redis(&redis).start_unready().await;
    let readyz = || Reply::to(service.http.get(format!("{}/readyz", service.ops)));
    let reply = readyz().await;
    assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("starting")));
    assert_eq!(reply.json()["checks"]["store"]["status"], "degraded");
    assert_eq!(
        Reply::to(service.http.get(format!("{}/livez", service.ops)))
            .await
            .status,
        200
    );
    let challenge = json!({ "code_challenge": "a".repeat(43) });
    store_unavailable(service.post("/scenes", &challenge)).await;

    redis.restart();
    let ready = eventually("the service is ready", || async {
        let reply = readyz().await;
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(ready.await.json()["status"], "ready");
    let browser = Browser::start(&service).await;
    browser.events().await.next_is("waiting").await;

    redis.kill();
    let degraded = eventually("the store is seen to be away", || async {
        let reply = readyz().await;
        (reply.json()["checks"]["store"]["status"] == "degraded").then_some(reply)
    });
    assert_eq!(
        degraded.await.status,
        200,
        "a Redis that is away for all takes no replica out"
    );
}
