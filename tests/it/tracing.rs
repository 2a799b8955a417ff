//! Traces: a login is one, whoever has a part in it, and nobody waits for whoever collects them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use futures_util::future::join_all;
use reqwest::Method;
use scanlogin::scene::s256;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::support::collector::{Collector, Manner, Span};
use crate::support::redis::{RedisServer, free_addr};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::{canaries, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const SPANS: &str = "scanlogin_trace_spans_total";
const SECRET: &str = "whsec_c2Nhbi1sb2dpbi13ZWJob29rLXNlY3JldC1vZi10ZXN0cw==";

fn sampled() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

fn traced(service: ServiceBuilder, collector: &Collector) -> ServiceBuilder {
    service.with("OTLP_ENDPOINT", collector.url())
}

/// Started by a page that is part of a trace itself.
async fn start(service: &Service, traceparent: &str) -> Browser {
    let request = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let reply = Reply::to(request.header("traceparent", traceparent)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    Browser::started(service, &reply)
}

async fn log_in(service: &Service, openid: &str) {
    let code = Browser::start(service).await.code_of(openid, service).await;
    Site::demo().redeem(service, &code).await.ok();
}

async fn dropped(service: &Service) -> f64 {
    service.metric(SPANS, "outcome=\"dropped\"").await
}

async fn exported(service: &Service) -> f64 {
    service.metric(SPANS, "outcome=\"exported\"").await
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let only = found.next().unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"));
    assert!(found.next().is_none(), "{name:?} twice");
    only
}

fn below<'a>(spans: &'a [Span], parent: &Span) -> BTreeSet<&'a str> {
    let children = spans
        .iter()
        .filter(|span| (&span.trace_id, &span.parent) == (&parent.trace_id, &parent.id));
    children.map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_login_is_one_trace_of_all_replicas_redis_and_wechat() {
    let (redis, collector) = (RedisServer::start(), Collector::start().await);
    let one = traced(Service::builder(), &collector).redis(&redis).start().await;
    let other = traced(one.replica(), &collector).start().await;
    let openid = "alice-whom-no-trace-names";

    let browser = start(&one, &sampled()).await;
    let mut events = browser.at(&other).events().await;
    events.next_is("waiting").await;
    assert_eq!(browser.code_image().await.status, 200);
    let phone = Phone::that_scanned(openid, &other, &browser.scene).await;
    phone.confirm(&one, &browser.scene).await.ok();
    events.next_is("scanned").await;
    let confirmed = events.next_is("confirmed").await;
    let code = confirmed.data["code"].as_str().unwrap();
    Site::demo().redeem(&other, code).await.ok();
    // The last that each replica has to tell.
    eventually("all of it is told", || async {
        let spans = collector.spans();
        let is_told = |name: &&str| spans.iter().any(|span| span.name == *name);
        let last = ["POST /scenes/{scene}/confirm", "POST /token"];
        last.iter().all(is_told).then_some(())
    })
    .await;

    let all = collector.spans();
    let login: Vec<Span> = all.iter().filter(|span| span.trace_id == TRACE).cloned().collect();
    check_start(&login);
    check_steps(&all, &login, &browser.scene);
    let start = named(&login, "login start");
    let redis = named(&login, "redis create");
    assert_eq!((redis.attributes["db.system.name"].as_str(), redis.kind), ("redis", 3));
    let instance = |name| &named(&login, name).resource["service.instance.id"];
    assert_eq!(start.resource["service.name"], "scanlogin");
    assert_eq!(start.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(instance("login start"), instance("login confirm"));
    assert_eq!(instance("login scan"), instance("login redeem"));
    assert_ne!(instance("login start"), instance("login scan"));
    // Who has the one finds the other.
    one.log()
        .line_with(&["service.instance.id", instance("login start")])
        .await;
    for told in collector.told() {
        for hidden in [browser.scene.as_str(), openid, "127.0.0.1"] {
            let is_there = told.bytes.windows(hidden.len()).any(|part| part == hidden.as_bytes());
            assert!(!is_there, "{hidden} is told");
        }
    }
}

/// The page's request, and what began with it.
fn check_start(login: &[Span]) {
    let request = named(login, "POST /scenes");
    assert_eq!((request.parent.as_str(), request.kind), (SPAN, 2));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/scenes"),
        ("http.response.status_code", "201"),
        ("url.path", "/scenes"),
        ("url.scheme", "http"),
    ] {
        assert_eq!(request.attributes[name], value, "{name}");
    }
    let start = named(login, "login start");
    assert_eq!(start.parent, request.id);
    assert!(below(login, start).contains("redis create"), "{login:#?}");
}

/// Each step is below the start, what it asked for is below it, and it is linked with the request that took it.
fn check_steps(all: &[Span], login: &[Span], scene: &str) {
    let start = named(login, "login start");
    let shortened = format!("{}…", &scene[..8]);
    for (step, route, asks) in [
        ("login watch", "GET /events/{scene}", None),
        (
            "login code",
            "GET /scenes/{scene}/code",
            Some("wechat getwxacodeunlimit"),
        ),
        ("login scan", "POST /scenes/{scene}/scan", Some("wechat jscode2session")),
        ("login scan", "POST /scenes/{scene}/scan", Some("redis replace")),
        ("login confirm", "POST /scenes/{scene}/confirm", Some("redis replace")),
        ("login redeem", "POST /token", Some("redis replace")),
    ] {
        let step = named(login, step);
        assert_eq!(step.parent, start.id, "{}", step.name);
        assert_eq!(step.attributes["scanlogin.scene"], shortened);
        assert!(step.millis < 10_000, "{} ends with the stream", step.name);
        let [(trace_id, span_id)] = &*step.links else {
            panic!("{:?}", step.links);
        };
        let taken_by = all
            .iter()
            .find(|span| (&span.trace_id, &span.id) == (trace_id, span_id));
        let taken_by = taken_by.unwrap_or_else(|| panic!("{} is linked with nothing: {all:#?}", step.name));
        assert_eq!((taken_by.name.as_str(), taken_by.parent.as_str()), (route, ""));
        assert_ne!(taken_by.trace_id, TRACE, "its caller had none");
        assert_eq!(taken_by.resource, step.resource);
        let children = below(login, step);
        assert!(
            asks.is_none_or(|asks| children.contains(asks)),
            "{}: {children:?}",
            step.name
        );
    }
}

#[tokio::test]
async fn a_step_is_part_of_the_trace_of_its_login_and_its_request_of_its_callers() {
    let collector = Collector::start().await;
    let service = traced(Service::builder(), &collector).start().await;
    let browser = Browser::start(&service).await;
    let traceparent = sampled();
    let cancel = browser.call(Method::DELETE, &format!("/scenes/{}", browser.scene));
    let cancel = cancel.header("traceparent", &traceparent).bearer_auth(&browser.secret);
    assert_eq!(Reply::to(cancel).await.status, 204);

    let request = collector.span("DELETE /scenes/{scene}", TRACE).await;
    assert_eq!(request.parent, SPAN);
    assert_eq!(
        request.attributes["url.path"],
        format!("/scenes/{}…", &browser.scene[..8])
    );
    let spans = collector.spans();
    let (start, step) = (named(&spans, "login start"), named(&spans, "login cancel"));
    assert_ne!(start.trace_id, TRACE);
    assert_eq!((&step.trace_id, &step.parent), (&start.trace_id, &start.id));
    assert_eq!(step.links, [(request.trace_id, request.id)]);
}

#[tokio::test]
async fn what_is_nobodys_business_is_in_no_span() {
    let collector = Collector::start().await;
    let service = traced(Service::builder(), &collector).start().await;
    let hidden = "a-canary-that-callers-put-where-it-does-not-belong";
    canaries::learn("a secret in an address", hidden);
    let browser = Browser::start(&service).await;
    let path = format!("/scenes/{}/code?code={hidden}", browser.scene);
    for request in [
        service.get(&path),
        service.get(&format!("/userinfo?access_token={hidden}")),
        service.get(&format!("/nothing/{hidden}")),
        service.get(&format!("/assets/{hidden}")),
        service.get(&format!("/s/{hidden}")),
        service.get(&format!("/avatars/{}.{hidden}", browser.scene)),
        service
            .get("/")
            .header("user-agent", hidden)
            .header("tracestate", format!("a={hidden}")),
        service.call(Method::from_bytes(hidden.as_bytes()).unwrap(), "/"),
    ] {
        Reply::to(request.header("traceparent", sampled())).await;
    }
    log_in(&service, "bob-whom-no-trace-names").await;
    eventually("all of them are told of", || async {
        let spans = collector.spans();
        let ours = spans.iter().filter(|span| span.trace_id == TRACE && span.kind == 2);
        (ours.count() == 8 && spans.iter().any(|span| span.name == "login redeem")).then_some(())
    })
    .await;
    // That it holds none of these is looked at as it stops.
    let spans = collector.spans();
    let unknown = spans
        .iter()
        .find(|span| span.name == "GET")
        .expect("of what there is not");
    let other = spans.iter().find(|span| span.name == "HTTP /");
    let other = other.expect("of a method that there is not");
    assert_eq!(other.attributes["http.request.method"], "_OTHER");
    assert_eq!(unknown.attributes["http.response.status_code"], "404");
    assert!(!unknown.attributes.contains_key("url.path"), "{unknown:?}");
    for told in collector.told() {
        let is_there = |part: &str| told.bytes.windows(part.len()).any(|found| found == part.as_bytes());
        assert!(!is_there(&browser.scene) && !is_there("bob-whom"), "somebody is named");
    }
}

/// The log's lines of this request.
async fn lines_of(service: &Service, request_id: &str) -> Vec<Value> {
    service.log().line_with(&["millis", request_id]).await;
    let lines = service.log().lines();
    let lines = lines.iter().filter(|line| line.contains(request_id));
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn each_line_of_the_log_names_trace_request_and_scene_whether_or_not_anybody_collects() {
    let collector = Collector::start().await;
    for builder in [Service::builder(), traced(Service::builder(), &collector)] {
        // As much as there is, and of spans more than that.
        let filter = "info,hyper_util=trace,[request]=trace,[step]=trace,[redis]=trace,[wechat]=trace";
        let service = builder.with("LOG", "json").rust_log(filter).start().await;
        let browser = Browser::start(&service).await;
        let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
        let shortened = format!("{}…", &browser.scene[..8]);
        let decline = service.post(
            &format!("/scenes/{}/decline", browser.scene),
            &json!({ "reason": "not_me" }),
        );
        let decline = decline
            .header("traceparent", sampled())
            .header("x-request-id", "of-this-test");
        Reply::to(decline.bearer_auth(&phone.token)).await.ok();
        let lines = lines_of(&service, "of-this-test").await;
        let [on_the_way, last] = &*lines else {
            panic!("{lines:#?}")
        };
        assert!(
            on_the_way["message"].as_str().unwrap().contains("not asked for"),
            "{on_the_way}"
        );
        for names in [&on_the_way["span"], last] {
            assert_eq!(names["request_id"], "of-this-test", "{names}");
            assert_eq!(names["trace_id"], TRACE, "{names}");
            assert_eq!(names["scene"], shortened, "{names}");
        }
        assert_eq!(on_the_way["spans"].as_array().map(Vec::len), Some(1), "{on_the_way}");

        // Who names none has one all the same, a new one each time; and what no path says the reply does.
        let first = service.log().line_with(&["\"/scenes\"", &shortened]).await;
        let first: Value = serde_json::from_str(&first).unwrap();
        let trace_id = first["trace_id"].as_str().unwrap();
        assert!(
            trace_id.len() == 32 && trace_id != TRACE && trace_id != "0".repeat(32),
            "{first}"
        );
        let code = Browser::start(&service).await.code_of("alice", &service).await;
        Site::demo().redeem(&service, &code).await.ok();
        let redeemed = service
            .log()
            .line_with(&["\"/token\"", &format!("{}…", &code[..8])])
            .await;
        let redeemed: Value = serde_json::from_str(&redeemed).unwrap();
        assert_ne!(redeemed["trace_id"], first["trace_id"]);
        let lines = service.log().lines();
        for line in &lines {
            assert!(!line.contains("otel"), "the collector's: {line}");
        }
        // What is written inside a step, as WeChat is asked, is of the request and nothing else.
        let inside: Vec<Value> = lines
            .iter()
            .filter(|line| line.contains("hyper_util::client") && line.contains("request_id"))
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert!(!inside.is_empty(), "{lines:#?}");
        for line in inside {
            assert_eq!(line["span"]["name"], "request", "{line}");
            assert_eq!(line["spans"].as_array().map(Vec::len), Some(1), "{line}");
        }
    }
}

#[tokio::test]
async fn a_traceparent_that_names_nothing_is_as_none() {
    let service = Service::builder().with("LOG", "json").start().await;
    let valid = sampled();
    let of_the_future = format!("cc-{TRACE}-{SPAN}-01-what the future brings");
    let wrong = [
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}-{SPAN}"),
        TRACE.to_owned(),
        "\u{e9}".to_owned(),
        format!("00-{TRACE}-{SPAN}-01{}", "0".repeat(4_000)),
    ];
    let mut cases: Vec<(Vec<&str>, bool)> = vec![(vec![&valid], true), (vec![&of_the_future], true)];
    cases.extend(wrong.iter().map(|text| (vec![text.as_str()], false)));
    cases.push((vec![&valid, &valid], false));
    for (number, (headers, is_taken)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}.");
        let request = service.get("/").header("x-request-id", &id);
        let request = headers
            .iter()
            .fold(request, |request, text| request.header("traceparent", text.as_bytes()));
        assert_eq!(Reply::to(request).await.status, 200);
        let lines = lines_of(&service, &id).await;
        let trace_id = lines[0]["trace_id"].as_str().expect("each has one");
        assert_eq!(trace_id == TRACE, is_taken, "{headers:?}");
        assert_eq!(trace_id.len(), 32);
    }
}

