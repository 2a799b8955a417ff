//! What happens at each bound: who comes too many is told so, and every login under way goes on.

use std::net::TcpStream;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::cli::cli_ok;
use crate::support::control_group::ControlGroup;
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER, with_form};
use crate::support::service::{Service, http_client};
use crate::support::stopwatch::Stopwatch;

/// A login that waits for its confirm, and one that waits for its redemption.
struct UnderWay {
    scene: String,
    events: EventStream,
    phone: Phone,
    code: String,
}

impl UnderWay {
    async fn begin(service: &Service) -> Self {
        let code = Browser::start(service).await.code_of("bob", service).await;
        let browser = Browser::start(service).await;
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        let phone = Phone::that_scanned("alice", service, &browser.scene).await;
        events.next_is("scanned").await;
        Self {
            scene: browser.scene,
            events,
            phone,
            code,
        }
    }

    /// Both come to their end. On a machine that is too busy they may be told to try again, but never for want of room.
    async fn goes_on(self, service: &Service) {
        self.ends(service).await;
        has_taken_on(service, &["watch", "status", "scan", "finish"]).await;
    }

    /// The same where there may be want of room for other work.
    async fn ends(mut self, service: &Service) {
        until_ok("the confirm", || self.phone.confirm(service, &self.scene)).await;
        let confirmed = self.events.next_is("confirmed").await;
        for code in [&*self.code, confirmed.data["code"].as_str().unwrap()] {
            until_ok("the redemption", async || Site::demo().redeem(service, code).await).await;
        }
    }
}

/// No such work was ever refused for want of room.
async fn has_taken_on(service: &Service, works: &[&str]) {
    for work in works {
        let labels = format!("work=\"{work}\"");
        let shed = service.metric("scanlogin_requests_shed_total", &labels).await;
        assert!(shed < 1.0, "{work}: {shed}");
    }
}

async fn until_ok<F: Future<Output = Reply> + Send>(what: &str, request: impl Fn() -> F + Send + Sync) {
    eventually(what, || async {
        let reply = request().await;
        assert!(matches!(reply.status, 200 | 503), "{what}: {}", reply.text());
        (reply.status == 200).then_some(())
    })
    .await;
}

fn challenge() -> Value {
    json!({ "code_challenge": scanlogin::scene::s256(VERIFIER) })
}

/// Not as an EventSource, which would be told in a stream.
fn plain_events(service: &Service, browser: &Browser) -> RequestBuilder {
    let events = service.get(&format!("/events/{}", browser.scene));
    events.bearer_auth(&browser.secret)
}

