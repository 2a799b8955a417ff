//! A process from its start to its end: how it leaves, what its operators see, and what its log never tells.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use futures_util::future::{join, join_all};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::support::cli::cli;
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::Service;
use crate::support::stopwatch::Stopwatch;

const STREAMS: usize = 40;

#[tokio::test]
async fn a_replica_that_is_asked_to_end_serves_on_for_a_while_and_then_leaves_nobody_waiting() {
    let mut service = Service::builder().with("DRAIN_DELAY", 3).start().await;
    let browsers = join_all((0..STREAMS).map(|_| Browser::start(&service))).await;
    let mut streams = join_all(browsers.iter().map(Browser::events)).await;
    for stream in &mut streams {
        stream.next_is("waiting").await;
    }
    let last = streams[0].last_event_id.clone();
    let asked = Stopwatch::start();
    service.terminate();

    let draining = async {
        let readyz = eventually("it says that it is draining", || async {
            let reply = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
            (reply.status == 503).then_some(reply)
        });
        assert_eq!(readyz.await.json()["status"], "draining");
        asked.took_less_than(Duration::from_millis(500));
        while asked.elapsed() < Duration::from_secs(2) {
            serves_with_connection_close(&service).await;
            sleep(Duration::from_millis(200)).await;
        }
    };
    let polled = async {
        let state = browsers[0].long_poll(30, &last).await;
        assert_eq!(state["state"], "waiting");
        assert!(
            (2_500..4_000).contains(&asked.elapsed().as_millis()),
            "{:?}",
            asked.elapsed()
        );
    };
    let ended = streams.into_iter().map(|stream| async {
        let stream = stream.ends().await;
        assert!((1_000..=5_000).contains(&stream.retry.unwrap()));
        (asked.elapsed(), stream.retry.unwrap())
    });
    let (ended, _) = join(join_all(ended), join(draining, polled)).await;
    let (mut times, mut retries): (Vec<Duration>, Vec<u64>) = ended.into_iter().unzip();
    times.sort();
    assert!(
        times[0] > Duration::from_millis(2_900),
        "cut before the delay was over: {times:?}"
    );
    assert!(times[STREAMS - 1] < Duration::from_millis(6_800), "{times:?}");
    assert!(
        times[STREAMS - 1] > times[0] + Duration::from_secs(1),
        "all at once: {times:?}"
    );
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > STREAMS / 2, "told to come back together: {retries:?}");

    assert_eq!(
        service.process.ended().await.code(),
        Some(0),
        "{:?}",
        service.log().lines()
    );
    asked.took_less_than(Duration::from_secs(10));
}

#[tokio::test]
async fn those_who_lose_their_streams_at_once_are_told_to_come_back_at_different_times() {
    const MANY: usize = 500;
    let mut service = Service::builder().with("DRAIN_DELAY", 0).start().await;
    let browsers = join_all((0..MANY).map(|_| Browser::start(&service))).await;
    let mut streams = join_all(browsers.iter().map(Browser::events)).await;
    for stream in &mut streams {
        stream.next_is("waiting").await;
    }
    // Those whose replica just dies know no more than what they were told at first.
    let died: Vec<u64> = streams.iter().map(|stream| stream.retry.unwrap()).collect();
    let asked = Stopwatch::start();
    service.terminate();
    let ended = streams.into_iter().map(|stream| async {
        let stream = stream.ends().await;
        u64::try_from(asked.elapsed().as_millis()).unwrap() + stream.retry.unwrap()
    });
    let deployed = join_all(ended).await;
    service.process.ended().await;
    for (back, least) in [(died, 1_500), (deployed, 5_000)] {
        let (first, last) = (back.iter().min().unwrap(), back.iter().max().unwrap());
        assert!(last - first > least, "all within {} ms", last - first);
        let mut by_tenth = HashMap::<u64, usize>::new();
        for at in &back {
            *by_tenth.entry(at / 100).or_default() += 1;
        }
        let most = by_tenth.values().max().unwrap();
        assert!(*most < MANY / 6, "{most} of {MANY} within a tenth of a second");
    }
}