/// What came to a webhook with each message.
async fn receiver() -> (SocketAddr, Arc<Mutex<Vec<HeaderMap>>>) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&received);
    let take = async move |headers: HeaderMap| all.lock().unwrap().push(headers);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    TaskTracker::new().spawn(async move {
        let _ = axum::serve(listener, Router::new().route("/", post(take))).await;
    });
    (addr, received)
}

#[tokio::test]
async fn a_sites_server_is_told_which_trace_its_message_is_part_of() {
    let collector = Collector::start().await;
    let (addr, received) = receiver().await;
    let settings =
        format!("[[client]]\nclient_id = \"blog\"\nwebhook_url = \"http://{addr}/\"\nwebhook_secret = \"{SECRET}\"\n");
    for (is_collected, is_callers) in [(true, true), (false, true), (true, false), (false, false)] {
        received.lock().unwrap().clear();
        let builder = Service::builder().config_toml(&settings);
        let builder = if is_collected {
            traced(builder, &collector)
        } else {
            builder
        };
        let service = builder.start().await;
        let browser = if is_callers {
            start(&service, &sampled()).await
        } else {
            Browser::start(&service).await
        };
        let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
        phone.confirm(&service, &browser.scene).await.ok();
        let told = eventually("a message", || async { received.lock().unwrap().first().cloned() }).await;
        let traceparent = told.get("traceparent").map(|traceparent| traceparent.to_str().unwrap());
        match (is_collected, is_callers) {
            (true, true) => {
                let webhook = collector.span("webhook", TRACE).await;
                assert_eq!(traceparent, Some(&*format!("00-{TRACE}-{}-01", webhook.id)));
                let confirm = collector.span("login confirm", TRACE).await;
                assert_eq!(webhook.parent, confirm.id);
            }
            (false, true) => assert_eq!(traceparent, Some(&*sampled()), "passed on as it came"),
            (true, false) => {
                let (_, trace_id) = traceparent.and_then(|text| text.split_once('-')).expect("one of ours");
                let webhook = collector.span("webhook", &trace_id[..32]).await;
                assert_eq!(
                    traceparent,
                    Some(&*format!("00-{}-{}-01", webhook.trace_id, webhook.id))
                );
            }
            // One that nobody records would keep the site's own from being recorded.
            (false, false) => assert_eq!(traceparent, None),
        }
    }
}

