//! Each call against each way in which WeChat may misbehave.

use std::fmt::Write;
use std::future::ready;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use scanlogin::scene::SceneId;
use scanlogin::telemetry::Metrics;
use scanlogin::wechat::EnvVersion;
use scanlogin::wechat::client::{Client, CodeSettings, Error};
use scanlogin::wechat::errcode::Errcode;
use scanlogin::wechat::picture::MediaType;
use serde_json::json;
use tokio::time::Instant;

use super::store::Shared;
use super::upstream::{JPEG, PICTURE, PNG, Reply, SESSION, STABLE_TOKEN, TOKEN, WeChat};
use super::{APPID, Replica, SECRET, mini_program};
use crate::support::redis::free_addr;
use crate::support::roles::{Browser, Phone};
use crate::support::service::Service;

const CALLS: [&str; 4] = [TOKEN, STABLE_TOKEN, PICTURE, SESSION];
const JS_CODE: &str = "canary-js-code";

fn scene() -> SceneId {
    SceneId::random(&mut StdRng::seed_from_u64(1))
}

fn settings() -> CodeSettings {
    CodeSettings::new("pages/confirm/confirm", EnvVersion::Release)
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Makes one call, whichever; pictures with a token that is good.
async fn call(replica: &Replica, path: &str) -> Result<(), Error> {
    let client = &replica.client;
    match path {
        TOKEN => client.token(&mini_program()).await.map(drop),
        STABLE_TOKEN => client.stable_token(&mini_program(), false).await.map(drop),
        PICTURE => picture(replica).await.map(drop),
        SESSION => client.jscode2session(&mini_program(), JS_CODE).await.map(drop),
        other => panic!("{other} is no call"),
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Errcode { .. } | Error::TokenRefused { .. } => "errcode",
        Error::Timeout => "timeout",
        Error::Unavailable(_) | Error::CutShort => "unavailable",
        Error::CircuitOpen { .. } => "circuit open",
        Error::Limited(_) => "limited",
        Error::Invalid(_) => "invalid",
    }
}

async fn picture(replica: &Replica) -> Result<MediaType, Error> {
    let settings = &settings();
    let made = replica.tokens.with_token(|token| async move {
        replica
            .client
            .getwxacodeunlimit(&token, &scene(), settings, &|| ready(true).boxed())
            .await
    });
    made.await.map(|picture| picture.media_type())
}

async fn wechat_and_replica() -> (WeChat, Replica) {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    // Fetches the token, so that tests of pictures are about pictures.
    assert_eq!(picture(&replica).await.unwrap(), MediaType::Png);
    (wechat, replica)
}

#[tokio::test]
async fn what_is_asked_has_the_form_that_wechat_wants() {
    let (wechat, replica) = wechat_and_replica().await;
    for path in CALLS {
        call(&replica, path).await.unwrap();
    }
    let token = &wechat.asked(TOKEN)[0];
    assert_eq!(token.query["grant_type"], "client_credential");
    assert_eq!(
        (token.query["appid"].as_str(), token.query["secret"].as_str()),
        (APPID, SECRET)
    );
    assert_eq!(
        wechat.asked(STABLE_TOKEN)[0].body,
        json!({ "grant_type": "client_credential", "appid": APPID, "secret": SECRET, "force_refresh": false })
    );
    assert_eq!(
        wechat.asked(PICTURE)[0].body,
        json!({
            "scene": scene().to_string(), "page": "pages/confirm/confirm", "check_path": true,
            "env_version": "release", "width": 430, "is_hyaline": false,
        })
    );
    let session = &wechat.asked(SESSION)[0];
    assert_eq!(session.query["grant_type"], "authorization_code");
    assert_eq!(session.query["js_code"], JS_CODE);
    assert_eq!(
        (session.query["appid"].as_str(), session.query["secret"].as_str()),
        (APPID, SECRET)
    );
}

#[tokio::test]
async fn whoever_scanned_is_who_wechat_says() {
    let (wechat, replica) = wechat_and_replica().await;
    let alice = replica.client.jscode2session(&mini_program(), JS_CODE).await.unwrap();
    assert_eq!(
        (alice.appid.as_str(), alice.openid.as_str(), alice.unionid),
        (APPID, "openid-of-alice", None)
    );
    wechat.once(
        SESSION,
        Reply::Json(json!({ "errcode": 0, "errmsg": "ok", "openid": "openid-of-bob", "unionid": "union-of-bob" })),
    );
    let bob = replica
        .client
        .jscode2session(&mini_program(), "&another=code#")
        .await
        .unwrap();
    assert_eq!(
        (bob.openid.as_str(), bob.unionid.as_deref()),
        ("openid-of-bob", Some("union-of-bob"))
    );
    assert_eq!(wechat.asked(SESSION)[1].query["js_code"], "&another=code#");
}

#[tokio::test]
async fn every_misbehaviour_has_one_answer_and_no_call_but_a_busy_one_is_made_again() {
    let (wechat, replica) = wechat_and_replica().await;
    let misbehaviours = [
        ("503", Reply::Status(503), "unavailable"),
        ("429", Reply::Status(429), "unavailable"),
        ("404", Reply::Status(404), "invalid"),
        (
            "reset mid-body",
            Reply::Reset(Bytes::from_static(&PNG[..9])),
            "unavailable",
        ),
        ("HTML", Reply::Bytes("text/html", bytes("<html>busy</html>")), "invalid"),
        ("empty", Reply::Bytes("text/plain", bytes("")), "invalid"),
        (
            "gzip",
            Reply::Bytes("image/png", Bytes::from_static(b"\x1f\x8b\x08\0\0\0\0\0\0\x03")),
            "invalid",
        ),
        ("JSON of nothing", Reply::Json(json!({})), "invalid"),
        (
            "endless",
            Reply::Endless(Bytes::from_static(&[b' '; 16 * 1024])),
            "invalid",
        ),
    ];
    for path in CALLS {
        for (name, reply, outcome) in &misbehaviours {
            let before = wechat.calls(path);
            wechat.always(path, reply.clone());
            let error = call(&replica, path).await.expect_err(name);
            assert_eq!(kind(&error), *outcome, "{path}, {name}: {error}");
            assert_eq!(wechat.calls(path), before + 1, "{path}, {name}: upstream calls");
            wechat.behave();
            call(&replica, path)
                .await
                .unwrap_or_else(|error| panic!("{path} after {name}: {error}"));
        }
    }
}

#[tokio::test]
async fn a_picture_that_was_cut_short_is_asked_for_twice_more() {
    let (wechat, replica) = wechat_and_replica().await;
    for whole in [PNG, JPEG] {
        let cut = Reply::Bytes("image/jpeg", Bytes::from_static(&whole[..whole.len() - 1]));
        let before = wechat.calls(PICTURE);
        wechat.once(PICTURE, cut.clone());
        call(&replica, PICTURE).await.unwrap();
        assert_eq!(wechat.calls(PICTURE), before + 2);

        wechat.always(PICTURE, cut);
        let error = call(&replica, PICTURE).await.unwrap_err();
        assert_eq!(
            (kind(&error), wechat.calls(PICTURE)),
            ("unavailable", before + 5),
            "{error}"
        );
        wechat.behave();
    }
}

#[tokio::test]
async fn every_error_code_arrives_as_itself_with_its_rid_whatever_its_label_says() {
    let (wechat, replica) = wechat_and_replica().await;
    let no_retry = Errcode::KNOWN.iter().filter(|errcode| **errcode != Errcode::Busy);
    for errcode in no_retry.chain(&[Errcode::Other(12_345)]) {
        let json = format!(
            r#"{{"errcode":{},"errmsg":"no, rid: 62b1c7e9-4b5a3e2f-3a9e0f1b"}}"#,
            errcode.number()
        );
        for path in [TOKEN, STABLE_TOKEN, SESSION] {
            let before = wechat.calls(path);
            wechat.once(path, Reply::Bytes("image/jpeg", Bytes::from(json.clone())));
            let error = call(&replica, path).await.unwrap_err();
            assert_eq!(error.errcode(), Some(*errcode), "{path}");
            assert!(error.to_string().contains("62b1c7e9-4b5a3e2f-3a9e0f1b"), "{error}");
            assert_eq!(wechat.calls(path), before + 1, "{path}, {errcode}: upstream calls");
        }
    }
    for errcode in [40097, 40129, 40169, 41030, 45009, 47001, 85096] {
        wechat.once(
            PICTURE,
            Reply::Bytes("image/jpeg", Bytes::from(format!(r#"{{"errcode":{errcode}}}"#))),
        );
        let error = call(&replica, PICTURE).await.unwrap_err();
        assert_eq!(error.errcode(), Some(Errcode::from(errcode)));
    }
    let text = replica.metrics.render().unwrap();
    assert!(text.contains(r#"scanlogin_wechat_errcodes_total{call="getwxacodeunlimit",errcode="41030"} 1"#));
    assert!(
        text.contains(r#"errcode="other""#) && !text.contains(r#"errcode="12345""#),
        "labels are a closed set"
    );
}

#[tokio::test]
async fn a_picture_is_what_its_bytes_say_not_its_label() {
    let (wechat, replica) = wechat_and_replica().await;
    wechat.once(PICTURE, Reply::Bytes("image/jpeg", Bytes::from_static(PNG)));
    assert_eq!(picture(&replica).await.unwrap(), MediaType::Png);
    wechat.once(PICTURE, Reply::Bytes("application/json", Bytes::from_static(JPEG)));
    assert_eq!(picture(&replica).await.unwrap(), MediaType::Jpeg);
}

#[tokio::test]
async fn a_busy_wechat_is_asked_again_but_never_with_a_single_use_code() {
    let (wechat, replica) = wechat_and_replica().await;
    for path in CALLS {
        let before = wechat.calls(path);
        wechat.once(path, Reply::errcode(-1));
        let result = call(&replica, path).await;
        if path == SESSION {
            assert_eq!(result.unwrap_err().errcode(), Some(Errcode::Busy));
            assert_eq!(wechat.calls(path), before + 1);
        } else {
            result.unwrap();
            assert_eq!(wechat.calls(path), before + 2);
        }
        let before = wechat.calls(path);
        wechat.always(path, Reply::errcode(-1));
        assert_eq!(call(&replica, path).await.unwrap_err().errcode(), Some(Errcode::Busy));
        assert_eq!(wechat.calls(path), before + if path == SESSION { 1 } else { 3 });
        wechat.behave();
    }
}

#[tokio::test]
async fn a_silent_wechat_costs_no_more_than_the_calls_deadline_and_no_code_is_sent_twice() {
    let (wechat, replica) = wechat_and_replica().await;
    for (path, deadline_s) in [(TOKEN, 5), (STABLE_TOKEN, 5), (SESSION, 5), (PICTURE, 15)] {
        let before = wechat.calls(path);
        wechat.always(path, Reply::Hang);
        let started = Instant::now();
        let (result, ()) = tokio::join!(call(&replica, path), async {
            wechat.until_calls(path, before + 1).await;
            // The clock now jumps to the next thing that anybody waits for: the deadline.
            tokio::time::pause();
        });
        let took = started.elapsed();
        tokio::time::resume();
        assert_eq!(result, Err(Error::Timeout), "{path}");
        let deadline = Duration::from_secs(deadline_s);
        assert!(
            took >= deadline && took < deadline + Duration::from_secs(1),
            "{path} took {took:?}"
        );
        assert_eq!(wechat.calls(path), before + 1, "{path}: upstream calls");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (wechat, replica) = wechat_and_replica().await;
    let elsewhere = WeChat::start().await;
    for path in CALLS {
        wechat.once(path, Reply::Redirect(elsewhere.base().join(path).unwrap().to_string()));
        assert_eq!(
            call(&replica, path).await,
            Err(Error::Invalid("HTTP status 302".to_owned()))
        );
        assert_eq!(elsewhere.calls(path), 0);
    }
}

/// `text`, as the system's gzip packs it.
fn packed(text: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-9c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, text) = (gzip.stdin.take().unwrap(), text.to_vec());
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut input, &text));
    let packed = gzip.wait_with_output().unwrap().stdout;
    writing.join().unwrap().unwrap();
    packed
}

#[tokio::test]
async fn t18_what_is_packed_is_not_unpacked_however_small_it_comes() {
    let (wechat, replica) = wechat_and_replica().await;
    let (blank, whole) = (
        b" ".repeat(64 << 20),
        json!({ "openid": "o", "access_token": "T", "expires_in": 7200 }),
    );
    let bomb = packed(&blank);
    assert!(bomb.len() < 80 * 1024, "{} bytes for 64 MiB", bomb.len());
    // A gigabyte, one packet after the other (RFC 1952 §2.2).
    for (name, packed) in [
        ("a gigabyte", Bytes::from(bomb.repeat(16))),
        ("as much as may come", Bytes::from(packed(&blank[..48 << 20]))),
        ("JSON", Bytes::from(packed(whole.to_string().as_bytes()))),
        ("a picture", Bytes::from(packed(PNG))),
    ] {
        for path in CALLS {
            wechat.once(path, Reply::Gzip(packed.clone()));
            let error = call(&replica, path).await.expect_err(name);
            assert_eq!(kind(&error), "invalid", "{path}, {name}: {error}");
            let asked = wechat.asked(path);
            assert_eq!(asked.last().unwrap().accepts, None, "{path}");
        }
    }
}

/// As whoever stands between us and WeChat, or is taken for it, may answer.
#[tokio::test]
async fn t18_a_service_neither_goes_where_wechat_sends_it_nor_swells() {
    let (wechat, metadata) = (WeChat::start().await, WeChat::start().await);
    let service = Service::builder()
        .with("WECHAT_APPID", APPID)
        .with("WECHAT_SECRET", SECRET)
        .with("WECHAT_API_BASE", wechat.base().as_str().trim_end_matches('/'))
        .with("SIMULATOR", true)
        .start()
        .await;
    let log_in = async || {
        let browser = Browser::start(&service).await;
        let picture = browser.code_image().await;
        (picture, Phone::scan_with(&service, &browser.scene, "a-wx-code").await)
    };
    let (picture, scan) = log_in().await;
    assert_eq!((picture.status, scan.status), (200, 200), "{}", scan.text());
    let resident = async || service.metric("process_resident_memory_bytes", "").await;
    let before = resident().await;
    let bomb = Bytes::from(packed(&b" ".repeat(64 << 20)).repeat(16));
    for reply in [
        Reply::Gzip(bomb),
        Reply::Endless(Bytes::from(vec![b' '; 16 * 1024])),
        Reply::Redirect(format!("{}latest/meta-data/iam", metadata.base())),
        Reply::Redirect("http://169.254.169.254/latest/meta-data".to_owned()),
        Reply::Redirect("file:///etc/passwd".to_owned()),
        // One that would be a picture, but for its length.
        Reply::Bytes(
            "image/png",
            Bytes::from([&PNG[..20], &vec![0; 1024 * 1024], &PNG[PNG.len() - 8..]].concat()),
        ),
    ] {
        for path in [PICTURE, SESSION] {
            wechat.once(path, reply.clone());
        }
        let (picture, scan) = log_in().await;
        picture.problem(502, "wechat_error");
        scan.problem(502, "wechat_error");
    }
    let grown = resident().await - before;
    assert!(grown < 8.0 * 1024.0 * 1024.0, "{grown} bytes more");
    for path in ["/latest/meta-data/iam", PICTURE, SESSION] {
        assert_eq!(metadata.calls(path), 0, "{path}");
    }
    let (picture, scan) = log_in().await;
    assert_eq!((picture.status, scan.status), (200, 200), "{}", scan.text());
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_told_so_and_the_other_one_serves() {
    let wechat = WeChat::start().await;
    let nobody = format!("http://{}", free_addr())
        .parse::<scanlogin::wechat::client::Url>()
        .unwrap();
    let metrics = Metrics::new().unwrap();
    let alone = Client::new(nobody.clone(), None, metrics.clone()).unwrap();
    let error = alone.jscode2session(&mini_program(), JS_CODE).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");

    let paired = Client::new(nobody, Some(wechat.base()), metrics).unwrap();
    paired.stable_token(&mini_program(), false).await.unwrap();
    // Nothing reached the host that could not be connected to, so even a single-use code goes to the other.
    paired.jscode2session(&mini_program(), JS_CODE).await.unwrap();
    assert_eq!((wechat.calls(STABLE_TOKEN), wechat.calls(SESSION)), (1, 1));
}

#[tokio::test]
async fn pictures_under_way_are_bounded_and_do_not_hold_up_a_scan() {
    let (wechat, replica) = wechat_and_replica().await;
    wechat.always(PICTURE, Reply::Hang);
    let crowd = join_all((0..70).map(|_| call(&replica, PICTURE)));
    let scan = async {
        wechat.until_calls(PICTURE, 65).await;
        call(&replica, SESSION).await.unwrap();
        tokio::time::pause();
    };
    let (results, ()) = tokio::join!(crowd, scan);
    tokio::time::resume();
    assert_eq!(
        wechat.calls(PICTURE),
        1 + 64,
        "one before, and as many as may be under way"
    );
    let timeouts = results.iter().filter(|result| **result == Err(Error::Timeout)).count();
    assert_eq!((results.len(), timeouts), (70, 64), "{results:?}");
}

/// Everything that is logged, at the most talkative level.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Hears what this thread logs until the guard is dropped.
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        // Where no subscriber is everybody's, a line that another test's thread comes to first stays muted for this one.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }
}

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_error_log_or_metric_ever_holds_a_secret() {
    let (log, guard) = Log::listen();

    let (wechat, replica) = wechat_and_replica().await;
    let mut shown = String::new();
    for (path, sent) in [
        (TOKEN, SECRET.to_owned()),
        (STABLE_TOKEN, SECRET.to_owned()),
        (PICTURE, "canary_access_token_1".to_owned()),
        (SESSION, format!("{JS_CODE},{SECRET}")),
    ] {
        let echo = format!("you sent {sent}, rid: 62b1c7e9-4b5a3e2f-3a9e0f1b");
        for reply in [
            Reply::Json(json!({ "errcode": 40013, "errmsg": echo })),
            Reply::Json(json!({ "openid": 1, "access_token": [SECRET], "session_key": "canary-session-key" })),
            Reply::Bytes("text/plain", Bytes::from(echo.clone())),
            Reply::Redirect(format!("http://127.0.0.1/?secret={SECRET}&js_code={JS_CODE}")),
            Reply::Reset(Bytes::from(echo.clone())),
            Reply::Status(503),
        ] {
            wechat.once(path, reply);
            let error = call(&replica, path).await.unwrap_err();
            writeln!(shown, "{error} {error:?}").unwrap();
        }
    }
    let nobody = format!("http://{}", free_addr()).parse().unwrap();
    let alone = Client::new(nobody, None, replica.metrics.clone()).unwrap();
    for error in [
        alone.jscode2session(&mini_program(), JS_CODE).await.unwrap_err(),
        alone.token(&mini_program()).await.unwrap_err(),
    ] {
        writeln!(shown, "{error} {error:?}").unwrap();
    }
    let token = replica
        .tokens
        .with_token(|token| async move { Ok(token) })
        .await
        .unwrap();
    writeln!(
        shown,
        "{:?} {:?} {:?} {:?}",
        replica.client,
        replica.tokens,
        mini_program(),
        token
    )
    .unwrap();
    shown += &replica.metrics.render().unwrap();
    drop(guard);
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("fetched an access_token"),
        "the log was not heard: {logged}"
    );
    assert!(shown.contains("62b1c7e9-4b5a3e2f-3a9e0f1b"), "the rid is kept");
    for canary in [SECRET, JS_CODE, "canary_access_token", "session-key", "js_code="] {
        assert!(!shown.contains(canary), "{canary} in {shown}");
        assert!(!logged.contains(canary), "{canary} in {logged}");
    }
}
