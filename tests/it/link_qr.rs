//! An ordinary QR code in place of WeChat's: drawn here, opened by WeChat's scan, and told when it was scanned.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Query;
use axum::routing::post;
use axum::{Json, Router};
use reqwest::Method;
use rqrr::PreparedImage;
use scanlogin::scene::s256;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::process::scanlogin;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site, VERIFIER};
use crate::support::service::Service;

const PREFIX: &str = "https://login.example/s/";

fn settings(more: &str) -> String {
    format!(
        r#"
        [[mini_program]]
        appid = "wx0123456789abcdef"
        secret = "canary0secret0of0link00000000001"
        link_prefix = "{PREFIX}"
        {more}
        [[client]]
        client_id = "org"
        number_matching = "on_warning"
        "#
    )
}

async fn service(redis: &RedisServer) -> Service {
    Service::builder()
        .redis(redis)
        .with("CODE_POOL", 4)
        .config_toml(&settings(""))
        .start()
        .await
}

fn read(picture: &[u8]) -> String {
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    let mut luma = vec![0; reader.output_buffer_size().unwrap()];
    let side = reader.next_frame(&mut luma).unwrap().width as usize;
    let mut image = PreparedImage::prepare_from_greyscale(side, side, |x, y| luma[y * side + x]);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1);
    grids[0].decode().unwrap().1
}

#[expect(
    clippy::disallowed_methods,
    reason = "when somebody scans is told by the clock on the wall"
)]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

async fn scan(service: &Service, scene: &str, scancode_time: Value) -> Reply {
    let body = json!({ "code": service.wx_code("alice").await, "entry_scene": 1011, "scancode_time": scancode_time });
    Reply::to(service.post(&format!("/scenes/{scene}/scan"), &body)).await
}

#[tokio::test]
async fn the_code_is_a_link_that_is_drawn_without_a_word_to_wechat() {
    let redis = RedisServer::start();
    let service = service(&redis).await;
    let browser = Browser::start(&service).await;
    let picture = browser.code_image().await;
    assert_eq!((picture.status, picture.header("content-type")), (200, "image/png"));
    assert_eq!(read(&picture.body), format!("{PREFIX}{}", browser.scene));
    for call in ["getwxacodeunlimit", "stable_token", "token"] {
        assert_eq!(service.wechat_calls(call).await, 0, "{call}");
    }
    let scanned = scan(&service, &browser.scene, json!(now())).await.ok();
    assert!(scanned.get("warning").is_none(), "{scanned}");
    let phone = Phone {
        openid: "alice".to_owned(),
        token: scanned["confirm_token"].as_str().unwrap().to_owned(),
    };
    phone.confirm(&service, &browser.scene).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    Site::Public("org").redeem(&service, &code).await.ok();
    assert_eq!(
        browser.code_image().await.problem(410, "not_waiting")["state"],
        "confirmed"
    );
    assert_eq!(service.wechat_calls("getwxacodeunlimit").await, 0);
}

