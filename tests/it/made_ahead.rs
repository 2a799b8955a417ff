//! Codes made ahead: asked of WeChat once, shown by every replica, and no condition of a login.

use std::time::Duration;

use reqwest::Method;

use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::Browser;
use crate::support::service::Service;
use crate::support::stopwatch::Stopwatch;

async fn with_a_code_ready(redis: &RedisServer) -> Service {
    let service = Service::builder().redis(redis).with("CODE_POOL", 1).start().await;
    has_made(&service, 1).await;
    service
}

/// Waits until so many codes were made, of which one is not taken yet.
async fn has_made(service: &Service, count: usize) {
    eventually("codes made ahead", || async {
        let ready = service.metric("scanlogin_code_pool_ready", "").await;
        (ready > 0.0 && service.wechat_calls("getwxacodeunlimit").await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_picture_made_ahead_by_one_replica_is_shown_by_another_and_stays_as_long_as_its_scene() {
    let redis = RedisServer::start();
    let maker = with_a_code_ready(&redis).await;
    let other = maker.replica().start().await;
    let picture = cli(redis.addr(), &["KEYS", "*:picture"]);
    // As if it had been ready for long.
    assert_eq!(cli(redis.addr(), &["PEXPIRE", &picture, "20000"]), "1");

    let browser = Browser::start(&maker).await;
    assert!(
        picture.contains(&browser.scene),
        "{picture} is not of {}",
        browser.scene
    );
    eventually("the picture stays as long as its scene", || async {
        let left: i64 = cli(redis.addr(), &["PTTL", &picture]).parse().unwrap();
        (left > 120_000).then_some(())
    })
    .await;

    has_made(&maker, 2).await;
    let path = format!("/scenes/{}/code", browser.scene);
    let [here, there] = [Reply::to(maker.get(&path)).await, Reply::to(other.get(&path)).await];
    assert_eq!(
        (here.status, there.status),
        (200, 200),
        "{} {}",
        here.text(),
        there.text()
    );
    assert_eq!(here.body, there.body);
    let calls = Reply::to(maker.simulator(Method::GET, "calls")).await.text();
    assert_eq!(maker.wechat_calls("getwxacodeunlimit").await, 2, "{calls}");
}

#[tokio::test]
async fn a_login_does_not_wait_until_its_picture_is_kept_for_longer() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder()
        .redis_url(&link.url())
        .with("CODE_POOL", 1)
        .start()
        .await;
    has_made(&service, 1).await;
    link.stall_at("PEXPIRE");
    let asked = Stopwatch::start();
    Browser::start(&service).await;
    asked.took_less_than(Duration::from_secs(2));
    eventually("it is being kept", || async { link.has_stalled().then_some(()) }).await;
    link.heal();
}

#[tokio::test]
async fn a_login_starts_although_its_picture_can_not_be_kept_for_longer() {
    let redis = RedisServer::start();
    let service = with_a_code_ready(&redis).await;
    cli_ok(redis.addr(), &["ACL", "SETUSER", "default", "-pexpire"]);
    let browser = Browser::start(&service).await;
    service.log().line_with(&["WARN", "picture", &browser.scene[..8]]).await;
    assert_eq!(browser.code_image().await.status, 200);
}
