//! How a phone came to the code, and the number that its person must pick: what a site may ask for so that a login is confirmed by who
//! stands before the screen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, VERIFIER};
use crate::support::service::Service;

const SITES: &str = r#"
[[client]]
client_id = "plain"

[[client]]
client_id = "numbers"
number_matching = "on"

[[client]]
client_id = "careful"
number_matching = "on_warning"

[[client]]
client_id = "strict"
entry_scenes = { 1048 = "refuse", other = "refuse", 1007 = "warn" }
"#;

async fn service() -> Service {
    Service::builder().config_toml(SITES).start().await
}

async fn start(service: &Service, client: &str) -> Browser {
    let wanted = json!({ "client_id": client, "code_challenge": s256(VERIFIER) });
    Browser::start_with(service, wanted).await
}

/// A scan of somebody who came so; the phone that it gives, where it does.
async fn scan(service: &Service, scene: &str, openid: &str, entry_scene: Value) -> (Reply, Phone) {
    let body = json!({ "code": service.wx_code(openid).await, "entry_scene": entry_scene });
    let scan = service.post(&format!("/scenes/{scene}/scan"), &body);
    let reply = Reply::to(scan).await;
    let mut phone = Phone::of(openid);
    if reply.status == 200 {
        reply.json()["confirm_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut phone.token);
    }
    (reply, phone)
}

/// The numbers that a phone offers, and the one that its browser shows.
struct Asked {
    browser: Browser,
    events: EventStream,
    phone: Phone,
    right: String,
    wrong: Vec<String>,
}

impl Asked {
    async fn by(service: &Service) -> Self {
        let browser = start(service, "numbers").await;
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        let (scanned, phone) = scan(service, &browser.scene, "alice", json!(1047)).await;
        let choices = choices(&scanned.ok());
        let told = events.next_is("scanned").await;
        let right = told.data["match_number"].as_str().expect("a number").to_owned();
        assert!(choices.contains(&right), "{right} of {choices:?}");
        let wrong: Vec<String> = choices.into_iter().filter(|choice| *choice != right).collect();
        assert_eq!(wrong.len(), 2);
        Self {
            browser,
            events,
            phone,
            right,
            wrong,
        }
    }

    async fn pick(&self, service: &Service, number: &str) -> Reply {
        let picked = json!({ "match_number": number });
        self.phone.confirm_with(service, &self.browser.scene, picked).await
    }
}

fn choices(scanned: &Value) -> Vec<String> {
    let choices = scanned["match_choices"].as_array().expect("numbers");
    let choices: Vec<String> = choices
        .iter()
        .map(|choice| choice.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(choices.iter().collect::<BTreeSet<_>>().len(), 3, "{choices:?}");
    assert!(
        choices
            .iter()
            .all(|choice| choice.len() == 2 && choice.parse::<u8>().is_ok()),
        "{choices:?}"
    );
    choices
}

#[tokio::test]
async fn each_way_to_the_code_meets_the_sites_policy() {
    let service = service().await;
    let (camera, picture, card) = (
        [json!(1047), json!(1011)],
        [json!(1048), json!(1049), json!(1012), json!(1013)],
        [json!(1007), json!(1008), json!(1036), json!(1037)],
    );
    let others = [json!(1001), json!(-1), Value::Null];
    let ways = |ways: &[Value], became: &'static str| ways.iter().map(|way| (way.clone(), became)).collect::<Vec<_>>();
    let plain = [
        ways(&camera, "fine"),
        ways(&picture, "warned"),
        ways(&card, "refused"),
        ways(&others, "warned"),
    ];
    let strict = [
        ways(&camera, "fine"),
        vec![
            (json!(1048), "refused"),
            (json!(1049), "warned"),
            (json!(1007), "warned"),
            (json!(1008), "refused"),
        ],
        ways(&others, "refused"),
    ];
    for (client, table) in [("plain", plain.concat()), ("strict", strict.concat())] {
        for (entry_scene, became) in table {
            let browser = start(&service, client).await;
            let before = service.wechat_calls("jscode2session").await;
            let (scanned, phone) = scan(&service, &browser.scene, "alice", entry_scene.clone()).await;
            let seen = match scanned.status {
                403 => "refused",
                200 if scanned.json().get("warning").is_some() => "warned",
                200 => "fine",
                _ => "something else",
            };
            assert_eq!(seen, became, "{client} {entry_scene}: {}", scanned.text());
            assert!(scanned.json().get("match_choices").is_none());
            if became == "refused" {
                assert_eq!(scanned.json()["code"], "entry_scene_refused");
                assert_eq!(service.wechat_calls("jscode2session").await, before, "WeChat was asked");
                assert_eq!(browser.status().await["state"], "waiting");
                let (again, _) = scan(&service, &browser.scene, "alice", json!(1047)).await;
                again.ok();
            } else {
                phone.confirm(&service, &browser.scene).await.ok();
            }
        }
    }
    scans_are_counted(&service).await;
}

/// Those of the test above, each by its way.
async fn scans_are_counted(service: &Service) {
    let mut expected = 0;
    // Each refused one was scanned again by the camera.
    for (client, entry, verdict, count) in [
        ("plain", "camera", "allow", 2 + 4),
        ("plain", "picture", "warn", 4),
        ("plain", "card", "refuse", 4),
        ("plain", "other", "warn", 3),
        ("strict", "camera", "allow", 2 + 5),
        ("strict", "picture", "refuse", 1),
        ("strict", "picture", "warn", 1),
        ("strict", "card", "warn", 1),
        ("strict", "card", "refuse", 1),
        ("strict", "other", "refuse", 3),
    ] {
        let labels = format!("client=\"{client}\",entry=\"{entry}\",verdict=\"{verdict}\"");
        let counted = service.metric("scanlogin_scans_total", &labels).await;
        assert!((counted - f64::from(count)).abs() < f64::EPSILON, "{labels}: {counted}");
        expected += count;
    }
    let all = service.metric("scanlogin_scans_total", "").await;
    assert!((all - f64::from(expected)).abs() < f64::EPSILON, "{all}");
}

/// What an operator has to know of somebody who has others scan codes: and nothing that opens the login.
#[tokio::test]
async fn t01_a_login_that_was_not_the_persons_own_is_counted_and_told_with_its_network_and_way() {
    let service = Service::builder()
        .config_toml(SITES)
        .with("TRUSTED_PROXIES", "127.0.0.0/8");
    let service = service.start().await;
    for (address, network, reason) in [
        ("2001:db8:1:2:3:4:5:6", "network=2001:db8:1:2:: ", "not_me"),
        ("203.0.113.7", "network=203.0.113.7 ", "not_me"),
        ("198.51.100.7", "", "no"),
    ] {
        let wanted = json!({ "client_id": "plain", "code_challenge": s256(VERIFIER) });
        let start = service.post("/scenes", &wanted).header("x-forwarded-for", address);
        let browser = Browser::started(&service, &Reply::to(start).await);
        let (_, phone) = scan(&service, &browser.scene, "alice", json!(1048)).await;
        let (before, labels) = (service.log().lines(), format!("client=\"plain\",reason=\"{reason}\""));
        let counted = service.metric("scanlogin_declined_total", &labels).await;
        let answer = if reason == "no" {
            json!({})
        } else {
            json!({ "reason": reason })
        };
        // A retry is the same act.
        for _ in 0..2 {
            phone.decline_with(&service, &browser.scene, answer.clone()).await.ok();
        }
        let now = service.metric("scanlogin_declined_total", &labels).await;
        assert!((now - counted - 1.0).abs() < f64::EPSILON, "{labels}: {counted}, {now}");
        if reason == "no" {
            // A line about the next request is in the log after any about this one.
            Reply::to(service.get("/scenes/nothing").header("x-request-id", "the-next")).await;
            service.log().line_with(&["the-next"]).await;
            let told = |lines: &[String]| lines.iter().filter(|line| line.contains("not asked for")).count();
            assert_eq!(told(&service.log().lines()), told(&before));
            continue;
        }
        let line = service
            .log()
            .line_with(&["WARN", "not asked for by the person", network])
            .await;
        for word in [
            "client=\"plain\"",
            "reason=\"not_me\"",
            "entry_scene=1048",
            &browser.scene[..8],
        ] {
            assert!(line.contains(word), "{word} is not in {line}");
        }
        for secret in [&*browser.scene, &browser.secret, &phone.token, "alice", "3:4:5:6"] {
            assert!(!line.contains(secret), "{secret} is in {line}");
        }
    }
}

#[tokio::test]
async fn the_only_client_and_the_demo_site_take_both_by_settings() {
    for described in [None, Some("My Blog")] {
        let mut service = Service::builder()
            .with("CLIENT_NUMBER_MATCHING", "on_warning")
            .with("CLIENT_ENTRY_SCENES", "1047=warn, 1007=allow,other=refuse");
        if let Some(name) = described {
            service = service.with("CLIENT_NAME", name);
        }
        let service = service.start().await;
        for (entry_scene, status, is_asked) in [
            (json!(1047), 200, true),
            (json!(1048), 200, true),
            (json!(1007), 200, false),
            (json!(1008), 403, false),
            (Value::Null, 403, false),
        ] {
            let browser = Browser::start(&service).await;
            let (scanned, _) = scan(&service, &browser.scene, "alice", entry_scene.clone()).await;
            assert_eq!(scanned.status, status, "{entry_scene}: {}", scanned.text());
            assert_eq!(scanned.json().get("match_choices").is_some(), is_asked, "{entry_scene}");
        }
    }
}

#[tokio::test]
async fn the_first_scans_verdict_stands_however_the_same_person_scans_again() {
    let service = service().await;
    for (first, then, is_warned) in [(1047, 1007, false), (1048, 1047, true)] {
        let browser = start(&service, "plain").await;
        for entry_scene in [first, then] {
            let (scanned, _) = scan(&service, &browser.scene, "alice", json!(entry_scene)).await;
            assert_eq!(scanned.ok().get("warning").is_some(), is_warned, "{entry_scene}");
        }
    }
}

#[tokio::test]
async fn the_warning_is_in_the_language_of_the_phone() {
    let service = service().await;
    for (languages, word) in [
        (None, "拒绝"),
        (Some("zh-CN,zh;q=0.9"), "拒绝"),
        (Some("en-US,en;q=0.9,zh;q=0.8"), "decline"),
        (Some("fr, en;q=0.5"), "decline"),
        (Some("fr"), "decline"),
    ] {
        let browser = start(&service, "plain").await;
        let body = json!({ "code": service.wx_code("alice").await, "entry_scene": 1048 });
        let mut request = service.post(&format!("/scenes/{}/scan", browser.scene), &body);
        if let Some(languages) = languages {
            request = request.header("accept-language", languages);
        }
        let warning = Reply::to(request).await.ok()["warning"].clone();
        assert!(warning.as_str().unwrap().contains(word), "{languages:?}: {warning}");
    }
}

#[tokio::test]
async fn a_number_is_asked_for_where_the_site_wants_it() {
    let service = service().await;
    for (client, entry_scene, is_asked) in [
        ("plain", 1047, false),
        ("plain", 1048, false),
        ("numbers", 1047, true),
        ("numbers", 1048, true),
        ("careful", 1047, false),
        ("careful", 1048, true),
    ] {
        let browser = start(&service, client).await;
        let (scanned, phone) = scan(&service, &browser.scene, "alice", json!(entry_scene)).await;
        let scanned = scanned.ok();
        assert_eq!(
            scanned.get("match_choices").is_some(),
            is_asked,
            "{client} {entry_scene}"
        );
        let shown = browser.status().await;
        assert_eq!(shown.get("match_number").is_some(), is_asked, "{client} {entry_scene}");
        let confirmed = phone.confirm(&service, &browser.scene).await;
        assert_eq!(
            confirmed.status,
            if is_asked { 400 } else { 200 },
            "{}",
            confirmed.text()
        );
    }
}

#[tokio::test]
async fn who_picks_the_number_on_the_screen_is_let_in() {
    let service = service().await;
    let mut asked = Asked::by(&service).await;
    let missing = asked.phone.confirm(&service, &asked.browser.scene).await;
    assert_eq!(
        (missing.status, &missing.json()["code"]),
        (400, &json!("invalid_request"))
    );
    for nonsense in [json!("7"), json!("123"), json!("x1"), json!(""), json!(42)] {
        let refused = json!({ "match_number": nonsense });
        let refused = asked.phone.confirm_with(&service, &asked.browser.scene, refused).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    let wrong = asked.pick(&service, &asked.wrong[0]).await;
    assert_eq!(
        (wrong.status, &wrong.json()["code"]),
        (403, &json!("wrong_match_number"))
    );
    for _ in 0..2 {
        asked.pick(&service, &asked.right).await.ok();
    }
    let told = asked.events.next_is("confirmed").await;
    assert!(told.data.get("match_number").is_none(), "{}", told.data);
}

#[tokio::test]
async fn a_second_wrong_number_declines_and_the_same_one_again_does_not() {
    let service = service().await;
    let mut asked = Asked::by(&service).await;
    for (number, state) in [(0, Value::Null), (0, Value::Null), (1, json!("declined"))] {
        let refused = asked.pick(&service, &asked.wrong[number]).await;
        let told = refused.problem(403, "wrong_match_number");
        assert_eq!(told["state"], state, "whether it is over");
        let says_over = told["detail"].as_str().unwrap().contains("is declined. Get a new code");
        assert_eq!(says_over, !state.is_null(), "{told}");
    }
    let told = asked.events.next_is("declined").await;
    assert_eq!(told.data["reason"], "wrong_number");
    assert_eq!(asked.browser.status().await["reason"], "wrong_number");
    for number in [&asked.right, &asked.wrong[1]] {
        let late = asked.pick(&service, number).await;
        assert_eq!((late.status, &late.json()["state"]), (409, &json!("declined")));
    }
    let counted = service.metric("scanlogin_declined_total", "client=\"numbers\",reason=\"wrong_number\"");
    assert!((counted.await - 1.0).abs() < f64::EPSILON);
    let line = service
        .log()
        .line_with(&["not asked for by the person", "wrong_number"])
        .await;
    for word in ["WARN", "client=\"numbers\"", "network=127.0.0.1", "entry_scene=1047"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
}

#[tokio::test]
async fn the_browser_hears_no_reason_of_a_no_that_the_person_said() {
    let service = service().await;
    let mut asked = Asked::by(&service).await;
    assert_eq!(asked.pick(&service, &asked.wrong[0]).await.status, 403);
    let not_me = json!({ "reason": "not_me" });
    let declined = asked.phone.decline_with(&service, &asked.browser.scene, not_me);
    declined.await.ok();
    let told = asked.events.next_is("declined").await;
    assert!(told.data.get("reason").is_none(), "{}", told.data);
}

/// What was picked is known then, and the next try finds it over.
#[tokio::test]
async fn t01_who_says_not_me_and_hangs_up_is_counted_all_the_same() {
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let service = Service::builder()
        .redis_url(&link.url())
        .config_toml(SITES)
        .start()
        .await;
    let browser = start(&service, "plain").await;
    let phone = Phone::that_scanned("alice", &service, &browser.scene).await;
    link.stall_reply_to("EVALSHA");
    tokio::select! {
        answer = phone.decline_with(&service, &browser.scene, json!({"reason": "not_me"})) => panic!("it was answered: {answer:?}"),
        () = link.stalled() => {}
    }
    eventually("it is noticed that the phone is gone", || async {
        let under_way = service.metric("scanlogin_requests_under_way", "").await;
        (under_way < 0.5).then_some(())
    })
    .await;
    link.heal();
    eventually("it is counted", || async {
        let counted = service
            .metric("scanlogin_declined_total", "client=\"plain\",reason=\"not_me\"")
            .await;
        (counted > 0.5).then_some(())
    })
    .await;
    service
        .log()
        .line_with(&["not asked for by the person", "not_me"])
        .await;
    assert_eq!(browser.status().await["state"], "declined");
}

#[tokio::test]
async fn a_second_wrong_number_is_counted_though_no_replica_of_redis_confirms_it() {
    let redis = RedisServer::start();
    // There is none.
    let service = Service::builder().redis(&redis).with("REDIS_WAIT", 1);
    let service = service.config_toml(SITES).start().await;
    let asked = Asked::by(&service).await;
    for number in [&asked.wrong[0], &asked.wrong[1]] {
        asked.pick(&service, number).await.problem(503, "store_unavailable");
    }
    asked
        .pick(&service, &asked.right)
        .await
        .problem(409, "already_finished");
    let counted = service.metric("scanlogin_declined_total", "client=\"numbers\",reason=\"wrong_number\"");
    assert!((counted.await - 1.0).abs() < f64::EPSILON);
    service
        .log()
        .line_with(&["not asked for by the person", "wrong_number"])
        .await;
}

#[tokio::test]
async fn who_scans_again_is_offered_the_same_numbers_and_has_no_more_tries() {
    let service = service().await;
    let mut asked = Asked::by(&service).await;
    let offered = |asked: &Asked| BTreeSet::from([asked.right.clone(), asked.wrong[0].clone(), asked.wrong[1].clone()]);
    assert_eq!(asked.pick(&service, &asked.wrong[0]).await.status, 403);
    let (again, phone) = scan(&service, &asked.browser.scene, "alice", json!(1047)).await;
    assert_eq!(
        choices(&again.ok()).into_iter().collect::<BTreeSet<_>>(),
        offered(&asked)
    );
    asked.phone = phone;
    assert_eq!(asked.pick(&service, &asked.wrong[1]).await.status, 403);
    asked.events.next_is("declined").await;
}

/// A page that relays the code knows as much as the phone.
#[tokio::test]
async fn nothing_but_the_browsers_own_screen_tells_which_number_is_right() {
    let service = service().await;
    let mut places = BTreeMap::<usize, u32>::new();
    for person in 0..120 {
        let browser = start(&service, "numbers").await;
        let (scanned, _) = scan(&service, &browser.scene, &format!("person-{person}"), json!(1047)).await;
        let scanned = scanned.ok();
        let (choices, right) = (choices(&scanned), browser.status().await["match_number"].clone());
        let place = choices
            .iter()
            .position(|choice| right == choice.as_str())
            .expect("one of them");
        *places.entry(place).or_default() += 1;
        let without_choices = {
            let mut told = scanned.clone();
            told.as_object_mut().unwrap().remove("match_choices");
            told
        };
        assert!(without_choices.get("match_number").is_none());
        let wrong_secret = service.get(&format!("/scenes/{}", browser.scene));
        assert_eq!(Reply::to(wrong_secret).await.status, 401);
    }
    // Of 120, a place that tells nothing has fewer than 16 or more than 64 once in some ten million.
    assert!(
        places.len() == 3 && places.values().all(|count| (16..=64).contains(count)),
        "{places:?}"
    );
}

#[tokio::test]
async fn however_many_guess_at_once_at_three_replicas_two_tries_are_all() {
    let redis = RedisServer::start();
    let first = Service::builder().config_toml(SITES).redis(&redis).start().await;
    let another = || first.replica().config_toml(SITES).start();
    let (second, third) = tokio::join!(another(), another());
    for _ in 0..20 {
        let asked = Asked::by(&first).await;
        let wrong = (0..32).map(|n| {
            let (replica, number) = ([&first, &second, &third][n % 3], &asked.wrong[n % 2]);
            asked.pick(replica, number)
        });
        for reply in join_all(wrong).await {
            assert!(matches!(reply.status, 403 | 409 | 503), "{}", reply.text());
        }
        assert_eq!(asked.browser.status().await["state"], "declined");
    }
}
