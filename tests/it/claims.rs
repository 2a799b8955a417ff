//! What a site learns of the person who logged in.

use reqwest::Method;
use serde_json::json;

use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

const BLOG: Site = Site::Basic("blog", "s3cret");

async fn one_site() -> Service {
    let service = Service::builder().with("CLIENT_ID", "blog");
    service.with("CLIENT_SECRET", "s3cret").start().await
}

#[tokio::test]
async fn the_id_token_says_who_where_when_and_how() {
    let service = one_site().await;
    let request = json!({
        "client_id": "blog", "nonce": "n-0S6_WzA2Mj", "redirect_uri": "https://ignored.example"
    });
    let browser = Browser::start_with(&service, request).await;
    let login = json!({"openid": "alice", "unionid": "alice-everywhere"});
    let given = Reply::to(service.simulator(Method::POST, "login").json(&login))
        .await
        .ok();
    let wx_code = given["code"].as_str().unwrap();
    let scanned = Phone::scan_with(&service, &browser.scene, wx_code).await.ok();
    let alice = Phone {
        openid: "alice".to_owned(),
        token: scanned["confirm_token"].as_str().unwrap().to_owned(),
    };
    let profile = json!({"profile": {"nickname": "  Ali\u{202e}ce  ", "avatar_url": "https://thirdwx.qlogo.cn/a/132"}});
    alice.confirm_with(&service, &browser.scene, profile).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    let form = [("code", code.as_str()), ("redirect_uri", "https://whatever.example")];
    let given = BLOG.token(&service, &form).await.ok();

    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    for (name, value) in [
        ("iss", json!(service.public_url)),
        ("aud", json!("blog")),
        ("nonce", json!("n-0S6_WzA2Mj")),
        ("sub", json!("alice")),
        ("amr", json!(["wechat", "simulated"])),
        ("wechat_openid", json!("alice")),
        ("wechat_unionid", json!("alice-everywhere")),
        ("nickname", json!("Alice")),
        ("picture", json!("https://thirdwx.qlogo.cn/a/132")),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    assert!(claims["wechat_appid"].as_str().unwrap().starts_with("wx"));
    let at = |name: &str| claims[name].as_i64().unwrap();
    assert!(
        at("exp") > at("iat") && (0..=10).contains(&(at("iat") - at("auth_time"))),
        "{claims}"
    );
    let told = Site::userinfo(&service, given["access_token"].as_str().unwrap())
        .await
        .ok();
    for same in ["sub", "nickname", "picture", "wechat_unionid", "amr", "auth_time"] {
        assert_eq!(told[same], claims[same], "{same}");
    }
}

#[tokio::test]
async fn userinfo_opens_only_for_the_access_token() {
    let service = one_site().await;
    let code = Browser::start_with(&service, json!({}))
        .await
        .code_of("alice", &service)
        .await;
    let given = BLOG.token(&service, &[("code", &code)]).await.ok();
    let token = given["access_token"].as_str().unwrap();
    let posted = service.call(Method::POST, "/userinfo").bearer_auth(token);
    assert_eq!(Reply::to(posted).await.ok()["sub"], "alice");
    let scene = token.split('.').next().unwrap();
    for wrong in [
        "x",
        "",
        scene,
        &format!("{token}A"),
        &format!("{scene}.{}", "A".repeat(43)),
        &code,
    ] {
        let refused = Site::userinfo(&service, wrong).await;
        refused.oauth_error(401, "invalid_token");
    }
    let without = Reply::to(service.get("/userinfo")).await;
    without.oauth_error(401, "invalid_token");
    assert_eq!(without.header("www-authenticate"), "Bearer");
    let in_query = Reply::to(service.get(&format!("/userinfo?access_token={token}"))).await;
    in_query.oauth_error(401, "invalid_token");
}

#[tokio::test]
async fn discovery_names_what_is_there() {
    let service = one_site().await;
    let found = Reply::to(service.get("/.well-known/openid-configuration")).await.ok();
    assert_eq!(found["issuer"], service.public_url.as_str());
    for (name, path) in [
        ("token_endpoint", "/token"),
        ("userinfo_endpoint", "/userinfo"),
        ("jwks_uri", "/jwks.json"),
    ] {
        assert_eq!(found[name], format!("{}{path}", service.public_url), "{name}");
    }
    assert_eq!(found["code_challenge_methods_supported"], json!(["S256"]));
}
