//! More than anybody needs: it costs whoever sends it more than anybody else.

use std::time::Duration;

use futures_util::future::{join, join_all};
use reqwest::RequestBuilder;
use scanlogin::scene::s256;
use serde_json::json;
use tokio::time::Instant;

use crate::support::cli::cli;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::{Service, ServiceBuilder};

/// The most that a scene's record may weigh.
const RECORD_BYTES: u64 = 2 * 1024;

/// What a picture may take, the longest that WeChat makes included.
const PICTURE_BYTES: u64 = 100 * 1024;

const SITE: &str = r#"
    [[client]]
    client_id = "demo"
    avatar_hosts = ["*.qlogo.cn"]
    number_matching = "on"
"#;

fn number(redis: &RedisServer, words: &[&str]) -> u64 {
    cli(redis.addr(), words).trim().parse().expect("a number")
}

#[tokio::test]
async fn t28_the_longest_record_of_a_scene_takes_two_kilobytes() {
    let redis = RedisServer::start();
    let service = Service::builder().config_toml(SITE).redis(&redis).start().await;
    // The longest of everything that a browser may say, and a little that it may not.
    let agents = [
        format!(
            "Mozilla/5.0 (Windows NT 10.0) Gecko/20100101 Firefox/{}",
            "9".repeat(8_000)
        ),
        format!("Mozilla/5.0 (X11; CrOS {}) Chrome/140 Safari/537", "x86 ".repeat(2_000)),
        "x".repeat(8_000),
    ];
    for agent in agents {
        let longest =
            json!({ "code_challenge": s256(VERIFIER), "nonce": "\"".repeat(255), "padding": "x".repeat(10_000) });
        let started = Reply::to(service.post("/scenes", &longest).header("user-agent", agent)).await;
        let browser = Browser::started(&service, &started);
        let key = format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene);
        let weighs = |when: &str| {
            let bytes = number(&redis, &["STRLEN", &key]);
            let in_all = number(&redis, &["MEMORY", "USAGE", &key]);
            assert!(bytes > 200 && bytes <= RECORD_BYTES, "{bytes} bytes {when}");
            assert!(in_all <= RECORD_BYTES + 512, "{in_all} bytes in all {when}");
        };
        weighs("at the start");
        let openid = "o".repeat(64);
        let mut alice = Phone::of(&openid);
        let scanned = alice.scan(&service, &browser.scene).await.ok();
        weighs("when scanned");
        let shown = browser.status().await["match_number"].as_str().unwrap().to_owned();
        assert!(scanned["match_choices"].as_array().unwrap().contains(&json!(shown)));
        let avatar = |len: usize| {
            let begin = "https://thirdwx.qlogo.cn/";
            format!("{begin}{}", "a".repeat(len - begin.len()))
        };
        let profile = |avatar: String| json!({ "match_number": shown, "profile": { "nickname": "\u{1f9d1}".repeat(64), "avatar_url": avatar } });
        let beyond_ascii = format!("{}{}", avatar(100), "图".repeat(50));
        for longer in [avatar(257), avatar(10_000), beyond_ascii] {
            let refused = alice.confirm_with(&service, &browser.scene, profile(longer)).await;
            refused.problem(400, "invalid_request");
        }
        alice
            .confirm_with(&service, &browser.scene, profile(avatar(256)))
            .await
            .ok();
        weighs("when confirmed");
        let code = browser.status().await["code"].as_str().unwrap().to_owned();
        Site::demo().redeem(&service, &code).await.ok();
        weighs("when redeemed");
    }
}

fn from(address: &str, request: RequestBuilder) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

/// A scene of this address, unless it has had too many.
async fn start(service: &Service, address: &str) -> Option<Browser> {
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let started = Reply::to(from(address, start)).await;
    if started.status == 429 {
        return None;
    }
    assert_eq!(started.status, 201, "{}", started.text());
    Some(Browser::started(service, &started))
}

/// The picture of its code.
async fn picture(service: &Service, address: &str, browser: &Browser) -> Reply {
    let picture = service.get(&format!("/scenes/{}/code", browser.scene));
    Reply::to(from(address, picture)).await
}