#[tokio::test]
async fn a_trace_is_recorded_as_its_caller_decided_and_else_by_the_ratio() {
    let collector = Collector::start().await;
    let unsampled = format!("00-{}-{SPAN}-00", "a".repeat(32));
    for (ratio, is_recorded) in [("0", false), ("1.0", true)] {
        let service = traced(Service::builder(), &collector)
            .with("TRACES_RATIO", ratio)
            .start()
            .await;
        let before = collector.spans().len();
        let own = Browser::start(&service).await;
        start(&service, &unsampled).await;
        start(&service, &sampled()).await;
        // What a step is part of was decided at its start.
        own.cancel().await;
        service.terminate();
        let mut service = service;
        assert!(service.process.ended().await.success());
        let spans = collector.spans().split_off(before);
        let starts: Vec<&Span> = spans.iter().filter(|span| span.name == "login start").collect();
        assert!(starts.iter().any(|span| span.trace_id == TRACE), "{spans:#?}");
        assert_eq!(starts.len(), if is_recorded { 2 } else { 1 }, "{spans:#?}");
        assert_eq!(spans.iter().any(|span| span.name == "login cancel"), is_recorded);
        assert!(spans.iter().all(|span| span.trace_id != "a".repeat(32)));
    }
}

#[tokio::test]
async fn without_a_collector_nothing_is_sent_whatever_the_environment_says() {
    let collector = Collector::start().await;
    let mut service = Service::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            format!("{}/v1/traces", collector.url()),
        )
        .start()
        .await;
    log_in(&service, "alice").await;
    assert!(exported(&service).await + dropped(&service).await == 0.0);
    service.terminate();
    assert!(service.process.ended().await.success());
    assert!(collector.told().is_empty());
}

