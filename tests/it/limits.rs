//! What is limited, counted by all replicas together: who comes too often is told so, and harms nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use reqwest::{Method, RequestBuilder};
use scanlogin::scene::s256;
use serde_json::json;
use tokio::time::Instant;

use crate::support::cli::cli;
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER, with_form};
use crate::support::service::{Service, ServiceBuilder};

/// With limits, and behind a proxy on this machine, so that a test can come from anywhere.
fn limited() -> ServiceBuilder {
    with(Service::builder(), &[])
}

/// The same, and some limits other than usual.
fn with(service: ServiceBuilder, limits: &[(&str, u32)]) -> ServiceBuilder {
    let service = service.with("LIMITS", "on").with("TRUSTED_PROXIES", "127.0.0.0/8");
    limits.iter().fold(service, |service, (name, count)| {
        service.with(&format!("LIMIT_{name}"), count)
    })
}

async fn three_replicas(limits: &[(&str, u32)], redis: &RedisServer) -> [Service; 3] {
    let first = with(Service::builder(), limits).redis(redis).start().await;
    let another = || with(first.replica(), limits).start();
    let (second, third) = tokio::join!(another(), another());
    [first, second, third]
}

fn from(address: &str, request: RequestBuilder) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

async fn start(service: &Service, address: &str) -> Reply {
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    Reply::to(from(address, start)).await
}

/// How many of each answer.
fn counted(replies: &[Reply]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.status).or_default() += 1;
    }
    counts
}

/// The first refusal, which says how often it may be, and when to come again.
fn refusal<'a>(replies: &'a [Reply], rule: &str, count: u32) -> &'a Reply {
    let refused = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!(wait >= 1);
    assert_eq!(refused.header("ratelimit"), format!("\"{rule}\";r=0;t={wait}"));
    let policy = refused.header("ratelimit-policy");
    assert!(policy.starts_with(&format!("\"{rule}\";q={count};w=")), "{policy}");
    refused
}

/// At most what may come at once, and what has come in since.
fn within(taken: usize, at_once: u32, a_minute: u32, since: Instant) {
    let most = f64::from(at_once) + since.elapsed().as_secs_f64() * f64::from(a_minute) / 60.0;
    let taken = u32::try_from(taken).unwrap();
    assert!(taken >= at_once, "{taken} of {at_once}");
    assert!(f64::from(taken) <= most + 1.0, "{taken} of {most}");
}

#[tokio::test]
async fn one_address_starts_no_more_scenes_at_three_replicas_than_at_one() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[], &redis).await;
    let began = Instant::now();
    // Not all at once: what a busy machine makes wait for Redis for a second is counted by the replica alone.
    let starts = (0..180).map(|n| start(&replicas[n % 3], "203.0.113.7"));
    let replies: Vec<Reply> = stream::iter(starts).buffer_unordered(12).collect().await;
    let counts = counted(&replies);
    within(counts[&201], 120, 120, began);
    assert_eq!(counts[&201] + counts[&429], 180);
    let refused = refusal(&replies, "scenes_per_address", 120);
    assert_eq!(refused.json()["code"], "rate_limited");
    let limited = replicas[0].metric("scanlogin_limited_total", "rule=\"scenes_per_address\"");
    assert!(limited.await >= 1.0);
    assert_eq!(start(&replicas[0], "203.0.113.8").await.status, 201, "another address");
}

#[tokio::test]
async fn an_ipv6_network_is_one_address() {
    let service = limited().with("LIMIT_SCENES_PER_ADDRESS", 3).start().await;
    for host in ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"] {
        assert_eq!(start(&service, host).await.status, 201, "{host}");
    }
    assert_eq!(start(&service, "2001:db8::4").await.status, 429);
    assert_eq!(start(&service, "2001:db8:0:1::4").await.status, 201, "another network");
}

