//! What must not be lost waits for a replica of its own shard: while one keeps up, and for ten seconds after.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::select;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::support::cli::cli;
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::proxy::{Caller, Proxy};
use crate::support::redis::{Frozen, RedisServer};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::sentinel::Sentinels;
use crate::support::service::Service;
use crate::support::shape::{Security, Shape, Topology};
use crate::support::stopwatch::Stopwatch;

/// Which scenes will do.
type Wanted = fn(&str) -> bool;

/// In the Cluster's first shard, which is concerned, or in another.
fn is_concerned(scene: &str) -> bool {
    fred::util::redis_keyslot(&scene.as_bytes()[..2]) <= 5_460
}

async fn browser_where(service: &Service, wanted: Wanted) -> Browser {
    loop {
        let browser = Browser::start(service).await;
        if wanted(&browser.scene) {
            return browser;
        }
    }
}

fn is_told_to_come_again(reply: &Reply) {
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
}

/// Confirms and redemptions whose shard's `replicas` are stopped are refused and can be tried again; others go on.
async fn a_frozen_replica_is_waited_for(service: &Service, replicas: &[Node], wanted: Wanted) {
    let to_redeem = browser_where(service, wanted).await.code_of("alice", service).await;
    let to_confirm = browser_where(service, wanted).await;
    let bob = Phone::that_scanned("bob", service, &to_confirm.scene).await;
    let frozen: Vec<Frozen> = replicas
        .iter()
        .map(|replica| Frozen::new(replica.server.pid()))
        .collect();
    for _ in 0..2 {
        let refused = bob.confirm(service, &to_confirm.scene).await;
        refused.problem(503, "store_unavailable");
        is_told_to_come_again(&refused);
        let refused = Site::demo().redeem(service, &to_redeem).await;
        refused.oauth_error(503, "temporarily_unavailable");
        is_told_to_come_again(&refused);
    }
    drop(frozen);
    eventually("the confirm counts", || async {
        let confirmed = bob.confirm(service, &to_confirm.scene).await;
        (confirmed.status == 200).then_some(())
    })
    .await;
    eventually("the code, whose redemptions were taken back, is good", || async {
        let redeemed = Site::demo().redeem(service, &to_redeem).await;
        (redeemed.status == 200).then_some(())
    })
    .await;
}

/// A shard without any replica takes durable writes again after ten seconds.
async fn a_shard_left_alone_goes_on(service: &Service, replicas: &mut [Node], wanted: Wanted) {
    let browser = browser_where(service, wanted).await;
    let carol = Phone::that_scanned("carol", service, &browser.scene).await;
    for replica in replicas {
        replica.server.kill();
    }
    let since = Stopwatch::start();
    loop {
        let answer = carol.confirm(service, &browser.scene).await;
        if answer.status == 200 {
            break;
        }
        answer.problem(503, "store_unavailable");
        assert!(since.elapsed() < Duration::from_secs(15), "it never goes on");
        sleep(Duration::from_millis(200)).await;
    }
    let elapsed = since.elapsed();
    assert!(elapsed > Duration::from_secs(8), "it went on after {elapsed:?}");
    let code = browser.status().await["code"].as_str().expect("a code").to_owned();
    Site::demo().redeem(service, &code).await.ok();
}

async fn codes(service: &Service, count: usize) -> Vec<String> {
    let mut codes = Vec::new();
    for _ in 0..count {
        codes.push(Browser::start(service).await.code_of("alice", service).await);
    }
    codes
}

/// What became of each.
async fn redeemed_in_turn(service: &Service, codes: &[String], pause: Duration) -> Vec<u16> {
    let mut redeemed = Vec::new();
    for code in codes {
        redeemed.push(Site::demo().redeem(service, code).await.status);
        sleep(pause).await;
    }
    redeemed
}