#[tokio::test]
async fn what_is_in_a_span_is_there_whatever_the_environment_says() {
    let collector = Collector::start().await;
    let limits = ["ATTRIBUTE_COUNT", "EVENT_COUNT", "LINK_COUNT"];
    let service = limits
        .iter()
        .fold(traced(Service::builder(), &collector), |service, limit| {
            service.env(&format!("OTEL_SPAN_{limit}_LIMIT"), "0")
        });
    let service = service.start().await;
    let browser = start(&service, &sampled()).await;
    assert_eq!(browser.cancel().await.status, 204);
    let request = collector.span("POST /scenes", TRACE).await;
    assert_eq!(request.attributes["http.route"], "/scenes");
    assert_eq!(collector.span("login cancel", TRACE).await.links.len(), 1);
}

/// The conventions know an error by its status and its type.
#[tokio::test]
async fn what_failed_and_why_is_told() {
    let collector = Collector::start().await;
    let service = traced(Service::builder(), &collector).start().await;
    let browser = start(&service, &sampled()).await;
    service
        .fault(json!({ "call": "jscode2session", "errcode": 40013 }))
        .await;
    let body = json!({ "code": service.wx_code("alice").await });
    let scan = service.post(&format!("/scenes/{}/scan", browser.scene), &body);
    Reply::to(scan).await.problem(502, "wechat_error");
    let asked = collector.span("wechat jscode2session", TRACE).await;
    assert!(asked.failed, "{asked:?}");
    assert_eq!(asked.attributes["scanlogin.wechat.errcode"], "40013");
    let spans = eventually("the request's span", || async {
        let spans = collector.spans();
        let told = spans.iter().any(|span| span.name == "POST /scenes/{scene}/scan");
        told.then_some(spans)
    })
    .await;
    let request = named(&spans, "POST /scenes/{scene}/scan");
    assert!(request.failed, "{request:?}");
    assert_eq!(request.attributes["http.response.status_code"], "502");
    assert_eq!(request.attributes["error.type"], "wechat_error");
    assert!(!collector.span("POST /scenes", TRACE).await.failed);
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent_and_a_collector_that_hangs_does_not_hold_the_end_up() {
    let collector = Collector::start().await;
    let mut service = traced(Service::builder(), &collector).start().await;
    log_in(&service, "alice").await;
    service.terminate();
    assert!(service.process.ended().await.success());
    assert!(collector.spans().iter().any(|span| span.name == "login redeem"));
    assert!(
        !service
            .log()
            .lines()
            .iter()
            .any(|line| line.contains("WARN") && line.contains("span"))
    );

    let mut service = traced(Service::builder(), &collector).start().await;
    collector.set(Manner::Hangs);
    log_in(&service, "alice").await;
    service.terminate();
    assert!(service.process.ended().await.success());
    service
        .log()
        .line_with(&["WARN", "could not be delivered in time"])
        .await;
    service.log().line_with(&["ended"]).await;
}

/// A login of which spans are dropped.
async fn drops(service: &Service) {
    let before = dropped(service).await;
    log_in(service, "alice").await;
    eventually("spans are dropped", || async {
        (dropped(service).await > before).then_some(())
    })
    .await;
}

/// The warnings about a collector.
fn warnings(service: &Service) -> usize {
    let lines = service.log().lines();
    lines.iter().filter(|line| line.contains("does not take spans")).count()
}

#[tokio::test]
async fn a_collector_that_refuses_is_told_of_once_and_what_it_misses_is_counted() {
    let collector = Collector::start().await;
    let service = traced(Service::builder(), &collector).start().await;
    for status in [400, 500] {
        collector.set(Manner::Answers(status));
        drops(&service).await;
    }
    assert_eq!(warnings(&service), 1);
    service
        .log()
        .line_with(&["SCANLOGIN_OTLP_ENDPOINT does not take spans", "HTTP status 400"])
        .await;
    collector.set(Manner::Answers(200));
    log_in(&service, "alice").await;
    service.log().line_with(&["takes spans again"]).await;
    assert!(exported(&service).await > 0.0);
    collector.set(Manner::Answers(400));
    log_in(&service, "alice").await;
    eventually("a new trouble is told of", || async {
        (warnings(&service) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_may_be_taken_later_is_sent_again() {
    let collector = Collector::at("127.0.0.1:0".parse().unwrap(), Manner::Answers(503)).await;
    let service = traced(Service::builder(), &collector).start().await;
    start(&service, &sampled()).await;
    service
        .log()
        .line_with(&["does not take spans", "HTTP status 503"])
        .await;
    collector.set(Manner::Answers(200));
    collector.span("login start", TRACE).await;
    eventually("it is counted once", || async {
        (exported(&service).await > 0.0).then_some(())
    })
    .await;
    assert!(dropped(&service).await == 0.0);
}

#[tokio::test]
async fn a_collector_that_is_not_there_yet_is_told_of_once_and_used_when_it_is() {
    let addr = free_addr();
    let service = Service::builder()
        .with("OTLP_ENDPOINT", format!("http://{addr}"))
        .start()
        .await;
    for _ in 0..2 {
        drops(&service).await;
    }
    assert_eq!(warnings(&service), 1);
    let collector = Collector::at(addr, Manner::Answers(200)).await;
    start(&service, &sampled()).await;
    collector.span("login start", TRACE).await;
    service.log().line_with(&["takes spans again"]).await;
}

#[tokio::test]
async fn what_a_collector_answers_that_is_no_http_is_told_of_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"\x00\xffgarbage\r\n\r\n").await;
        }
    });
    let service = Service::builder()
        .with("OTLP_ENDPOINT", format!("http://{addr}"))
        .start()
        .await;
    for _ in 0..2 {
        drops(&service).await;
    }
    assert_eq!(warnings(&service), 1);
}