/// A refusal that says when to come again.
#[track_caller]
fn comes_again(refused: &Reply, status: u16, code: &str) {
    refused.problem(status, code);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn a_replica_with_all_its_streams_refuses_further_ones() {
    let service = Service::builder().with("LIMIT_STREAMS", 1).start().await;
    let login = UnderWay::begin(&service).await;
    let other = Browser::start(&service).await;
    let refused = Reply::to(plain_events(&service, &other)).await;
    comes_again(&refused, 503, "store_unavailable");
    let refused = Reply::to(other.status_request("?wait=5&after=x")).await;
    comes_again(&refused, 503, "store_unavailable");
    login.goes_on(&service).await;
    eventually("there is room again", || async {
        let reply = Reply::to(other.status_request("?wait=0&after=x")).await;
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_address_with_all_its_streams_gets_no_further_ones() {
    let service = Service::builder().with("LIMIT_STREAMS_PER_ADDRESS", 1).start().await;
    let login = UnderWay::begin(&service).await;
    let other = Browser::start(&service).await;
    let limit_of = |headers: &HeaderMap| {
        let told =
            ["retry-after", "ratelimit-policy", "ratelimit"].map(|name| headers[name].to_str().unwrap().to_owned());
        assert_eq!(
            told,
            [
                "10",
                "\"streams_per_address\";q=1;qu=\"concurrent-requests\"",
                "\"streams_per_address\";r=0;t=10"
            ]
        );
    };
    for asked in [plain_events(&service, &other), other.status_request("?wait=5&after=x")] {
        let refused = Reply::to(asked).await;
        comes_again(&refused, 429, "rate_limited");
        limit_of(&refused.headers);
    }
    // An EventSource sees no header, and waits as long all the same.
    let mut told = other.events().await;
    limit_of(told.response.headers());
    let unavailable = told.next_is("unavailable").await;
    assert_eq!(unavailable.data["code"], "rate_limited");
    let detail = unavailable.data["detail"].as_str().unwrap();
    assert!(detail.contains("after 10 seconds"), "{detail}");
    assert!((10_000..=13_000).contains(&told.retry.unwrap()), "{:?}", told.retry);
    told.ends().await;
    login.goes_on(&service).await;
}

#[tokio::test]
async fn an_embedded_store_with_all_its_scenes_takes_no_new_ones() {
    let service = Service::builder().with("LIMIT_SCENES", 2).start().await;
    let login = UnderWay::begin(&service).await;
    let refused = Reply::to(service.post("/scenes", &challenge())).await;
    comes_again(&refused, 503, "store_unavailable");
    login.goes_on(&service).await;
}

#[tokio::test]
async fn a_redis_without_memory_takes_no_new_scenes() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let login = UnderWay::begin(&service).await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "1"]);
    let refused = Reply::to(service.post("/scenes", &challenge())).await;
    comes_again(&refused, 503, "store_unavailable");
    let avatar = login
        .phone
        .upload_avatar(&service, &login.scene, &b"\xff\xd8\xff\xe0"[..]);
    let refused = avatar.await;
    comes_again(&refused, 503, "store_unavailable");
    let told = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        told.contains("Confirm without it") && !told.contains("new logins"),
        "{told}"
    );
    login.goes_on(&service).await;
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory", "0"]);
    Browser::start(&service).await;
}

#[tokio::test]
async fn a_redis_without_room_for_connections_is_used_again_once_it_has_some() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let login = UnderWay::begin(&service).await;
    // Over a connection that stays: there will be room for no other.
    let mut operator = tokio::net::TcpStream::connect(redis.addr()).await.unwrap();
    operator
        .write_all(b"CONFIG SET maxclients 1\r\nCLIENT KILL TYPE normal\r\n")
        .await
        .unwrap();
    eventually("nobody else is let in", || async {
        // redis-cli says who it is first, and swallows why it may not.
        let mut line = tokio::net::TcpStream::connect(redis.addr()).await.unwrap();
        let _ = line.write_all(b"PING\r\n").await;
        let mut answer = [0; 64];
        let read = line.read(&mut answer).await.unwrap_or(0);
        String::from_utf8_lossy(&answer[..read])
            .contains("max number of clients")
            .then_some(())
    })
    .await;
    let asked = Stopwatch::start();
    let refused = login.phone.confirm(&service, &login.scene).await;
    comes_again(&refused, 503, "store_unavailable");
    asked.took_less_than(Duration::from_secs(3));
    operator.write_all(b"CONFIG SET maxclients 10000\r\n").await.unwrap();
    login.goes_on(&service).await;
}

#[tokio::test]
async fn many_that_send_their_bodies_slowly_keep_nobody_out() {
    let service = Service::start().await;
    let addr = service.base.strip_prefix("http://").unwrap();
    let head = "POST /scenes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let slow = (0..600).map(|_| async {
        let mut line = tokio::net::TcpStream::connect(addr).await.unwrap();
        line.write_all(head.as_bytes()).await.unwrap();
        line
    });
    let _lines = join_all(slow).await;
    let login = UnderWay::begin(&service).await;
    login.goes_on(&service).await;
}

/// So much may be under way when a new scene is taken on.
const STARTS_MAX: u32 = 512;