async fn a_login_succeeds(service: &Service, wanted: Wanted) {
    let code = browser_where(service, wanted).await.code_of("dora", service).await;
    Site::demo().redeem(service, &code).await.ok();
}

/// From now on.
async fn it_waits(service: &Service) {
    until_a_confirm_is(service, "replicated").await;
}

async fn until_a_confirm_is(service: &Service, outcome: &str) {
    let label = format!("outcome=\"{outcome}\"");
    let count = || service.metric("scanlogin_store_waits_total", &label);
    eventually("a confirm counts for that reason", || async {
        let before = count().await;
        let browser = Browser::try_start(service).await?;
        let phone = Phone::that_scanned("alice", service, &browser.scene).await;
        let confirmed = phone.confirm(service, &browser.scene).await;
        (confirmed.status == 200 && count().await > before).then_some(())
    })
    .await;
}

/// A page that has seen the scan, its events from then on, and the phone.
async fn scanned_by_bob(service: &Service) -> (Browser, EventStream, Phone) {
    let browser = Browser::start(service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let bob = Phone::that_scanned("bob", service, &browser.scene).await;
    events.next_is("scanned").await;
    (browser, events, bob)
}

/// Two of the service, the first behind a link, on a Redis whose replica they wait for: the Redis, its replica, the link, and they.
async fn one_behind_a_link() -> (RedisServer, RedisServer, Proxy, Service, Service) {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let a = Service::builder().redis_url(&link.url()).start().await;
    let b = a.replica().redis_url(&redis.url()).start().await;
    it_waits(&a).await;
    it_waits(&b).await;
    (redis, replica, link, a, b)
}

/// Else the page would be at its end with a code that counts for nothing, while the phone is told to come again, and is served.
#[tokio::test]
async fn a_page_is_not_told_of_a_confirm_that_may_still_be_lost() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    it_waits(&service).await;
    let (browser, mut events, bob) = scanned_by_bob(&service).await;
    let record = cli(redis.addr(), &["KEYS", &format!("*:{}", browser.scene)]);
    assert_eq!(cli(redis.addr(), &["COPY", &record, "before"]), "1");
    let frozen = Frozen::new(replica.pid());
    let refused = bob.confirm(&service, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    // As if the primary had died that alone had it.
    assert_eq!(cli(redis.addr(), &["COPY", "before", &record, "REPLACE"]), "1");
    drop(frozen);
    eventually("the confirm counts", || async {
        let confirmed = bob.confirm(&service, &browser.scene).await;
        (confirmed.status == 200).then_some(())
    })
    .await;
    let confirmed = events.next_is("confirmed").await;
    let code = confirmed.data["code"].as_str().expect("a code");
    Site::demo().redeem(&service, code).await.ok();
}

/// A page that is loaded just then, one that polls, one whose stream broke, one that gives up; and another phone.
#[tokio::test]
async fn nobody_who_asks_is_told_of_a_confirm_that_may_still_be_lost() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    it_waits(&service).await;
    let (browser, _events, bob) = scanned_by_bob(&service).await;
    let frozen = Frozen::new(replica.pid());
    let refused = bob.confirm(&service, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    let polled = Reply::to(browser.status_request("")).await;
    polled.problem(503, "store_unavailable");
    browser.events().await.next_is("unavailable").await;
    browser.cancel().await.problem(503, "store_unavailable");
    browser.code_image().await.problem(503, "store_unavailable");
    let scanned = Phone::of("carol").scan(&service, &browser.scene).await;
    scanned.problem(503, "store_unavailable");
    drop(frozen);
    // Whoever asks first makes it count, though the phone never tries again.
    let status = eventually("it is told", || async {
        let polled = Reply::to(browser.status_request("")).await;
        (polled.status == 200).then(|| polled.json())
    })
    .await;
    assert_eq!(status["state"], "confirmed");
    Site::demo()
        .redeem(&service, status["code"].as_str().expect("a code"))
        .await
        .ok();
}

#[tokio::test]
async fn a_retry_of_a_confirm_that_counts_succeeds_while_copies_are_missing() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    it_waits(&service).await;
    let (browser, mut events, bob) = scanned_by_bob(&service).await;
    bob.confirm(&service, &browser.scene).await.ok();
    events.next_is("confirmed").await;
    let _frozen = Frozen::new(replica.pid());
    bob.confirm(&service, &browser.scene).await.ok();
    assert_eq!(browser.status().await["state"], "confirmed");
}