#[tokio::test]
async fn logins_go_on_while_a_collector_hangs_and_spans_without_room_are_counted() {
    let collector = Collector::at("127.0.0.1:0".parse().unwrap(), Manner::Hangs).await;
    let service = traced(Service::builder(), &collector).start().await;
    let until_dropped = async {
        // More than are given up for the time that they take.
        while dropped(&service).await < 2_000.0 {
            for page in join_all((0..500).map(|_| service.get("/").send())).await {
                assert_eq!(page.expect("an answer").status(), 200);
            }
        }
        log_in(&service, "alice").await;
    };
    let went_on = timeout(Duration::from_secs(90), until_dropped).await;
    assert!(went_on.is_ok(), "somebody waits for the collector");
    service.log().line_with(&["does not take spans"]).await;
    assert_eq!(warnings(&service), 1);
}

#[tokio::test]
async fn who_sends_spans_elsewhere_is_not_followed() {
    let collector = Collector::at("127.0.0.1:0".parse().unwrap(), Manner::Redirects).await;
    let service = traced(Service::builder(), &collector).start().await;
    drops(&service).await;
    service
        .log()
        .line_with(&["does not take spans", "HTTP status 307"])
        .await;
}

#[tokio::test]
async fn spans_that_a_collector_rejects_of_a_message_that_it_takes_are_dropped() {
    let collector = Collector::at("127.0.0.1:0".parse().unwrap(), Manner::Rejects(1)).await;
    let service = traced(Service::builder(), &collector).start().await;
    for _ in 0..2 {
        drops(&service).await;
    }
    service.log().line_with(&["does not take spans", "rejected"]).await;
    assert_eq!(warnings(&service), 1);
    let messages = u32::try_from(collector.told().len()).unwrap();
    eventually("what is counted", || async {
        let (dropped, exported) = (dropped(&service).await, exported(&service).await);
        (dropped >= f64::from(messages) && exported > dropped).then_some(())
    })
    .await;
    collector.set(Manner::Answers(200));
    log_in(&service, "alice").await;
    service.log().line_with(&["takes spans again"]).await;
}

