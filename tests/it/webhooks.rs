//! A site's own server is told how its logins ended: signed, at least once whatever fails, and without holding up anybody.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::http::HeaderMap;
use rustix::process::Signal;
use scanlogin::scene::s256;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::stores::{Store, on_each_store};
use crate::support::canaries;
use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::process::{Process, scanlogin};
use crate::support::proxy::Proxy;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::roles::{Browser, Phone, VERIFIER};
use crate::support::service::{Service, ServiceBuilder, http_client};
use crate::support::shape::{Security, Shape, Topology};
use crate::support::stopwatch::Stopwatch;

on_each_store! {
    a_site_is_told_how_each_login_ended_and_of_who_said_no_nothing,
    a_site_is_told_of_wrong_numbers_and_by_its_own_names_of_people,
    a_message_that_is_not_taken_comes_again_as_the_same_one,
    a_message_is_sent_once_the_receiver_is_there,
    a_receiver_that_never_answers_holds_up_no_login_and_not_another_site,
    where_too_much_waits_a_message_is_sent_once_and_its_login_goes_on,
    after_the_last_try_or_when_the_receiver_says_so_a_message_is_given_up,
    what_is_not_taken_is_given_up_in_time_however_much_waits,
    a_receiver_that_asks_to_be_left_alone_is_left_alone,
    a_dozen_receivers_that_never_answer_hold_up_no_other_site,
}

const SECRET: &str = "whsec_c2Nhbi1sb2dpbi13ZWJob29rLXNlY3JldC1vZi10ZXN0cw==";

/// What a receiver does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers(u16),
    /// The first answers, and then 200.
    FirstAnswers(u16, usize),
    /// The first answers 429, and asks to be left alone for so many seconds; and then 200.
    FirstAsksFor(u64),
    /// Reads and never answers.
    Hangs,
    /// 302, to itself.
    Redirects,
}

/// One message as it came.
#[derive(Debug, Clone)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().expect("an id")
    }

    /// When it was sent, in seconds.
    fn sent_at(&self) -> i64 {
        let at = self.headers["webhook-timestamp"].to_str().expect("a time");
        at.parse().expect("seconds")
    }

    /// What it says, once its signature was checked by a library that is not ours.
    fn verified(&self) -> Value {
        let webhook = Webhook::new(SECRET).expect("a secret");
        webhook
            .verify(self.body.as_bytes(), &self.headers)
            .expect("a signature that fits");
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A site's own server.
struct Receiver {
    addr: std::net::SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    manner: watch::Sender<Manner>,
    most_at_once: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
        // Lest it holds up the test that it panics in.
        if let Ok(received) = self.received.try_lock() {
            for message in received.iter() {
                canaries::assert_none_in("a message to a webhook", format!("{message:?}").as_bytes());
            }
        }
    }
}

impl Receiver {
    async fn start(manner: Manner) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), manner).await
    }

    async fn at(addr: std::net::SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let manner = watch::Sender::new(manner);
        let most_at_once = Arc::new(AtomicUsize::new(0));
        let (all, how, most) = (Arc::clone(&received), manner.subscribe(), Arc::clone(&most_at_once));
        let tasks = TaskTracker::new();
        let answering = tasks.clone();
        let serving = tasks.spawn(async move {
            let now = Arc::new(AtomicUsize::new(0));
            while let Ok((stream, _)) = listener.accept().await {
                let (all, how) = (Arc::clone(&all), how.clone());
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                answering.spawn(async move {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    answer(stream, &all, how).await;
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        Self {
            addr,
            received,
            manner,
            most_at_once,
            serving,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/webhook", self.addr)
    }

    /// From now on; who was kept hanging is hung up on.
    fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    async fn all(&self) -> Vec<Received> {
        self.received.lock().await.clone()
    }

    async fn messages(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} messages"), || async {
            Some(self.all().await).filter(|all| all.len() >= count)
        })
        .await
    }
}

/// One message to a connection, as the service asks for none after it.
async fn answer(mut stream: TcpStream, all: &Mutex<Vec<Received>>, mut how: watch::Receiver<Manner>) -> Option<()> {
    let mut bytes = Vec::new();
    let received = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(received) = parse(&bytes) {
            break received;
        }
    };
    let manner = *how.borrow_and_update();
    let count = {
        let mut all = all.lock().await;
        all.push(received);
        all.len()
    };
    let status = match manner {
        Manner::Answers(status) => status,
        Manner::FirstAnswers(status, first) if count <= first => status,
        Manner::FirstAsksFor(_) if count == 1 => 429,
        Manner::FirstAnswers(..) | Manner::FirstAsksFor(_) => 200,
        Manner::Redirects => 302,
        Manner::Hangs => {
            tokio::select! {
                _ = stream.read_buf(&mut bytes) => {}
                _ = how.changed() => {}
            }
            return None;
        }
    };
    let asked = match manner {
        Manner::FirstAsksFor(seconds) => format!("retry-after: {seconds}\r\n"),
        Manner::Answers(_) | Manner::FirstAnswers(..) | Manner::Hangs | Manner::Redirects => String::new(),
    };
    let answer =
        format!("HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\n{asked}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()
}

fn parse(bytes: &[u8]) -> Option<Received> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(
            axum::http::HeaderName::from_bytes(name.as_bytes()).ok()?,
            value.parse().ok()?,
        );
    }
    let length = headers
        .get("content-length")
        .map_or("0", |length| length.to_str().expect("ASCII"));
    let length: usize = length.parse().ok()?;
    (body.len() == length).then(|| Received {
        path,
        headers,
        body: body.to_owned(),
    })
}