/// What its first try could not tell the page, the one that counts does.
#[tokio::test]
async fn a_page_is_told_at_once_when_a_confirm_that_had_to_be_repeated_counts() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    let (browser, mut events, bob) = scanned_by_bob(&service).await;
    let frozen = Frozen::new(replica.pid());
    let refused = bob.confirm(&service, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    drop(frozen);
    let since = eventually("the confirm counts", || async {
        let asked = Stopwatch::start();
        let confirmed = bob.confirm(&service, &browser.scene).await;
        (confirmed.status == 200).then_some(asked)
    })
    .await;
    events.next_is("confirmed").await;
    since.took_less_than(Duration::from_secs(2));
}

#[tokio::test]
async fn a_confirm_that_could_not_be_announced_does_not_count_until_it_is() {
    let (_redis, _replica, link, a, b) = one_behind_a_link().await;
    let (browser, mut events, bob) = scanned_by_bob(&b).await;
    link.stall_at("\"settled\":true");
    let refused = bob.confirm(&a, &browser.scene).await;
    refused.problem(503, "store_unavailable");
    assert!(link.has_stalled());
    let since = Stopwatch::start();
    bob.confirm(&b, &browser.scene).await.ok();
    events.next_is("confirmed").await;
    since.took_less_than(Duration::from_secs(2));
}

/// WeChat may stop a Mini Program that is left, in the middle of whatever it asks.
#[tokio::test]
async fn a_page_is_told_at_once_though_the_phone_hangs_up_before_its_confirm_counts() {
    let (_redis, _replica, link, a, b) = one_behind_a_link().await;
    let (browser, mut events, bob) = scanned_by_bob(&b).await;
    link.stall_reply_to("\r\nWAIT\r\n");
    select! {
        answer = bob.confirm(&a, &browser.scene) => panic!("it was answered: {answer:?}"),
        () = link.stalled() => {}
    }
    eventually("it is noticed that the phone is gone", || async {
        let under_way = a.metric("scanlogin_requests_under_way", "").await;
        (under_way == 0.0).then_some(())
    })
    .await;
    link.heal();
    let since = Stopwatch::start();
    events.next_is("confirmed").await;
    since.took_less_than(Duration::from_secs(5));
}

/// Nobody knows when it lost its replica: perhaps just now, and that is about to take over.
#[tokio::test]
async fn a_primary_that_was_out_of_reach_is_waited_for_since_its_replica_was_missed() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder().redis_url(&link.url()).start().await;
    it_waits(&service).await;
    let code = Browser::start(&service).await.code_of("alice", &service).await;
    link.blackhole();
    sleep(Duration::from_secs(11)).await;
    drop(replica);
    link.heal();
    service.log().line_with(&["no replica keeps up"]).await;
    let refused = Site::demo().redeem(&service, &code).await;
    refused.oauth_error(503, "temporarily_unavailable");
}

#[tokio::test]
async fn a_shard_of_a_cluster_waits_for_its_own_replica_and_goes_on_without_it() {
    let mut shape = Shape::start(Topology::Cluster, Security::Plain).await;
    let service = shape.tell(Service::builder()).start().await;
    a_frozen_replica_is_waited_for(&service, &shape.nodes()[3..4], is_concerned).await;
    let others = async |service: &Service| a_login_succeeds(service, |scene| !is_concerned(scene)).await;
    let frozen = Frozen::new(shape.nodes()[3].server.pid());
    others(&service).await;
    drop(frozen);
    a_shard_left_alone_goes_on(&service, &mut shape.nodes_mut()[3..4], is_concerned).await;
    others(&service).await;
}