#[tokio::test]
async fn a_collector_is_shown_the_headers_of_the_settings() {
    let collector = Collector::start().await;
    let (key, other) = ("a-key-for-a-collector", "another key for a collector");
    canaries::learn("a collector's key", key);
    canaries::learn("a collector's key", other);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "api-key=another%20key%20for%20a%20collector\n").unwrap();
    let service = traced(Service::builder(), &collector);
    for (service, wanted) in [
        (
            service
                .clone()
                .with("OTLP_HEADERS", format!("x-team=logins,api-key={key}")),
            key,
        ),
        (service.with("OTLP_HEADERS_FILE", file.path().display()), other),
    ] {
        let service = service.start().await;
        Browser::start(&service).await;
        eventually("it is shown", || async {
            let told = collector.told();
            let is_shown = |headers: &HeaderMap| headers.get("api-key").is_some_and(|shown| shown == wanted);
            let shown = told.iter().find(|told| is_shown(&told.headers))?;
            assert_eq!(shown.headers["content-type"], "application/x-protobuf");
            Some(())
        })
        .await;
    }
}

#[tokio::test]
async fn settings_that_lead_nowhere_stop_the_start_with_one_line() {
    let endpoint = ("OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let hidden = "a-key-that-is-not-repeated";
    canaries::learn("a collector's key", hidden);
    for (settings, said) in [
        (vec![("OTLP_ENDPOINT", "collector:4318")], "SCANLOGIN_OTLP_ENDPOINT"),
        (
            vec![("OTLP_ENDPOINT", "http://me:a-key-that-is-not-repeated@collector")],
            "SCANLOGIN_OTLP_HEADERS",
        ),
        (vec![("OTLP_HEADERS", "a=b")], "but not SCANLOGIN_OTLP_ENDPOINT"),
        (
            vec![endpoint, ("OTLP_HEADERS", hidden)],
            "header 1 is not of the form name=value",
        ),
        (
            vec![endpoint, ("OTLP_HEADERS_FILE", "/nowhere/headers")],
            "SCANLOGIN_OTLP_HEADERS_FILE: /nowhere/headers",
        ),
        (vec![endpoint, ("TRACES_RATIO", "2")], "SCANLOGIN_TRACES_RATIO"),
    ] {
        let service = settings
            .iter()
            .fold(Service::builder(), |service, (name, value)| service.with(name, value));
        let (code, line) = service.refused().await;
        assert_eq!(code, 2, "{line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{said}: {line}");
    }
}