#[tokio::test]
async fn a_replica_that_is_busy_refuses_new_scenes_while_logins_under_way_get_through() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::from_millis(1)).await;
    let service = Service::builder().redis_url(&link.url()).start().await;
    let login = UnderWay::begin(&service).await;

    let over = CancellationToken::new();
    let mut crowd = JoinSet::new();
    // More than there is room for, each again and again: on a busy machine the first may be given up before the last has come.
    for _ in 0..STARTS_MAX + 64 {
        let (start, over) = (service.post("/scenes", &challenge()), over.clone());
        crowd.spawn(async move {
            while !over.is_cancelled() {
                let _ = start.try_clone().unwrap().send().await;
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    eventually(
        "a full replica refuses a start at once and takes an answer on",
        || async {
            link.stall();
            let seen = timeout(HANGS, full_for_starts_alone(&service, &login)).await;
            link.heal();
            if seen == Ok(true) {
                return Some(());
            }
            eventually("redis is back", || async {
                let started = Reply::to(service.post("/scenes", &challenge())).await;
                (started.status == 201).then_some(())
            })
            .await;
            None
        },
    )
    .await;
    over.cancel();
    crowd.join_all().await;
    login.goes_on(&service).await;
    Browser::start(&service).await;
}

/// So long after Redis fell silent nobody is given up yet. Later all are refused at once, for another reason.
const HANGS: Duration = Duration::from_millis(2_400);

/// Whether a start is refused for want of room, and an answer and a redemption begin all the same.
async fn full_for_starts_alone(service: &Service, login: &UnderWay) -> bool {
    let shed = || service.metric("scanlogin_requests_shed_total", "work=\"start\"");
    until_under_way(service, STARTS_MAX).await;
    let before = shed().await;
    let refused = Reply::to(service.post("/scenes", &challenge())).await;
    comes_again(&refused, 503, "store_unavailable");
    if shed().await <= before {
        return false;
    }
    let (site, wrong) = (Site::demo(), wrong(&login.code));
    tokio::select! {
        _ = login.phone.confirm(service, &login.scene) => false,
        _ = site.redeem(service, &wrong) => false,
        () = until_under_way(service, STARTS_MAX + 2) => true,
    }
}

/// A code of the same form that gives nothing, so that it can be presented again and again.
fn wrong(code: &str) -> String {
    let (of, proof) = code.rsplit_once('.').unwrap();
    let first = if proof.starts_with('A') { 'B' } else { 'A' };
    format!("{of}.{first}{}", &proof[1..])
}

async fn until_under_way(service: &Service, count: u32) {
    while service.metric("scanlogin_requests_under_way", "").await < f64::from(count) {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn more_pictures_than_wechat_makes_in_time_are_refused_and_hold_up_nothing_else() {
    let service = Service::start().await;
    let login = UnderWay::begin(&service).await;
    service
        .fault(json!({"call": "getwxacodeunlimit", "delay_ms": 60_000, "times": 1_000}))
        .await;
    // Some are refused by what WeChat allows in a minute, until enough wait for it.
    let (mut crowd, began) = (JoinSet::new(), Instant::now());
    let refused = loop {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody is refused");
        for browser in join_all((0..32).map(|_| Browser::start(&service))).await {
            crowd.spawn(async move { browser.code_image().await });
        }
        sleep(Duration::from_millis(50)).await;
        let replies = std::iter::from_fn(|| crowd.try_join_next());
        let mut replies = replies.map(|reply| reply.expect("a reply"));
        if let Some(refused) = replies.find(|reply| reply.json()["code"] == "store_unavailable") {
            break refused;
        }
    };
    comes_again(&refused, 503, "store_unavailable");
    login.goes_on(&service).await;
}

/// So many calls to WeChat are under way at once, pictures apart.
const CALLS_MAX: usize = 64;

#[tokio::test]
async fn more_scans_than_wechat_answers_are_refused_in_time_and_hold_up_nothing_else() {
    let service = Service::start().await;
    let login = UnderWay::begin(&service).await;
    let shown = Browser::start(&service).await;
    service
        .fault(json!({"call": "jscode2session", "delay_ms": 60_000, "times": 1_000}))
        .await;
    let before = service.wechat_calls("jscode2session").await;
    let asked = Stopwatch::start();
    let scan = async |number| {
        Phone::of(&format!("person-{number}"))
            .scan(&service, &shown.scene)
            .await
    };
    let crowd = join_all((0..CALLS_MAX + 6).map(scan));
    let (crowd, ()) = tokio::join!(crowd, login.goes_on(&service));
    // Five, and what a busy machine adds.
    asked.took_less_than(Duration::from_secs(15));
    let refused: Vec<&Reply> = crowd.iter().filter(|reply| reply.status != 504).collect();
    assert_eq!(refused.len(), 6);
    for refused in refused {
        comes_again(refused, 503, "wechat_unavailable");
    }
    assert_eq!(service.wechat_calls("jscode2session").await, before + CALLS_MAX);
}

/// Sets the soft limit of a service that runs, or gives it back.
fn limit_descriptors(service: &Service, most: Option<u64>) {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most.or(hard),
        maximum: hard,
    };
    prlimit(Some(service.process.pid()), Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn without_file_descriptors_streams_live_on_operators_are_answered_and_all_heals_within_a_second() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let login = UnderWay::begin(&service).await;
    let addr = service.base.strip_prefix("http://").unwrap();
    limit_descriptors(&service, Some(64));
    let mut crowd: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    service.log().line_with(&["no connection can be accepted"]).await;

    let fresh = async || http_client().get(format!("{}/", service.base)).send().await;
    assert!(
        timeout(Duration::from_millis(500), fresh()).await.is_err(),
        "somebody new has to wait"
    );
    for _ in 0..3 {
        let livez = http_client().get(format!("{}/livez", service.ops)).send();
        let livez = timeout(Duration::from_secs(2), livez)
            .await
            .expect("operators are answered")
            .unwrap();
        assert_eq!(livez.status(), 200);
    }
    login.goes_on(&service).await;
    // Each that goes makes room for one that waits.
    for _ in 0..20 {
        drop(crowd.remove(0));
        sleep(Duration::from_millis(60)).await;
    }
    let complaints = service
        .log()
        .lines()
        .into_iter()
        .filter(|line| line.contains("no connection can be accepted"));
    assert_eq!(complaints.count(), 1, "one line is enough");

    limit_descriptors(&service, None);
    let healed = timeout(Duration::from_secs(1), fresh())
        .await
        .expect("within a second")
        .unwrap();
    assert_eq!(healed.status(), 200);
}

#[tokio::test]
async fn who_waits_for_redis_is_told_within_three_seconds_however_many_steps_of_the_way_are_slow() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder().redis_url(&link.url()).start().await;
    let login = UnderWay::begin(&service).await;
    let other = Browser::start(&service).await;
    let phone = Phone::that_scanned("carol", &service, &other.scene).await;
    let demo_code = Browser::start(&service).await.code_of("dave", &service).await;

    link.stall();
    let timed = async |request: RequestBuilder| {
        let began = Instant::now();
        (Reply::to(request).await, began.elapsed())
    };
    let confirm = service.post(&format!("/scenes/{}/confirm", login.scene), &json!({}));
    let avatar = service.call(Method::PUT, &format!("/scenes/{}/avatar", other.scene));
    let redeem = with_form(
        service.call(Method::POST, "/token"),
        &[
            ("grant_type", "authorization_code"),
            ("client_id", "demo"),
            ("code", &login.code),
            ("code_verifier", VERIFIER),
        ],
    );
    let asked = async {
        tokio::join!(
            timed(confirm.bearer_auth(&login.phone.token)),
            timed(avatar.bearer_auth(&phone.token).body(&b"\xff\xd8\xff\xe0"[..])),
            timed(redeem),
            timed(at_the_demo_site(&service, &demo_code)),
        )
    };
    // What is read first comes after two seconds, and what is to be written then never arrives.
    let trouble = async {
        sleep(Duration::from_secs(2)).await;
        link.stall_at("EVAL");
        link.heal();
    };
    let ((confirm, avatar, redeem, demo), ()) = futures_util::future::join(asked, trouble).await;
    for refused in [&confirm, &avatar, &demo] {
        comes_again(&refused.0, 503, "store_unavailable");
    }
    redeem.0.oauth_error(503, "temporarily_unavailable");
    for (reply, took) in [confirm, avatar, redeem, demo] {
        assert!(took < Duration::from_millis(3_500), "{took:?}: {}", reply.text());
    }
    link.heal();
    login.goes_on(&service).await;
}

/// The demo site's own redemption, in the browser that began this login.
fn at_the_demo_site(service: &Service, code: &str) -> RequestBuilder {
    let state = "s".repeat(43);
    let callback = service.post("/demo/callback", &json!({ "code": code, "state": state }));
    callback.header("cookie", format!("scanlogin_demo_{state}={VERIFIER}"))
}

#[tokio::test]
async fn who_opens_a_stream_while_redis_hardly_answers_is_told_within_three_seconds_like_who_asks_for_the_state() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder().redis_url(&link.url()).start().await;
    let login = UnderWay::begin(&service).await;
    let browser = Browser::start(&service).await;
    let timed = async |request: RequestBuilder| {
        let began = Stopwatch::start();
        let reply = Reply::to(request).await;
        began.took_less_than(Duration::from_millis(3_500));
        comes_again(&reply, 503, "store_unavailable");
    };

    link.stall();
    let asked = async {
        tokio::join!(
            timed(plain_events(&service, &browser)),
            timed(browser.status_request("?wait=10&after=x")),
        )
    };
    // The watch is acknowledged late, and what is to be read then never arrives.
    let trouble = async {
        sleep(Duration::from_millis(1_500)).await;
        link.stall_at("PTTL");
        link.heal();
    };
    futures_util::future::join(asked, trouble).await;
    assert!(link.has_stalled(), "nobody came so far as to read the scene");
    timed(browser.status_request("")).await;
    link.heal();
    eventually("the state is told again", || async {
        let reply = Reply::to(browser.status_request("")).await;
        (reply.status == 200).then_some(())
    })
    .await;
    login.goes_on(&service).await;
}

/// So much may be under way when a stream is opened, or an avatar is asked for.
const WATCHES_MAX: u32 = 1_024;

#[tokio::test]
async fn a_flood_of_avatars_which_anybody_may_ask_for_is_refused_before_a_scan_or_an_answer_is() {
    raise_descriptors();
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::from_millis(1)).await;
    let service = Service::builder().redis_url(&link.url()).start().await;
    let login = UnderWay::begin(&service).await;
    let shown = Browser::start(&service).await;

    link.stall();
    let mut flood = JoinSet::new();
    for _ in 0..WATCHES_MAX + 100 {
        let avatar = service.get(&format!("/avatars/{}.{}", login.scene, "A".repeat(22)));
        flood.spawn(async move {
            // Again, because on a busy machine the first may be answered before the last has come.
            for _ in 0..3 {
                Reply::to(avatar.try_clone().unwrap()).await;
            }
        });
    }
    eventually("avatars are refused", || async {
        let shed = service.metric("scanlogin_requests_shed_total", "work=\"watch\"").await;
        (shed >= 1.0).then_some(())
    })
    .await;
    // Both come while there is no room for an avatar, and wait for Redis like all these.
    let scan = until_ok("the scan", async || {
        Phone::of("carol").scan(&service, &shown.scene).await
    });
    let heal = async {
        let _ = timeout(HANGS, until_under_way(&service, WATCHES_MAX + 2)).await;
        link.heal();
    };
    tokio::join!(login.ends(&service), scan, heal);
    has_taken_on(&service, &["scan", "finish"]).await;
}

#[tokio::test]
async fn without_memory_for_streams_a_page_that_had_one_still_hears_how_its_login_went_on() {
    let memory = ControlGroup::new();
    let service = memory.of(Service::builder()).start().await;
    let browser = Browser::start(&service).await;
    let mut cut = browser.events().await;
    cut.next_is("waiting").await;
    let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
    let scanned = cut.next_is("scanned").await;
    drop(cut);

    memory.uses(90);
    service.log().line_with(&["memory is nearly used up"]).await;
    let refused = Reply::to(plain_events(&service, &browser)).await;
    comes_again(&refused, 503, "store_unavailable");
    let reopened = || plain_events(&service, &browser).header("last-event-id", &scanned.id);
    comes_again(&Reply::to(reopened()).await, 503, "store_unavailable");
    let query = format!("?wait=30&after={}", scanned.id);
    let refused = Reply::to(browser.status_request(&query)).await;
    comes_again(&refused, 503, "store_unavailable");
    assert_eq!(browser.status().await["state"], "scanned");

    phone.confirm(&service, &browser.scene).await.ok();
    let told = browser.status().await;
    assert!(told["code"].is_string(), "{told}");
    assert_eq!(browser.long_poll(30, &scanned.id).await["code"], told["code"]);
    let mut reopened = browser.events_after(&scanned.id).await;
    let confirmed = reopened.next_is("confirmed").await;
    assert_eq!(confirmed.data["code"], told["code"]);
    assert!((1000..=3000).contains(&reopened.retry.unwrap()));
    let over = browser.events_request().header("last-event-id", &confirmed.id);
    assert_eq!(Reply::to(over).await.status, 204);
    reopened.ends().await;
    let code = confirmed.data["code"].as_str().unwrap();
    Site::demo().redeem(&service, code).await.ok();
}

/// Each connection takes a descriptor of this process, whose limit is lower where it is not raised.
fn raise_descriptors() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// One crowd at a time: all tests share the descriptors of this process.
static CROWD: Mutex<()> = Mutex::const_new(());

/// A connection of somebody else, who has this address of the machine's own network.
async fn connect_from(address: [u8; 4], service: &Service) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let to = service.base.strip_prefix("http://").unwrap().parse().unwrap();
    socket.connect(to).await.unwrap()
}

async fn connect_many(count: usize, address: [u8; 4], service: &Service) -> Vec<tokio::net::TcpStream> {
    let mut many = Vec::with_capacity(count);
    for _ in 0..count {
        many.push(connect_from(address, service).await);
    }
    many
}

/// Whether this connection is served.
async fn is_let_in(mut connection: tokio::net::TcpStream) -> bool {
    let asked = connection
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    let mut answer = Vec::new();
    // It may be closed, or reset.
    let read = connection.read_to_end(&mut answer).await;
    (asked.is_ok() && read.is_ok())
        .then_some(answer)
        .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}

/// A login of somebody at another address, from its start to its redemption.
async fn logs_in_at_once(service: &Service) {
    let login = Stopwatch::start();
    UnderWay::begin(service).await.ends(service).await;
    login.took_less_than(Duration::from_secs(3));
}

/// Of one address.
const CONNECTIONS_MAX: usize = 2_000;

#[tokio::test]
async fn t29_connections_of_one_address_that_say_nothing_keep_nobody_else_out() {
    const MANY: usize = 5_000;
    let _alone = CROWD.lock().await;
    raise_descriptors();
    let service = Service::start().await;
    let crowd = connect_many(MANY, [127, 0, 0, 2], &service).await;
    eventually("all beyond are closed", || async {
        let refused = service.metric("scanlogin_connections_refused_total", "").await;
        (refused >= f64::from(u32::try_from(MANY - CONNECTIONS_MAX).unwrap())).then_some(())
    })
    .await;
    logs_in_at_once(&service).await;
    assert!(!is_let_in(connect_from([127, 0, 0, 2], &service).await).await);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", service.process.id()))
        .unwrap()
        .count();
    assert!(
        (CONNECTIONS_MAX..CONNECTIONS_MAX + 100).contains(&descriptors),
        "{descriptors}"
    );
    let told = service.log().lines();
    let told = told
        .iter()
        .filter(|line| line.contains("as many connections as it may"));
    assert_eq!(told.count(), 1);
    drop(crowd);
    eventually("there is room again", || async {
        is_let_in(connect_from([127, 0, 0, 2], &service).await)
            .await
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn t29_a_trusted_proxy_has_as_many_connections_as_it_likes_and_others_have_their_own() {
    let builder = Service::builder().with("LIMIT_CONNECTIONS_PER_ADDRESS", 3);
    let service = builder.with("TRUSTED_PROXIES", "127.0.0.3/32").start().await;
    let _proxys = connect_many(20, [127, 0, 0, 3], &service).await;
    assert!(is_let_in(connect_from([127, 0, 0, 3], &service).await).await);
    for stranger in [[127, 0, 0, 4], [127, 0, 0, 5]] {
        let mut own = connect_many(3, stranger, &service).await;
        assert!(!is_let_in(connect_from(stranger, &service).await).await);
        // The three are served, each.
        assert!(is_let_in(own.pop().unwrap()).await);
        eventually("its place is free", || async {
            is_let_in(connect_from(stranger, &service).await).await.then_some(())
        })
        .await;
    }
    // Whoever watches over it is not of the public.
    let watching = (0..10).map(|_| TcpStream::connect(service.ops.strip_prefix("http://").unwrap()).unwrap());
    let _watching: Vec<TcpStream> = watching.collect();
    assert!(service.metric("scanlogin_connections_refused_total", "").await >= 2.0);
}

/// So many more connections than there are when memory becomes short.
const MORE_WHILE_TIGHT: usize = 1_024;

#[tokio::test]
async fn t29_while_memory_is_short_only_so_many_more_connections_are_accepted_as_logins_under_way_take() {
    let _alone = CROWD.lock().await;
    raise_descriptors();
    let memory = ControlGroup::new();
    let service = memory.of(Service::builder()).start().await;
    let login = UnderWay::begin(&service).await;
    memory.uses(90);
    service.log().line_with(&["memory is nearly used up"]).await;
    let some = connect_many(MORE_WHILE_TIGHT - 100, [127, 0, 0, 2], &service).await;
    login.ends(&service).await;
    let more = connect_many(180, [127, 0, 0, 3], &service).await;
    service
        .log()
        .line_with(&["no connection can be accepted", "memory is short"])
        .await;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", service.process.id()))
        .unwrap()
        .count();
    assert!(
        (MORE_WHILE_TIGHT..MORE_WHILE_TIGHT + 100).contains(&descriptors),
        "{descriptors}"
    );
    memory.uses(10);
    service.log().line_with(&["there is memory again"]).await;
    // Those that waited are accepted then, and so is who comes now.
    for waited in more {
        assert!(is_let_in(waited).await);
    }
    drop(some);
    logs_in_at_once(&service).await;
}

/// How many streams: ten thousand in `scripts/test --all`.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the program")]
fn streams() -> usize {
    std::env::var("TEST_STREAMS").map_or(2_000, |streams| streams.parse().expect("a number of streams"))
}

/// What a stream may take of a program that is not optimized, in bytes: with its connection, and a third of its scene.
const BYTES_PER_STREAM: f64 = 32_000.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t29_thousands_of_streams_of_one_address_take_bounded_memory_and_keep_nobody_out() {
    raise_descriptors();
    let service = Service::builder()
        .with("LIMIT_STREAMS_PER_ADDRESS", 20_000)
        .start()
        .await;
    let resident = async || service.metric("process_resident_memory_bytes", "").await;
    let open = async |count: usize| {
        let scenes = stream::iter(0..count.div_ceil(3)).map(|_| async {
            let browser = Browser::start(&service).await;
            join_all((0..3).map(|_| raw_stream(&service, &browser))).await
        });
        scenes.buffer_unordered(32).concat().await
    };
    // What the first ones take is taken once.
    let _first = open(300).await;
    let before = resident().await;
    let streams = open(streams()).await;
    let count = f64::from(u32::try_from(streams.len()).unwrap());
    let taken = (resident().await - before) / count;
    println!("{count} streams of one address: {taken:.0} bytes each");
    assert!(taken < BYTES_PER_STREAM, "{taken} bytes each");
    assert!(service.metric("scanlogin_streams_open", "").await >= count);
    logs_in_at_once(&service).await;
    drop(streams);
    eventually("they are gone", || async {
        (service.metric("scanlogin_streams_open", "").await <= 300.0).then_some(())
    })
    .await;
}

/// A stream of this browser's, from another address, that has told the first event.
async fn raw_stream(service: &Service, browser: &Browser) -> tokio::net::TcpStream {
    let mut stream = connect_from([127, 0, 0, 2], service).await;
    let (scene, secret) = (&browser.scene, &browser.secret);
    let request = format!(
        "GET /events/{scene} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: Bearer {secret}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("event: waiting") {
        let length = stream.read_buf(&mut heard).await.unwrap();
        assert_ne!(length, 0, "{}", String::from_utf8_lossy(&heard));
    }
    stream
}
