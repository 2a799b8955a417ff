//! Without a camera: the browser shows a short code, and the person types it in the Mini Program.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::simulator::Wechat;
use crate::stores::{Store, on_each_store};
use crate::support::cli::cli;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::shape::{Security, Shape, Topology};

on_each_store! {
    a_code_that_is_typed_logs_in_as_a_scan_does,
    a_browser_that_asks_again_is_told_the_same_code,
    a_scene_that_does_not_wait_has_no_code_and_its_code_counts_no_more,
    t38_of_two_phones_that_type_a_code_at_once_one_is_let_in,
    t38_five_wrong_codes_of_one_person_are_all,
}

const NOWHERE: &str = "2222-2222";

/// Where a test needs limits, and addresses to come from.
fn limited(service: ServiceBuilder) -> ServiceBuilder {
    service.with("LIMITS", "on").with("TRUSTED_PROXIES", "127.0.0.0/8")
}

fn ask(browser: &Browser) -> RequestBuilder {
    browser
        .call(Method::POST, &format!("/scenes/{}/short-code", browser.scene))
        .bearer_auth(&browser.secret)
}

/// The code that this browser shows from now on.
async fn shown(browser: &Browser) -> String {
    let reply = Reply::to(ask(browser)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["short_code"].as_str().expect("a code").to_owned()
}

async fn typed(service: &Service, openid: &str, short_code: &str) -> Reply {
    let code = service.wx_code(openid).await;
    let body = json!({ "short_code": short_code, "code": code });
    Reply::to(service.post("/short-codes/scan", &body)).await
}

fn phone(openid: &str, scanned: &Value) -> Phone {
    Phone {
        openid: openid.to_owned(),
        token: scanned["confirm_token"].as_str().expect("a token").to_owned(),
    }
}

async fn a_code_that_is_typed_logs_in_as_a_scan_does(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let url = format!("{}/scenes/{}/short-code", service.public_url, browser.scene);
    assert_eq!(browser.started["short_code_url"], url);
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let code = shown(&browser).await;
    let signs: Vec<char> = code.chars().filter(|sign| *sign != '-').collect();
    assert_eq!((code.len(), signs.len(), code.find('-')), (9, 8, Some(4)), "{code}");
    assert!(
        signs.iter().all(|sign| "23456789ACDEFHJKMNPQRTVWXY".contains(*sign)),
        "{code}"
    );

    let as_people_type = format!(" {} ", code.to_lowercase().replace('-', " "));
    let scanned = typed(&service, "alice", &as_people_type).await.ok();
    assert_eq!(scanned["scene"], browser.scene);
    let warning = scanned["warning"].as_str().expect("a warning");
    assert!(warning.contains("你输入的是登录码"), "{warning}");
    // What a scan is answered, and the scene.
    let other = Browser::start(&service).await;
    let by_camera = Phone::scan_with(&service, &other.scene, &service.wx_code("bob").await)
        .await
        .ok();
    let names = |reply: &Value| reply.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = names(&by_camera);
    expected.extend(["scene".to_owned()]);
    expected.sort();
    assert_eq!(names(&scanned), expected);

    events.next_is("scanned").await;
    phone("alice", &scanned).confirm(&service, &browser.scene).await.ok();
    let confirmed = events.next_is("confirmed").await;
    let redeemed = Site::demo()
        .redeem(&service, confirmed.data["code"].as_str().unwrap())
        .await
        .ok();
    let claims = Site::verified(&service, redeemed["id_token"].as_str().unwrap()).await;
    assert_eq!(claims["sub"], "alice");
    let counted = service.metric("scanlogin_scans_total", "entry=\"typed\"").await;
    assert!((counted - 1.0).abs() < f64::EPSILON, "{counted}");
    let bare = code.replace('-', "");
    let told = service
        .log()
        .lines()
        .into_iter()
        .find(|line| line.contains(&code) || line.contains(&bare));
    assert_eq!(told, None);
}

async fn a_browser_that_asks_again_is_told_the_same_code(store: Store) {
    let service = store.service().with("SCENE_TTL", 600).start().await;
    let browser = Browser::start(&service).await;
    let first = Reply::to(ask(&browser)).await;
    assert_eq!(first.status, 201);
    let life = first.json()["expires_in"].as_u64().unwrap();
    assert!((118..=120).contains(&life), "{life}");
    let again = Reply::to(ask(&browser)).await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(again.json()["short_code"], first.json()["short_code"]);
    // And however many ask for a first one at once, there is one.
    let another = Browser::start(&service).await;
    let replies = join_all((0..8).map(|_| Reply::to(ask(&another)))).await;
    let codes: Vec<Value> = replies.iter().map(|reply| reply.json()["short_code"].clone()).collect();
    assert!(
        codes.iter().all(|code| *code == codes[0] && code.is_string()),
        "{codes:?}"
    );
    assert_ne!(codes[0], first.json()["short_code"]);
    typed(&service, "alice", codes[0].as_str().unwrap()).await.ok();
}

async fn a_scene_that_does_not_wait_has_no_code_and_its_code_counts_no_more(store: Store) {
    let service = store.service().start().await;
    let scanned = Browser::start(&service).await;
    let code = shown(&scanned).await;
    Phone::that_scanned("alice", &service, &scanned.scene).await;
    Reply::to(ask(&scanned)).await.problem(410, "not_waiting");
    // Nor for who scanned: what they type is no retry of what they typed.
    for openid in ["alice", "bob"] {
        typed(&service, openid, &code).await.problem(404, "unknown_short_code");
    }
    let cancelled = Browser::start(&service).await;
    let code = shown(&cancelled).await;
    assert_eq!(cancelled.cancel().await.status, 204);
    Reply::to(ask(&cancelled)).await.problem(410, "not_waiting");
    typed(&service, "alice", &code).await.problem(404, "unknown_short_code");
    if let Store::Redis(redis) = &store {
        eventually("no code of theirs is kept", || async {
            let keys = cli(redis.addr(), &["KEYS", "*:short_code:*"]);
            keys.trim().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn whoever_typed_it_may_type_it_again_and_nobody_else() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    let first = typed(&service, "alice", &code).await.ok();
    typed(&service, "bob", &code).await.problem(404, "unknown_short_code");
    // Its reply was lost, say: the fresh token counts, the first one is dead.
    let again = typed(&service, "alice", &code).await.ok();
    assert_eq!(again["scene"], browser.scene);
    phone("alice", &first)
        .confirm(&service, &browser.scene)
        .await
        .problem(401, "confirm_token_required");
    phone("alice", &again).confirm(&service, &browser.scene).await.ok();
    typed(&service, "alice", &code).await.problem(409, "already_finished");
    typed(&service, "bob", &code).await.problem(404, "unknown_short_code");
}

#[tokio::test]
async fn a_code_ends_with_its_scene_or_after_two_minutes() {
    let service = Service::builder().with("SCENE_TTL", 2).start().await;
    let browser = Browser::start(&service).await;
    let reply = Reply::to(ask(&browser)).await;
    assert!(reply.json()["expires_in"].as_u64().unwrap() <= 2, "{}", reply.text());
    let code = reply.json()["short_code"].as_str().unwrap().to_owned();
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    events.next_is("expired").await;
    typed(&service, "alice", &code).await.problem(404, "unknown_short_code");
    Reply::to(ask(&browser)).await.problem(410, "not_waiting");

    // The record says so even if the index outlives the code.
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).with("SCENE_TTL", 600).start().await;
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    let key = cli(redis.addr(), &["KEYS", "*:short_code:*"]).trim().to_owned();
    let left: i64 = cli(redis.addr(), &["PTTL", &key]).trim().parse().unwrap();
    assert!((100_000..=120_000).contains(&left), "{left}");
    assert_eq!(cli(redis.addr(), &["PEXPIRE", &key, "600000"]).trim(), "1");
    let record = format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene);
    let life: i64 = cli(redis.addr(), &["PTTL", &record]).trim().parse().unwrap();
    // Two minutes of the scene's ten are over.
    let later = (life - 121_000).to_string();
    assert_eq!(cli(redis.addr(), &["PEXPIRE", &record, &later]).trim(), "1");
    typed(&service, "alice", &code).await.problem(404, "unknown_short_code");
    let next = Reply::to(ask(&browser)).await;
    assert_eq!(next.status, 201, "{}", next.text());
    assert_ne!(next.json()["short_code"], code);
    typed(&service, "alice", next.json()["short_code"].as_str().unwrap())
        .await
        .ok();
}

const SITES: &str = r#"
[[client]]
client_id = "plain"
origins = ["https://plain.example"]

[[client]]
client_id = "codes"
short_codes = true
number_matching = "on_warning"
origins = ["https://codes.example"]

[[client]]
client_id = "trusting"
short_codes = true
number_matching = "on_warning"
entry_scenes = { typed = "allow", other = "refuse" }
"#;

/// Who is to type a code is told where.
#[tokio::test]
async fn a_code_comes_with_the_name_of_the_mini_program_that_takes_it() {
    const NAMED: &str =
        "[[mini_program]]\nappid = \"wx1111111111111111\"\nname = \"扫码登录\"\nsecret = \"appsecret-of-the-named\"\n";
    let site = "[[client]]\nclient_id = \"codes\"\nshort_codes = true\n";
    let redis = RedisServer::start();
    let named = format!("{NAMED}{site}");
    let service = Service::builder().redis(&redis).config_toml(&named).start().await;
    let browser = start_at(&service, "codes").await;
    for status in [201, 200] {
        let reply = Reply::to(ask(&browser)).await;
        assert_eq!(
            (reply.status, &reply.json()["mini_program"]),
            (status, &json!("扫码登录"))
        );
    }
    service.rewrite_config(&named.replace("name = \"扫码登录\"\n", ""));
    eventually("it has no name", || async {
        let reply = Reply::to(ask(&browser)).await.json();
        reply.get("mini_program").is_none().then_some(())
    })
    .await;
}

async fn start_at(service: &Service, client: &str) -> Browser {
    let wanted = json!({ "client_id": client, "code_challenge": s256(VERIFIER) });
    Browser::start_with(service, wanted).await
}

#[tokio::test]
async fn a_site_has_codes_if_it_says_so_and_numbers_with_them() {
    let service = Service::builder().config_toml(SITES).start().await;
    let plain = start_at(&service, "plain").await;
    assert!(plain.started.get("short_code_url").is_none());
    Reply::to(ask(&plain)).await.problem(403, "short_code_refused");

    let browser = start_at(&service, "codes").await;
    let code = shown(&browser).await;
    let scanned = typed(&service, "alice", &code).await.ok();
    let number = browser.status().await["match_number"].clone();
    assert!(scanned["match_choices"].as_array().expect("numbers").contains(&number));
    phone("alice", &scanned)
        .confirm_with(&service, &browser.scene, json!({ "match_number": number }))
        .await
        .ok();

    let browser = start_at(&service, "trusting").await;
    let code = shown(&browser).await;
    let scanned = typed(&service, "alice", &code).await.ok();
    assert!(
        scanned.get("warning").is_none() && scanned.get("match_choices").is_none(),
        "{scanned}"
    );
}

#[tokio::test]
async fn a_code_is_shown_to_who_proves_to_be_the_browser_and_to_no_other_page() {
    let service = Service::builder().config_toml(SITES).start().await;
    let browser = start_at(&service, "codes").await;
    let path = format!("/scenes/{}/short-code", browser.scene);
    let bare = || browser.call(Method::POST, &path);
    let cookie = browser.set_cookie.split(';').next().unwrap().to_owned();
    Reply::to(bare()).await.problem(401, "browser_secret_required");
    Reply::to(bare().bearer_auth("A".repeat(43)))
        .await
        .problem(401, "browser_secret_required");
    let by_cookie = |origin: &str| bare().header("cookie", &cookie).header("origin", origin);
    for origin in ["https://plain.example", "https://evil.example", "null"] {
        Reply::to(by_cookie(origin)).await.problem(403, "origin_not_allowed");
    }
    assert_eq!(Reply::to(by_cookie("https://codes.example")).await.status, 201);
    let nowhere = browser.call(Method::POST, &format!("/scenes/{}/short-code", "0".repeat(32)));
    Reply::to(nowhere).await.problem(404, "unknown_scene");
}

#[tokio::test]
async fn what_is_no_code_is_told_so_and_costs_wechat_nothing() {
    let service = Service::start().await;
    let wx_code = service.wx_code("alice").await;
    let send = async |body: Value| Reply::to(service.post("/short-codes/scan", &body)).await;
    for short_code in [
        json!(""),
        json!("K7WM-P3X"),
        json!("K7WM-P3XQ2"),
        json!("0000-0000"),
        json!(22_222_222),
        Value::Null,
    ] {
        let reply = send(json!({ "short_code": short_code, "code": wx_code })).await;
        reply.problem(400, "invalid_request");
    }
    send(json!({ "code": wx_code })).await.problem(400, "invalid_request");
    for code in ["", "short", "with space in it", &"x".repeat(200)] {
        let reply = send(json!({ "short_code": NOWHERE, "code": code })).await;
        reply.problem(400, "invalid_wx_code");
    }
    assert_eq!(service.wechat_calls("jscode2session").await, 0);
    // Whoever they are is asked before it is looked at, so that it counts.
    send(json!({ "short_code": NOWHERE, "code": wx_code }))
        .await
        .problem(404, "unknown_short_code");
    assert_eq!(service.wechat_calls("jscode2session").await, 1);
    send(json!({ "short_code": NOWHERE, "code": wx_code }))
        .await
        .problem(400, "invalid_wx_code");
}

#[tokio::test]
async fn t38_a_code_opens_nothing_but_the_asking() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    let bare = code.replace('-', "");
    let scene = &browser.scene;
    let at = |method: Method, path: &str| service.call(method, path);
    for secret in [&code, &bare] {
        let status = format!("/scenes/{scene}");
        for (method, path) in [
            (Method::GET, status.clone()),
            (Method::GET, format!("/events/{scene}")),
            (Method::DELETE, status.clone()),
            (Method::POST, format!("{status}/short-code")),
        ] {
            let asked = at(method.clone(), &path).bearer_auth(secret);
            Reply::to(asked).await.problem(401, "browser_secret_required");
            let by_cookie = at(method, &path).header("cookie", format!("scanlogin_{scene}={secret}"));
            Reply::to(by_cookie).await.problem(401, "browser_secret_required");
        }
        for path in ["confirm", "decline"] {
            let asked = at(Method::POST, &format!("{status}/{path}")).bearer_auth(secret);
            Reply::to(asked).await.problem(401, "confirm_token_required");
        }
        // In the scene's place it names none.
        Reply::to(at(Method::GET, &format!("/scenes/{secret}")))
            .await
            .problem(404, "unknown_scene");
        Site::demo()
            .redeem(&service, secret)
            .await
            .oauth_error(400, "invalid_grant");
        assert_eq!(Site::userinfo(&service, secret).await.status, 401);
    }
    // Once it was typed, it is no more than that either.
    typed(&service, "alice", &code).await.ok();
    let asked = at(Method::POST, &format!("/scenes/{scene}/confirm")).bearer_auth(&code);
    Reply::to(asked).await.problem(401, "confirm_token_required");
}

async fn t38_of_two_phones_that_type_a_code_at_once_one_is_let_in(store: Store) {
    let service = store.service().start().await;
    let other = match &store {
        Store::Embedded => None,
        Store::Redis(_) => Some(service.replica().start().await),
    };
    let there = other.as_ref().unwrap_or(&service);
    for round in 0..8 {
        let browser = Browser::start(&service).await;
        let code = shown(&browser).await;
        let people = [format!("alice-{round}"), format!("bob-{round}")];
        let (a, b) = tokio::join!(typed(&service, &people[0], &code), typed(there, &people[1], &code));
        let mut statuses = [a.status, b.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404], "{} {}", a.text(), b.text());
        let (won, lost) = if a.status == 200 { (0, &b) } else { (1, &a) };
        lost.problem(404, "unknown_short_code");
        let scanned = [&a, &b][won].json();
        phone(&people[won], &scanned)
            .confirm(&service, &browser.scene)
            .await
            .ok();
        let confirmed = browser.status().await;
        let redeemed = Site::demo()
            .redeem(there, confirmed["code"].as_str().unwrap())
            .await
            .ok();
        let claims = Site::verified(there, redeemed["id_token"].as_str().unwrap()).await;
        assert_eq!(claims["sub"], *people[won]);
    }
}

