//! The audit log: who logged in where, and how it ended, for whoever must be able to say so later.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::Method;
use ring::hmac;
use scanlogin::scene::s256;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::places;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::{eventually, temporary_directory};

const KEY: &str = "an-audit-key-of-32-characters-or-more";
const OTHER_KEY: &str = "another-audit-key-of-as-many-characters";
const DROPPED: &str = "scanlogin_audit_lines_dropped_total";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the built-in simulator's Mini Program is called.
const APPID: &str = "wxsimulated0000000";

const DOCUMENT: &str = include_str!("../../docs/audit.md");

fn hashed(service: ServiceBuilder, key: &str) -> ServiceBuilder {
    service.with("AUDIT_NAMES", "hashed").with("AUDIT_KEY", key)
}

/// What a person of the simulator is called where names are hashed with this key.
fn name_by(key: &str, openid: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, format!("{APPID}\0{openid}").as_bytes()))
}

/// A place for a file, which goes with it.
fn at(name: &str) -> (TempDir, PathBuf) {
    let dir = temporary_directory();
    let path = dir.path().join(name);
    (dir, path)
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a line in part: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// They are written behind the back of whoever is answered.
async fn so_many(path: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines in {}", path.display()), || async {
        Some(records(path)).filter(|records| records.len() >= count)
    })
    .await
}

fn of<'r>(records: &'r [Value], field: &str) -> Vec<&'r str> {
    records.iter().filter_map(|record| record[field].as_str()).collect()
}

/// What is written of this login, in order.
fn about<'r>(records: &'r [Value], browser: &Browser) -> Vec<&'r Value> {
    let scene = shortened(browser);
    records.iter().filter(|record| record["scene"] == *scene).collect()
}

fn shortened(browser: &Browser) -> String {
    format!("{}…", &browser.scene[..8])
}

/// A browser behind a proxy, on Windows and at Hangzhou.
async fn start_there(service: &Service) -> Browser {
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let start = start.header("x-forwarded-for", "203.0.113.7").header(
        "user-agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0",
    );
    Browser::started(service, &Reply::to(start).await)
}

/// A scan of somebody who came so.
async fn scan(service: &Service, browser: &Browser, openid: &str, entry_scene: i64) -> (Value, Phone) {
    let body = json!({ "code": service.wx_code(openid).await, "entry_scene": entry_scene });
    let scan = service.post(&format!("/scenes/{}/scan", browser.scene), &body);
    let scanned = Reply::to(scan).await.ok();
    let token = scanned["confirm_token"].as_str().unwrap().to_owned();
    let openid = openid.to_owned();
    (scanned, Phone { openid, token })
}

async fn log_in(service: &Service, openid: &str) -> Browser {
    let browser = Browser::start(service).await;
    let code = browser.code_of(openid, service).await;
    Site::demo().redeem(service, &code).await.ok();
    browser
}

/// For whoever waits for something to happen meanwhile: the simulator counts as WeChat does, and refuses who comes too often.
async fn log_in_at_leisure(service: &Service) -> Browser {
    sleep(Duration::from_millis(100)).await;
    log_in(service, &format!("person-{}", Timestamp::now().as_nanosecond())).await
}

#[tokio::test]
async fn a_login_is_written_down_step_by_step_with_who_and_where_and_no_more() {
    let (_dir, path) = at("audit.log");
    let places = places::file();
    let began = Timestamp::now();
    let builder = hashed(Service::builder(), KEY).audit_log(&path);
    let builder = builder.with("PLACES_FILE", places.path.display());
    let mut service = builder.with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let browser = start_there(&service).await;
    let (_, phone) = scan(&service, &browser, "alice-of-the-audit", 1047).await;
    // Who retries has done it once.
    for _ in 0..2 {
        phone.confirm(&service, &browser.scene).await.ok();
    }
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    Site::demo().redeem(&service, &code).await.ok();
    // What was told is written when the process ends.
    service.terminate();
    assert!(service.process.ended().await.success());

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let text = fs::read_to_string(&path).unwrap();
    for told in ["alice-of-the-audit", &browser.scene] {
        assert!(!text.contains(told), "{told}: {text}");
    }
    let mut last = began;
    let mut seen = records(&path);
    for record in &mut seen {
        let time = record.as_object_mut().unwrap().remove("time").unwrap();
        let time = time.as_str().unwrap();
        assert!(
            time.len() == "2026-08-31T00:00:00.000Z".len() && time.ends_with('Z'),
            "{time}"
        );
        let at: Timestamp = time.parse().unwrap();
        assert!(
            at.as_millisecond() >= last.as_millisecond() && at <= Timestamp::now(),
            "{time}"
        );
        last = at;
    }
    let expected = ["scanned", "confirmed", "redeemed"].map(|event| {
        json!({
            "event": event,
            "client_id": "demo",
            "scene": shortened(&browser),
            "appid": APPID,
            "person": name_by(KEY, "alice-of-the-audit"),
            "browser": "Firefox 143",
            "os": "Windows 10",
            "ip": "203.0.113.7",
            "place": { "zh": "中国 杭州", "en": "Hangzhou, China" },
            "entry_scene": 1047,
            "warned": false,
            "simulated": true,
        })
    });
    assert_eq!(seen, expected);
}

