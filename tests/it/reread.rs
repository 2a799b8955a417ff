//! Sites, Mini Programs and keys change while the service runs: nobody's login notices, and what can't be used changes nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::process::scanlogin;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::{canaries, eventually};

const BLOG: &str = r#"
    [[client]]
    client_id = "blog"
    client_secret = "s3cret"
    origins = ["https://blog.example"]
"#;

const SHOP: &str = r#"
    [[client]]
    client_id = "shop"
    client_secret = "shop-secret"
    origins = ["https://shop.example"]
"#;

const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

async fn starts(service: &Service, client_id: &str) -> Reply {
    Reply::to(service.post("/scenes", &json!({ "client_id": client_id }))).await
}

async fn until_it_starts(service: &Service, client_id: &str) {
    eventually("the site is known", || async {
        (starts(service, client_id).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_site_that_is_added_is_served_and_logins_under_way_go_on() {
    let service = Service::builder().config_toml(BLOG).start().await;
    starts(&service, "shop").await.problem(403, "unknown_client");
    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let mut stream = browser.events().await;
    stream.next().await.unwrap();
    let tokens = service.wechat_calls("stable_token").await;

    service.rewrite_config(&format!("{BLOG}{SHOP}"));
    until_it_starts(&service, "shop").await;
    let preflight = service
        .call(reqwest::Method::OPTIONS, "/scenes")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "POST");
    let preflight = Reply::to(preflight).await;
    assert_eq!(preflight.header("access-control-allow-origin"), "https://shop.example");

    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    assert_eq!(stream.next().await.unwrap().data["state"], "scanned");
    alice.confirm(&service, &browser.scene).await.ok();
    let code = stream.next().await.unwrap().data["code"].as_str().unwrap().to_owned();
    Site::Basic("blog", "s3cret")
        .token(&service, &[("code", &code)])
        .await
        .ok();
    assert_eq!(
        service.wechat_calls("stable_token").await,
        tokens,
        "the Mini Program works on as before"
    );
    assert!(service.metric("scanlogin_settings_read_again_total", "taken").await > 0.5);
    service.log().line_with(&["settings were read again", "shop"]).await;
}

#[tokio::test]
async fn a_site_that_is_taken_away_is_no_client_any_more() {
    let service = Service::builder().config_toml(&format!("{BLOG}{SHOP}")).start().await;
    let browser = Browser::start_with(&service, json!({ "client_id": "shop" })).await;
    let code = browser.code_of("alice", &service).await;
    service.rewrite_config(BLOG);
    eventually("the site is unknown", || async {
        (starts(&service, "shop").await.status == 403).then_some(())
    })
    .await;
    let late = Site::Basic("shop", "shop-secret")
        .token(&service, &[("code", &code)])
        .await;
    late.oauth_error(401, "invalid_client");
    assert_eq!(
        browser.status().await["state"],
        "confirmed",
        "its page still hears how it went"
    );
}

#[tokio::test]
async fn a_file_that_can_not_be_used_is_told_with_its_line_and_changes_nothing() {
    let service = Service::builder().config_toml(BLOG).start().await;
    for (wrong, named) in [
        (format!("{BLOG}\n[[client]]\nclient_id = \"shop\nname = 1"), "line 8"),
        (format!("{BLOG}{BLOG}"), "line 8: two clients have the client_id"),
        (
            format!("{BLOG}[[client]]\nclient_id = \"shop\"\nredirect_uri = \"x\""),
            "redirect_uri",
        ),
        (
            BLOG.replace("https://blog.example", "blog.example"),
            "line 5: client blog: origins: \"blog.example\"",
        ),
    ] {
        service.rewrite_config(&wrong);
        service.process.signal(Signal::HUP);
        let line = service.log().line_with(&["nothing was changed", named]).await;
        assert!(line.contains("scanlogin.toml"), "{line}");
        assert_eq!(starts(&service, "blog").await.status, 201);
    }
    // As it is for a moment under an editor, or on a disk that is full.
    service.rewrite_config("");
    service.process.signal(Signal::HUP);
    service
        .log()
        .line_with(&["nothing was changed", "no site is left"])
        .await;
    assert_eq!(starts(&service, "blog").await.status, 201);
    assert!(service.metric("scanlogin_settings_read_again_total", "refused").await >= 5.0);
    service.rewrite_config(&format!("{BLOG}{SHOP}"));
    until_it_starts(&service, "shop").await;
}

#[tokio::test]
async fn a_signal_has_all_read_again_though_no_file_changed() {
    let service = Service::builder().config_toml(BLOG).start().await;
    let taken = async || {
        service
            .metric("scanlogin_settings_read_again_total", "outcome=\"taken\"")
            .await
    };
    let before = taken().await;
    service.process.signal(Signal::HUP);
    eventually("they were read", || async {
        (taken().await > before + 0.5).then_some(())
    })
    .await;
    assert_eq!(starts(&service, "blog").await.status, 201);
}

#[tokio::test]
async fn what_takes_a_restart_is_named_and_stays() {
    let service = Service::builder().config_toml(BLOG).start().await;
    service.rewrite_config(&format!("heartbeat = 1\ncode_width = 300\n{BLOG}{SHOP}"));
    service.process.signal(Signal::HUP);
    let line = service.log().line_with(&["take a restart", "heartbeat"]).await;
    assert!(
        !line.contains("code_width"),
        "what is taken in takes no restart: {line}"
    );
    until_it_starts(&service, "shop").await;

    let program = "[[mini_program]]\nappid = \"wx0123456789abcdef\"\nsecret = \"a-secret-of-wechat\"\n";
    canaries::learn("a secret of the settings", "a-secret-of-wechat");
    service.rewrite_config(&format!("{BLOG}{program}"));
    service.process.signal(Signal::HUP);
    service
        .log()
        .line_with(&["nothing was changed", "WeChat", "restart"])
        .await;
    assert_eq!(starts(&service, "shop").await.status, 201);
}

#[tokio::test]
async fn the_secret_of_pairwise_names_never_changes() {
    let named = |secret: &str, client: &str| {
        format!("pairwise_secret = \"{secret}\"\n{client}subject_type = \"pairwise\"\nsector = \"x.example\"\n")
    };
    let (one, other) = ("0123456789abcdef0123456789abcdef", "another-9abcdef0123456789abcdef!");
    canaries::learn("a secret of the settings", other);
    let service = Service::builder().config_toml(&named(one, BLOG)).start().await;
    service.rewrite_config(&named(other, &format!("{SHOP}{BLOG}")));
    service.process.signal(Signal::HUP);
    service
        .log()
        .line_with(&["nothing was changed", "SCANLOGIN_PAIRWISE_SECRET"])
        .await;
    starts(&service, "shop").await.problem(403, "unknown_client");
    service.rewrite_config(&named(one, &format!("{SHOP}{BLOG}")));
    until_it_starts(&service, "shop").await;
    // Nor in two steps, between which nobody has such a name.
    service.rewrite_config(BLOG);
    service
        .log()
        .line_with(&["settings were read again", "removed=[\"shop\"]"])
        .await;
    service.rewrite_config(&named(other, &format!("{SHOP}{BLOG}")));
    eventually("it is refused again", || async {
        let refused = service
            .metric("scanlogin_settings_read_again_total", "outcome=\"refused\"")
            .await;
        (refused > 1.5).then_some(())
    })
    .await;
    starts(&service, "shop").await.problem(403, "unknown_client");
}

#[tokio::test]
async fn a_site_that_would_know_nobody_again_is_warned_of() {
    let pairwise = |more: &str| {
        format!(
            "pairwise_secret = \"0123456789abcdef0123456789abcdef\"\n{BLOG}subject_type = \"pairwise\"\nsector = \"x.example\"\n{more}"
        )
    };
    let service = Service::builder().config_toml(&pairwise("")).start().await;
    let said = |words: &str| service.log().lines().iter().filter(|line| line.contains(words)).count();
    let warned_of = async |toml: &str| {
        let (read, warned) = (said("settings were read again"), said("is a stranger there"));
        service.rewrite_config(toml);
        service.process.signal(Signal::HUP);
        eventually("it is read", || async {
            (said("settings were read again") > read).then_some(())
        })
        .await;
        // What it warns of it says next.
        Reply::to(service.get("/jwks.json")).await.ok();
        said("is a stranger there") - warned
    };
    // Its name is nothing that people go by.
    assert_eq!(warned_of(&pairwise("name = \"Another name\"\n")).await, 0);
    for other in [
        pairwise("").replace("x.example", "y.example"),
        BLOG.to_owned(),
        pairwise(""),
    ] {
        assert_eq!(warned_of(&other).await, 1, "{other}");
    }
    service.log().line_with(&["blog", "is a stranger there"]).await;
}

#[tokio::test]
async fn a_second_mini_program_gets_a_token_of_its_own_and_the_first_keeps_its() {
    const FIRST: &str = "[[mini_program]]\nappid = \"wx1111111111111111\"\nsecret = \"first-secret-of-wechat\"\n";
    const SECOND: &str = "[[mini_program]]\nappid = \"wx2222222222222222\"\nsecret = \"second-secret-of-wechat\"\n";
    canaries::learn("a secret of the settings", "second-secret-of-wechat");
    let of = |client: &str, appid: &str| client.replace("origins", &format!("mini_program = \"{appid}\"\n    origins"));
    let redis = RedisServer::start();
    let first = format!("{FIRST}{}", of(BLOG, "wx1111111111111111"));
    let service = Service::builder().redis(&redis).config_toml(&first).start().await;
    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    assert_eq!(browser.code_image().await.status, 200);
    let tokens = service.wechat_calls("stable_token").await;

    let both = format!("{first}{SECOND}{}", of(SHOP, "wx2222222222222222"));
    service.rewrite_config(&both);
    until_it_starts(&service, "shop").await;
    let shop = Browser::start_with(&service, json!({ "client_id": "shop" })).await;
    assert_eq!(shop.code_image().await.status, 200);
    assert_eq!(service.wechat_calls("stable_token").await, tokens + 1);
    let code = shop.code_of("alice", &service).await;
    let given = Site::Basic("shop", "shop-secret")
        .token(&service, &[("code", &code)])
        .await
        .ok();
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    assert_eq!(claims["wechat_appid"], "wx2222222222222222");
}

/// Else its last time would stand there for ever, and somebody be woken by it.
#[tokio::test]
async fn a_mini_program_that_is_taken_out_has_no_token_that_could_end() {
    const LEFT: &str = "scanlogin_access_token_left_seconds";
    const FIRST: &str = "[[mini_program]]\nappid = \"wx1111111111111111\"\nsecret = \"first-secret-of-wechat\"\n";
    const SECOND: &str = "[[mini_program]]\nappid = \"wx2222222222222222\"\nsecret = \"second-secret-of-wechat\"\n";
    canaries::learn("a secret of the settings", "second-secret-of-wechat");
    canaries::learn("a secret of the settings", "another-secret-of-wechat");
    let site = BLOG.replace("origins", "mini_program = \"wx1111111111111111\"\n    origins");
    let redis = RedisServer::start();
    let both = format!("{FIRST}{SECOND}{site}");
    let service = Service::builder().redis(&redis).config_toml(&both).start().await;
    let until_told_of = async |appids: &[&str]| {
        eventually("the times are told", || async {
            let told = service.series(LEFT).await;
            let is_of = |appid: &&str| told.contains_key(&format!("{{appid=\"{appid}\"}}"));
            (told.len() == appids.len() && appids.iter().all(is_of) && told.values().all(|left| *left > 7000.0))
                .then_some(())
        })
        .await;
    };
    until_told_of(&["wx1111111111111111", "wx2222222222222222"]).await;
    service.rewrite_config(&format!("{FIRST}{site}"));
    until_told_of(&["wx1111111111111111"]).await;
    // One whose secret is another is another, and goes by the same name.
    service.rewrite_config(&format!("{}{site}", FIRST.replace("first", "another")));
    eventually("the other one has its token", || async {
        (service.wechat_calls("stable_token").await > 2).then_some(())
    })
    .await;
    until_told_of(&["wx1111111111111111"]).await;
}

/// The first that is counted is seen only where nothing was counted before: an alert waits for no second one.
#[tokio::test]
async fn what_alerts_watch_of_a_site_stands_at_nothing_from_when_it_is_known() {
    canaries::learn("a secret of the settings", WEBHOOK_SECRET);
    let service = Service::builder().config_toml(BLOG).start().await;
    let at_nothing = async |name: &str| {
        let series = service.series(name).await;
        let at_nothing = series.into_iter().filter(|(_, count)| *count == 0.0);
        at_nothing.map(|(labels, _)| labels).collect::<Vec<_>>()
    };
    let declines = |client: &str| {
        let labels = |reason| format!("{{client=\"{client}\",reason=\"{reason}\"}}");
        ["no", "not_me", "wrong_number"].map(labels)
    };
    assert_eq!(at_nothing("scanlogin_declined_total").await, declines("blog"));
    assert_eq!(at_nothing("scanlogin_webhooks_total").await, [""; 0]);
    assert_eq!(
        at_nothing("scanlogin_settings_read_again_total").await,
        ["{outcome=\"refused\"}", "{outcome=\"taken\"}"]
    );
    let webhook = format!("webhook_url = \"https://shop.example/hear\"\nwebhook_secret = \"{WEBHOOK_SECRET}\"\n");
    service.rewrite_config(&format!("{BLOG}{SHOP}{webhook}"));
    until_it_starts(&service, "shop").await;
    let both = [declines("blog"), declines("shop")].concat();
    assert_eq!(at_nothing("scanlogin_declined_total").await, both);
    assert_eq!(
        at_nothing("scanlogin_webhooks_total").await,
        ["dropped", "given_up"].map(|result| format!("{{client=\"shop\",result=\"{result}\"}}"))
    );
}

#[tokio::test]
async fn a_secret_in_a_file_and_the_signing_keys_change_without_a_restart() {
    let files = crate::support::temporary_directory();
    let (secret, keys) = (files.path().join("secret"), files.path().join("keys.json"));
    std::fs::write(&secret, "the-first-secret").unwrap();
    let new_keys = || {
        let made = scanlogin().args(["keys", "new"]).output().unwrap();
        serde_json::from_slice::<Value>(&made.stdout).unwrap()["keys"][0].clone()
    };
    let (old, new) = (new_keys(), new_keys());
    std::fs::write(&keys, json!({ "keys": [old] }).to_string()).unwrap();
    let site = format!(
        "[[client]]\nclient_id = \"blog\"\nclient_secret_file = {:?}",
        secret.display()
    );
    let service = Service::builder()
        .config_toml(&site)
        .with("SIGNING_KEYS_FILE", keys.display())
        .start()
        .await;

    std::fs::write(&secret, "the-second-secret").unwrap();
    std::fs::write(&keys, json!({ "keys": [new, old] }).to_string()).unwrap();
    service.process.signal(Signal::HUP);
    service.log().line_with(&["settings were read again"]).await;
    let published = Reply::to(service.get("/jwks.json")).await.ok();
    let kids: Vec<&Value> = published["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["kid"])
        .collect();
    assert_eq!(kids, [&new["kid"], &old["kid"]]);
    let kid = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    let signing = format!("signing=[\"{}\"]", kid(&new));
    let named = service
        .log()
        .line_with(&["the signing keys are others", &kid(&old), &signing])
        .await;
    assert!(named.contains("INFO"), "{named}");
    let is_warned = |line: &String| line.contains("gone from the file");
    assert!(!service.log().lines().iter().any(is_warned));

    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let code = browser.code_of("alice", &service).await;
    let before = Site::Basic("blog", "the-first-secret")
        .token(&service, &[("code", &code)])
        .await;
    before.oauth_error(401, "invalid_client");
    let given = Site::Basic("blog", "the-second-secret")
        .token(&service, &[("code", &code)])
        .await
        .ok();
    Site::verified(&service, given["id_token"].as_str().unwrap()).await;

    // It signed until a moment ago, though another signs by now.
    std::fs::write(&keys, json!({ "keys": [new] }).to_string()).unwrap();
    service.process.signal(Signal::HUP);
    let warned = service.log().line_with(&["gone from the file", &kid(&old)]).await;
    assert!(warned.contains("WARN") && !warned.contains(&kid(&new)), "{warned}");
}

/// What is refused may be mended in a file that was named only now: whoever mounts secrets after the settings asks for nothing else.
#[tokio::test]
async fn a_file_that_settings_named_when_they_were_refused_is_looked_at_too() {
    let files = crate::support::temporary_directory();
    let secret = files.path().join("of-the-shop");
    let service = Service::builder().config_toml(BLOG).start().await;
    let shop = format!(
        "[[client]]\nclient_id = \"shop\"\nclient_secret_file = {:?}",
        secret.display()
    );
    service.rewrite_config(&format!("{BLOG}{shop}"));
    service
        .log()
        .line_with(&[
            "nothing was changed",
            "client shop: client_secret_file",
            "can't be read",
        ])
        .await;
    std::fs::write(&secret, "the-secret-of-the-shop").unwrap();
    until_it_starts(&service, "shop").await;
}

#[tokio::test]
async fn a_login_that_was_begun_before_its_key_was_taken_away_is_signed() {
    let files = crate::support::temporary_directory();
    let keys = files.path().join("keys.json");
    let made = scanlogin()
        .args(["keys", "new", "--alg", "ES256,RS256"])
        .output()
        .unwrap();
    let both: Value = serde_json::from_slice(&made.stdout).unwrap();
    std::fs::write(&keys, both.to_string()).unwrap();
    canaries::learn_from_keys(&keys);
    let redis = RedisServer::start();
    let link = Proxy::start(redis.addr(), Duration::ZERO).await;
    let blog = |alg: &str| format!("{BLOG}id_token_signed_response_alg = \"{alg}\"\n");
    let service = Service::builder()
        .redis_url(&link.url())
        .config_toml(&blog("RS256"))
        .with("SIGNING_KEYS_FILE", keys.display())
        .start()
        .await;
    let browser = Browser::start_with(&service, json!({ "client_id": "blog" })).await;
    let code = browser.code_of("alice", &service).await;

    // The request is on its way to the store when the settings change.
    link.stall();
    let token = async { Site::Basic("blog", "s3cret").token(&service, &[("code", &code)]).await };
    let change = async {
        eventually("it is redeemed", || async {
            (service.metric("scanlogin_requests_under_way", "").await > 0.5).then_some(())
        })
        .await;
        std::fs::write(&keys, json!({ "keys": [both["keys"][0]] }).to_string()).unwrap();
        service.rewrite_config(&blog("ES256"));
        service.process.signal(Signal::HUP);
        service.log().line_with(&["settings were read again"]).await;
        link.heal();
    };
    let (given, ()) = tokio::join!(token, change);
    given.ok();
    let published = Reply::to(service.get("/jwks.json")).await.ok();
    assert_eq!(
        published["keys"].as_array().unwrap().len(),
        1,
        "the change was taken in"
    );
}

/// The way of `docs/howto.md`: behind, first, alone, by one file that two replicas look at, while people log in all the time.
#[tokio::test]
async fn a_key_is_changed_while_people_log_in() {
    let redis = RedisServer::start();
    let files = crate::support::temporary_directory();
    let path = files.path().join("keys.json");
    let new_key = || {
        let made = scanlogin().args(["keys", "new"]).output().unwrap();
        std::fs::write(&path, &made.stdout).unwrap();
        canaries::learn_from_keys(&path);
        serde_json::from_slice::<Value>(&made.stdout).unwrap()["keys"][0].clone()
    };
    let (new, old) = (new_key(), new_key());
    let of_both = |replica: ServiceBuilder| replica.config_toml(BLOG).with("SIGNING_KEYS_FILE", path.display());
    let first = of_both(Service::builder().redis(&redis)).start().await;
    let second = of_both(first.replica()).start().await;
    let replicas = [&first, &second];
    let (done, over) = (Mutex::new([0_usize; PEOPLE]), AtomicBool::new(false));
    let people = (0..PEOPLE).map(|person| log_in_again_and_again(person, replicas, &done, &over));
    let change = async {
        for keys in [vec![&old, &new], vec![&new, &old], vec![&new]] {
            everybody_logs_in(&done).await;
            std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
            let kids: Vec<_> = keys.iter().map(|key| key["kid"].clone()).collect();
            for replica in replicas {
                eventually("the keys are published", || async {
                    (published(replica).await == kids).then_some(())
                })
                .await;
            }
        }
        everybody_logs_in(&done).await;
        over.store(true, Ordering::Relaxed);
    };
    let (signed_by, ()) = tokio::join!(join_all(people), change);
    for kids in signed_by {
        assert_eq!(kids, [&old, &new].map(|key| key["kid"].as_str().unwrap().to_owned()));
    }
}

const PEOPLE: usize = 4;

async fn published(service: &Service) -> Vec<Value> {
    let set = Reply::to(service.get("/jwks.json")).await.ok();
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].clone()).collect()
}

/// Each once more from now, and one more, as that may have begun before.
async fn everybody_logs_in(done: &Mutex<[usize; PEOPLE]>) {
    let before = *done.lock().unwrap();
    eventually("everybody logs in", || async {
        let now = *done.lock().unwrap();
        (0..PEOPLE)
            .all(|person| now[person] >= before[person] + 2)
            .then_some(())
    })
    .await;
}

/// Begins at one replica, confirms and redeems at the other, and asks the first for the keys. Gives who signed, in this order.
async fn log_in_again_and_again(
    person: usize,
    [first, second]: [&Service; 2],
    done: &Mutex<[usize; PEOPLE]>,
    over: &AtomicBool,
) -> Vec<String> {
    let mut signed_by: Vec<String> = Vec::new();
    let (mut here, mut there) = (first, second);
    for login in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let browser = Browser::start_with(here, json!({ "client_id": "blog" })).await;
        let code = browser.code_of(&format!("person-{person}-{login}"), there).await;
        let reply = Site::Basic("blog", "s3cret")
            .token(there, &[("code", &code)])
            .await
            .ok();
        let id_token = reply["id_token"].as_str().unwrap();
        Site::verified(here, id_token).await;
        let kid = kid_of(id_token);
        if !signed_by.contains(&kid) {
            signed_by.push(kid);
        }
        done.lock().unwrap()[person] += 1;
        (here, there) = (there, here);
    }
    signed_by
}

fn kid_of(id_token: &str) -> String {
    let (header, _) = id_token.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}