async fn t38_five_wrong_codes_of_one_person_are_all(store: Store) {
    let service = limited(store.service())
        .with("LIMIT_SHORT_CODES_PER_ADDRESS", 1_000)
        .start()
        .await;
    let other = match &store {
        Store::Embedded => None,
        Store::Redis(_) => Some(
            limited(service.replica())
                .with("LIMIT_SHORT_CODES_PER_ADDRESS", 1_000)
                .start()
                .await,
        ),
    };
    let there = other.as_ref().unwrap_or(&service);
    // Right ones cost nothing, however many.
    for _ in 0..7 {
        let browser = Browser::start(&service).await;
        let code = shown(&browser).await;
        typed(there, "alice", &code).await.ok();
    }
    // All at once, at all replicas: five are answered, and those alone.
    let guesses = (0..16).map(|n| typed(if n % 2 == 0 { &service } else { there }, "alice", NOWHERE));
    let replies = join_all(guesses).await;
    let wrong = replies.iter().filter(|reply| reply.status == 404).count();
    assert_eq!(
        wrong,
        5,
        "{:?}",
        replies.iter().map(|reply| reply.status).collect::<Vec<_>>()
    );
    let refused = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    refused.problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((540..=600).contains(&wait), "{wait}");
    // Not a right one either, or the answer would tell it from a wrong one. Of anybody else it is taken.
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    typed(there, "alice", &code).await.problem(429, "rate_limited");
    typed(&service, "bob", &code).await.ok();
}