/// Two wrong numbers.
async fn picked_wrongly(service: &Service, browser: &Browser) {
    let (scanned, phone) = scan(service, browser, "alice", 1047).await;
    let right = browser.status().await["match_number"].as_str().unwrap().to_owned();
    let choices = scanned["match_choices"].as_array().unwrap().iter();
    for wrong in choices.filter(|choice| **choice != *right) {
        let picked = json!({ "match_number": wrong });
        let reply = phone.confirm_with(service, &browser.scene, picked).await;
        assert!(reply.status >= 400, "{wrong}: {}", reply.text());
    }
}

/// By a short code.
async fn typed(service: &Service, browser: &Browser) {
    let ask = browser.call(Method::POST, &format!("/scenes/{}/short-code", browser.scene));
    let shown = Reply::to(ask.bearer_auth(&browser.secret)).await.json();
    let body = json!({ "short_code": shown["short_code"], "code": service.wx_code("alice").await });
    Reply::to(service.post("/short-codes/scan", &body)).await.ok();
}

/// One login that ends in each way, each with what is to be written of it: the event, and the reason.
async fn each_end(service: &Service) -> Vec<(Browser, Vec<(&'static str, Option<&'static str>)>)> {
    let start = || Browser::start(service);
    let mut ends = Vec::new();
    for (body, reason) in [(json!({}), "no"), (json!({ "reason": "not_me" }), "not_me")] {
        let browser = start().await;
        let (_, phone) = scan(service, &browser, "alice", 1047).await;
        phone.decline_with(service, &browser.scene, body).await.ok();
        ends.push((browser, vec![("scanned", None), ("declined", Some(reason))]));
    }
    let browser = start().await;
    picked_wrongly(service, &browser).await;
    ends.push((browser, vec![("scanned", None), ("declined", Some("wrong_number"))]));
    let browser = start().await;
    assert_eq!(browser.cancel().await.status, 204);
    ends.push((browser, vec![("cancelled", None)]));
    let browser = start().await;
    typed(service, &browser).await;
    assert_eq!(browser.cancel().await.status, 204);
    ends.push((browser, vec![("scanned", None), ("cancelled", None)]));

    let browser = start_there(service).await;
    let (_, phone) = scan(service, &browser, "alice", 1048).await;
    let right = browser.status().await["match_number"].clone();
    let picked = json!({ "match_number": right });
    phone.confirm_with(service, &browser.scene, picked).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    Site::demo().redeem(service, &code).await.ok();
    let again = Site::demo().redeem(service, &code).await;
    again.oauth_error(400, "invalid_grant");
    let whole = ["scanned", "confirmed", "redeemed", "revoked"];
    ends.push((browser, whole.map(|event| (event, None)).to_vec()));
    ends
}

