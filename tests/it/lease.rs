//! The lease on fetching WeChat's access_token, and its holder killed, asleep, cut off or in another hour.
//!
//! The simulator's own record of calls says how often it was asked for a token, and which one each picture was made with. Each
//! story is told of both token calls: one gives the same token again, and would hide a second one that was used.

use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::support::cli::{cli, cli_ok};
use crate::support::clock::WallClock;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::sentinel::Sentinels;
use crate::support::service::{Service, ServiceBuilder};
use crate::support::stopwatch::Stopwatch;

const APPID: &str = "wx0123456789abcdef";

/// How long a holder that falls silent keeps all others waiting.
const LEASE: Duration = Duration::from_secs(10);

/// A WeChat whose calls are counted, and replicas of an AppID that has no token yet.
struct Stage {
    /// Of another AppID: it only runs the simulator's errands.
    errands: Service,
    call: &'static str,
    before: usize,
}

impl Stage {
    /// With replicas that ask for their token by this call.
    async fn set(redis_url: &str, call: &'static str) -> Self {
        let errands = Service::builder().redis_url(redis_url).with("WECHAT_TOKEN_MODE", call);
        let errands = errands.with("WECHAT_ALLOW_TOKEN_WITH_REDIS", true).start().await;
        eventually("its own token", || async {
            (errands.wechat_calls(call).await > 0).then_some(())
        })
        .await;
        let before = errands.wechat_calls(call).await;
        Self { errands, call, before }
    }

    fn replica(&self) -> ServiceBuilder {
        let replica = self.errands.replica().with("WECHAT_TOKEN_MODE", self.call);
        let replica = replica.with("WECHAT_ALLOW_TOKEN_WITH_REDIS", true);
        replica.with("WECHAT_APPID", APPID).with("WECHAT_SECRET", "a-secret")
    }

    /// The next answer with a token takes so long.
    async fn slow_token(&self, millis: u64) {
        self.errands.fault(json!({"call": self.call, "delay_ms": millis})).await;
    }

    async fn token_calls(&self) -> usize {
        self.errands.wechat_calls(self.call).await - self.before
    }

    async fn until_token_calls(&self, count: usize) {
        eventually("so many calls for a token", || async {
            (self.token_calls().await == count).then_some(())
        })
        .await;
    }

    /// The tokens that pictures were made with, each named where its use began.
    async fn used(&self) -> Vec<String> {
        let mut used = self.tokens_of("getwxacodeunlimit").await;
        used.dedup();
        used
    }

    /// All pictures were made with one token, of which WeChat has given no newer one.
    async fn only_the_newest_was_used(&self) {
        let newest = self.tokens_of(self.call).await.pop().unwrap();
        assert_eq!(self.used().await, [newest], "{}", self.call);
    }