#[tokio::test]
async fn whoever_comes_too_often_from_one_address_uses_up_nothing_of_the_clients() {
    let service = limited()
        .with("LIMIT_SCENES_PER_ADDRESS", 5)
        .with("LIMIT_SCENES_PER_CLIENT", 20);
    let service = service.start().await;
    let began = Instant::now();
    let flood = join_all((0..100).map(|_| start(&service, "203.0.113.7"))).await;
    within(counted(&flood)[&201], 5, 5, began);
    let others = join_all((0..20).map(|n| {
        let service = &service;
        async move { start(service, &format!("198.51.100.{n}")).await }
    }));
    let others = others.await;
    within(counted(&flood)[&201] + counted(&others)[&201], 20, 20, began);
    refusal(&others, "scenes_per_client", 20);
}

#[tokio::test]
async fn who_asks_again_and_again_for_what_there_is_not_is_told_that_it_is_too_often() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[("UNKNOWN_PER_ADDRESS", 12)], &redis).await;
    let there = Browser::start(&replicas[0]).await;
    let of = |scene: &str| {
        let path = |rest: &str| format!("/scenes/{scene}{rest}");
        [
            (Method::GET, path("")),
            (Method::GET, path("/code")),
            (Method::GET, format!("/events/{scene}")),
            (Method::DELETE, path("")),
            (Method::POST, path("/confirm")),
        ]
    };
    let began = Instant::now();
    let mut replies = Vec::new();
    for (n, scene) in ["0".repeat(32), "no scene at all".to_owned(), "f".repeat(32)]
        .iter()
        .cycle()
        .take(6)
        .enumerate()
    {
        for (method, path) in of(scene) {
            let asked = replicas[n % 3].call(method, &path);
            replies.push(Reply::to(from("203.0.113.7", asked)).await);
        }
    }
    let counts = counted(&replies);
    within(counts[&404], 12, 12, began);
    assert_eq!(counts[&404] + counts[&429], replies.len());
    refusal(&replies, "unknown_per_address", 12);
    let of_another = from("203.0.113.8", replicas[1].get("/scenes/nothing"));
    Reply::to(of_another).await.problem(404, "unknown_scene");
    // What there is can be asked for.
    let image = replicas[0].get(&format!("/scenes/{}/code", there.scene));
    let image = Reply::to(from("203.0.113.7", image)).await;
    assert_eq!(image.status, 200);
    let listening = replicas[0]
        .get(&format!("/events/{}", "0".repeat(32)))
        .header("accept", "text/event-stream");
    let told = from("203.0.113.7", listening).send().await.unwrap();
    assert_eq!(told.status(), 200, "an EventSource comes again after nothing else");
    let mut told = EventStream::new(told);
    let unavailable = told.next_is("unavailable").await;
    assert_eq!(unavailable.data["code"], "rate_limited");
    let wait: u64 = told.response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let limit = told.response.headers()["ratelimit"].to_str().unwrap();
    assert_eq!(limit, format!("\"unknown_per_address\";r=0;t={wait}"));
    // Told in whole seconds there, rounded up, and to the stream as it is.
    assert!(
        told.retry.unwrap() + 1_000 >= wait * 1_000,
        "{:?} and {wait}",
        told.retry
    );
}

async fn scan(service: &Service, address: &str, scene: &str, code: &str) -> Reply {
    let scan = service.post(&format!("/scenes/{scene}/scan"), &json!({ "code": code }));
    Reply::to(from(address, scan)).await
}

#[tokio::test]
async fn t30_ten_thousand_guesses_at_one_scene_reach_wechat_ten_times_and_leave_other_scans_alone() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[("SCANS_PER_ADDRESS", 1_000_000)], &redis).await;
    let (guessed, other) = (Browser::start(&replicas[0]).await, Browser::start(&replicas[0]).await);
    let mut replies = Vec::new();
    // Not so many at once that a busy machine keeps Redis's word back until each replica counts for itself.
    for crowd in 0..400 {
        let crowd = (0..25).map(|n| {
            let (replica, code) = (&replicas[n % 3], format!("guess-{crowd}-{n}"));
            let scene = &guessed.scene;
            async move { scan(replica, "203.0.113.7", scene, &code).await }
        });
        replies.extend(join_all(crowd).await);
    }
    assert_eq!(replicas[0].wechat_calls("jscode2session").await, 10);
    assert_eq!(counted(&replies), BTreeMap::from([(400, 10), (429, 9_990)]));
    refusal(&replies, "scans_per_scene", 10);
    let phone = Phone::that_scanned("alice", &replicas[1], &other.scene).await;
    assert_eq!(phone.confirm(&replicas[2], &other.scene).await.status, 200);
}