/// They are no courtesy: a replica without them would let whoever likes try all codes.
#[tokio::test]
async fn t38_wrong_codes_are_limited_with_the_limits_off_too() {
    let service = Service::builder()
        .with("LIMITS", "off")
        .with("LIMIT_SHORT_CODES_PER_ADDRESS", 1)
        .with("LIMIT_WRONG_SHORT_CODES", 12)
        .start()
        .await;
    let told = service.log().line_with(&["SCANLOGIN_LIMITS is off"]).await;
    assert!(told.contains("wrong short codes") && !told.contains("guess"), "{told}");
    let replies = join_all((0..8).map(|_| typed(&service, "alice", NOWHERE))).await;
    let wrong = replies.iter().filter(|reply| reply.status == 404).count();
    assert_eq!(wrong, 5, "of one person");
    let refused = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert!(
        refused
            .header("ratelimit-policy")
            .starts_with("\"wrong_short_codes_per_person\";q=5")
    );
    let mut refused = None;
    for n in 0..60 {
        let reply = typed(&service, &format!("guesser-{}", n / 4), NOWHERE).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
        reply.problem(404, "unknown_short_code");
    }
    let refused = refused.expect("all people together are refused");
    assert!(
        refused
            .header("ratelimit-policy")
            .starts_with("\"wrong_short_codes\";q=12")
    );
}