/// A service whose clients `blog` and `shop` are told there; retried each second, three times, and given a second to answer.
fn telling(service: ServiceBuilder, url: &str) -> ServiceBuilder {
    telling_both(service, url, url)
}

/// The same, each at its own.
fn telling_both(service: ServiceBuilder, blog: &str, shop: &str) -> ServiceBuilder {
    service
        .with("WEBHOOK_RETRIES", "1,1,1")
        .with("WEBHOOK_TIMEOUT", 1)
        .with("PAIRWISE_SECRET", "p".repeat(32))
        .config_toml(&format!(
            r#"
            [[client]]
            client_id = "blog"
            webhook_url = "{blog}"
            webhook_secret = "{SECRET}"

            [[client]]
            client_id = "shop"
            number_matching = "on"
            subject_type = "pairwise"
            sector = "shop.example"
            webhook_url = "{shop}"
            webhook_secret = "{SECRET}"

            [[client]]
            client_id = "untold"
            "#
        ))
}

async fn start(service: &Service, client: &str) -> Browser {
    let wanted = json!({ "client_id": client, "code_challenge": s256(VERIFIER) });
    Browser::start_with(service, wanted).await
}

/// A login of this person at the blog: its scene.
async fn login(service: &Service, openid: &str) -> String {
    let browser = start(service, "blog").await;
    let phone = Phone::that_scanned(openid, service, &browser.scene).await;
    phone.confirm(service, &browser.scene).await.ok();
    browser.scene
}

async fn waiting(service: &Service) -> f64 {
    service.metric("scanlogin_webhooks_waiting", "").await
}

async fn count(service: &Service, result: &str) -> f64 {
    let result = format!("result=\"{result}\"");
    service.metric("scanlogin_webhooks_total", &result).await
}

async fn until_counted(service: &Service, result: &str, least: f64) {
    eventually(&format!("{least} {result}"), || async {
        (count(service, result).await >= least).then_some(())
    })
    .await;
}

