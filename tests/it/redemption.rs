//! A redemption that gave nothing, because Redis could not promise to keep it, can be tried again.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::cli::cli_ok;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::roles::{Browser, Site};
use crate::support::service::Service;

#[tokio::test]
async fn a_code_whose_redemption_no_replica_confirmed_is_good_for_the_next_try() {
    let redis = RedisServer::start();
    let replica = redis.replica().await;
    let service = Service::builder().redis(&redis).start().await;
    let code = Browser::start(&service).await.code_of("alice", &service).await;
    {
        let _frozen = Frozen::new(replica.pid());
        let refused = Site::demo().redeem(&service, &code).await;
        refused.oauth_error(503, "temporarily_unavailable");
        assert!(!refused.header("retry-after").is_empty());
    }
    eventually("it gives a token", || async {
        let given = Site::demo().redeem(&service, &code).await;
        (given.status == 200).then_some(())
    })
    .await;
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
        while metric().await < 3.0 {
            let code = Browser::start(&service).await.code_of("alice", &service).await;
            Site::demo().redeem(&service, &code).await.ok();
        }
    };
    timeout(Duration::from_secs(20), logins)
        .await
        .expect("it is waited for in the end");
}

#[tokio::test]
async fn a_code_whose_redemption_may_have_happened_unseen_is_good_again_once_redis_is_back() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder().redis_url(&proxy.url()).start().await;
    let browser = Browser::start(&service).await;
    let code = browser.code_of("alice", &service).await;
    proxy.blackhole_behind("\"redeemed\":true");
    Site::demo()
        .redeem(&service, &code)
        .await
        .oauth_error(503, "temporarily_unavailable");
    proxy.heal();
    eventually("it was taken back", || async {
        let log = service.log().lines();
        log.iter().any(|line| line.contains("was taken back")).then_some(())
    })
    .await;
    Site::demo().redeem(&service, &code).await.ok();
}
