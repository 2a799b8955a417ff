//! What logins cost at Redis.

use std::collections::BTreeMap;

use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

#[tokio::test]
async fn a_whole_login_costs_so_many_redis_commands() {
    let redis = RedisServer::start();
    let a = Service::builder().with("LIMITS", "on").redis(&redis).start().await;
    let b = a.replica().with("LIMITS", "on").start().await;
    let login = async || {
        let browser = Browser::start(&a).await;
        assert_eq!(browser.code_image().await.status, 200);
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        let phone = Phone::that_scanned("somebody", &b, &browser.scene).await;
        events.next_is("scanned").await;
        phone.confirm(&b, &browser.scene).await.ok();
        let confirmed = events.next_is("confirmed").await;
        let redeemed = Site::demo()
            .redeem(&b, confirmed.data["code"].as_str().unwrap())
            .await
            .ok();
        let token = redeemed["access_token"].as_str().unwrap();
        assert_eq!(Site::userinfo(&b, token).await.ok()["sub"], "somebody");
    };
    let unwatched = || {
        eventually("the last scene's channel is given back", || async {
            cli(redis.addr(), &["PUBSUB", "SHARDCHANNELS"]).is_empty().then_some(())
        })
    };
    // The first fetches WeChat's token and loads the scripts.
    login().await;
    unwatched().await;
    cli_ok(redis.addr(), &["CONFIG", "RESETSTAT"]);
    login().await;
    unwatched().await;
    let stats = cli(redis.addr(), &["INFO", "commandstats"]);
    let counted = commands_of_logins(&stats);
    println!("redis commands of one login: {counted:?}");
    // With what the scripts call. Three are of the scene: each reads the beginning of the record and its life, and writes it. Six are of
    // limits: of the start by address and client, of the picture, of the scan by address, scene and what WeChat allows.
    let expected = [
        ("evalsha", 3 + 6),
        ("get", 7 + 6),
        ("getrange", 3),
        ("pttl", 7),
        ("set", 7 + 6),
        ("spublish", 2),
        ("ssubscribe", 1),
        ("sunsubscribe", 1),
    ];
    assert_eq!(counted, BTreeMap::from(expected));
}

/// How often each command ran, by `INFO commandstats`; without what watches over connections and servers, which costs the
/// same without any login.
fn commands_of_logins(stats: &str) -> BTreeMap<&str, u32> {
    let kept_up = [
        "ping",
        "info",
        "hello",
        "auth",
        "role",
        "config|resetstat",
        "pubsub|shardchannels",
        // Each of the limits' scripts asks for it too.
        "time",
    ];
    let counts = stats
        .lines()
        .filter_map(|line| line.trim().strip_prefix("cmdstat_")?.split_once(":calls="));
    counts
        .filter(|(command, _)| !kept_up.contains(command) && !command.starts_with("client|"))
        .map(|(command, rest)| (command, rest.split(',').next().unwrap().parse().unwrap()))
        .collect()
}