#[tokio::test]
async fn a_stream_that_is_still_open_while_its_replica_ends_tells_what_happens_at_another() {
    const MANY: usize = 12;
    /// Anything that a stream is told of comes at once, and not after the seconds that it may stay open.
    const AT_ONCE: Duration = Duration::from_secs(1);
    let redis = RedisServer::start();
    let mut ending = Service::builder().redis(&redis).start().await;
    let other = ending.replica().start().await;
    let browsers = join_all((0..MANY).map(|_| Browser::start(&ending))).await;
    let mut streams = join_all(browsers.iter().map(Browser::events)).await;
    for stream in &mut streams {
        stream.next_is("waiting").await;
    }
    ending.terminate();
    ending.log().line_with(&["draining"]).await;
    let logins = browsers.iter().zip(streams).map(async |(browser, mut stream)| {
        let asked_to_come_back = stream.retry;
        let confirmed = async {
            let phone = Phone::that_scanned("somebody", &other, &browser.scene).await;
            phone.confirm(&other, &browser.scene).await.ok();
            Instant::now()
        };
        let ended = async {
            let mut told = None;
            while let Some(event) = stream.next().await {
                told = Some(event.event);
            }
            (told, stream.retry == asked_to_come_back, Instant::now())
        };
        let (confirmed_at, (told, is_final, ended_at)) = join(confirmed, ended).await;
        assert!(
            ended_at < confirmed_at + AT_ONCE,
            "open for {:?} after the confirm, and told {told:?}",
            ended_at - confirmed_at
        );
        let is_confirmed = told.as_deref() == Some("confirmed");
        assert_eq!(is_confirmed, is_final, "sent away, or told the end: {told:?}");
        is_confirmed
    });
    let told = join_all(logins).await;
    assert!(told.contains(&true), "all had ended before their confirm");
    assert_eq!(ending.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn who_still_waits_for_wechat_when_a_replica_ends_is_told_to_ask_another() {
    let mut service = Service::start().await;
    for call in ["jscode2session", "getwxacodeunlimit"] {
        service.fault(json!({ "call": call, "delay_ms": 60_000 })).await;
    }
    let browser = Browser::start(&service).await;
    let wx_code = service.wx_code("somebody").await;
    let asked = async {
        eventually("both are under way", || async {
            let under_way = service.metric("scanlogin_requests_under_way", "").await;
            (under_way > 1.0).then_some(())
        })
        .await;
        service.terminate();
        Stopwatch::start()
    };
    let scan = Phone::scan_with(&service, &browser.scene, &wx_code);
    let (asked, (scan, picture)) = join(asked, join(scan, browser.code_image())).await;
    for told in [scan, picture] {
        told.problem(503, "shutting_down");
        assert_ne!(told.header("retry-after"), "");
    }
    assert_eq!(service.process.ended().await.code(), Some(0));
    asked.took_less_than(Duration::from_secs(7));
}

#[tokio::test]
async fn a_replica_that_ends_while_it_makes_a_picture_leaves_it_to_the_others() {
    let redis = RedisServer::start();
    let mut service = Service::builder().redis(&redis).start().await;
    service
        .fault(json!({ "call": "getwxacodeunlimit", "delay_ms": 60_000 }))
        .await;
    let browser = Browser::start(&service).await;
    let key = format!("scanlogin:{{{}}}:{}:picture", &browser.scene[..2], browser.scene);
    let is_claimed = || cli(redis.addr(), &["EXISTS", &key]) == "1";
    let ended = async {
        eventually("the picture is being made", || async { is_claimed().then_some(()) }).await;
        service.terminate();
    };
    join(browser.code_image(), ended).await;
    assert_eq!(service.process.ended().await.code(), Some(0));
    assert!(!is_claimed(), "nobody else makes it until the claim has ended");
}

#[tokio::test]
async fn a_resolver_that_hangs_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    // Whoever opens it waits until somebody writes.
    let made = Command::new("mkfifo").arg(&hosts).status().unwrap();
    assert!(made.success());
    let mut service = Service::builder()
        .in_place_of("/etc/hosts", &hosts)
        .with("WECHAT_APPID", "wx0123456789abcdef")
        .with("WECHAT_SECRET", "0123456789abcdef0123456789abcdef")
        .with("WECHAT_API_BASE", "https://wechat.invalid")
        .start()
        .await;
    // It never gets as far as asking.
    service.log().line_with(&["WeChat did not answer in time"]).await;
    let asked = Stopwatch::start();
    service.terminate();
    assert_eq!(service.process.ended().await.code(), Some(0));
    asked.took_less_than(Duration::from_secs(5));
}

/// A login goes on as if nothing were, but each connection is used no more.
async fn serves_with_connection_close(service: &Service) {
    let challenge = scanlogin::scene::s256(VERIFIER);
    let started = Reply::to(service.post("/scenes", &json!({ "code_challenge": challenge }))).await;
    assert_eq!((started.status, started.header("connection")), (201, "close"));
    let scene = started.json()["scene"].as_str().unwrap().to_owned();
    let code = Reply::to(service.get(&format!("/scenes/{scene}/code"))).await;
    assert_eq!((code.status, code.header("connection")), (200, "close"));
    let secret = started.json()["browser_secret"].as_str().unwrap().to_owned();
    let stream = service
        .get(&format!("/events/{scene}"))
        .bearer_auth(secret)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (stream.status().as_u16(), &stream.headers()["connection"]),
        (200, &"close".parse().unwrap())
    );
}