#[tokio::test]
async fn however_a_login_ends_it_is_written_down_and_the_document_says_all_that_there_is() {
    let (_dir, path) = at("audit.log");
    let places = places::file();
    let builder = Service::builder().audit_log(&path).with("CLIENT_NUMBER_MATCHING", "on");
    let builder = builder.with("PLACES_FILE", places.path.display());
    let service = builder.with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let ends = each_end(&service).await;
    // Its time is over while its browser watches, and its person is asked.
    let quick = Service::builder().audit_log(&path).with("SCENE_TTL", 5).start().await;
    let expiring = Browser::start(&quick).await;
    let mut events = expiring.events().await;
    scan(&quick, &expiring, "alice", 1047).await;
    while events.next().await.expect("an event").event != "expired" {}

    let count = ends.iter().map(|(_, written)| written.len()).sum::<usize>() + 2;
    let all = so_many(&path, count).await;
    for (browser, expected) in &ends {
        let mine = about(&all, browser);
        let seen: Vec<_> = mine
            .iter()
            .map(|record| (record["event"].as_str().unwrap(), record["reason"].as_str()))
            .collect();
        assert_eq!(seen, *expected, "{mine:#?}");
        let somebody = expected[0].0 == "scanned";
        for record in &mine {
            assert_eq!(record["person"].as_str(), somebody.then_some("alice"), "{record}");
            assert_eq!(record["appid"].as_str(), somebody.then_some(APPID), "{record}");
        }
    }
    assert_eq!(about(&all, &expiring).len(), 2, "{all:#?}");
    assert_eq!(all.len(), count, "{all:#?}");
    let typed = all
        .iter()
        .filter(|record| record["doubt"] == "typed" && record["warned"] == true);
    assert_eq!(typed.count(), 2, "{all:#?}");
    let by_picture = all
        .iter()
        .filter(|record| record["entry_scene"] == 1048 && record["warned"] == true);
    assert_eq!(by_picture.count(), 4, "{all:#?}");

    let names = all.iter().flat_map(|record| record.as_object().unwrap().keys());
    assert_eq!(names.map(String::as_str).collect::<BTreeSet<_>>(), documented("field"));
    assert_eq!(
        of(&all, "event").into_iter().collect::<BTreeSet<_>>(),
        documented("event")
    );
    assert_eq!(
        of(&all, "reason").into_iter().collect::<BTreeSet<_>>(),
        documented("reason")
    );
}

/// The names in the document's table of these.
fn documented(what: &str) -> BTreeSet<&'static str> {
    let (_, table) = DOCUMENT.split_once(&format!("| {what} | |")).expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a name")).collect()
}

#[tokio::test]
async fn the_documents_example_has_the_form_of_what_is_written() {
    let (_dir, path) = at("audit.log");
    let places = places::file();
    let builder = hashed(Service::builder(), KEY).audit_log(&path);
    let builder = builder.with("PLACES_FILE", places.path.display());
    let service = builder.with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let browser = start_there(&service).await;
    scan(&service, &browser, "alice", 1047).await;
    so_many(&path, 1).await;
    let (_, example) = DOCUMENT.split_once("```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let written = fs::read_to_string(&path).unwrap();
    // The values of what is of this very login are others, and as long.
    let shape = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for own in ["time", "event", "client_id", "scene", "person", "appid"] {
            let value = record[own].as_str().unwrap_or_else(|| panic!("no {own} in {line}"));
            let length = value.chars().count();
            record[own] = if ["event", "client_id"].contains(&own) {
                json!(null)
            } else {
                json!(length)
            };
        }
        record["simulated"].take();
        record
    };
    let shapes: Vec<Value> = example.lines().map(shape).collect();
    assert_eq!(shapes.len(), 3);
    for one in shapes {
        assert_eq!(one, shape(&written));
    }
}

