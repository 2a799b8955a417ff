//! The lease on fetching a token, where Redis answers late or not at all.

use std::sync::Arc;
use std::time::Duration;

use scanlogin::store::News;
use scanlogin::store::redis::{RedisSettings, RedisStore, Wait};
use scanlogin::telemetry::Metrics;
use scanlogin::wechat::access_token::TokenMode;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Replica;
use super::access_token::use_token;
use super::upstream::WeChat;
use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::stopwatch::Stopwatch;

/// A replica on this Redis, with what must live as long as it.
async fn replica(wechat: &WeChat, url: &str) -> (Replica, DropGuard, mpsc::Receiver<News>) {
    let settings = RedisSettings {
        url: url.into(),
        prefix: "scanlogin".to_owned(),
        wait: Wait::Never,
        ca_file: None,
        sentinel_password: None,
    };
    let (end, (tx, news)) = (CancellationToken::new(), mpsc::channel(16));
    let store = RedisStore::start(&settings, tx, Metrics::new().unwrap(), &TaskTracker::new(), &end).unwrap();
    store.started().await.unwrap();
    let replica = Replica::with(wechat, Arc::new(store), TokenMode::Stable);
    (replica, end.drop_guard(), news)
}

#[tokio::test]
async fn a_lease_that_redis_grants_when_nobody_waits_for_it_any_more_is_given_back() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::from_millis(1)).await;
    let wechat = WeChat::start().await;
    let (cut_off, ..) = &replica(&wechat, &link.url()).await;
    let (other, ..) = &replica(&wechat, &redis.url()).await;
    // Or the first answer would be that it does not know the script, and nobody would be there any more to send it whole.
    let script = include_str!("../../../src/store/redis/lua/acquire_lease.lua");
    cli(redis.addr(), &["SCRIPT", "LOAD", script]);
    cli_ok(redis.addr(), &["CONFIG", "RESETSTAT"]);

    link.stall_at(":lease");
    use_token(cut_off).await.unwrap();
    assert!(link.has_stalled());
    link.heal();
    eventually("Redis gets the request for the lease", || async {
        cli(redis.addr(), &["INFO", "commandstats"])
            .contains("cmdstat_set:")
            .then_some(())
    })
    .await;
    let asked = Stopwatch::start();
    use_token(other).await.unwrap();
    asked.took_less_than(Duration::from_secs(5));
}