#[tokio::test]
async fn a_start_on_a_redis_that_is_there_warns_of_nothing_but_the_simulator() {
    let redis = RedisServer::start();
    let service = Service::builder().with("LIMITS", "on").redis(&redis).start().await;
    service.log().line_with(&["redis is reached"]).await;
    let lines = service.log().lines();
    let warnings = lines
        .iter()
        .filter(|line| line.contains("WARN") && !line.contains("WeChat is simulated"));
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut service = Service::builder().with("DRAIN_DELAY", 60).start().await;
    service.terminate();
    service.log().line_with(&["draining"]).await;
    let asked = Stopwatch::start();
    service.terminate();
    service.process.ended().await;
    asked.took_less_than(Duration::from_secs(1));
}

#[tokio::test]
async fn a_replica_that_is_asked_to_end_while_it_starts_ends_in_good_order() {
    let addr = free_addr();
    let mut process = Process::start(&mut Service::builder().with("LISTEN", addr).command().await);
    eventually("it listens", || async { TcpStream::connect(addr).await.ok() }).await;
    let asked = Stopwatch::start();
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    asked.took_less_than(Duration::from_secs(10));
}

#[tokio::test]
async fn an_idle_replica_without_a_drain_delay_ends_at_once() {
    let mut service = Service::start().await;
    Browser::start(&service).await;
    let asked = Stopwatch::start();
    service.terminate();
    assert_eq!(service.process.ended().await.code(), Some(0));
    // Its connection is left half a second for a last request.
    asked.took_less_than(Duration::from_secs(2));
}

#[tokio::test]
async fn probes_and_metrics_are_for_operators_only() {
    let service = Service::start().await;
    log_in(&service, &Site::demo()).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        Reply::to(service.get(path)).await.problem(404, "not_found");
        assert_eq!(
            Reply::to(service.http.get(format!("{}{path}", service.ops)))
                .await
                .status,
            200
        );
    }
    assert_eq!(
        Reply::to(service.http.get(format!("{}/", service.ops))).await.status,
        404
    );

    let metrics = Reply::to(service.http.get(format!("{}/metrics", service.ops))).await;
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("scanlogin_") || name.starts_with("process_"), "{line}");
        value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {line}"));
    }
    for (name, labels, at_least) in [
        ("scanlogin_scenes_created_total", "", 1.0),
        ("scanlogin_login_steps_total", "step=\"scanned\"", 1.0),
        ("scanlogin_login_steps_total", "step=\"confirmed\"", 1.0),
        ("scanlogin_login_steps_total", "step=\"redeemed\"", 1.0),
        ("scanlogin_streams_closed_total", "reason=\"final\"", 1.0),
        ("scanlogin_login_seconds_count", "", 1.0),
        ("scanlogin_wechat_request_seconds_count", "call=\"jscode2session\"", 1.0),
        (
            "scanlogin_http_request_seconds_count",
            "route=\"/scenes/{scene}/scan\"",
            1.0,
        ),
        ("scanlogin_simulator", "", 1.0),
        (
            "scanlogin_build_info",
            concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
            1.0,
        ),
        ("process_resident_memory_bytes", "", 1.0),
    ] {
        let value = service.metric(name, labels).await;
        assert!(value >= at_least, "{name} {labels}: {value}\n{text}");
    }
    assert!(text.contains("scanlogin_streams_open ") && text.contains("scanlogin_scenes_watched "));
    assert!(service.metric("scanlogin_streams_open", "").await < 1.0);
}