async fn a_site_is_told_how_each_login_ended_and_of_who_said_no_nothing(store: Store) {
    let receiver = Receiver::start(Manner::Answers(204)).await;
    let service = telling(store.service(), &receiver.url()).start().await;
    let scene = login(&service, "alice-of-webhooks").await;
    let confirmed = receiver.messages(1).await[0].verified();
    let data =
        json!({ "scene": scene, "client_id": "blog", "sub": "alice-of-webhooks", "amr": ["wechat", "simulated"] });
    assert_eq!(
        (&confirmed["type"], &confirmed["data"]),
        (&json!("login.confirmed"), &data)
    );
    let at: jiff::Timestamp = confirmed["timestamp"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("RFC 3339");
    let age = jiff::Timestamp::now().duration_since(at);
    assert!(age.as_secs() < 60 && age.as_secs() > -2, "{at}");

    for (body, kind, reason) in [
        (json!({}), "login.declined", json!("no")),
        (json!({ "reason": "not_me" }), "login.not_me", Value::Null),
    ] {
        let before = receiver.all().await.len();
        let browser = start(&service, "blog").await;
        let phone = Phone::that_scanned("bob-of-webhooks", &service, &browser.scene).await;
        phone.decline_with(&service, &browser.scene, body).await.ok();
        let message = receiver.messages(before + 1).await.remove(before);
        let told = message.verified();
        assert_eq!((&told["type"], &told["data"]["reason"]), (&json!(kind), &reason));
        assert_eq!(told["data"]["scene"], browser.scene);
        assert!(!message.body.contains("bob-of-webhooks"), "{}", message.body);
    }

    // Neither a login that its browser gave up nor one of a site that asked for nothing.
    let given_up = start(&service, "blog").await;
    assert_eq!(given_up.cancel().await.status, 204);
    let untold = start(&service, "untold").await;
    let phone = Phone::that_scanned("dave", &service, &untold.scene).await;
    phone.confirm(&service, &untold.scene).await.ok();
    login(&service, "alice-of-webhooks").await;
    let all = receiver.messages(4).await;
    assert_eq!(all.len(), 4);
    all.iter().for_each(is_as_the_document_says);
    let mut ids: Vec<_> = all.iter().map(Received::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
    until_counted(&service, "delivered", 4.0).await;
    eventually("nothing waits", || async {
        (waiting(&service).await == 0.0).then_some(())
    })
    .await;
}

/// What is in it, and what is not.
fn is_as_the_document_says(message: &Received) {
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let schema = &document["components"]["schemas"]["WebhookMessage"];
    let told = message.verified();
    for (told, schema) in [(&told, schema), (&told["data"], &schema["properties"]["data"])] {
        let named = |key: &str| schema["properties"].get(key).is_some();
        assert!(told.as_object().unwrap().keys().all(|key| named(key)), "{told}");
        for required in schema["required"].as_array().unwrap() {
            assert!(
                told.get(required.as_str().unwrap()).is_some(),
                "{told} without {required}"
            );
        }
    }
}

/// Two wrong numbers, and a person that the site knows by a name of its own.
async fn a_site_is_told_of_wrong_numbers_and_by_its_own_names_of_people(store: Store) {
    let receiver = Receiver::start(Manner::Answers(204)).await;
    let service = telling(store.service(), &receiver.url()).start().await;
    let browser = start(&service, "shop").await;
    let phone = Phone::that_scanned("carol-of-webhooks", &service, &browser.scene).await;
    let right = browser.status().await["match_number"]
        .as_str()
        .expect("a number")
        .to_owned();
    for wrong in ["11", "22", "33"].iter().filter(|number| **number != right).take(2) {
        phone
            .confirm_with(&service, &browser.scene, json!({ "match_number": wrong }))
            .await;
    }
    let declined = receiver.messages(1).await[0].verified();
    assert_eq!(
        (&declined["type"], &declined["data"]["reason"]),
        (&json!("login.declined"), &json!("wrong_number"))
    );
    let browser = start(&service, "shop").await;
    let phone = Phone::that_scanned("carol-of-webhooks", &service, &browser.scene).await;
    let number = browser.status().await["match_number"].clone();
    phone
        .confirm_with(&service, &browser.scene, json!({ "match_number": number }))
        .await
        .ok();
    let message = receiver.messages(2).await.remove(1);
    let told = message.verified();
    assert_eq!(told["data"]["sub"].as_str().map(str::len), Some(43));
    assert!(!message.body.contains("carol"), "{}", message.body);
}

async fn a_message_that_is_not_taken_comes_again_as_the_same_one(store: Store) {
    let receiver = Receiver::start(Manner::FirstAnswers(500, 2)).await;
    let service = telling(store.service(), &receiver.url()).start().await;
    login(&service, "alice").await;
    let all = receiver.messages(3).await;
    let told: Vec<_> = all.iter().map(|message| (message.id(), message.verified())).collect();
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    until_counted(&service, "delivered", 1.0).await;
    assert_eq!(count(&service, "failed").await.to_string(), "2");
    service
        .log()
        .line_with(&["the webhook does not work", "blog", "HTTP status 500"])
        .await;
    service.log().line_with(&["the webhook works again", "blog"]).await;
    // It would have come within a second.
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(receiver.all().await.len(), 3);
}

async fn a_message_is_sent_once_the_receiver_is_there(store: Store) {
    let addr = free_addr();
    let service = telling(store.service(), &format!("http://{addr}/webhook"))
        .with("WEBHOOK_RETRIES", "1,1,1,1,1,1,1,1,1,1,1,1")
        .start()
        .await;
    let scene = login(&service, "alice").await;
    until_counted(&service, "failed", 1.0).await;
    let receiver = Receiver::at(addr, Manner::Answers(200)).await;
    assert_eq!(receiver.messages(1).await[0].verified()["data"]["scene"], scene);
}

async fn a_receiver_that_never_answers_holds_up_no_login_and_not_another_site(store: Store) {
    let (receiver, others) = (
        Receiver::start(Manner::Hangs).await,
        Receiver::start(Manner::Answers(200)).await,
    );
    let service = telling_both(store.service(), &receiver.url(), &others.url())
        .with("WEBHOOK_RETRIES", "1,1,1,1,1,1,1,1,1,1,1,1")
        .with("WEBHOOK_TIMEOUT", 4)
        .start()
        .await;
    // More than are under way to one at once.
    let mut scenes = BTreeSet::new();
    for n in 0..20 {
        let browser = start(&service, "blog").await;
        let phone = Phone::that_scanned(&format!("person-{n}"), &service, &browser.scene).await;
        let asked = Stopwatch::start();
        phone.confirm(&service, &browser.scene).await.ok();
        asked.took_less_than(Duration::from_secs(3));
        scenes.insert(browser.scene);
    }
    assert!(receiver.most_at_once.load(SeqCst) <= 8);
    let browser = start(&service, "shop").await;
    let phone = Phone::that_scanned("bob", &service, &browser.scene).await;
    phone.decline(&service, &browser.scene).await.ok();
    assert_eq!(others.messages(1).await[0].verified()["data"]["scene"], browser.scene);

    let hung = receiver.all().await.len();
    receiver.set(Manner::Answers(200));
    eventually("each is told in the end", || async {
        let told = receiver.all().await.split_off(hung);
        let told: BTreeSet<_> = told
            .iter()
            .map(|message| message.verified()["data"]["scene"].as_str().unwrap().to_owned())
            .collect();
        (told == scenes).then_some(())
    })
    .await;
    assert_eq!(receiver.most_at_once.load(SeqCst), 8, "as many as may be");
}

async fn where_too_much_waits_a_message_is_sent_once_and_its_login_goes_on(store: Store) {
    let receiver = Receiver::start(Manner::Answers(503)).await;
    let service = telling(store.service(), &receiver.url())
        .with("WEBHOOK_RETRIES", "1,86400")
        .with("LIMIT_WEBHOOKS", 1)
        .start()
        .await;
    // With Redis one for each 256th part of all scenes: of so many two share one.
    let count_of = match store {
        Store::Embedded => 3,
        Store::Redis(_) => 60,
    };
    for n in 0..count_of {
        login(&service, &format!("person-{n}")).await;
    }
    until_counted(&service, "dropped", 1.0).await;
    service
        .log()
        .line_with(&["too much waits for the webhook", "blog"])
        .await;
    receiver.set(Manner::Answers(200));
    until_counted(&service, "delivered", 1.0).await;
}

async fn after_the_last_try_or_when_the_receiver_says_so_a_message_is_given_up(store: Store) {
    let receiver = Receiver::start(Manner::Redirects).await;
    let service = telling(store.service(), &receiver.url()).start().await;
    login(&service, "alice").await;
    // The first try and three more; none followed the redirect.
    until_counted(&service, "given_up", 1.0).await;
    let all = receiver.all().await;
    assert_eq!((all.len(), count(&service, "failed").await), (4, 3.0));
    assert!(all.iter().all(|message| message.path == "/webhook"), "{all:?}");
    service
        .log()
        .line_with(&["the webhook is not sent again", "HTTP status 302"])
        .await;

    receiver.set(Manner::Answers(410));
    login(&service, "alice").await;
    until_counted(&service, "given_up", 2.0).await;
    assert_eq!(receiver.all().await.len(), 5);
    eventually("nothing waits", || async {
        (waiting(&service).await == 0.0).then_some(())
    })
    .await;
}

async fn what_is_not_taken_is_given_up_in_time_however_much_waits(store: Store) {
    let receiver = Receiver::start(Manner::Hangs).await;
    let service = telling(store.service(), &receiver.url())
        .with("WEBHOOK_RETRIES", 1)
        .with("WEBHOOK_TIMEOUT", 4)
        .start()
        .await;
    for n in 0..40 {
        login(&service, &format!("person-{n}")).await;
    }
    // To try each twice would take longer, and does not come to an end while more comes.
    until_counted(&service, "given_up", 40.0).await;
    service
        .log()
        .line_with(&["the webhook is not sent again", "its time is over"])
        .await;
    eventually("nothing waits", || async {
        (waiting(&service).await == 0.0).then_some(())
    })
    .await;
    let tries = receiver.all().await.len();
    assert!(
        tries < 24,
        "one at a time once it is known not to answer: {tries} for 40 messages"
    );
}

async fn a_receiver_that_asks_to_be_left_alone_is_left_alone(store: Store) {
    let receiver = Receiver::start(Manner::FirstAsksFor(4)).await;
    let service = telling(store.service(), &receiver.url())
        .with("WEBHOOK_RETRIES", "1,40")
        .start()
        .await;
    login(&service, "alice").await;
    until_counted(&service, "failed", 1.0).await;
    login(&service, "bob").await;
    let all = receiver.messages(3).await;
    let first = all[0].sent_at();
    assert!(all[1..].iter().all(|message| message.sent_at() >= first + 4), "{all:?}");
    until_counted(&service, "delivered", 2.0).await;
    assert_eq!(
        count(&service, "failed").await.to_string(),
        "1",
        "the others were no tries"
    );
}

async fn a_dozen_receivers_that_never_answer_hold_up_no_other_site(store: Store) {
    let (hanging, others) = (
        Receiver::start(Manner::Hangs).await,
        Receiver::start(Manner::Answers(200)).await,
    );
    let client = |id: &str, url: &str| {
        format!("[[client]]\nclient_id = \"{id}\"\nwebhook_url = \"{url}\"\nwebhook_secret = \"{SECRET}\"\n")
    };
    let ids: Vec<_> = (0..12).map(|n| format!("hanging-{n}")).collect();
    let clients: String = ids.iter().map(|id| client(id, &hanging.url())).collect();
    let service = store
        .service()
        .with("WEBHOOK_TIMEOUT", 60)
        .config_toml(&(clients + &client("blog", &others.url())))
        .start()
        .await;
    for id in &ids {
        for n in 0..7 {
            let browser = start(&service, id).await;
            let phone = Phone::that_scanned(&format!("person-{n}"), &service, &browser.scene).await;
            phone.confirm(&service, &browser.scene).await.ok();
        }
    }
    hanging.messages(84).await;
    let scene = login(&service, "alice").await;
    assert_eq!(others.messages(1).await[0].verified()["data"]["scene"], scene);
}

/// When each message is due, in milliseconds from now.
fn due_in(redis: &RedisServer, scene: &str) -> i64 {
    let key = format!("scanlogin:{{{}}}:notices:due", &scene[..2]);
    let score: f64 = cli(redis.addr(), &["ZSCORE", &key, scene])
        .trim()
        .parse()
        .expect("a score");
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
    let due = score as i64;
    due - jiff::Timestamp::now().as_millisecond()
}

#[tokio::test]
async fn a_receivers_wish_to_be_left_alone_has_a_bound_and_brings_nothing_forward() {
    let redis = RedisServer::start();
    let (hour, minute) = (3_600_000, 60_000);
    for (asked, least, most) in [(999_999_999, hour, hour * 6 / 5), (1, minute * 4 / 5, minute * 6 / 5)] {
        let receiver = Receiver::start(Manner::FirstAsksFor(asked)).await;
        let service = telling(Service::builder().redis(&redis), &receiver.url())
            .with("WEBHOOK_RETRIES", "60,86400")
            .start()
            .await;
        let scene = login(&service, "alice").await;
        until_counted(&service, "failed", 1.0).await;
        let due = due_in(&redis, &scene);
        assert!((least - minute / 3..=most).contains(&due), "{due} ms for {asked} s");
    }
}

/// Each pause is the next of the setting's, and those that it has by itself grow.
#[tokio::test]
async fn a_receiver_that_fails_is_tried_ever_more_seldom() {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::Answers(500)).await;
    let service = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_RETRIES", "1,60")
        .start()
        .await;
    let scene = login(&service, "alice").await;
    until_counted(&service, "failed", 2.0).await;
    let due = due_in(&redis, &scene);
    assert!((40_000..=72_000).contains(&due), "{due} ms");

    let help = scanlogin().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, of_retries) = help.split_once("--webhook-retries").unwrap();
    let (_, default) = of_retries.split_once("[default: ").unwrap();
    let pauses: Vec<u32> = default
        .split_once(']')
        .unwrap()
        .0
        .split(',')
        .map(|pause| pause.trim().parse().unwrap())
        .collect();
    assert!(
        pauses.len() > 5 && pauses.is_sorted() && pauses.last() > pauses.first(),
        "{pauses:?}"
    );
}