    /// The tokens that the calls of this kind gave or used, in WeChat's order.
    async fn tokens_of(&self, call: &str) -> Vec<String> {
        let calls = Reply::to(self.errands.simulator(Method::GET, "calls")).await.ok();
        let calls = calls.as_array().unwrap().iter();
        calls
            .filter(|made| made["call"] == call && made["errcode"] == 0)
            .map(|made| made["token_tail"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Asks for codes until there is one.
async fn until_a_picture(replica: &Service) {
    let deadline = Instant::now() + 2 * LEASE;
    loop {
        // A new primary takes no writes until another follows it.
        let browser = eventually("a scene is begun", || Browser::try_start(replica)).await;
        let image = browser.code_image().await;
        if image.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "{}", image.text());
    }
}

/// The token that the replicas share, as far as Redis can tell.
fn stored(redis: &RedisServer) -> String {
    let key = format!("scanlogin:{{wx:{APPID}}}:access_token");
    cli(redis.addr(), &["HMGET", &key, "generation", "sealed"])
}

/// What is left of the lease: zero if it is over.
fn lease_left(redis: &RedisServer) -> Duration {
    let left = cli(redis.addr(), &["PTTL", &format!("scanlogin:{{wx:{APPID}}}:lease")]);
    let left: i64 = left.parse().expect("milliseconds");
    Duration::from_millis(left.max(0).unsigned_abs())
}

/// The lease that was left when the outage began, and the call of whoever takes over.
#[track_caller]
fn took_no_longer_than(left: Duration, began: Stopwatch, call: &str) {
    assert!(left <= LEASE, "{call}: {left:?}");
    began.took_less_than(left + Duration::from_millis(800));
}

#[tokio::test]
async fn a_holder_that_is_killed_in_its_call_costs_one_call_more_and_no_longer_than_its_lease() {
    tokio::join!(killed_in_its_call("stable_token"), killed_in_its_call("token"));
}

async fn killed_in_its_call(call: &'static str) {
    let redis = RedisServer::start();
    // So far away that what it writes after its lease, for as long, would end noticeably later.
    let link = Proxy::start(redis.addr(), Duration::from_millis(150)).await;
    let stage = Stage::set(&redis.url(), call).await;
    stage.slow_token(60_000).await;
    let holder = stage.replica().redis_url(&link.url()).start().await;
    stage.until_token_calls(1).await;
    // Before the lease is looked at, so that what their start takes does not count.
    let (one, two) = tokio::join!(stage.replica().start(), stage.replica().start());
    holder.process.signal(Signal::KILL);
    let (killed, left) = (Stopwatch::start(), lease_left(&redis));
    tokio::join!(until_a_picture(&one), until_a_picture(&two));
    took_no_longer_than(left, killed, call);
    assert_eq!(stage.token_calls().await, 2, "{call}");
    stage.only_the_newest_was_used().await;
}

/// How often replicas start together: more in `scripts/test --all`.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the program")]
fn starts() -> usize {
    std::env::var("TEST_STARTS").map_or(2, |starts| starts.parse().expect("a number of starts"))
}

#[tokio::test]
async fn five_replicas_that_start_together_ask_for_one_token_each_time() {
    tokio::join!(start_together("stable_token"), start_together("token"));
}

async fn start_together(call: &'static str) {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), call).await;
    for start in 1..=starts() {
        cli_ok(redis.addr(), &["FLUSHALL"]);
        // So that none has it before the last has come to ask.
        stage.slow_token(2_000).await;
        let replicas = join_all((0..5).map(|_| stage.replica().start())).await;
        join_all(replicas.iter().map(until_a_picture)).await;
        assert_eq!(stage.token_calls().await, start, "{call}");
    }
}

#[tokio::test]
async fn a_holder_that_wakes_after_its_lease_does_not_put_its_token_over_the_newer_one() {
    tokio::join!(wakes_late("stable_token", "+0"), wakes_late("token", "+0"));
}

#[tokio::test]
async fn nor_does_one_whose_wall_clock_jumped_an_hour_meanwhile() {
    tokio::join!(wakes_late("stable_token", "+3600"), wakes_late("token", "-3600"));
}

async fn wakes_late(call: &'static str, offset: &str) {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let stage = Stage::set(&redis.url(), call).await;
    // Long enough for the link to be told of it, on a busy machine too.
    stage.slow_token(3_000).await;
    let clock = WallClock::new("+0");
    let sleeper = clock.of(stage.replica().redis_url(&link.url())).start().await;
    stage.until_token_calls(1).await;
    // Its token is on the way to Redis when it falls asleep, and comes there when another replica has long had a newer one.
    link.stall_at("}:access_token");
    eventually("the token is on its way", || async { link.has_stalled().then_some(()) }).await;
    let asleep = Frozen::new(sleeper.process.id());
    clock.set(offset);
    if call == "stable_token" {
        // Which would otherwise be the same again.
        let revoked = Reply::to(stage.errands.simulator(Method::POST, "revoke")).await;
        assert!((200..300).contains(&revoked.status));
    }
    // Before the lease is looked at, so that what its start takes does not count.
    let awake = stage.replica().start().await;
    let (began, left) = (Stopwatch::start(), lease_left(&redis));
    until_a_picture(&awake).await;
    took_no_longer_than(left, began, call);
    let (newer, used) = (stored(&redis), stage.used().await);
    assert_eq!((stage.token_calls().await, used.len()), (2, 1), "{call}");

    let scripts = || {
        let stats = cli(redis.addr(), &["INFO", "commandstats"]);
        let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
        calls.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = scripts();
    link.heal();
    eventually("the late token is at Redis", || async {
        (scripts() > before).then_some(())
    })
    .await;
    assert_eq!(stored(&redis), newer, "{call}");
    drop(asleep);
    until_a_picture(&sleeper).await;
    until_a_picture(&awake).await;
    assert_eq!((stored(&redis), stage.used().await), (newer, used), "{call}");
    assert_eq!(stage.token_calls().await, 2, "{call}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_between_lease_and_token_leaves_all_replicas_with_one_token() {
    for call in ["stable_token", "token"] {
        let stage = failed_over(call, async |sentinels| sentinels.fail_over().await).await;
        stage.only_the_newest_was_used().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_between_lease_and_token_leaves_all_replicas_with_one_token() {
    let stage = failed_over("stable_token", async |sentinels| sentinels.kill_primary()).await;
    stage.only_the_newest_was_used().await;
}

/// The answer came while there was nowhere to put it, and nowhere to see that somebody asked: else each would go on with its own until
/// WeChat ends the older one.
#[tokio::test(flavor = "multi_thread")]
async fn who_had_to_ask_for_a_token_of_its_own_soon_has_one_with_the_others() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let stage = Stage::set(&link.url(), "token").await;
    stage.slow_token(2_000).await;
    let (one, two) = tokio::join!(stage.replica().start(), stage.replica().start());
    stage.until_token_calls(1).await;
    link.blackhole();
    stage.until_token_calls(2).await;
    link.heal();
    let healed = Stopwatch::start();
    loop {
        tokio::join!(until_a_picture(&one), until_a_picture(&two));
        let used = stage.tokens_of("getwxacodeunlimit").await;
        if used.iter().rev().take(2).all(|token| Some(token) == used.last()) {
            break;
        }
        healed.took_less_than(Duration::from_mins(1));
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!stored(&redis).trim().is_empty());
    assert!(stage.token_calls().await <= 3, "each its own, and one together");
}

async fn failed_over(call: &'static str, begin: impl AsyncFnOnce(&mut Sentinels)) -> Stage {
    let mut sentinels = Sentinels::start().await;
    let stage = Stage::set(&sentinels.url(), call).await;
    stage.slow_token(4_000).await;
    let (one, two) = tokio::join!(stage.replica().start(), stage.replica().start());
    stage.until_token_calls(1).await;
    let before = sentinels.masters()[0].clone();
    begin(&mut sentinels).await;
    sentinels.until_replaced(&[before]).await;
    let replaced = Instant::now();
    tokio::join!(until_a_picture(&one), until_a_picture(&two));
    assert!(replaced.elapsed() < LEASE, "{call}: {:?}", replaced.elapsed());
    // Who was still asking WeChat when the other had a token goes on with that one too.
    tokio::join!(until_a_picture(&one), until_a_picture(&two));
    let calls = stage.token_calls().await;
    assert!(
        calls <= 2,
        "{call}, {calls}: one, and one more if the fail-over lost the lease"
    );
    stage
}

#[tokio::test]
async fn a_redis_that_forgot_the_lease_costs_one_call_more_and_no_second_token() {
    tokio::join!(forgotten("stable_token"), forgotten("token"));
}

async fn forgotten(call: &'static str) {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), call).await;
    stage.slow_token(4_000).await;
    let holder = stage.replica().start().await;
    stage.until_token_calls(1).await;
    // Which waits for the lease, and has it at once.
    let other = stage.replica().start().await;
    cli_ok(redis.addr(), &["FLUSHALL"]);
    let forgot = Instant::now();
    stage.until_token_calls(2).await;
    tokio::join!(until_a_picture(&other), until_a_picture(&holder));
    assert!(forgot.elapsed() < LEASE, "{call}: {:?}", forgot.elapsed());
    let kept = stored(&redis);
    tokio::join!(until_a_picture(&other), until_a_picture(&holder));
    assert_eq!(stored(&redis), kept, "{call}");
    assert_eq!(stage.token_calls().await, 2, "{call}");
    stage.only_the_newest_was_used().await;
}

#[tokio::test]
async fn a_holder_whose_lease_was_forgotten_while_nobody_else_asked_shares_its_token_all_the_same() {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), "token").await;
    stage.slow_token(2_000).await;
    let holder = stage.replica().start().await;
    stage.until_token_calls(1).await;
    cli_ok(redis.addr(), &["FLUSHALL"]);
    let forgot = Stopwatch::start();
    until_a_picture(&holder).await;
    forgot.took_less_than(LEASE);
    let other = stage.replica().start().await;
    tokio::join!(until_a_picture(&other), until_a_picture(&holder));
    assert_eq!(stage.token_calls().await, 1);
    stage.only_the_newest_was_used().await;
}

#[tokio::test]
async fn a_full_redis_keeps_no_replica_from_sharing_the_token() {
    tokio::join!(shared_while_full("stable_token"), shared_while_full("token"));
}

async fn shared_while_full(call: &'static str) {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), call).await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "1"]);
    let (one, two) = tokio::join!(stage.replica().start(), stage.replica().start());
    for replica in [&one, &two] {
        eventually("a token", || async {
            (metric_of_token(replica).await > 0.0).then_some(())
        })
        .await;
    }
    assert_eq!(stage.token_calls().await, 1, "{call}");
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "0"]);
    tokio::join!(until_a_picture(&one), until_a_picture(&two));
    stage.only_the_newest_was_used().await;
}

/// Starts a scene, which tells that this replica's wall clock is so many seconds ahead.
async fn starts_ahead(replica: &Service, seconds: i64) -> Browser {
    let started = Browser::start(replica).await;
    let expires_at: jiff::Timestamp = started.started["expires_at"].as_str().unwrap().parse().unwrap();
    let ahead = expires_at.as_second() - now();
    assert!((ahead - seconds - 120).abs() <= 5, "the clock was not set: {ahead}");
    started
}

#[tokio::test]
async fn a_holder_whose_wall_clock_jumps_an_hour_in_its_call_keeps_its_lease_and_shares_its_token() {
    let (forward, back) = (("+3600", 3_600), ("-3600", -3_600));
    tokio::join!(
        jumps_in_its_call("stable_token", [forward, back]),
        jumps_in_its_call("token", [back, forward])
    );
}

async fn jumps_in_its_call(call: &'static str, [first, then]: [(&str, i64); 2]) {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), call).await;
    stage.slow_token(4_500).await;
    let clock = WallClock::new("+0");
    let holder = clock.of(stage.replica()).start().await;
    stage.until_token_calls(1).await;
    clock.set(first.0);
    starts_ahead(&holder, first.1).await;
    // Which would have the lease if it were over.
    let other = stage.replica().start().await;
    clock.set(then.0);
    starts_ahead(&holder, then.1).await;
    assert_eq!(stored(&redis), "", "{call}: it is in its call still");
    assert!(!lease_left(&redis).is_zero(), "{call}");
    tokio::join!(until_a_picture(&other), until_a_picture(&holder));
    let kept = stored(&redis);
    let left = [metric_of_token(&holder).await, metric_of_token(&other).await];
    assert!((left[0] - left[1]).abs() < 60.0, "{call}: {left:?}");
    clock.set(first.0);
    tokio::join!(until_a_picture(&other), until_a_picture(&holder));
    assert_eq!(stored(&redis), kept, "{call}");
    assert_eq!(stage.token_calls().await, 1, "{call}");
    stage.only_the_newest_was_used().await;
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test]
async fn a_wall_clock_that_jumps_an_hour_costs_no_token_and_no_login() {
    let redis = RedisServer::start();
    let stage = Stage::set(&redis.url(), "stable_token").await;
    let clock = WallClock::new("+0");
    let (jumping, steady) = tokio::join!(clock.of(stage.replica()).start(), stage.replica().start());
    tokio::join!(until_a_picture(&jumping), until_a_picture(&steady));
    let browser = Browser::start(&jumping).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let left = metric_of_token(&jumping).await;

    for (offset, seconds) in [("+3600", 3_600), ("-3600", -3_600)] {
        clock.set(offset);
        let started = starts_ahead(&jumping, seconds).await;
        assert_eq!(started.code_image().await.status, 200);
        let waiting = browser.status().await;
        assert_eq!(waiting["state"], "waiting", "{offset}");
        assert!(waiting["expires_in"].as_u64().unwrap() > 60, "{waiting}");
        assert!((metric_of_token(&jumping).await - left).abs() < 60.0);
    }
    clock.set("+3600");
    let phone = Phone::that_scanned("alice", &steady, &browser.scene).await;
    events.next_is("scanned").await;
    phone.confirm(&jumping, &browser.scene).await.ok();
    let confirmed = events.next_is("confirmed").await;
    let redeemed = Site::demo()
        .redeem(&jumping, confirmed.data["code"].as_str().unwrap())
        .await
        .ok();
    let claims = Site::verified(&jumping, redeemed["id_token"].as_str().unwrap()).await;
    let [iat, exp, auth_time] = ["iat", "exp", "auth_time"].map(|claim| claims[claim].as_i64().unwrap());
    assert!((iat - now() - 3_600).abs() <= 5, "{claims}");
    assert!(
        exp > iat && (0..=30).contains(&(iat - auth_time)),
        "of one clock: {claims}"
    );
    assert_eq!(stage.token_calls().await, 1);
    assert_eq!(stage.used().await.len(), 1);
}

async fn metric_of_token(service: &Service) -> f64 {
    service.metric("scanlogin_access_token_left_seconds", APPID).await
}
