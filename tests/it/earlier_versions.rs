//! While replicas are replaced one by one, two versions go on with each other's logins: what an earlier one left in Redis is read here.
//! That what a later one adds is kept: `conformance/versions.rs`.
//!
//! Each `fixtures/redis-*.json` is all that one version had there, with a login left in each of its states. They stay as they are; a
//! version that writes something new gets one of its own beside them, by
//! `cargo test --locked --test it earlier_versions::what_this_version_writes -- --ignored`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use reqwest::Method;
use scanlogin::scene::s256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::support::canaries::hex;
use crate::support::cli::cli;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::Service;

const BLOG: Site = Site::Public("blog");
const NUMBERS: Site = Site::Public("numbers");
const CALLBACK: &str = "https://blog.example/callback";
const AVATAR: &[u8] = b"\x89PNG\r\n\x1a\n a picture";
/// Who typed so many wrong short codes that no more are taken.
const BARRED: &str = "mallory";

/// All that a version had in Redis, and what browsers, phones and sites had been told by then.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    version: String,
    /// When this was, in microseconds since the epoch.
    at: i64,
    /// The end of WeChat's access_token.
    token_tail: String,
    logins: BTreeMap<String, Login>,
    redis: Vec<Kept>,
}

/// A login by the state that it was left in.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Login {
    scene: String,
    browser_secret: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    confirm_token: String,
    /// The short code, the number to pick, the authorization code or the access token: whatever goes on from here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    next: String,
}

/// A key and its value: the words that come after the key in `SET`, `HSET` or `ZADD`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    key: String,
    kind: String,
    ttl: i64,
    held: Vec<String>,
}

fn sites(webhook: &str) -> String {
    format!(
        r#"
[[client]]
client_id = "blog"
redirect_uris = ["{CALLBACK}"]
short_codes = true
webhook_url = "{webhook}"
webhook_secret = "whsec_c2Nhbi1sb2dpbi13ZWJob29rLXNlY3JldC1vZi10ZXN0cw=="

[[client]]
client_id = "numbers"
number_matching = "on"
"#
    )
}

/// A service, and WeChat's simulator with it.
async fn service(redis: &RedisServer, webhook: &str) -> Service {
    let builder = Service::builder().redis(redis).config_toml(&sites(webhook));
    builder
        .with("LIMITS", "on")
        .with("CODE_POOL", 0)
        .with("CODE_WIDTH", 280)
        .start()
        .await
}

/// A login that the site began itself.
async fn begun(service: &Service, site: &Site) -> (Browser, Login) {
    let request = json!({ "client_id": site.client_id(), "code_challenge": s256(VERIFIER), "nonce": "a-nonce" });
    begun_with(service, request).await
}

async fn begun_with(service: &Service, request: Value) -> (Browser, Login) {
    let browser = Browser::start_with(service, request).await;
    let login = Login {
        scene: browser.scene.clone(),
        browser_secret: browser.secret.clone(),
        ..Login::default()
    };
    (browser, login)
}

/// The same once a phone has scanned.
async fn scanned(service: &Service, site: &Site) -> (Browser, Phone, Login) {
    let (browser, login) = begun(service, site).await;
    let phone = Phone::that_scanned("alice", service, &browser.scene).await;
    let login = Login {
        confirm_token: phone.token.clone(),
        ..login
    };
    (browser, phone, login)
}

/// A login in each state that there is.
async fn a_login_of_each_kind(service: &Service) -> BTreeMap<String, Login> {
    let mut logins = BTreeMap::new();
    let mut left = |name: &str, login: Login| logins.insert(name.to_owned(), login);

    let (browser, login) = begun(service, &BLOG).await;
    assert_eq!(browser.code_image().await.status, 200);
    left("waiting", login);

    let query = format!(
        "response_type=code&client_id=blog&redirect_uri={CALLBACK}&scope=openid&state=a-state&nonce=a-nonce&code_challenge={}\
         &code_challenge_method=S256",
        s256(VERIFIER)
    );
    let (_, login) = begun_with(service, json!({ "authorization_request": query })).await;
    left("waiting, sent by the site", login);

    let (browser, login) = begun(service, &BLOG).await;
    let path = format!("/scenes/{}/short-code", browser.scene);
    let shown = Reply::to(browser.call(Method::POST, &path).bearer_auth(&browser.secret)).await;
    let next = shown.json()["short_code"].as_str().expect("a short code").to_owned();
    left("waiting, with a short code", Login { next, ..login });

    let (_, _, login) = scanned(service, &BLOG).await;
    left("scanned", login);
    let (browser, phone, login) = scanned(service, &BLOG).await;
    phone.upload_avatar(service, &browser.scene, AVATAR).await.ok();
    left("scanned, with a picture", login);
    let (browser, _, login) = scanned(service, &NUMBERS).await;
    let next = browser.status().await["match_number"]
        .as_str()
        .expect("a number")
        .to_owned();
    left("scanned, with a number to pick", Login { next, ..login });

    let (browser, phone, login) = scanned(service, &BLOG).await;
    phone.decline(service, &browser.scene).await.ok();
    left("declined", login);
    let (browser, login) = begun(service, &BLOG).await;
    assert_eq!(browser.cancel().await.status, 204);
    left("cancelled", login);
    let (browser, _, login) = scanned(service, &BLOG).await;
    assert_eq!(browser.cancel().await.status, 204);
    left("cancelled, once scanned", login);

    for name in ["confirmed", "redeemed"] {
        let (browser, phone, login) = scanned(service, &BLOG).await;
        let profile = json!({ "profile": { "nickname": "Alice" } });
        phone.confirm_with(service, &browser.scene, profile).await.ok();
        let code = browser.status().await["code"].as_str().expect("a code").to_owned();
        let next = if name == "redeemed" {
            let given = BLOG.redeem(service, &code).await.ok();
            given["access_token"].as_str().expect("an access token").to_owned()
        } else {
            code
        };
        left(name, Login { next, ..login });
    }
    logins
}