#[tokio::test]
async fn a_person_has_one_name_wherever_the_key_is_the_same_and_the_document_finds_it() {
    let dir = temporary_directory();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("key"), format!("{KEY}\n")).unwrap();
    let redis = RedisServer::start();
    let one = hashed(Service::builder().redis(&redis), KEY).audit_log(&path("one"));
    let one = one.start().await;
    let two = one.replica().with("AUDIT_NAMES", "hashed").audit_log(&path("two"));
    let two = two.with("AUDIT_KEY_FILE", path("key").display()).start().await;
    let three = hashed(one.replica(), OTHER_KEY).audit_log(&path("three")).start().await;

    let browser = Browser::start(&one).await;
    let mut phone = Phone::of("alice-of-the-audit");
    phone.scan(&one, &browser.scene).await.ok();
    phone.confirm(&two, &browser.scene).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    Site::demo().redeem(&three, &code).await.ok();
    log_in(&one, "bob-of-the-audit").await;

    let alice = name_by(KEY, "alice-of-the-audit");
    let told = so_many(&path("one"), 4).await;
    assert_eq!(of(&told, "event"), ["scanned", "scanned", "confirmed", "redeemed"]);
    let bob = name_by(KEY, "bob-of-the-audit");
    assert_eq!(of(&told, "person"), [&alice, &bob, &bob, &bob]);
    let told = so_many(&path("two"), 1).await;
    assert_eq!(
        (of(&told, "event"), of(&told, "person")),
        (vec!["confirmed"], vec![&*alice])
    );
    let told = so_many(&path("three"), 1).await;
    let stranger = name_by(OTHER_KEY, "alice-of-the-audit");
    assert_ne!(stranger, alice);
    assert_eq!(
        (of(&told, "event"), of(&told, "person")),
        (vec!["redeemed"], vec![&*stranger])
    );
    for name in ["one", "two", "three"] {
        let text = fs::read_to_string(path(name)).unwrap();
        assert!(!text.contains("of-the-audit"), "{name}: {text}");
    }

    let (_, how) = DOCUMENT.split_once("```sh\npython3").expect("how a person is found");
    let (how, _) = how.split_once("```").expect("its end");
    let how = format!("python3{how}").replace("/run/secrets/audit-key", &path("key").display().to_string());
    let how = how
        .replace("wx0123456789abcdef", APPID)
        .replace("OPENID", "alice-of-the-audit");
    let found = Command::new("sh").args(["-c", &how]).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim_end(), alice, "{how}");
}

#[tokio::test]
async fn standard_output_holds_the_audit_log_and_nothing_else() {
    let (_dir, path) = at("output");
    let mut service = Service::builder().output(&path).start().await;
    let browser = log_in(&service, "alice").await;
    service.terminate();
    assert!(service.process.ended().await.success());
    let all = records(&path);
    assert_eq!(of(&all, "event"), ["scanned", "confirmed", "redeemed"]);
    assert_eq!(of(&all, "person"), ["alice"; 3]);
    assert_eq!(about(&all, &browser).len(), 3);
}

