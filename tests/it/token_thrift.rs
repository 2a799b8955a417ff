//! WeChat's access_token among replicas: asked for once, shared by all, and readable by nobody who reads Redis.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::cli::cli;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::stopwatch::Stopwatch;

const APPSECRET: &str = "appsecret-0123456789abcdef";
const CLIENT_SECRET: &str = "client-secret-0123456789";

/// Every key with its life and all that it holds, each on a line.
const DUMP: &str = "local out = {} \
    for _, key in ipairs(redis.call('KEYS', '*')) do \
      local kind, life = redis.call('TYPE', key).ok, redis.call('PTTL', key) \
      out[#out + 1] = 'key ' .. life .. ' ' .. key \
      if kind == 'string' then out[#out + 1] = redis.call('GET', key) \
      elseif kind == 'hash' then for _, held in ipairs(redis.call('HGETALL', key)) do out[#out + 1] = held end \
      else out[#out + 1] = 'another type: ' .. kind end \
    end return out";

async fn replicas(redis: &RedisServer) -> [Service; 3] {
    let set_up = |builder: ServiceBuilder| {
        let builder = builder
            .with("WECHAT_APPID", "wx0123456789abcdef")
            .with("WECHAT_SECRET", APPSECRET);
        // Small pictures, because the simulator that draws them has one machine with all others.
        builder
            .with("CLIENT_SECRET", CLIENT_SECRET)
            .with("CODE_WIDTH", 280)
            .start()
    };
    let first = set_up(Service::builder().redis(redis)).await;
    let further = || set_up(first.replica());
    let (second, third) = futures_util::future::join(further(), further()).await;
    [first, second, third]
}

/// 300 browsers that each want a new code, over all replicas at once.
async fn three_hundred_codes(services: &[Service; 3]) {
    let codes = (0..300).map(|number| async move {
        let browser = Browser::start_with(&services[number % 3], json!({})).await;
        browser.code_image().await
    });
    for code in join_all(codes).await {
        assert_eq!(code.status, 200, "{}", code.text());
        assert!(code.body.starts_with(&[0xff, 0xd8, 0xff]) || code.body.starts_with(b"\x89PNG"));
    }
}

#[tokio::test]
async fn three_hundred_cold_requests_at_three_replicas_ask_wechat_for_one_token_and_after_a_revocation_for_one_more() {
    let redis = RedisServer::start();
    let services = replicas(&redis).await;
    three_hundred_codes(&services).await;
    assert_eq!(token_calls(&services[0]).await, 1);
    // Two of them waited for the one that asked, and an operator sees for how long.
    for service in &services {
        let got = service
            .metric("scanlogin_access_token_fetch_seconds_count", "outcome=\"ok\"")
            .await;
        assert!(got >= 1.0, "{got}");
    }

    let revoked = Reply::to(services[0].simulator(Method::POST, "revoke")).await;
    assert!((200..300).contains(&revoked.status));
    three_hundred_codes(&services).await;
    assert_eq!(token_calls(&services[0]).await, 2);
}

async fn token_calls(service: &Service) -> usize {
    service.wechat_calls("stable_token").await + service.wechat_calls("token").await
}

#[tokio::test]
async fn who_reads_all_of_redis_can_log_in_as_nobody() {
    let redis = RedisServer::start();
    let services = replicas(&redis).await;
    let [a, b, _] = &services;
    let mut secrets = vec![APPSECRET.to_owned(), CLIENT_SECRET.to_owned()];
    for number in 0..20 {
        let browser = Browser::start_with(a, json!({})).await;
        assert_eq!(browser.code_image().await.status, 200);
        let mut phone = Phone::of(&format!("person-{number}"));
        let wx_code = b.wx_code(&phone.openid).await;
        let scanned = Phone::scan_with(b, &browser.scene, &wx_code).await.ok();
        phone.token = scanned["confirm_token"].as_str().unwrap().to_owned();
        phone.confirm(b, &browser.scene).await.ok();
        let code = browser.status().await["code"].as_str().unwrap().to_owned();
        secrets.extend([browser.secret, wx_code, phone.token, code.clone()]);
        secrets.push(code.rsplit('.').next().unwrap().to_owned());
        // Half of the codes stay unused.
        if number % 2 == 0 {
            let site = Site::Post("default", CLIENT_SECRET);
            let redeemed = site.token(a, &[("code", &code)]).await.ok();
            let token = redeemed["access_token"].as_str().unwrap();
            secrets.push(token.to_owned());
            secrets.push(token.rsplit('.').next().unwrap().to_owned());
        }
    }
    let calls = Reply::to(a.simulator(Method::GET, "calls")).await.ok();
    let tails = calls
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|call| call["token_tail"].as_str());
    secrets.extend(tails.map(ToOwned::to_owned));
    assert!(secrets.len() > 120);

    let dump = cli(redis.addr(), &["EVAL", DUMP, "0"]);
    for secret in &secrets {
        assert!(secret.len() >= 6 && !dump.contains(secret), "{secret} is in Redis");
    }
    let keys: Vec<&str> = dump.lines().filter_map(|line| line.strip_prefix("key ")).collect();
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        let (life, name) = key.split_once(' ').unwrap();
        assert!(life.parse::<i64>().unwrap() > 0, "no end: {key}");
        assert!(name.starts_with("scanlogin:"), "outside the prefix: {key}");
    }
    assert!(!dump.contains("another type"), "{dump}");
}

#[tokio::test]
async fn when_wechat_takes_its_tokens_again_codes_are_made_within_seconds_though_no_further_token_may_be_asked_for() {
    let service = Service::start().await;
    assert_eq!(Browser::start(&service).await.code_image().await.status, 200);
    service
        .fault(json!({ "call": "getwxacodeunlimit", "errcode": 40_001, "times": 1_000_000 }))
        .await;
    // Until all that may be asked for have been.
    eventually("no token is asked for any more", || async {
        let asked = token_calls(&service).await;
        for _ in 0..3 {
            let refused = Browser::start(&service).await.code_image().await;
            refused.problem(503, "wechat_unavailable");
        }
        (token_calls(&service).await == asked).then_some(())
    })
    .await;
    let asked = token_calls(&service).await;

    Reply::to(service.simulator(Method::DELETE, "faults")).await;
    let healed = Stopwatch::start();
    eventually("a code is made again", || async {
        (Browser::start(&service).await.code_image().await.status == 200).then_some(())
    })
    .await;
    healed.took_less_than(Duration::from_secs(5));
    assert_eq!(token_calls(&service).await, asked);
    // From then on every time.
    for _ in 0..20 {
        assert_eq!(Browser::start(&service).await.code_image().await.status, 200);
    }
}
