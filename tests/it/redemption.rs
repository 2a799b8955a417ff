//! A redemption that gave nothing, because Redis could not promise to keep it, can be tried again.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Site};
use crate::support::service::Service;

/// How many codes are fought for: more in `scripts/test --all`.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the program")]
pub(crate) fn races() -> usize {
    std::env::var("TEST_RACES").map_or(20, |races| races.parse().expect("a number of races"))
}

#[tokio::test]
async fn t08_of_64_that_present_a_code_at_three_replicas_at_once_one_is_served() {
    const AT_ONCE: usize = 64;
    let redis = RedisServer::start();
    let first = Service::builder().redis(&redis).start().await;
    let replicas = [first.replica().start().await, first.replica().start().await, first];
    let replicas = &replicas;
    for race in 0..races() {
        // WeChat takes a hundred logins a minute of one person.
        let person = format!("person-{race}");
        let browser = Browser::start(&replicas[race % 3]).await;
        let code = &browser.code_of(&person, &replicas[race % 2]).await;
        let crowd = (0..AT_ONCE).map(|n| async move { Site::demo().redeem(&replicas[n % 3], code).await });
        let (served, refused): (Vec<_>, Vec<_>) =
            join_all(crowd).await.into_iter().partition(|reply| reply.status == 200);
        assert_eq!(served.len(), 1, "race {race}");
        for reply in refused {
            reply.oauth_error(400, "invalid_grant");
        }
    }
}

#[tokio::test]
async fn a_replica_of_redis_that_joins_refuses_nobody() {
    let redis = RedisServer::start();
    cli_ok(redis.addr(), &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let service = Service::builder().redis(&redis).start().await;
    let primary = format!("{} {}", redis.addr().ip(), redis.addr().port());
    let _replica = RedisServer::start_with(&["--replicaof", &primary]);
    let metric = async || {
        let label = "outcome=\"replicated\"";
        service.metric("scanlogin_store_waits_total", label).await
    };
    let logins = async {
        for person in 0.. {
            if metric().await >= 3.0 {
                break;
            }
            let openid = format!("person-{person}");
            let code = Browser::start(&service).await.code_of(&openid, &service).await;
            Site::demo().redeem(&service, &code).await.ok();
        }
    };
    timeout(Duration::from_secs(20), logins)
        .await
        .expect("it is waited for in the end");
}

/// As when the primary dies that alone had the confirm: its successor has the scene as it was before.
#[tokio::test]
async fn a_code_of_a_confirm_that_redis_lost_is_no_code_of_whoever_confirms_instead() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let browser = Browser::start(&service).await;
    let record = cli(redis.addr(), &["KEYS", &format!("*:{}", browser.scene)]);
    assert_eq!(cli(redis.addr(), &["COPY", &record, "before"]), "1");
    let lost = browser.code_of("alice", &service).await;
    assert_eq!(cli(redis.addr(), &["COPY", "before", &record, "REPLACE"]), "1");
    let code = browser.code_of("bob", &service).await;
    Site::demo()
        .redeem(&service, &lost)
        .await
        .oauth_error(400, "invalid_grant");
    let redeemed = Site::demo().redeem(&service, &code).await.ok();
    let id_token = redeemed["id_token"].as_str().unwrap();
    assert_eq!(Site::verified(&service, id_token).await["sub"], "bob");
}

/// Redis is out of reach from the very write on, so whether it happened nobody knows.
async fn unseen() -> (RedisServer, Proxy, Service, String) {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder().redis_url(&proxy.url()).start().await;
    let code = Browser::start(&service).await.code_of("alice", &service).await;
    proxy.blackhole_behind("\"redeemed\":true");
    (redis, proxy, service, code)
}

async fn is_taken_back(service: &Service) {
    eventually("it was taken back", || async {
        let log = service.log().lines();
        log.iter().any(|line| line.contains("was taken back")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_code_whose_redemption_may_have_happened_unseen_is_good_again_once_redis_is_back() {
    let (_redis, proxy, service, code) = unseen().await;
    let refused = Site::demo().redeem(&service, &code).await;
    refused.oauth_error(503, "temporarily_unavailable");
    // Longer than any single request is tried.
    sleep(Duration::from_secs(4)).await;
    proxy.heal();
    is_taken_back(&service).await;
    Site::demo().redeem(&service, &code).await.ok();
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_its_code_as_it_was() {
    let (_redis, proxy, service, code) = unseen().await;
    let given_up = timeout(Duration::from_secs(1), Site::demo().redeem(&service, &code)).await;
    assert!(given_up.is_err(), "there was nothing to wait for");
    proxy.heal();
    is_taken_back(&service).await;
    Site::demo().redeem(&service, &code).await.ok();
}

/// So many redemptions are tried to be taken back again and again at the same time.
const UNDOING_MAX: usize = 512;

#[tokio::test]
async fn however_often_a_code_is_presented_while_redis_takes_no_writes_only_so_many_uses_are_taken_back_again_and_again()
 {
    const FURTHER: usize = 50;
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let code = Browser::start(&service).await.code_of("alice", &service).await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let crowd = (0..UNDOING_MAX + FURTHER).map(|_| async { Site::demo().redeem(&service, &code).await });
    for refused in join_all(crowd).await {
        refused.oauth_error(503, "temporarily_unavailable");
    }
    eventually("the others are given up", || async {
        let log = service.log().lines();
        let given_up = log.iter().filter(|line| line.contains("could not be taken back"));
        (given_up.count() >= FURTHER).then_some(())
    })
    .await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "min-replicas-to-write", "0"]);
    eventually("the code is good", || async {
        let given = Site::demo().redeem(&service, &code).await;
        (given.status == 200).then_some(())
    })
    .await;
}