async fn typed(service: &Service, openid: &str, short_code: &str) -> Reply {
    let body = json!({ "short_code": short_code, "code": service.wx_code(openid).await });
    Reply::to(service.post("/short-codes/scan", &body)).await
}

/// Until a person who types wrong short codes is told to wait.
async fn bar(service: &Service) {
    for _ in 0..100 {
        if typed(service, BARRED, "2222-2222").await.status == 429 {
            return;
        }
    }
    panic!("nobody is barred");
}

async fn token_tails(service: &Service) -> Vec<String> {
    let calls = Reply::to(service.simulator(Method::GET, "calls")).await.ok();
    let tails = calls.as_array().expect("a list").iter();
    tails
        .filter_map(|call| call["token_tail"].as_str().map(str::to_owned))
        .collect()
}

/// Every key, with its words in hex.
const DUMP: &str = "local hex = function(s) return (s:gsub('.', function(c) return string.format('%02x', c:byte()) end)) end \
    local all = {} \
    for _, key in ipairs(redis.call('KEYS', '*')) do \
      local kind, held = redis.call('TYPE', key).ok, {} \
      if kind == 'string' then held = {redis.call('GET', key)} \
      elseif kind == 'hash' then held = redis.call('HGETALL', key) \
      elseif kind == 'zset' then \
        local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') \
        for n = 1, #found, 2 do held[n], held[n + 1] = found[n + 1], found[n] end \
      else error(kind) end \
      for n, word in ipairs(held) do held[n] = hex(word) end \
      all[#all + 1] = {key = key, kind = kind, ttl = redis.call('PTTL', key), held = held} \
    end \
    return cjson.encode(all)";

/// Puts one key back.
const RESTORE: &str = "local bytes = function(s) return (s:gsub('..', function(c) return string.char(tonumber(c, 16)) end)) end \
    local held = {} \
    for n = 3, #ARGV do held[n - 2] = bytes(ARGV[n]) end \
    redis.call(({string = 'SET', hash = 'HSET', zset = 'ZADD'})[ARGV[1]], KEYS[1], unpack(held)) \
    redis.call('PEXPIRE', KEYS[1], ARGV[2]) \
    return 'OK'";

const HEX: &str = "hex:";

/// How much is kept of a picture's beginning, and of its end, without which it would be none.
const PICTURE: (usize, usize) = (64, 2);

/// As a reader of the file may like it: what is no text stands there in hex.
fn readable(in_hex: &str) -> String {
    let text = String::from_utf8(bytes(in_hex)).ok();
    text.filter(|text| !text.contains(|c: char| c.is_control() && c != '\n'))
        .unwrap_or_else(|| format!("{HEX}{in_hex}"))
}