/// Of a short life an eighth is shorter than an hour.
#[tokio::test]
async fn a_receiver_is_left_alone_for_an_eighth_of_a_messages_life_at_most() {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::FirstAsksFor(999_999_999)).await;
    let service = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_RETRIES", "1,3600")
        .start()
        .await;
    let scene = login(&service, "alice").await;
    until_counted(&service, "failed", 1.0).await;
    // Of 1.2 times the pauses, and two seconds for each of three tries: 4,327 s.
    let (due, eighth) = (due_in(&redis, &scene), 4_327_000 / 8);
    assert!((eighth - 60_000..=eighth * 6 / 5).contains(&due), "{due} ms");
}

/// However long the next pause is: what waited for its turns, or was kept waiting, has its last try at its end.
#[tokio::test]
async fn the_last_try_comes_no_later_than_a_messages_end() {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::Answers(500)).await;
    let service = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_RETRIES", "2,86400")
        .start()
        .await;
    let scene = login(&service, "alice").await;
    until_counted(&service, "failed", 1.0).await;
    service.process.signal(Signal::STOP);
    let key = format!("scanlogin:{{{}}}:notices", &scene[..2]);
    let text = cli(redis.addr(), &["HGET", &key, &scene]);
    let (before, until) = text.trim_end().split_once("\"until\":").expect("an end");
    let after = until.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let soon = jiff::Timestamp::now().as_second() + 60;
    let text = format!("{before}\"until\":{soon}{after}");
    cli(redis.addr(), &["HSET", &key, &scene, &text]);
    service.process.signal(Signal::CONT);
    until_counted(&service, "failed", 2.0).await;
    let due = due_in(&redis, &scene);
    assert!((0..=60_000).contains(&due), "{due} ms");
}