/// A login whose every secret is known.
async fn log_in(service: &Service, site: &Site) -> Vec<String> {
    let request = json!({ "client_id": site.client_id(), "code_challenge": scanlogin::scene::s256(VERIFIER) });
    let browser = Browser::start_with(service, request).await;
    assert_eq!(browser.code_image().await.status, 200);
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let wx_code = service.wx_code("somebody").await;
    let scanned = Phone::scan_with(service, &browser.scene, &wx_code).await.ok();
    let phone = Phone {
        openid: "somebody".to_owned(),
        token: scanned["confirm_token"].as_str().unwrap().to_owned(),
    };
    events.next_is("scanned").await;
    phone.confirm(service, &browser.scene).await.ok();
    let confirmed = events.next_is("confirmed").await;
    events.ends().await;
    let code = confirmed.data["code"].as_str().unwrap().to_owned();
    let redeemed = site.redeem(service, &code).await.ok();
    let [access_token, id_token] = ["access_token", "id_token"].map(|name| redeemed[name].as_str().unwrap().to_owned());
    Site::userinfo(service, &access_token).await.ok();
    site.redeem(service, &code).await.oauth_error(400, "invalid_grant");
    Site::userinfo(service, &access_token)
        .await
        .oauth_error(401, "invalid_token");
    let last_part = |text: &str| text.rsplit('.').next().unwrap().to_owned();
    vec![
        last_part(&code),
        last_part(&access_token),
        last_part(&id_token),
        VERIFIER.to_owned(),
        browser.secret,
        phone.token,
        wx_code,
    ]
}

#[tokio::test]
async fn the_log_is_a_json_object_a_line_one_of_each_request_and_tells_no_secret_even_at_trace() {
    const SECRETS: [&str; 3] = [
        "appsecret-canary-1",
        "client-secret-canary-2",
        "redis-password-canary-3",
    ];
    let [appsecret, client_secret, password] = SECRETS;
    let redis = RedisServer::start_with(&["--requirepass", password]);
    let url = redis.url().replace("redis://", &format!("redis://:{password}@"));
    let service = Service::builder()
        .redis_url(&url)
        .with("WECHAT_APPID", "wx0123456789abcdef")
        .with("WECHAT_SECRET", appsecret)
        .with("CLIENT_SECRET", client_secret)
        .with("LOG", "json")
        .rust_log("trace")
        .start()
        .await;
    let mut secrets = log_in(&service, &Site::Basic("default", client_secret)).await;
    service
        .fault(json!({ "call": "jscode2session", "reset": true, "times": 3 }))
        .await;
    let browser = Browser::start(&service).await;
    let wx_code = service.wx_code("somebody").await;
    assert!(Phone::scan_with(&service, &browser.scene, &wx_code).await.status >= 500);
    secrets.extend([wx_code, browser.secret]);
    secrets.extend(SECRETS.map(ToOwned::to_owned));
    let calls = Reply::to(service.simulator(reqwest::Method::GET, "calls")).await.ok();
    let tail = calls
        .as_array()
        .unwrap()
        .iter()
        .find_map(|call| call["token_tail"].as_str());
    secrets.push(tail.expect("WeChat's access_token").to_owned());

    let given = Reply::to(service.get("/scenes/nothing").header("x-request-id", "a-name-of-mine")).await;
    assert_eq!((given.status, given.header("x-request-id")), (404, "a-name-of-mine"));
    let made = Reply::to(service.get("/scenes/nothing").header("x-request-id", "two\twords")).await;
    service.log().line_with(&[made.header("x-request-id")]).await;

    let lines = service.log().lines();
    assert!(lines.iter().any(|line| line.contains("\"TRACE\"")), "not at trace");
    for secret in &secrets {
        let told = lines.iter().find(|line| line.contains(secret.as_str()));
        assert_eq!(told, None, "{secret} is in the log");
    }
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    for id in [given.header("x-request-id"), made.header("x-request-id")] {
        let of_request: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == id).collect();
        assert_eq!(of_request.len(), 1, "{of_request:?}");
        assert_eq!(
            (&of_request[0]["status"], &of_request[0]["route"]),
            (&json!(404), &json!("/scenes/{scene}"))
        );
    }
}

#[tokio::test]
async fn a_text_log_is_one_line_a_request_whatever_the_request_says() {
    let service = Service::start().await;
    let odd = Reply::to(service.get("/%0a%0dforged%1b[31m").header("user-agent", "a\tb")).await;
    odd.problem(404, "not_found");
    let line = service.log().line_with(&[odd.header("x-request-id")]).await;
    assert!(line.contains("status=404") && !line.contains("forged"), "{line}");
    assert!(
        !service.log().lines().iter().any(|line| line.contains('\u{1b}')),
        "no terminal codes in a file"
    );
}