#[tokio::test]
async fn one_address_scans_no_more_at_three_replicas_than_at_one() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[("SCANS_PER_ADDRESS", 12)], &redis).await;
    let began = Instant::now();
    let mut replies = Vec::new();
    for n in 0..24 {
        let browser = Browser::start(&replicas[n % 3]).await;
        replies.push(scan(&replicas[n % 3], "203.0.113.7", &browser.scene, "a-wrong-code").await);
    }
    within(counted(&replies)[&400], 12, 12, began);
    refusal(&replies, "scans_per_address", 12);
    let browser = Browser::start(&replicas[0]).await;
    let of_another = scan(&replicas[0], "203.0.113.8", &browser.scene, "a-wrong-code").await;
    of_another.problem(400, "invalid_wx_code");
}

#[tokio::test]
async fn failed_redemptions_are_refused_after_a_while_and_right_ones_never() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[("FAILED_REDEMPTIONS", 6)], &redis).await;
    let code = Browser::start(&replicas[0]).await.code_of("alice", &replicas[0]).await;
    let began = Instant::now();
    let mut replies = Vec::new();
    for n in 0..12 {
        replies.push(Site::demo().redeem(&replicas[n % 3], &format!("{code}x")).await);
    }
    within(counted(&replies)[&400], 6, 6, began);
    let refused = refusal(&replies, "failed_redemptions", 6);
    assert_eq!(refused.json()["error"], "temporarily_unavailable");
    Site::demo().redeem(&replicas[1], &code).await.ok();
    // Another client of the same address, and the same client of another.
    let nobody = Site::Public("nobody");
    assert_eq!(nobody.token(&replicas[0], &[("code", "x")]).await.status, 401);
    let guess = with_form(
        from("203.0.113.8", replicas[0].call(Method::POST, "/token")),
        &[
            ("grant_type", "authorization_code"),
            ("client_id", "demo"),
            ("code", "x"),
            ("code_verifier", VERIFIER),
        ],
    );
    assert_eq!(Reply::to(guess).await.status, 400);
    // That there is no such client makes no difference.
    let mut of_nobody = Vec::new();
    for _ in 0..12 {
        of_nobody.push(nobody.token(&replicas[0], &[("code", "x")]).await.status);
    }
    assert_eq!((of_nobody[0], of_nobody[11]), (401, 429), "{of_nobody:?}");
}

/// Asks for so many codes at once, each of a scene of its own.
async fn pictures(replicas: &[Service; 3], count: usize) -> Vec<Reply> {
    let pictures = (0..count).map(|n| async move {
        let browser = Browser::start(&replicas[n % 3]).await;
        browser.code_image().await
    });
    join_all(pictures).await
}

#[tokio::test]
async fn all_replicas_together_keep_within_the_calls_that_wechat_allows() {
    let redis = RedisServer::start();
    let replicas = three_replicas(&[("PICTURES", 100), ("CODE2SESSION", 100)], &redis).await;
    let began = Instant::now();
    let replies = pictures(&replicas, 60).await;
    let made = replicas[0].wechat_calls("getwxacodeunlimit").await;
    within(made, 10, 90, began);
    let refused = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert_eq!(refused.json()["code"], "wechat_quota");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.header("ratelimit-policy"), "\"pictures\";q=100;w=60");
    assert!(refused.header("ratelimit").starts_with("\"pictures\";r=0;t="));
    let lines = replicas.iter().flat_map(|replica| replica.log().lines());
    let why: Vec<String> = lines
        .filter(|line| line.contains("pictures reached its limit"))
        .collect();
    assert!(!why.is_empty(), "the log says why");
    assert!(
        why.iter().all(|line| line.matches("reached its limit").count() == 1),
        "{why:#?}"
    );

    let began = Instant::now();
    let scans = (0..60).map(|n| {
        let replica = &replicas[n % 3];
        async move {
            let browser = Browser::start(replica).await;
            scan(replica, "203.0.113.7", &browser.scene, "a-wrong-code").await
        }
    });
    let replies = join_all(scans).await;
    within(replicas[0].wechat_calls("jscode2session").await, 10, 90, began);
    let refused = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert_eq!(refused.json()["code"], "wechat_quota");
}

