//! Where no secret may be. What each test of this program leaves behind is searched for those that it came by: see
//! `support/canaries.rs`; here is what that can find, and logins that end in every way.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use reqwest::{Method, RequestBuilder};
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::canaries;
use crate::support::cli::{cli_as, cli_lines};
use crate::support::guard::{self, SERVICE};
use crate::support::redis::RedisServer;
use crate::support::remains;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::Service;
use crate::support::shape::{Security, Shape, Topology};

#[test]
fn t22_a_secret_is_found_in_whatever_form_it_is_told() {
    let secret = "Zm9yIHRoaXMgdGVzdCBhbG9uZQ_and-no-other-00";
    canaries::learn("a canary", secret);
    for told in [
        secret.to_owned(),
        format!("Bearer {secret}"),
        format!("\"browser_secret\":\"{secret}\""),
        format!("scene.event.{secret}"),
        format!("abc{secret}def"),
        format!("code%3D{secret}%26"),
        secret.replace('-', "%2D").replace('_', "%5F"),
        canaries::hex(secret.as_bytes()),
        STANDARD.encode(secret),
        STANDARD.encode(format!("site:{secret}")),
        STANDARD.encode(format!("site1:{secret}")),
        STANDARD.encode(format!("site12:{secret}")),
        "0aB".repeat(53)[..157].to_owned(),
        "{\"session_key\":\"tiihtNczf5v6+KRyjwEUhQ==\"}".to_owned(),
    ] {
        let line = format!("2026-01-01T00:00:00Z INFO request told={told} status=200");
        assert!(canaries::find(line.as_bytes()).is_some(), "{told}");
    }
    for word in [
        &secret[..20],
        &secret[1..],
        "request_id=8c1d0f5be7a94236b8f2c0d91e6a7354",
        "a picture of 22 letters as data:image/png;base64,tiihtNczf5v6AKRyjwEUhQUhQQ==",
    ] {
        assert_eq!(canaries::find(word.as_bytes()), None, "{word}");
    }
}

/// Of which some end in each way.
const LOGINS: usize = 1_000;

fn from(address: &str, request: RequestBuilder) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

async fn start(service: &Service, address: &str) -> Browser {
    let start = service.post(
        "/scenes",
        &json!({ "code_challenge": s256(VERIFIER), "nonce": "a-nonce" }),
    );
    Browser::started(service, &Reply::to(from(address, start)).await)
}

/// A login from an address of its own that ends as its number says.
async fn log_in(service: &Service, login: usize) {
    let address = format!("203.0.{}.{}", login / 250, login % 250);
    let browser = start(service, &address).await;
    let scene = &browser.scene;
    // Few, because the simulator that draws them has one machine with all others.
    if login.is_multiple_of(10) {
        let picture = service.get(&format!("/scenes/{scene}/code"));
        assert_eq!(Reply::to(from(&address, picture)).await.status, 200);
    }
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    if login.is_multiple_of(6) {
        assert_eq!(browser.cancel().await.status, 204);
        return;
    }
    let mut phone = Phone::of(&format!("person-{login}"));
    phone.scan(service, scene).await.ok();
    match login % 6 {
        1 => {
            let not_me = json!({ "reason": "not_me" });
            phone.decline_with(service, scene, not_me).await.ok();
        }
        2 => {
            phone.scan(service, scene).await.ok();
            let guess = service.get(&format!("/scenes/{}", "0".repeat(32)));
            Reply::to(from(&address, guess)).await.problem(404, "unknown_scene");
        }
        end => {
            let image = b"\xff\xd8\xff".as_slice();
            phone.upload_avatar(service, scene, image).await.ok();
            let profile = json!({ "profile": { "nickname": "Alice" } });
            phone.confirm_with(service, scene, profile).await.ok();
            let code = browser.status().await["code"].as_str().unwrap().to_owned();
            // Of some the code is never used, of others twice, so that what it gave is taken back.
            for _ in 3..end {
                let wrong = [("code", code.as_str()), ("code_verifier", "wrong")];
                let wrong = Site::demo().token(service, &wrong).await;
                wrong.oauth_error(400, "invalid_grant");
                Site::demo().redeem(service, &code).await;
            }
        }
    }
}