/// As logrotate does, without a word to the service.
#[tokio::test]
async fn a_file_that_is_moved_away_is_begun_anew_and_no_line_is_lost() {
    let (dir, path) = at("audit.log");
    let moved = dir.path().join("audit.log.1");
    let service = Service::builder().audit_log(&path).start().await;
    let mut browsers = vec![log_in(&service, "alice").await];
    so_many(&path, 3).await;
    fs::rename(&path, &moved).unwrap();
    let until_anew = async {
        while !path.exists() {
            browsers.push(log_in_at_leisure(&service).await);
        }
        browsers.push(log_in_at_leisure(&service).await);
    };
    timeout(PATIENCE, until_anew)
        .await
        .expect("another is begun in its place");

    let all = eventually("each line is there", || async {
        let all = [records(&moved), records(&path)].concat();
        (all.len() >= 3 * browsers.len()).then_some(all)
    })
    .await;
    assert_eq!(all.len(), 3 * browsers.len());
    for browser in &browsers {
        let own: Vec<_> = about(&all, browser).iter().map(|record| &record["event"]).collect();
        assert_eq!(own, ["scanned", "confirmed", "redeemed"]);
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(service.metric(DROPPED, "").await < 1.0);
}

/// How often the log says this.
fn said(service: &Service, level: &str, words: &str) -> usize {
    let lines = service.log().lines();
    lines
        .iter()
        .filter(|line| line.contains(level) && line.contains(words))
        .count()
}

#[tokio::test]
async fn what_finds_no_file_is_counted_and_told_once_and_so_is_the_end_of_that() {
    let (dir, path) = at("audit.log");
    let gone = dir.path().with_extension("gone");
    let service = Service::builder().audit_log(&path).rust_log("info").start().await;
    fs::rename(dir.path(), &gone).unwrap();
    let until_dropped = async {
        while service.metric(DROPPED, "").await < 6.0 {
            log_in_at_leisure(&service).await;
        }
    };
    timeout(PATIENCE, until_dropped).await.expect("lines are counted");
    fs::rename(&gone, dir.path()).unwrap();
    let browser = log_in(&service, "alice").await;
    service.log().line_with(&["the audit log is written again"]).await;
    eventually("the newest login is there", || async {
        (about(&records(&path), &browser).len() == 3).then_some(())
    })
    .await;
    assert_eq!(said(&service, "WARN", "the audit log can't be written"), 1);
    assert_eq!(said(&service, "INFO", "the audit log is written again"), 1);
}

#[tokio::test]
async fn a_full_disk_keeps_nobody_from_logging_in() {
    let service = Service::builder()
        .audit_log(Path::new("/dev/full"))
        .rust_log("info")
        .start()
        .await;
    let began = Instant::now();
    for _ in 0..5 {
        log_in(&service, "alice").await;
    }
    assert!(began.elapsed() < PATIENCE, "somebody waits for the disk");
    eventually("each line is counted", || async {
        (service.metric(DROPPED, "").await >= 15.0).then_some(())
    })
    .await;
    assert_eq!(said(&service, "WARN", "the audit log can't be written"), 1);
}

/// A full disk took a part of it, and the process that knew so has ended.
#[tokio::test]
async fn a_line_that_stands_there_in_part_when_the_service_starts_takes_no_other_with_it() {
    let (_dir, path) = at("audit.log");
    let cut = "{\"time\":\"2026-08-31T00:00:00.000Z\",\"event\":\"sca";
    fs::write(&path, cut).unwrap();
    for _ in 0..2 {
        let mut service = Service::builder().audit_log(&path).start().await;
        log_in(&service, "alice").await;
        service.terminate();
        assert!(service.process.ended().await.success());
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (7, cut), "{text}");
    for line in &lines[1..] {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// What nobody has read yet. It stays open, so that there is somebody who could.
struct Pipe(File);

impl Pipe {
    fn at(path: &Path) -> Self {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
        let mut both = File::options();
        let both = both.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        Self(both.open(path).unwrap())
    }

    fn read(&mut self) -> String {
        let mut text = Vec::new();
        let end = self.0.read_to_end(&mut text).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        String::from_utf8(text).unwrap()
    }
}

/// More than a pipe holds.
const MANY: usize = 600;

async fn give_up_many(service: &Service) {
    for _ in 0..MANY {
        assert_eq!(Browser::start(service).await.cancel().await.status, 204);
    }
}

#[tokio::test]
async fn what_nobody_reads_holds_no_end_up_and_the_log_says_how_much_it_was() {
    let (_dir, path) = at("output");
    let mut pipe = Pipe::at(&path);
    let mut service = Service::builder().output(&path).rust_log("info").start().await;
    give_up_many(&service).await;
    service.terminate();
    assert!(service.process.ended().await.success());
    service.log().line_with(&["ended"]).await;
    let line = service.log().line_with(&["WARN", "the audit log lacks"]).await;
    let (_, left) = line.split_once("lines=").expect("how many");
    let left: usize = left.trim().parse().expect("a number");
    let read = pipe.read().lines().count();
    assert!(left > 0 && read > 0, "{left} {read}");
    assert_eq!(left + read, MANY);
    let lines = service.log().lines();
    assert!(lines.last().unwrap().contains("ended"), "{lines:#?}");
}

#[tokio::test]
async fn a_named_pipe_is_none_either_that_stands_where_its_file_was_moved_away() {
    let (dir, path) = at("audit.log");
    let service = Service::builder().audit_log(&path).rust_log("info").start().await;
    log_in(&service, "alice").await;
    so_many(&path, 3).await;
    fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let until_dropped = async {
        while service.metric(DROPPED, "").await < 1.0 {
            log_in_at_leisure(&service).await;
        }
    };
    timeout(PATIENCE, until_dropped).await.expect("lines are counted");
    let told = ["the audit log can't be written", "it is a named pipe"];
    service.log().line_with(&told).await;
    fs::remove_file(&path).unwrap();
    let browser = log_in(&service, "alice").await;
    eventually("the newest login is there", || async {
        (about(&records(&path), &browser).len() == 3).then_some(())
    })
    .await;
}

/// A start would stand still until somebody reads.
#[tokio::test]
async fn a_named_pipe_is_no_file_for_it() {
    let (_dir, path) = at("pipe");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let (code, said) = Service::builder().audit_log(&path).refused().await;
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("SCANLOGIN_AUDIT_LOG") && said.contains("it is a named pipe"),
        "{said}"
    );
}