#[tokio::test]
async fn a_code_that_was_scanned_long_ago_or_before_its_scene_is_warned_of() {
    let redis = RedisServer::start();
    let service = service(&redis).await;
    for (time, is_late) in [
        (json!(now()), false),
        (json!(now() - 30), false),
        // A phone's clock may be ahead.
        (json!(now() + 3_600), false),
        (Value::Null, false),
        (json!(now() - 90), true),
        (json!(0), true),
        (json!(i64::MIN), true),
    ] {
        let browser = Browser::start(&service).await;
        let scanned = scan(&service, &browser.scene, time.clone()).await.ok();
        let warning = scanned["warning"].as_str().unwrap_or_default();
        assert_eq!(warning.contains("早些时候"), is_late, "{time}: {scanned}");
        assert_eq!(scanned.get("match_choices").is_some(), is_late, "{time}: {scanned}");
        // Of whoever scans again the first scan's warning stands.
        let again = scan(&service, &browser.scene, json!(now())).await.ok();
        assert_eq!(again.get("warning"), scanned.get("warning"), "{time}");
    }
    for time in [json!("1"), json!(1.5), json!({})] {
        let browser = Browser::start(&service).await;
        scan(&service, &browser.scene, time)
            .await
            .problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn whoever_opens_the_link_elsewhere_is_told_what_it_is_for_and_not_whether_it_is() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let at = async |scene: &str| Reply::to(service.get(&format!("/s/{scene}"))).await;
    let there = at(&browser.scene).await;
    assert_eq!(there.status, 200);
    assert!(there.header("content-type").starts_with("text/html"));
    assert!(there.text().contains("扫一扫") && there.text().contains("Open it with WeChat's scan"));
    assert!(!there.text().contains(&browser.scene));
    let nowhere = at(&"0".repeat(32)).await;
    assert_eq!((nowhere.status, &nowhere.body), (200, &there.body));
    let mut told = (there.headers.clone(), nowhere.headers.clone());
    for headers in [&mut told.0, &mut told.1] {
        headers.remove("x-request-id");
        headers.remove("date");
    }
    assert_eq!(told.0, told.1);
    for wrong in ["x", "aBcDeFgHiJ.txt", &"0".repeat(33)] {
        let page = at(wrong).await;
        assert_eq!(page.status, 404, "{wrong}");
        assert!(page.header("content-type").starts_with("text/html"), "{wrong}");
        assert!(page.text().contains("链接不完整") && page.text().contains("This link is not whole"));
        let known = service
            .get(&format!("/s/{wrong}"))
            .header("if-none-match", page.header("etag"));
        assert_eq!(
            Reply::to(known).await.status,
            404,
            "{wrong}: what is not there has not changed either"
        );
        assert!(
            page.header("content-security-policy")
                .contains("frame-ancestors 'none'")
        );
    }
    assert_eq!(browser.status().await["state"], "waiting");
    Reply::to(service.call(Method::POST, &format!("/s/{}", browser.scene)))
        .await
        .problem(405, "method_not_allowed");
}

#[tokio::test]
async fn wechats_console_finds_its_file_beside_the_links() {
    let files = crate::support::temporary_directory();
    let path = files.path().join("aBcDeFgHiJ.txt");
    std::fs::write(&path, "0123456789abcdef").unwrap();
    let redis = RedisServer::start();
    let config = settings(&format!("link_file = {:?}", path.display().to_string()));
    let service = Service::builder().redis(&redis).config_toml(&config).start().await;
    let file = Reply::to(service.get("/s/aBcDeFgHiJ.txt")).await;
    assert_eq!((file.status, file.text()), (200, "0123456789abcdef".to_owned()));
    assert_eq!(file.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(Reply::to(service.get("/s/another.txt")).await.status, 404);
}

#[test]
fn what_is_no_prefix_of_links_stops_the_start() {
    let files = crate::support::temporary_directory();
    let path = files.path().join("scanlogin.toml");
    let long = format!("https://login.example/{}/s/", "s".repeat(200));
    for (prefix, why) in [
        ("http://login.example/s/", "must be https and end with /s/"),
        ("https://login.example/s", "must be https and end with /s/"),
        ("https://login.example/?s=/", "must be https and end with /s/"),
        ("https://me@login.example/s/", "must have no user"),
        ("login.example/s/", "must be https and end with /s/"),
        ("https:///s/?", "must be https and end with /s/"),
        ("https://login.example/q/", "must be https and end with /s/"),
        (&long, "longer than 200"),
    ] {
        let text = settings("").replace(PREFIX, prefix);
        std::fs::write(&path, text).unwrap();
        let ended = scanlogin().env("SCANLOGIN_CONFIG", &path).output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{prefix}: {told}");
        assert!(told.contains("link_prefix") && told.contains(why), "{prefix}: {told}");
    }
}

const EDITIONS: &str = r#"
[[mini_program]]
appid = "wx0123456789abcdef"
secret = "canary0secret0of0link00000000001"
env_version = "release"
[[client]]
client_id = "one"
[[client]]
client_id = "all"
env_versions = ["release", "trial", "develop"]
"#;

/// A WeChat that gives each Mini Program a token, and keeps what it is asked to draw, and with which.
async fn drawing() -> (String, mpsc::UnboundedReceiver<Value>) {
    #[expect(clippy::disallowed_methods, reason = "a test asks for a few pictures")]
    let (asked, drawn) = mpsc::unbounded_channel();
    let token = async |Json(request): Json<Value>| {
        let token = format!("token-of-{}", request["appid"].as_str().unwrap());
        Json(json!({ "access_token": token, "expires_in": 7200 }))
    };
    let draw = move |Query(mut query): Query<Value>, Json(mut request): Json<Value>| {
        let asked = asked.clone();
        async move {
            request["access_token"] = query["access_token"].take();
            asked.send(request).unwrap();
            scanlogin::wechat::link::draw("a picture", 280).unwrap().bytes().clone()
        }
    };
    let wechat = Router::new()
        .route("/cgi-bin/stable_token", post(token))
        .route("/wxa/getwxacodeunlimit", post(draw));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(async move { axum::serve(listener, wechat).await.unwrap() });
    (base, drawn)
}

const TWO: &str = r#"
[[mini_program]]
appid = "wx1111111111111111"
secret = "canary0secret0of0link00000000002"
[[mini_program]]
appid = "wx2222222222222222"
secret = "canary0secret0of0link00000000003"
[[client]]
client_id = "one"
mini_program = "wx1111111111111111"
[[client]]
client_id = "two"
mini_program = "wx2222222222222222"
"#;

/// A code of the other one would open a Mini Program that asks for another site.
#[tokio::test]
async fn codes_made_ahead_are_of_the_mini_program_of_their_site() {
    let (base, mut drawn) = drawing().await;
    let service = Service::builder()
        .with("WECHAT_API_BASE", base)
        .with("SIMULATOR", true)
        .with("CODE_POOL", 2)
        .config_toml(TWO)
        .start()
        .await;
    let mut made_by = HashMap::new();
    for _ in 0..4 {
        let ahead = drawn.recv().await.unwrap();
        let (scene, token) = (
            ahead["scene"].as_str().unwrap(),
            ahead["access_token"].as_str().unwrap(),
        );
        made_by.insert(scene.to_owned(), token.to_owned());
    }
    for (client, token) in [
        ("one", "token-of-wx1111111111111111"),
        ("two", "token-of-wx2222222222222222"),
        ("one", "token-of-wx1111111111111111"),
        ("two", "token-of-wx2222222222222222"),
    ] {
        let browser = Browser::start_with(
            &service,
            json!({ "client_id": client, "code_challenge": s256(VERIFIER) }),
        )
        .await;
        assert_eq!(made_by.remove(&browser.scene).as_deref(), Some(token), "{client}");
    }
}

#[tokio::test]
async fn a_page_asks_for_an_edition_that_its_site_allows_and_for_no_other() {
    let (base, mut drawn) = drawing().await;
    let service = Service::builder()
        .with("WECHAT_API_BASE", base)
        .with("SIMULATOR", true)
        .with("CODE_POOL", 2)
        .config_toml(EDITIONS)
        .start()
        .await;
    // Those that are made ahead are of the usual edition.
    let mut made_ahead = Vec::new();
    for _ in 0..2 {
        let ahead = drawn.recv().await.unwrap();
        assert_eq!(ahead["env_version"], "release");
        made_ahead.push(ahead["scene"].clone());
    }
    let start = async |client: &str, edition: &str| {
        let wanted = json!({ "client_id": client, "code_challenge": s256(VERIFIER), "env_version": edition });
        Reply::to(service.post("/scenes", &wanted)).await
    };
    let refused = start("one", "trial").await.problem(400, "invalid_request");
    assert_eq!(refused["detail"], "env_version can only be release for this client.");
    let refused = start("all", "beta").await.problem(400, "invalid_request");
    assert_eq!(
        refused["detail"],
        "env_version can only be release or trial or develop for this client."
    );
    for edition in ["trial", "develop"] {
        let browser = Browser::started(&service, &start("all", edition).await);
        assert!(!made_ahead.contains(&json!(browser.scene)), "{edition}");
        assert_eq!(browser.code_image().await.status, 200, "{edition}");
        let asked = drawn.recv().await.unwrap();
        assert_eq!(
            (&asked["scene"], &asked["env_version"]),
            (&json!(browser.scene), &json!(edition))
        );
        // Only of what is published WeChat can check that it is there.
        assert_eq!(asked["check_path"], false);
    }
    for client in ["one", "all"] {
        let browser = Browser::started(&service, &start(client, "release").await);
        assert!(made_ahead.contains(&json!(browser.scene)), "{client}");
    }
}
