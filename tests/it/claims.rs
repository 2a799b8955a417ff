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

    let id_token = given["id_token"].as_str().unwrap();
    assert_eq!(Site::alg(id_token), "ES256", "where the site asks for no other");
    let claims = Site::verified(&service, id_token).await;
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
    let posted = Reply::to(service.call(Method::POST, "/userinfo").bearer_auth(token))
        .await
        .ok();
    assert_eq!(posted["sub"], "alice");
    // WeChat gave none.
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    for told in [&posted, &claims] {
        assert!(told.get("wechat_unionid").is_none(), "{told}");
    }
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
        // Who brings none is only told what it takes (RFC 6750 §3.1).
        let challenge = refused.header("www-authenticate");
        if wrong.is_empty() {
            assert_eq!(challenge, "Bearer");
            continue;
        }
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""),
            "{challenge}"
        );
    }
    let without = Reply::to(service.get("/userinfo")).await;
    without.oauth_error(401, "invalid_token");
    assert_eq!(without.header("www-authenticate"), "Bearer");
    let in_query = Reply::to(service.get(&format!("/userinfo?access_token={token}"))).await;
    in_query.oauth_error(401, "invalid_token");
}

/// All of it: libraries go by each field, and take what is left out for something else (OpenID Connect Discovery §3).
#[tokio::test]
async fn discovery_names_what_is_there() {
    let service = one_site().await;
    let found = Reply::to(service.get("/.well-known/openid-configuration")).await.ok();
    let at = |path: &str| format!("{}{path}", service.public_url);
    let expected = json!({
        "issuer": service.public_url,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks.json"),
        "scopes_supported": ["openid", "profile"],
        "grant_types_supported": ["authorization_code"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "ui_locales_supported": ["zh-CN", "en"],
        "authorization_response_iss_parameter_supported": true,
        "request_uri_parameter_supported": false,
        "request_parameter_supported": false,
        "claims_parameter_supported": false,
        "subject_types_supported": ["public", "pairwise"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": ["iss", "aud", "exp", "iat", "auth_time", "nonce", "sub", "amr",
            "wechat_openid", "wechat_unionid", "wechat_appid", "nickname", "picture"],
    });
    assert_eq!(found, expected);
}

/// A sector is the host of the redirect_uris, or what the site says (OpenID Connect Core §8.1).
#[tokio::test]
async fn sites_of_one_sector_know_a_person_by_one_name_and_others_by_another() {
    let site = |id: &str, host: &str, more: &str| {
        format!(
            "[[client]]\nclient_id = \"{id}\"\nclient_secret = \"s3cret\"\nsubject_type = \"pairwise\"\n\
             redirect_uris = [\"https://{host}/{id}\"]\n{more}"
        )
    };
    let sites = [
        site("shop", "shop.example", ""),
        site("till", "shop.example", ""),
        site("blog", "blog.example", ""),
        site("help", "help.example", "sector = \"shop.example\"\n"),
    ];
    let toml = format!(
        "pairwise_secret = \"0123456789abcdef0123456789abcdef\"\n{}",
        sites.concat()
    );
    let service = Service::builder().config_toml(&toml).start().await;
    let mut known = Vec::new();
    for id in ["shop", "till", "blog", "help"] {
        let browser = Browser::start_with(&service, json!({ "client_id": id })).await;
        let code = browser.code_of("alice", &service).await;
        let given = Site::Basic(id, "s3cret").token(&service, &[("code", &code)]).await.ok();
        let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
        known.push(claims["sub"].as_str().unwrap().to_owned());
    }
    assert_eq!((&known[0], &known[0]), (&known[1], &known[3]), "{known:?}");
    assert_ne!(known[0], known[2], "{known:?}");
}