#[tokio::test]
async fn under_sentinel_one_replica_of_two_is_enough_and_without_any_it_goes_on_after_a_while() {
    let mut shape = Shape::start(Topology::Sentinel, Security::Plain).await;
    let service = shape.tell(Service::builder()).start().await;
    for replica in &shape.nodes()[..2] {
        let _frozen = Frozen::new(replica.server.pid());
        a_login_succeeds(&service, |_| true).await;
    }
    a_frozen_replica_is_waited_for(&service, &shape.nodes()[..2], |_| true).await;
    // Else Redis itself would take no writes.
    shape.nodes()[2].cli_ok(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    a_shard_left_alone_goes_on(&service, &mut shape.nodes_mut()[..2], |_| true).await;
}

/// Alone it replaces nobody, so nobody is refused for its sake, not even where it is not known yet whom a confirm waits for.
#[tokio::test]
async fn a_sentinel_that_hears_from_no_server_stands_in_nobodys_way() {
    let sentinels = Sentinels::start().await;
    sentinels.blind(0).await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    a_login_succeeds(&service, |_| true).await;
    let unknown = Site::demo()
        .redeem(&service, &Browser::start(&service).await.scene)
        .await;
    unknown.oauth_error(400, "invalid_grant");
    let ready = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
    assert_eq!(ready.json()["checks"]["store"]["status"], "ok", "{}", ready.text());
}

/// The replica that takes over has left the primary, which goes on for a moment with the other replica at its side.
#[tokio::test(flavor = "multi_thread")]
async fn no_code_is_redeemed_at_the_old_primary_and_at_the_new_one_too() {
    let sentinels = Sentinels::start().await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 60).await;
    let before = sentinels.masters();
    sentinels.fail_over().await;
    let redeemed = redeemed_in_turn(&service, &codes, Duration::from_millis(25)).await;
    sentinels.until_replaced(&before).await;
    assert!(
        redeemed.contains(&200),
        "all went by before or after the fail-over: {redeemed:?}"
    );
    assert!(redeemed.contains(&503), "nothing was refused: {redeemed:?}");
    for (code, first) in codes.iter().zip(redeemed) {
        let again = eventually("the code is redeemed or refused", || async {
            let status = Site::demo().redeem(&service, code).await.status;
            (status == 200 || status == 400).then_some(status)
        })
        .await;
        assert!(first != 200 || again == 400, "redeemed twice");
    }
}

/// One side has the primary and a replica, which acknowledges. The other has what makes the other replica the primary, once it
/// has noticed: until then nobody says that anything is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn no_code_is_redeemed_on_both_sides_of_a_parted_network() {
    let sentinels = Sentinels::start().await;
    // Longer than any replica that is gone is waited for.
    sentinels.set("down-after-milliseconds", "7000");
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 40).await;
    let before = sentinels.masters();
    sentinels.part_with(&[2, 0], 0, &[], &[]);
    let redeemed = redeemed_in_turn(&service, &codes[..20], Duration::from_millis(300)).await;
    assert!(redeemed.contains(&503), "nothing was refused: {redeemed:?}");
    each_is_redeemed_once(&sentinels, &before, &service, &codes, &redeemed).await;
}