/// Ten times what one address may, from one network.
async fn flood(replicas: &[Service; 2]) -> usize {
    let mut taken = 0;
    for hundred in 0..12 {
        let crowd = (0..100).map(|n| async move {
            let host = format!("2001:db8::{hundred:x}:{n:x}");
            let browser = start(&replicas[n % 2], &host).await;
            if let Some(browser) = &browser {
                // Whether it gets one is not what it is about.
                picture(&replicas[n % 2], &host, browser).await;
            }
            browser
        });
        taken += join_all(crowd).await.iter().flatten().count();
    }
    taken
}

/// Somebody else's login, begun here and finished there.
async fn log_in(login: usize, here: &Service, there: &Service) {
    let address = format!("198.51.100.{login}");
    let browser = start(here, &address).await.expect("a login of somebody else");
    eventually("the picture is there, which a page asks for until it is", || async {
        (picture(here, &address, &browser).await.status == 200).then_some(())
    })
    .await;
    let mut phone = Phone::of(&format!("person-{login}"));
    let wx_code = there.wx_code(&phone.openid).await;
    let scan = there.post(&format!("/scenes/{}/scan", browser.scene), &json!({ "code": wx_code }));
    let scanned = Reply::to(from(&address, scan)).await.ok();
    scanned["confirm_token"].as_str().unwrap().clone_into(&mut phone.token);
    phone.confirm(there, &browser.scene).await.ok();
    let code = browser.at(there).status().await["code"].as_str().unwrap().to_owned();
    Site::demo().redeem(here, &code).await.ok();
}

/// What Redis keeps of us.
fn dataset(redis: &RedisServer) -> u64 {
    let info = cli(redis.addr(), &["INFO", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    used.and_then(|used| used.trim().parse().ok()).expect("a number")
}

/// Of all records of scenes together.
fn record_bytes(redis: &RedisServer) -> u64 {
    let keys = cli(redis.addr(), &["--scan", "--pattern", "scanlogin:{??}:*"]);
    keys.lines()
        .filter(|key| key.rsplit(':').next().is_some_and(|scene| scene.len() == 32))
        .map(|key| number(redis, &["STRLEN", key]))
        .sum()
}

#[tokio::test]
async fn t28_a_flood_takes_a_bounded_part_of_redis_and_of_wechats_quota_and_nobody_elses_login() {
    const LOGINS: usize = 60;
    let redis = RedisServer::start();
    let set_up = |service: ServiceBuilder| {
        let service = service.with("LIMITS", "on").with("TRUSTED_PROXIES", "127.0.0.0/8");
        service.with("LIMIT_PICTURES", 4_000).with("CODE_WIDTH", 280)
    };
    let first = set_up(Service::builder().redis(&redis)).start().await;
    let second = set_up(first.replica()).start().await;
    let replicas = &[first, second];
    // What is there before: a token, connections, scripts.
    let browser = start(&replicas[0], "198.51.100.254").await.expect("a scene");
    assert_eq!(browser.code_image().await.status, 200);
    let before = dataset(&redis);
    let pictures_before = replicas[0].wechat_calls("getwxacodeunlimit").await;

    let began = Instant::now();
    let logins = async {
        for login in 0..LOGINS {
            log_in(login, &replicas[login % 2], &replicas[(login + 1) % 2]).await;
        }
    };
    let (taken, ()) = join(flood(replicas), logins).await;
    let took = began.elapsed();
    // A minute's worth at once, and two a second from then on.
    let may = 120.0 + took.as_secs_f64() * 2.0 + 1.0;
    let is_kept = taken >= 120 && f64::from(u32::try_from(taken).unwrap()) <= may;
    assert!(is_kept, "{taken} of {may} in {took:?}");
    let scenes = taken + LOGINS;
    let pictures = replicas[0].wechat_calls("getwxacodeunlimit").await - pictures_before;
    assert!(pictures <= scenes, "{pictures} pictures of {scenes} scenes");
    let scenes = u64::try_from(scenes).unwrap();
    let grown = dataset(&redis).saturating_sub(before);
    // Redis' own book-keeping of a key, of which a login has several.
    let most = scenes * (RECORD_BYTES + PICTURE_BYTES + 4 * 512);
    assert!(grown <= most, "{grown} bytes of {most}");
    let records = record_bytes(&redis);
    assert!(records <= (scenes + 1) * RECORD_BYTES, "{records} bytes of records");
    assert!(took < Duration::from_mins(1), "the logins waited: {took:?}");
}