/// As after hours of a receiver that hangs: more than a replica may have waiting, all of it due.
#[tokio::test]
async fn a_site_that_has_very_much_due_holds_up_no_other() {
    const COUNT: usize = 60_000;
    let redis = RedisServer::start();
    let (hanging, others) = (
        Receiver::start(Manner::Hangs).await,
        Receiver::start(Manner::FirstAnswers(500, 1)).await,
    );
    let service = telling_both(Service::builder().redis(&redis), &hanging.url(), &others.url())
        .with("WEBHOOK_RETRIES", "1,3600")
        .with("WEBHOOK_TIMEOUT", 60)
        .start()
        .await;
    let scene = login(&service, "alice").await;
    hanging.messages(1).await;
    let copy = "
        local text = redis.call('HGET', KEYS[1], ARGV[1])
        for i = 1, tonumber(ARGV[2]) do
            local tag = string.format('%02x', i % 256)
            local id = tag .. string.format('%030x', i)
            redis.call('ZADD', 'scanlogin:{' .. tag .. '}:notices:due', 1, id)
            redis.call('HSET', 'scanlogin:{' .. tag .. '}:notices', id, text)
        end";
    let key = format!("scanlogin:{{{}}}:notices", &scene[..2]);
    cli(redis.addr(), &["EVAL", copy, "1", &key, &scene, &COUNT.to_string()]);
    let asked = Stopwatch::start();
    let browser = start(&service, "shop").await;
    let phone = Phone::that_scanned("bob", &service, &browser.scene).await;
    phone.decline(&service, &browser.scene).await.ok();
    // At once, and once more when it is due and must be found among the others.
    let told = others.messages(2).await;
    assert_eq!(told[1].verified()["data"]["scene"], browser.scene);
    asked.took_less_than(Duration::from_secs(15));
    assert!(hanging.most_at_once.load(SeqCst) <= 8);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let least = COUNT as f64;
    eventually("what hangs is kept", || async {
        (waiting(&service).await > least).then_some(())
    })
    .await;
}