/// One that never saw the replica on the other side, and knows no better than the sentinels there, who have not noticed.
#[tokio::test(flavor = "multi_thread")]
async fn nor_by_a_replica_of_the_service_that_starts_on_the_side_that_loses() {
    let sentinels = Sentinels::start().await;
    sentinels.set("down-after-milliseconds", "12000");
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 20).await;
    let before = sentinels.masters();
    sentinels.part_with(&[2, 0], 0, &[], &[]);
    // Until the primary itself takes the other one for gone.
    sleep(Duration::from_secs(4)).await;
    let late = service.replica().start().await;
    let redeemed = join_all(codes.iter().map(|code| async {
        let redeemed = Site::demo().redeem(&late, code).await;
        redeemed.status
    }));
    let redeemed = redeemed.await;
    assert_eq!(
        block_in_place(|| sentinels.masters()),
        before,
        "nobody has noticed so far"
    );
    each_is_redeemed_once(&sentinels, &before, &service, &codes, &redeemed).await;
}

/// The replica on the other side has not been waited for since it died. It is back, and is still sent what it must have first; and is
/// promoted all the same, as there is no other.
#[tokio::test(flavor = "multi_thread")]
async fn nor_while_the_replica_on_the_other_side_is_still_copying() {
    let mut sentinels = Sentinels::start().await;
    sentinels.set("down-after-milliseconds", "7000");
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 40).await;
    let before = sentinels.masters();
    sentinels.nodes_mut()[1].server.kill_saved().await;
    let primary = sentinels.primary();
    primary.cli_ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "600"]);
    primary.cli_ok(&["CONFIG", "SET", "repl-backlog-size", "16384"]);
    for _ in 0..10 {
        primary.cli_ok(&["SET", "more than that", &"x".repeat(100_000)]);
    }
    service
        .log()
        .line_with(&["it is known whom durable writes wait for", "replicas=1"])
        .await;
    sentinels.nodes_mut()[1].server.come_back();
    eventually("the replica waits to be sent everything", || async {
        let seen = sentinels.primary().cli(&["INFO", "replication"]);
        seen.contains("state=wait_bgsave").then_some(())
    })
    .await;
    a_login_succeeds(&service, |_| true).await;
    sentinels.part_with(&[2, 0], 0, &[], &[]);
    let redeemed = redeemed_in_turn(&service, &codes[..20], Duration::from_millis(300)).await;
    assert!(redeemed.contains(&503), "nothing was refused: {redeemed:?}");
    each_is_redeemed_once(&sentinels, &before, &service, &codes, &redeemed).await;
}

/// It died, and came back with what it had; sentinels tell it some ten seconds later whom to follow, or promote it.
#[tokio::test(flavor = "multi_thread")]
async fn nor_while_the_primary_of_before_is_back_and_follows_nobody_yet() {
    let mut sentinels = Sentinels::start().await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 20).await;
    let first = sentinels.masters();
    sentinels.nodes_mut()[2].server.kill_saved().await;
    sentinels.until_replaced(&first).await;
    let before = sentinels.masters();
    sentinels.set("down-after-milliseconds", "7000");
    until_a_confirm_is(&service, "replicated").await;
    sentinels.nodes_mut()[2].server.come_back();
    until_a_confirm_is(&service, "vouched").await;
    sentinels.part_with(&[0, 1], 0, &[], &[]);
    let redeemed = redeemed_in_turn(&service, &codes[..6], Duration::from_millis(300)).await;
    assert!(redeemed.contains(&503), "nothing was refused: {redeemed:?}");
    each_is_redeemed_once(&sentinels, &before, &service, &codes, &redeemed).await;
}