#[tokio::test]
async fn t25_whatever_becomes_of_logins_redis_holds_no_secret_and_nothing_for_ever() {
    // With the least rights.
    let shape = Shape::start(Topology::Standalone, Security::Acl).await;
    let redis = &shape.nodes()[0];
    let builder = shape.tell(Service::builder()).with("LIMITS", "on");
    // All phones have one address here, and all backends.
    let builder = ["SCANS_PER_ADDRESS", "FAILED_REDEMPTIONS"]
        .into_iter()
        .fold(builder, |builder, limit| {
            builder.with(&format!("LIMIT_{limit}"), 1_000_000)
        });
    let builder = builder.with("TRUSTED_PROXIES", "127.0.0.0/8").with("CODE_WIDTH", 280);
    let service = &builder.start().await;
    let logins = (0..LOGINS).map(|login| log_in(service, login));
    stream::iter(logins).buffer_unordered(24).collect::<()>().await;
    assert_eq!(redis.cli(&["ACL", "LOG"]), "", "rights that are not documented");

    let dump = remains::dump(redis.addr());
    canaries::assert_none_in("Redis", &dump);
    let holds = |part: &str| dump.windows(part.len()).any(|held| held == part.as_bytes());
    let calls: Value = Reply::to(service.simulator(Method::GET, "calls")).await.ok();
    let calls = calls.as_array().unwrap().iter();
    let tails: Vec<&str> = calls.filter_map(|call| call["token_tail"].as_str()).collect();
    assert!(
        !tails.is_empty() && !tails.into_iter().any(holds),
        "an access_token is there"
    );
    for kept in [
        "limit:scans_per_scene",
        ":token",
        ":picture",
        "avatar",
        "\"redeemed",
        "person-5",
    ] {
        assert!(holds(kept), "no {kept}: what is searched is not what is kept");
    }
    let keys = redis.cli(&["--scan"]);
    let keys: Vec<&str> = keys.lines().collect();
    assert!(keys.len() > LOGINS, "{} keys", keys.len());
    let asked: Vec<String> = keys.iter().map(|key| format!("PTTL {key}")).collect();
    for (key, life) in keys.iter().zip(cli_lines(redis.addr(), &asked)) {
        assert!(key.starts_with("scanlogin:"), "outside the prefix: {key}");
        // What has ended since it was listed is not there.
        let life: i64 = life.parse().unwrap();
        assert!(life > 0 || life == -2, "no end: {key}");
    }
}

/// The crates whose lines are among these.
fn speakers(lines: &[String]) -> BTreeSet<String> {
    let speaker = |line: &String| {
        let line: Value = serde_json::from_str(line).expect("a JSON object a line");
        let target = line["target"].as_str().expect("a target");
        target.split("::").next().unwrap_or_default().to_owned()
    };
    lines.iter().map(speaker).collect()
}