/// A replica that stood still sends too late for its claim. Another one has told the site by then, so that nothing was lost.
#[tokio::test]
async fn what_another_replica_has_told_meanwhile_counts_neither_as_dropped_nor_as_given_up() {
    // By the late one's settings there is another try, or this was the last.
    tokio::join!(told_elsewhere("1,3600"), told_elsewhere("1"));
}

async fn told_elsewhere(retries: &str) {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::Hangs).await;
    // Stopped while it waits for the answer to its first try.
    let late = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_TIMEOUT", 5)
        .with("WEBHOOK_RETRIES", retries)
        .start()
        .await;
    let other = telling(late.replica(), &receiver.url()).start().await;
    login(&late, "alice").await;
    receiver.messages(1).await;
    late.process.signal(Signal::STOP);
    receiver.set(Manner::Answers(200));
    until_counted(&other, "delivered", 1.0).await;
    eventually("it is dropped from the store", || async {
        (waiting(&other).await == 0.0).then_some(())
    })
    .await;
    late.process.signal(Signal::CONT);
    until_counted(&late, "elsewhere", 1.0).await;
    late.log()
        .line_with(&["another replica has come to an end", "blog"])
        .await;
    for wrong in ["dropped", "given_up"] {
        assert!(count(&late, wrong).await < 1.0, "{wrong} with {retries}");
    }
}

