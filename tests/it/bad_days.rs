//! A WeChat that misbehaves by itself now and then, as the real one does: people try again, and everyone gets in.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

const PEOPLE: usize = 60;

/// One in five calls goes wrong, so nobody needs this many tries but by a bug.
const TRIES: usize = 12;

#[tokio::test]
async fn on_a_bad_day_of_wechats_everybody_who_tries_again_gets_in() {
    let seed = rand::random();
    println!("seed {seed}");
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).misbehaving(0.2, seed).start().await;
    let logins = join_all((0..PEOPLE).map(|n| log_in(&service, format!("person-{n}")))).await;
    let retries: usize = logins.into_iter().sum();
    println!("{PEOPLE} logins took {retries} further tries");
    assert!(retries > 0, "the simulator did not misbehave: this showed nothing");
}

/// Logs one person in, and says how many tries that took beyond the necessary.
async fn log_in(service: &Service, openid: String) -> usize {
    let browser = Browser::start(service).await;
    let mut retries = 0;
    let picture = loop {
        let reply = browser.code_image().await;
        if reply.status == 200 {
            break reply;
        }
        retries += failed_truthfully(&reply).await;
        assert!(retries < TRIES, "{}", reply.text());
    };
    assert!(
        picture.body.starts_with(&[0xff, 0xd8, 0xff]) && picture.body.ends_with(&[0xff, 0xd9]),
        "a whole JPEG"
    );
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let mut phone = Phone::of(&openid);
    loop {
        let reply = phone.scan(service, &browser.scene).await;
        if reply.status == 200 {
            break;
        }
        retries += failed_truthfully(&reply).await;
        assert!(retries < TRIES, "{}", reply.text());
    }
    events.next_is("scanned").await;
    phone.confirm(service, &browser.scene).await.ok();
    let confirmed = events.next_is("confirmed").await;
    let code = confirmed.data["code"].as_str().unwrap();
    let given = Site::demo().redeem(service, code).await.ok();
    assert_eq!(
        Site::userinfo(service, given["access_token"].as_str().unwrap())
            .await
            .ok()["sub"],
        openid.as_str()
    );
    retries
}

/// Only what the contract declares for a WeChat that fails; waits as long as it says.
async fn failed_truthfully(reply: &Reply) -> usize {
    let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
    let declared = [
        "wechat_unavailable",
        "wechat_timeout",
        "wechat_error",
        "invalid_wx_code",
    ];
    assert!(declared.contains(&code.as_str()), "{}: {}", reply.status, reply.text());
    sleep(Duration::from_secs(reply.header("retry-after").parse().unwrap_or(0))).await;
    1
}