fn bytes(in_hex: &str) -> Vec<u8> {
    let digits = in_hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn redis_time(addr: SocketAddr) -> i64 {
    let told = cli(addr, &["TIME"]);
    let (seconds, micros) = told.split_once('\n').expect("two lines");
    seconds.parse::<i64>().unwrap() * 1_000_000 + micros.trim().parse::<i64>().unwrap()
}

fn dump(addr: SocketAddr) -> Vec<Kept> {
    let mut all: Vec<Kept> = serde_json::from_str(&cli(addr, &["EVAL", DUMP, "0"])).expect("all keys");
    for kept in &mut all {
        if kept.key.ends_with(":picture") {
            let (head, tail) = (2 * PICTURE.0, kept.held[0].len() - 2 * PICTURE.1);
            kept.held[0].replace_range(head..tail, "");
        }
        kept.held = kept.held.iter().map(|word| readable(word)).collect();
    }
    all.sort_by(|one, other| one.key.cmp(&other.key));
    all
}

/// As if it had been left just now, by the clocks of both.
fn restore(addr: SocketAddr, left: &Left) {
    let since = redis_time(addr) - left.at;
    for kept in &left.redis {
        let mut kept = kept.clone();
        if kept.key.contains(":limit:") {
            kept.held[0] = (kept.held[0].parse::<i64>().unwrap() + since).to_string();
        }
        let ttl = kept.ttl.to_string();
        let held = kept.held.iter().map(|word| match word.strip_prefix(HEX) {
            Some(in_hex) => in_hex.to_owned(),
            None => hex(word.as_bytes()),
        });
        let mut words = vec!["EVAL", RESTORE, "1", &kept.key, &kept.kind, &ttl];
        let held: Vec<String> = held.collect();
        words.extend(held.iter().map(String::as_str));
        assert_eq!(cli(addr, &words), "OK", "{}", kept.key);
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures")
}

/// What each version left.
fn all_left() -> Vec<Left> {
    let files = fs::read_dir(fixtures()).expect("the fixtures");
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let all: Vec<Left> = texts.map(|text| serde_json::from_str(&text).unwrap()).collect();
    assert!(all.iter().any(|left| left.version == "0.1.0"));
    all
}

#[tokio::test]
#[ignore = "it makes the fixture of this version, if there is none yet"]
async fn what_this_version_writes() {
    let redis = RedisServer::start();
    // Nobody is there, so that what is to be told stays due.
    let service = service(&redis, "http://127.0.0.1:1/").await;
    bar(&service).await;
    let logins = a_login_of_each_kind(&service).await;
    let token_tail = token_tails(&service).await.pop().expect("a call with a token");
    let left = Left {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: redis_time(redis.addr()),
        token_tail,
        logins,
        redis: dump(redis.addr()),
    };
    let path = fixtures().join(format!("redis-{}.json", left.version));
    let mut file = fs::File::create_new(path).expect("none yet");
    serde_json::to_writer_pretty(&mut file, &left).unwrap();
}

/// A site's own server: the `login.…` of each message, with its scene.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, String)>>>);

impl Told {
    async fn listen(&self, tasks: &TaskTracker) -> String {
        let told = self.clone();
        let take = post(async move |body: String| {
            let message: Value = serde_json::from_str(&body).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let kind = (text(&message["type"]), text(&message["data"]["scene"]));
            told.0.lock().unwrap().push(kind);
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = axum::serve(listener, Router::new().route("/", take));
        tasks.spawn(serving.into_future());
        url
    }

    async fn of(&self, kind: &str, scene: &str) {
        let message = (kind.to_owned(), scene.to_owned());
        let what = format!("{kind} of {scene}");
        eventually(&what, || async {
            self.0.lock().unwrap().contains(&message).then_some(())
        })
        .await;
    }
}

/// One that goes on with what another left.
struct Successor<'a> {
    service: &'a Service,
    left: &'a Left,
}

impl Successor<'_> {
    fn login(&self, state: &str) -> (Browser, Phone, &Login) {
        let login = &self.left.logins[state];
        let browser = Browser::that_has(&login.scene, &login.browser_secret, self.service);
        let mut phone = Phone::of("alice");
        phone.token.clone_from(&login.confirm_token);
        (browser, phone, login)
    }

    /// The browser is told of the confirm, and the site learns who it was.
    async fn redeems(&self, browser: &Browser, site: &Site, form: &[(&str, &str)]) -> Value {
        let told = browser.status().await;
        assert_eq!(told["state"], "confirmed", "{told}");
        let code = told["code"].as_str().unwrap();
        let form = [&[("code", code), ("code_verifier", VERIFIER)], form].concat();
        let given = site.token(self.service, &form).await.ok();
        let claims = Site::verified(self.service, given["id_token"].as_str().unwrap()).await;
        assert_eq!((&claims["sub"], &claims["nonce"]), (&json!("alice"), &json!("a-nonce")));
        claims
    }

    async fn goes_on_from_a_confirm(&self) {
        let (browser, _, login) = self.login("confirmed");
        assert_eq!(browser.status().await["code"], login.next, "the same code as before");
        let claims = self.redeems(&browser, &BLOG, &[]).await;
        assert_eq!(claims["nickname"], "Alice");
        let (browser, _, login) = self.login("redeemed");
        let told = browser.status().await;
        assert_eq!(
            (&told["state"], told.get("code")),
            (&json!("confirmed"), None),
            "{told}"
        );
        let known = Site::userinfo(self.service, &login.next).await.ok();
        assert_eq!((&known["sub"], &known["nickname"]), (&json!("alice"), &json!("Alice")));
    }

    async fn goes_on_from_the_start(&self) {
        let (browser, mut phone, _) = self.login("waiting");
        let events = browser.events().await.next_is("waiting").await;
        assert_eq!(events.data["version"], 1);
        let picture = browser.code_image().await;
        let key = format!("scanlogin:{{{}}}:{}:picture", &browser.scene[..2], browser.scene);
        let kept = self
            .left
            .redis
            .iter()
            .find(|kept| kept.key == key)
            .expect("its picture");
        assert!(
            format!("{HEX}{}", hex(&picture.body)) == kept.held[0],
            "another picture"
        );
        phone.scan(self.service, &browser.scene).await.ok();
        phone.confirm(self.service, &browser.scene).await.ok();
        self.redeems(&browser, &BLOG, &[]).await;

        let (browser, mut phone, _) = self.login("waiting, sent by the site");
        phone.scan(self.service, &browser.scene).await.ok();
        phone.confirm(self.service, &browser.scene).await.ok();
        let back = browser.status().await["redirect_to"]
            .as_str()
            .expect("where it goes")
            .to_owned();
        assert!(back.starts_with(CALLBACK) && back.contains("state=a-state"), "{back}");
        self.redeems(&browser, &BLOG, &[("redirect_uri", CALLBACK)]).await;

        let (browser, mut phone, login) = self.login("waiting, with a short code");
        let given = typed(self.service, "alice", &login.next).await.ok();
        given["confirm_token"].as_str().unwrap().clone_into(&mut phone.token);
        phone.confirm(self.service, &browser.scene).await.ok();
        self.redeems(&browser, &BLOG, &[]).await;
    }

    async fn goes_on_from_a_scan(&self) {
        let (browser, mut phone, _) = self.login("scanned");
        let stranger = Phone::of("bob").scan(self.service, &browser.scene).await;
        stranger.problem(409, "scanned_by_another");
        phone.scan(self.service, &browser.scene).await.ok();
        phone.confirm(self.service, &browser.scene).await.ok();
        self.redeems(&browser, &BLOG, &[]).await;

        let (browser, phone, _) = self.login("scanned, with a picture");
        phone.confirm(self.service, &browser.scene).await.ok();
        let url = browser.status().await["profile"]["avatar_url"]
            .as_str()
            .unwrap()
            .to_owned();
        let path = url.strip_prefix(&self.service.public_url).unwrap();
        assert_eq!(Reply::to(self.service.get(path)).await.body.as_ref(), AVATAR);
        self.redeems(&browser, &BLOG, &[]).await;

        let (browser, phone, login) = self.login("scanned, with a number to pick");
        let wrong = json!({ "match_number": if login.next == "42" { "43" } else { "42" } });
        let refused = phone.confirm_with(self.service, &browser.scene, wrong).await;
        refused.problem(403, "wrong_match_number");
        let picked = json!({ "match_number": login.next });
        phone.confirm_with(self.service, &browser.scene, picked).await.ok();
        self.redeems(&browser, &NUMBERS, &[]).await;
    }

    async fn stays_where_it_ended(&self) {
        for (state, name) in [
            ("declined", "declined"),
            ("cancelled", "cancelled"),
            ("cancelled, once scanned", "cancelled"),
        ] {
            let (browser, mut phone, _) = self.login(state);
            assert_eq!(browser.status().await["state"], name);
            assert_eq!(phone.scan(self.service, &browser.scene).await.status, 409, "{state}");
        }
    }

    async fn uses_what_is_shared(&self, told: &Told) {
        typed(self.service, BARRED, "2222-2222")
            .await
            .problem(429, "rate_limited");
        let tails = token_tails(self.service).await;
        assert!(
            tails.is_empty(),
            "a call that the picture that is there made superfluous: {tails:?}"
        );
        let (browser, _) = begun(self.service, &BLOG).await;
        assert_eq!(browser.code_image().await.status, 200);
        let tails = token_tails(self.service).await;
        assert_eq!(
            tails.first(),
            Some(&self.left.token_tail),
            "the token was opened, and tried"
        );
        for (state, kind) in [("declined", "login.declined"), ("redeemed", "login.confirmed")] {
            told.of(kind, &self.left.logins[state].scene).await;
        }
    }
}

#[tokio::test]
async fn logins_that_an_earlier_version_began_are_carried_to_their_end() {
    for left in all_left() {
        let (redis, told, tasks) = (RedisServer::start(), Told::default(), TaskTracker::new());
        restore(redis.addr(), &left);
        let service = service(&redis, &told.listen(&tasks).await).await;
        let successor = Successor {
            service: &service,
            left: &left,
        };
        successor.goes_on_from_a_confirm().await;
        successor.goes_on_from_the_start().await;
        successor.goes_on_from_a_scan().await;
        successor.stays_where_it_ended().await;
        successor.uses_what_is_shared(&told).await;
    }
}