#[tokio::test]
async fn what_a_replica_that_was_killed_had_not_sent_another_sends() {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::Hangs).await;
    let mut doomed = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_TIMEOUT", 1)
        .start()
        .await;
    let scene = login(&doomed, "alice").await;
    receiver.messages(1).await;
    doomed.process.signal(Signal::KILL);
    doomed.process.ended().await;
    receiver.set(Manner::Answers(200));
    let survivor = telling(doomed.replica(), &receiver.url()).start().await;
    let all = receiver.messages(2).await;
    assert_eq!(all[0].id(), all[1].id());
    assert_eq!(all[1].verified()["data"]["scene"], scene);
    until_counted(&survivor, "delivered", 1.0).await;
}

/// The replica has written the confirm, and dies before it knows; and nobody asks again. What a fail-over undoes then is told to nobody.
#[tokio::test]
async fn a_confirm_that_nobody_heard_of_is_told_if_it_stands_and_only_then() {
    let redis = RedisServer::start();
    let _copy = redis.replica().await;
    let receiver = Receiver::start(Manner::Answers(200)).await;
    let survivor = telling(Service::builder().redis(&redis), &receiver.url()).start().await;
    let mut stands = BTreeSet::new();
    for is_undone in [true, false] {
        let link = Proxy::start(redis.addr(), Duration::ZERO).await;
        let doomed = survivor.replica().redis_url(&link.url()).with("CODE_POOL", 0);
        let mut doomed = telling(doomed, &receiver.url()).start().await;
        let browser = start(&survivor, "blog").await;
        let phone = Phone::that_scanned("alice", &survivor, &browser.scene).await;
        let key = format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene);
        let scanned = cli(redis.addr(), &["GET", &key]);
        link.stall_reply_to("\r\nEVAL\r\n");
        let confirm = doomed.post(&format!("/scenes/{}/confirm", browser.scene), &json!({}));
        let killed = async {
            link.stalled().await;
            doomed.process.signal(Signal::KILL);
            doomed.process.ended().await;
        };
        let (answer, ()) = tokio::join!(confirm.bearer_auth(&phone.token).send(), killed);
        assert!(answer.is_err(), "{answer:?}");
        if is_undone {
            cli_ok(redis.addr(), &["SET", &key, scanned.trim_end(), "KEEPTTL"]);
        } else {
            stands.insert(browser.scene.clone());
        }
    }
    let told = receiver.messages(1).await;
    let told: BTreeSet<_> = told
        .iter()
        .map(|message| message.verified()["data"]["scene"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, stands);
    eventually("nothing waits", || async {
        (waiting(&survivor).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(receiver.all().await.len(), 1);
}

#[tokio::test]
async fn what_is_under_way_at_the_end_of_a_replica_another_sends_at_once() {
    let redis = RedisServer::start();
    let receiver = Receiver::start(Manner::Hangs).await;
    let ending = telling(Service::builder().redis(&redis), &receiver.url())
        .with("WEBHOOK_TIMEOUT", 60)
        .start()
        .await;
    let other = telling(ending.replica(), &receiver.url()).start().await;
    login(&ending, "alice").await;
    receiver.messages(1).await;
    receiver.set(Manner::Answers(200));
    let mut ending = ending;
    ending.terminate();
    assert!(ending.process.ended().await.success());
    // Not only when its claim ends, which takes more than a minute.
    until_counted(&other, "delivered", 1.0).await;
}

#[tokio::test]
async fn a_webhook_works_on_a_cluster_with_the_least_rights() {
    let shape = Shape::start(Topology::Cluster, Security::AclTls).await;
    shape.be_patient();
    let receiver = Receiver::start(Manner::FirstAnswers(500, 8)).await;
    let a = telling(shape.tell(Service::builder()), &receiver.url()).start().await;
    let b = telling(shape.tell(a.replica()), &receiver.url()).start().await;
    let mut scenes = Vec::new();
    for n in 0..8 {
        scenes.push(login(if n % 2 == 0 { &a } else { &b }, &format!("person-{n}")).await);
    }
    // None was taken at first, so that each is found in the store.
    let all = receiver.messages(16).await;
    let mut told: Vec<_> = all[8..]
        .iter()
        .map(|message| message.verified()["data"]["scene"].clone())
        .collect();
    told.sort_by_key(ToString::to_string);
    scenes.sort_unstable();
    assert_eq!(told, scenes);
    for node in shape.nodes() {
        assert_eq!(node.cli(&["ACL", "LOG"]), "");
    }
}

/// The document's own receiver takes what we send, and refuses what was changed on the way, or is old.
#[tokio::test]
async fn the_receiver_of_the_document_takes_our_messages_and_no_others() {
    let document = include_str!("../../docs/webhooks.md");
    let (_, code) = document.split_once("```js\n").expect("a receiver");
    let (code, _) = code.split_once("```").expect("its end");
    let files = tempfile::tempdir().expect("a directory");
    let (program, addr) = (files.path().join("receiver.mjs"), free_addr());
    std::fs::write(
        &program,
        code.replace("listen(3000)", &format!("listen({}, '127.0.0.1')", addr.port())),
    )
    .expect("a file");
    let mut node = Command::new("node");
    let _receiver = Process::start(node.arg(program).env("WEBHOOK_SECRET", SECRET));
    let url = format!("http://{addr}/webhook");
    let http = http_client();
    eventually("it listens", || async { http.get(&url).send().await.ok() }).await;

    let service = telling(Service::builder(), &url).start().await;
    login(&service, "alice").await;
    until_counted(&service, "delivered", 1.0).await;

    let own = Webhook::new(SECRET).expect("a secret");
    let now = jiff::Timestamp::now().as_second();
    let answer = async |at: i64, signed: &str, sent: &str| {
        let signature = own.sign("msg_1", at, signed.as_bytes()).expect("a signature");
        let request = http
            .post(&url)
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", at);
        let request = request.header("webhook-signature", signature).body(sent.to_owned());
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(answer(now, "{}", "{}").await, 204);
    assert_eq!(answer(now, "{}", "{ }").await, 401);
    assert_eq!(answer(now - 600, "{}", "{}").await, 401);
}

#[tokio::test]
async fn a_webhook_that_moves_is_told_at_once_though_the_old_one_asked_for_a_rest() {
    let (old, new) = (
        Receiver::start(Manner::FirstAsksFor(999)).await,
        Receiver::start(Manner::Answers(200)).await,
    );
    let at = |receiver: &Receiver| {
        let url = receiver.url();
        format!("[[client]]\nclient_id = \"blog\"\nwebhook_url = \"{url}\"\nwebhook_secret = \"{SECRET}\"")
    };
    let service = Service::builder().config_toml(&at(&old)).start().await;
    login(&service, "alice").await;
    service.log().line_with(&["is left alone", "999"]).await;
    service.rewrite_config(&at(&new));
    service.process.signal(Signal::HUP);
    service.log().line_with(&["settings were read again"]).await;
    let scene = login(&service, "bob").await;
    assert_eq!(new.messages(1).await[0].verified()["data"]["scene"], scene);
}

#[tokio::test]
async fn a_webhook_that_is_added_while_the_service_runs_is_used() {
    let receiver = Receiver::start(Manner::Answers(200)).await;
    let service = Service::builder()
        .config_toml("[[client]]\nclient_id = \"blog\"")
        .start()
        .await;
    login(&service, "alice").await;
    service.rewrite_config(&format!(
        "[[client]]\nclient_id = \"blog\"\nwebhook_url = \"{}\"\nwebhook_secret = \"{SECRET}\"",
        receiver.url()
    ));
    service.process.signal(Signal::HUP);
    service.log().line_with(&["settings were read again"]).await;
    let scene = login(&service, "alice").await;
    assert_eq!(receiver.messages(1).await[0].verified()["data"]["scene"], scene);
}