#[tokio::test]
async fn t38_all_people_together_guess_so_often_and_no_more() {
    let redis = RedisServer::start();
    let set = |service: ServiceBuilder| {
        limited(service)
            .with("LIMIT_SHORT_CODES_PER_ADDRESS", 1_000)
            .with("LIMIT_WRONG_SHORT_CODES", 12)
    };
    let a = set(Service::builder().redis(&redis)).start().await;
    let b = set(a.replica()).start().await;
    let mut answered = 0;
    for n in 0..40 {
        let reply = typed(if n % 2 == 0 { &a } else { &b }, &format!("guesser-{}", n / 4), NOWHERE).await;
        match reply.status {
            404 => answered += 1,
            _ => drop(reply.problem(429, "rate_limited")),
        }
    }
    // Some come in again while this goes on.
    assert!((12..=24).contains(&answered), "{answered}");
    let browser = Browser::start(&a).await;
    let code = shown(&browser).await;
    eventually("one more came in", || async {
        let reply = typed(&b, "alice", &code).await;
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn t38_one_address_types_so_often_at_all_replicas() {
    let redis = RedisServer::start();
    let a = limited(Service::builder().redis(&redis)).start().await;
    let b = limited(a.replica()).start().await;
    let try_at = async |service: &Service, address: &str, openid: &str| {
        let body = json!({ "short_code": NOWHERE, "code": service.wx_code(openid).await });
        let request = service
            .post("/short-codes/scan", &body)
            .header("x-forwarded-for", address);
        Reply::to(request).await
    };
    let before = a.wechat_calls("jscode2session").await;
    let mut refused = 0;
    for n in 0..30 {
        let reply = try_at(if n % 2 == 0 { &a } else { &b }, "203.0.113.7", &format!("guesser-{n}")).await;
        if reply.status == 429 {
            let policy = reply.header("ratelimit-policy").to_owned();
            assert!(policy.starts_with("\"short_codes_per_address\";q=20;w=60"), "{policy}");
            refused += 1;
        } else {
            reply.problem(404, "unknown_short_code");
        }
    }
    // One comes in again every three seconds.
    assert!((1..=10).contains(&refused), "{refused}");
    let asked = a.wechat_calls("jscode2session").await - before;
    assert_eq!(asked, 30 - refused, "what is refused costs WeChat nothing");
    try_at(&a, "203.0.113.8", "somebody")
        .await
        .problem(404, "unknown_short_code");
}

#[tokio::test]
async fn t38_redis_holds_no_code_and_nothing_that_is_found_by_trying() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    let bare = code.replace('-', "");
    let keys = cli(redis.addr(), &["KEYS", "*"]);
    let index = keys
        .lines()
        .find(|key| key.contains(":short_code:"))
        .expect("a key")
        .trim()
        .to_owned();
    let record = cli(
        redis.addr(),
        &[
            "GET",
            &format!("scanlogin:{{{}}}:{}", &browser.scene[..2], browser.scene),
        ],
    );
    let all = format!("{keys}{record}{}", cli(redis.addr(), &["GET", &index]));
    assert!(!all.contains(&code) && !all.contains(&bare), "{all}");
    // What anybody who reads it could compute of each code there is: hashes without a key.
    let tag = index.rsplit(':').next().unwrap();
    for text in [&code, &bare, &bare.to_lowercase()] {
        assert!(!s256(text).starts_with(tag), "{tag}");
        assert!(!s256(&format!("short code\0{text}")).starts_with(tag), "{tag}");
    }
    assert!(tag.len() >= 22, "{tag}");
}

/// These sites, of two Mini Programs.
fn of_two_programs(sites: &str) -> String {
    const PROGRAMS: &str = r#"
    [[mini_program]]
    appid = "wx1111111111111111"
    secret = "canary0secret0of0one0000000000001"
    [[mini_program]]
    appid = "wx2222222222222222"
    secret = "canary0secret0of0two0000000000002"
    "#;
    format!("{PROGRAMS}{sites}")
}

const TWO_SITES: &str = r#"
    [[client]]
    client_id = "one"
    mini_program = "wx1111111111111111"
    short_codes = true
    [[client]]
    client_id = "two"
    mini_program = "wx2222222222222222"
    short_codes = true
"#;

#[tokio::test]
async fn a_code_is_typed_in_the_mini_program_of_its_site() {
    let redis = RedisServer::start();
    let service = Service::builder()
        .redis(&redis)
        .config_toml(&of_two_programs(TWO_SITES))
        .start()
        .await;
    let browser = start_at(&service, "one").await;
    let code = shown(&browser).await;
    let from = async |appid: Option<&str>| {
        let body = json!({ "short_code": code, "code": service.wx_code("alice").await });
        let request = service.post("/short-codes/scan", &body);
        let referer = appid.map(|appid| format!("https://servicewechat.com/{appid}/12/page-frame.html"));
        Reply::to(match referer {
            Some(referer) => request.header("referer", referer),
            None => request,
        })
        .await
    };
    from(None).await.problem(400, "invalid_request");
    from(Some("wx3333333333333333")).await.problem(400, "invalid_request");
    from(Some("wx2222222222222222"))
        .await
        .problem(404, "unknown_short_code");
    let scanned = from(Some("wx1111111111111111")).await.ok();
    assert_eq!(scanned["client"]["client_id"], "one");
}

#[tokio::test]
async fn the_simulated_phone_types_in_the_mini_program_that_is_chosen_there() {
    let redis = RedisServer::start();
    let service = Service::builder()
        .redis(&redis)
        .config_toml(&of_two_programs(TWO_SITES))
        .start()
        .await;
    let browser = start_at(&service, "one").await;
    let code = shown(&browser).await;
    // One of its own, that knows where the service is: only phones go through it.
    let at_service = service.base.parse().unwrap();
    let phones = Wechat::start_with(|settings| settings.service_url = at_service).await;
    for appid in ["wx2222222222222222", "wx1111111111111111"] {
        let path = format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret=any");
        Reply::to(phones.call(Method::GET, &path)).await.ok();
    }
    let typed = async |within: &str| {
        let body = json!({ "short_code": code, "code": service.wx_code("alice").await });
        let path = format!("/simulator/service/short-codes/scan{within}");
        Reply::to(phones.call(Method::POST, &path).json(&body)).await
    };
    let offered = Reply::to(phones.call(Method::GET, "/simulator/mini-programs"))
        .await
        .ok();
    assert_eq!(offered, json!(["wx1111111111111111", "wx2222222222222222"]));
    typed("?appid=wx2222222222222222")
        .await
        .problem(404, "unknown_short_code");
    // No AppID, so nothing that could end up in a header.
    typed("?appid=wx1%0d%0a").await.problem(400, "invalid_request");
    // Whoever chooses none is in the first.
    let scanned = typed("").await.ok();
    assert_eq!(scanned["client"]["client_id"], "one");
}

const MOVING: &str = r#"
    [[client]]
    client_id = "moving"
    mini_program = "wx1111111111111111"
    short_codes = true
"#;

async fn typed_in(service: &Service, appid: &str, openid: &str, short_code: &str) -> Reply {
    let body = json!({ "short_code": short_code, "code": service.wx_code(openid).await });
    let referer = format!("https://servicewechat.com/{appid}/12/page-frame.html");
    Reply::to(service.post("/short-codes/scan", &body).header("referer", referer)).await
}

/// The settings become these while the service runs.
async fn change(service: &Service, to: &str) {
    service.rewrite_config(to);
    service.log().line_with(&["settings were read again"]).await;
}

/// The browser asks again, and is shown another code than `dead`, which can be typed in the Mini Program of this AppID.
async fn shows_a_code_that_counts(service: &Service, browser: &Browser, dead: &str, appid: &str) -> Value {
    let next = Reply::to(ask(browser)).await;
    assert_eq!(next.status, 201, "{}", next.text());
    let code = next.json()["short_code"].as_str().unwrap().to_owned();
    assert_ne!(code, dead);
    let again = Reply::to(ask(browser)).await;
    assert_eq!((again.status, again.json()["short_code"].as_str()), (200, Some(&*code)));
    let scanned = typed_in(service, appid, "alice", &code).await.ok();
    assert_eq!(scanned["scene"], browser.scene);
    scanned
}

#[tokio::test]
async fn a_site_that_moves_to_another_mini_program_takes_nobody_from_the_one_it_left() {
    let redis = RedisServer::start();
    let service = Service::builder()
        .redis(&redis)
        .config_toml(&of_two_programs(MOVING))
        .start()
        .await;
    let browser = start_at(&service, "moving").await;
    let code = shown(&browser).await;
    let moved = "mini_program = \"wx1111111111111111\"";
    change(
        &service,
        &of_two_programs(&MOVING.replace(moved, &moved.replace('1', "2"))),
    )
    .await;
    // Their openid there is another person's, or nobody's, at the Mini Program that the site has now.
    for appid in ["wx1111111111111111", "wx2222222222222222"] {
        let reply = typed_in(&service, appid, "alice", &code).await;
        reply.problem(404, "unknown_short_code");
    }
    let scanned = shows_a_code_that_counts(&service, &browser, &code, "wx2222222222222222").await;
    let typed = phone("alice", &scanned);
    typed.confirm(&service, &browser.scene).await.ok();
    let confirmed = browser.status().await;
    let redeemed = Site::Public("moving")
        .redeem(&service, confirmed["code"].as_str().unwrap())
        .await
        .ok();
    let claims = Site::verified(&service, redeemed["id_token"].as_str().unwrap()).await;
    assert_eq!(claims["wechat_appid"], "wx2222222222222222");
}

#[tokio::test]
async fn a_code_from_before_a_new_app_secret_is_shown_no_more() {
    let redis = RedisServer::start();
    let service = Service::builder()
        .redis(&redis)
        .config_toml(&of_two_programs(MOVING))
        .start()
        .await;
    let browser = start_at(&service, "moving").await;
    let code = shown(&browser).await;
    let next =
        of_two_programs(MOVING).replace("canary0secret0of0one0000000000001", "canary0secret0of0one0000000000002");
    change(&service, &next).await;
    let reply = typed_in(&service, "wx1111111111111111", "alice", &code).await;
    reply.problem(404, "unknown_short_code");
    shows_a_code_that_counts(&service, &browser, &code, "wx1111111111111111").await;
    // What was found by the old one is gone.
    eventually("one code is kept", || async {
        let keys = cli(redis.addr(), &["KEYS", "*:short_code:*"]);
        (keys.lines().count() == 1).then_some(())
    })
    .await;
}

async fn two_replicas_know_a_code(topology: Topology) {
    let shape = Shape::start(topology, Security::Acl).await;
    shape.be_patient();
    let a = shape.tell(Service::builder()).start().await;
    let b = shape.tell(a.replica()).start().await;
    for number in 0..6 {
        let openid = format!("person-{number}");
        let browser = Browser::start(&a).await;
        let code = shown(&browser).await;
        let again = Reply::to(ask(&browser.at(&b))).await;
        assert_eq!((again.status, again.json()["short_code"].as_str()), (200, Some(&*code)));
        let scanned = typed(&b, &openid, &code).await.ok();
        phone(&openid, &scanned).confirm(&a, &browser.scene).await.ok();
        let confirmed = browser.status().await;
        Site::demo().redeem(&b, confirmed["code"].as_str().unwrap()).await.ok();
        let cancelled = Browser::start(&b).await;
        let code = shown(&cancelled).await;
        assert_eq!(cancelled.at(&a).cancel().await.status, 204);
        typed(&b, &openid, &code).await.problem(404, "unknown_short_code");
    }
}

#[tokio::test]
async fn on_a_cluster_any_replica_knows_a_code() {
    two_replicas_know_a_code(Topology::Cluster).await;
}

#[tokio::test]
async fn with_the_least_rights_any_replica_knows_a_code() {
    two_replicas_know_a_code(Topology::Standalone).await;
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_told_that_a_code_is_wrong() {
    let mut redis = RedisServer::start();
    let service = limited(Service::builder().redis(&redis)).start().await;
    let browser = Browser::start(&service).await;
    let code = shown(&browser).await;
    redis.kill();
    let reply = typed(&service, "alice", &code).await;
    reply.problem(503, "store_unavailable");
    assert!(reply.header("retry-after").parse::<u64>().is_ok());
    redis.restart();
    // What was kept is lost with this server; that is what is said then, and no guess was counted for the time before.
    let reply = eventually("it is back", || async {
        let reply = typed(&service, "alice", &code).await;
        (reply.status != 503).then_some(reply)
    })
    .await;
    reply.problem(404, "unknown_short_code");
}