#[tokio::test]
async fn t22_at_trace_neither_the_service_nor_a_crate_tells_a_secret_whatever_fails() {
    const PASSWORD: &str = "a-password-of-redis-at-trace";
    let mut redis = RedisServer::start_with(&["--requirepass", PASSWORD]);
    let url = redis.url().replace("redis://", &format!("redis://:{PASSWORD}@"));
    let builder = Service::builder().redis_url(&url).with("LOG", "json").rust_log("trace");
    let builder = builder.with("WECHAT_APPID", "wx0123456789abcdef");
    let builder = builder.with("WECHAT_SECRET", "an-appsecret-at-trace");
    let service = &builder.with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    for login in 0..6 {
        log_in(service, login).await;
    }

    let browser = Browser::start(service).await;
    let mut refused = 0;
    for call in ["stable_token", "getwxacodeunlimit", "jscode2session"] {
        for how in [
            json!({ "reset": true }),
            json!({ "truncate": true }),
            json!({ "status": 500 }),
            json!({ "errcode": 40001 }),
            json!({ "errcode": 40163 }),
            json!({ "body": "<html>busy</html>" }),
        ] {
            let mut order = how;
            order["call"] = json!(call);
            service.fault(order).await;
            let other = Browser::start(service).await;
            other.code_image().await;
            let scanned = Phone::of("alice").scan(service, &browser.scene).await;
            refused += usize::from(scanned.status >= 400);
        }
    }
    assert!(refused >= 5, "WeChat misbehaved for nobody");
    let mut phone = Phone::of("alice");
    phone.scan(service, &browser.scene).await.ok();
    redis.kill();
    assert!(
        phone.confirm(service, &browser.scene).await.status >= 500,
        "Redis is away"
    );
    redis.restart();

    let dropped = service.metric("scanlogin_log_lines_dropped_total", "").await;
    assert!(dropped < 1.0, "{dropped} lines of the log are not there to be searched");
    let lines = service.log().lines();
    let speakers = speakers(&lines);
    // Other crates speak by the `log` facade, which leads nowhere here.
    assert_eq!(speakers, ["hyper_util", "scanlogin"].map(ToOwned::to_owned).into());
    let log = lines.join("\n");
    canaries::assert_none_in("the log at trace", log.as_bytes());
    for known in [&browser.secret, &phone.token, PASSWORD, "an-appsecret-at-trace"] {
        let planted = format!("{log}\n{known}");
        assert!(canaries::find(planted.as_bytes()).is_some(), "it was not searched for");
    }
}

/// Where the service's own password is known, what else is in that Redis stays safe, and the server too.
#[tokio::test]
async fn t25_who_has_the_services_password_reaches_nothing_but_what_is_the_services() {
    let shape = Shape::start(Topology::Standalone, Security::Acl).await;
    let redis = &shape.nodes()[0];
    redis.cli_ok(&["SET", "others:key", "theirs"]);
    redis.cli_ok(&["SET", "scanlogin:key", "ours"]);
    let service = |words: &[&str]| cli_as(SERVICE, guard::PASSWORD, redis.addr(), words);
    // As it is used.
    assert_eq!(service(&["GET", "scanlogin:key"]), "ours");
    assert_eq!(
        service(&["EVAL", "return redis.call('GET', 'scanlogin:key')", "0"]),
        "ours"
    );
    let in_script = |call: &str| service(&["EVAL", &format!("return redis.call({call})"), "0"]);
    for refused in [
        service(&["GET", "others:key"]),
        service(&["SET", "others:key", "ours"]),
        in_script("'GET', 'others:key'"),
        in_script("'SET', 'others:key', 'ours'"),
        service(&["SPUBLISH", "others:channel", "news"]),
        in_script("'SPUBLISH', 'others:channel', 'news'"),
        service(&["SSUBSCRIBE", "others:channel"]),
    ] {
        // In a script each version says it in its own words.
        let words = ["NOPERM", "ACL failure", "user executing the script can't"];
        assert!(words.iter().any(|words| refused.contains(words)), "{refused}");
    }
    for words in [
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "FLUSHALL",
        "FLUSHDB",
        "RENAME scanlogin:key scanlogin:other",
        "DUMP scanlogin:key",
        "MONITOR",
        "CONFIG GET *",
        "CONFIG SET maxmemory 1",
        "ACL LIST",
        "ACL SETUSER scanlogin +@all",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SAVE",
        "REPLICAOF 127.0.0.1 1",
        "SHUTDOWN NOSAVE",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "MODULE LIST",
        "SLOWLOG GET",
        "PUBSUB SHARDCHANNELS",
        "PUBLISH scanlogin:channel news",
        "SUBSCRIBE scanlogin:channel",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let refused = service(&words);
        assert!(refused.starts_with("NOPERM"), "{words:?}: {refused}");
    }
    assert_eq!(redis.cli(&["GET", "others:key"]), "theirs");
}