/// Nobody else knows of it, and nobody is cut off. It comes back, and all follow the replica.
#[tokio::test(flavor = "multi_thread")]
async fn nor_while_the_sentinel_that_promoted_the_other_replica_is_dead() {
    let mut sentinels = Sentinels::start().await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 12).await;
    let before = sentinels.masters();
    sentinels.promotes_and_dies(0);
    // Longer than one is waited for that nobody reaches.
    let redeemed = redeemed_in_turn(&service, &codes[..4], Duration::from_millis(100)).await;
    assert_eq!(redeemed, [503; 4]);
    sentinels.restart_sentinel(0);
    sentinels.until_replaced(&before).await;
    once(&service, &codes, &redeemed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_by_a_replica_of_the_service_that_starts_meanwhile() {
    let mut sentinels = Sentinels::start().await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 8).await;
    let before = sentinels.masters();
    sentinels.promotes_and_dies(0);
    let late = service.replica().start().await;
    let redeemed = redeemed_in_turn(&late, &codes[..4], Duration::from_millis(100)).await;
    assert_eq!(redeemed, [503; 4]);
    let ready = Reply::to(late.http.get(format!("{}/readyz", late.ops))).await;
    assert!(ready.text().contains("too few sentinels"), "{}", ready.text());
    sentinels.restart_sentinel(0);
    sentinels.until_replaced(&before).await;
    once(&service, &codes, &redeemed).await;
}

/// Who is content with the primary votes for its replacement all the same, where another finds it down.
#[tokio::test(flavor = "multi_thread")]
async fn nor_where_one_sentinel_is_enough_to_find_a_primary_down() {
    let sentinels = Sentinels::start().await;
    sentinels.set("quorum", "1");
    sentinels.set("down-after-milliseconds", "7000");
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 12).await;
    let before = sentinels.masters();
    sentinels.part_from_nodes(0, 0);
    let redeemed = redeemed_in_turn(&service, &codes[..3], Duration::from_millis(300)).await;
    assert_eq!(redeemed, [503; 3]);
    sentinels.until_replaced(&before).await;
    sentinels.rejoin();
    once(&service, &codes, &redeemed).await;
}

/// Of a replica that was given up nobody says any more that it is away, once most sentinels are away too: there it may be back.
#[tokio::test(flavor = "multi_thread")]
async fn nor_with_the_copy_of_the_last_replica_while_most_sentinels_are_beyond() {
    let mut sentinels = Sentinels::start().await;
    let service = Service::builder().redis_url(&sentinels.url()).start().await;
    let codes = codes(&service, 12).await;
    let before = sentinels.masters();
    sentinels.nodes_mut()[0].server.kill_saved().await;
    let replica_alone = ["it is known whom durable writes wait for", "replicas=1"];
    service.log().line_with(&replica_alone).await;
    a_login_succeeds(&service, |_| true).await;
    let service_too = Caller::From(Ipv4Addr::LOCALHOST.into());
    sentinels.part_with(&[2, 1], 0, &[service_too], &[]);
    eventually("the service knows that it is alone with one of them", || async {
        let ready = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
        ready.text().contains("too few sentinels vouch").then_some(())
    })
    .await;
    sentinels.nodes_mut()[0].server.come_back();
    let redeemed = redeemed_in_turn(&service, &codes[..6], Duration::from_millis(300)).await;
    assert_eq!(redeemed, [503; 6]);
    each_is_redeemed_once(&sentinels, &before, &service, &codes, &redeemed).await;
}

/// After the fail-over, those too that were presented before it.
async fn each_is_redeemed_once(
    sentinels: &Sentinels,
    before: &[String],
    service: &Service,
    codes: &[String],
    redeemed: &[u16],
) {
    eventually("the other side has a primary of its own", || async {
        let named = block_in_place(|| sentinels.masters());
        let others = named.iter().filter(|master| !before.contains(master));
        (others.count() == 2).then_some(())
    })
    .await;
    sentinels.rejoin();
    sentinels.until_replaced(before).await;
    once(service, codes, redeemed).await;
}

/// Those that were redeemed before are not again; all others are now.
async fn once(service: &Service, codes: &[String], redeemed: &[u16]) {
    for (code, first) in codes.iter().zip(redeemed.iter().copied().chain([503; 20])) {
        let again = eventually("the code is redeemed or refused", || async {
            let status = Site::demo().redeem(service, code).await.status;
            (status == 200 || status == 400).then_some(status)
        })
        .await;
        assert_eq!(again, if first == 200 { 400 } else { 200 }, "after {first}");
    }
}