#[tokio::test]
async fn each_mini_program_has_calls_of_its_own() {
    let site = |client: &str, appid: &str| {
        format!(
            "[[mini_program]]\nappid = \"{appid}\"\nsecret = \"{client}-of-wechat\"\n\
             [[client]]\nclient_id = \"{client}\"\nmini_program = \"{appid}\"\n"
        )
    };
    let redis = RedisServer::start();
    let service = with(Service::builder(), &[("PICTURES", 10), ("CODE2SESSION", 10)])
        .redis(&redis)
        .config_toml(&(site("blog", "wx1111111111111111") + &site("shop", "wx2222222222222222")))
        .start()
        .await;
    let start = async |client: &str| {
        let wanted = json!({ "client_id": client, "code_challenge": s256(VERIFIER) });
        Browser::start_with(&service, wanted).await
    };
    let pictures = (0..30).map(|_| async { start("blog").await.code_image().await });
    let pictures = join_all(pictures).await;
    let refused = pictures.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert_eq!(refused.json()["code"], "wechat_quota");
    assert_eq!(start("shop").await.code_image().await.status, 200);

    let scan = async |client: &str, person: usize| {
        let scene = start(client).await.scene;
        Phone::of(&format!("person-{person}")).scan(&service, &scene).await
    };
    let scans = join_all((0..30).map(|person| scan("blog", person))).await;
    let refused = scans.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert_eq!(refused.json()["code"], "wechat_quota");
    scan("shop", 30).await.ok();
}

#[tokio::test]
async fn with_the_limits_off_nobody_is_refused_and_the_log_says_so() {
    let service = Service::builder().with("LIMITS", "off").start().await;
    let replies = join_all((0..200).map(|_| start(&service, "203.0.113.7"))).await;
    assert_eq!(counted(&replies), BTreeMap::from([(201, 200)]));
    service.log().line_with(&["SCANLOGIN_LIMITS is off"]).await;
}

/// Each counts for itself then.
#[tokio::test]
async fn a_redis_that_does_not_answer_takes_no_limit_away() {
    let redis = RedisServer::start();
    let service = limited()
        .with("LIMIT_UNKNOWN_PER_ADDRESS", 5)
        .redis(&redis)
        .start()
        .await;
    let frozen = Frozen::new(redis.pid());
    let began = Instant::now();
    // Not of the form of a scene, so that it needs no store to be unknown.
    let unknown = (0..10).map(|_| async {
        let asked = service.get("/scenes/none");
        Reply::to(from("203.0.113.7", asked)).await
    });
    let replies = join_all(unknown).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    within(counted(&replies)[&404], 5, 5, began);
    assert!(service.metric("scanlogin_limits_alone_total", "").await >= 10.0);
    drop(frozen);
    eventually("redis counts again", || async {
        let before = service.metric("scanlogin_limits_alone_total", "").await;
        Reply::to(from("203.0.113.9", service.get("/scenes/none"))).await;
        (service.metric("scanlogin_limits_alone_total", "").await <= before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whom_a_limit_is_of_can_not_be_read_in_redis() {
    let redis = RedisServer::start();
    let service = limited().redis(&redis).start().await;
    assert_eq!(start(&service, "203.0.113.7").await.status, 201);
    let keys = cli(redis.addr(), &["--scan", "--pattern", "scanlogin:limit:*"]);
    assert!(keys.contains("scanlogin:limit:scenes_per_address:"), "{keys}");
    assert!(!keys.contains("203.0.113.7"), "{keys}");
    for key in keys.lines() {
        let left: i64 = cli(redis.addr(), &["PTTL", key]).trim().parse().unwrap();
        assert_ne!(left, -1, "{key} never ends");
    }
}
