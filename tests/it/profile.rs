//! What a person tells of themselves: a nickname, a picture. Shown to others, so never believed.

use reqwest::Method;
use serde_json::json;

use crate::stores::{Store, on_each_store};
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

on_each_store! {
    an_uploaded_picture_becomes_the_profiles_and_is_served_harmlessly,
}

const JPEG: &[u8] = b"\xff\xd8\xff\xe0<script>alert(1)</script>\xff\xd9";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n a picture";
const WEBP: &[u8] = b"RIFF\x24\0\0\0WEBPVP8 ";

async fn scanned(service: &Service) -> (Browser, Phone) {
    let browser = Browser::start(service).await;
    let alice = Phone::that_scanned("alice", service, &browser.scene).await;
    (browser, alice)
}

async fn an_uploaded_picture_becomes_the_profiles_and_is_served_harmlessly(store: Store) {
    let service = store.service().start().await;
    for (image, media_type) in [(JPEG, "image/jpeg"), (PNG, "image/png"), (WEBP, "image/webp")] {
        let (browser, alice) = scanned(&service).await;
        let kept = alice.upload_avatar(&service, &browser.scene, image).await.ok();
        let address = kept["avatar_url"].as_str().unwrap();
        let path = address.strip_prefix(&service.public_url).unwrap();
        assert!(path.starts_with(&format!("/avatars/{}.", browser.scene)), "{path}");

        let served = Reply::to(service.get(path)).await;
        assert_eq!((served.status, served.body.as_ref()), (200, image));
        assert_eq!(served.header("content-type"), media_type);
        assert_eq!(served.header("x-content-type-options"), "nosniff");
        let policy = served.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("sandbox"),
            "{policy}"
        );
        assert_eq!(browser.status().await["version"], 2, "nothing that the browser sees");

        // What was uploaded goes before what is named.
        let named = json!({"profile": {"avatar_url": "https://thirdwx.qlogo.cn/a/132"}});
        alice.confirm_with(&service, &browser.scene, named).await.ok();
        let status = browser.status().await;
        assert_eq!(status["profile"]["avatar_url"], address);
        let code = status["code"].as_str().unwrap();
        let given = Site::demo().redeem(&service, code).await.ok();
        let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
        assert_eq!(claims["picture"], address);
    }
    let (browser, alice) = scanned(&service).await;
    alice.upload_avatar(&service, &browser.scene, JPEG).await.ok();
    let second = alice.upload_avatar(&service, &browser.scene, PNG).await.ok();
    alice.confirm(&service, &browser.scene).await.ok();
    let profile = &browser.status().await["profile"];
    assert_eq!(profile["avatar_url"], second["avatar_url"], "the later one counts");
}

#[tokio::test]
async fn what_is_no_picture_is_not_kept() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    for image in [
        &b""[..],
        b"GIF89a",
        b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
        b"<html>",
        b"\xff\xd8",
        b"RIFF\x24\0\0\0WAVE",
    ] {
        let labelled = service.call(Method::PUT, &format!("/scenes/{}/avatar", browser.scene));
        let labelled = labelled.header("content-type", "image/png").bearer_auth(&alice.token);
        let refused = Reply::to(labelled.body(image)).await;
        refused.problem(415, "unsupported_media_type");
    }
    for path in [
        format!("/avatars/{}", browser.scene),
        format!("/avatars/{}.{}", browser.scene, "A".repeat(22)),
        "/avatars/x.y".to_owned(),
    ] {
        Reply::to(service.get(&path)).await.problem(404, "not_found");
    }
    alice.confirm(&service, &browser.scene).await.ok();
    assert!(browser.status().await.get("profile").is_none(), "nothing was told");
}

#[tokio::test]
async fn a_nickname_is_cleaned_of_what_hides_and_reorders_and_has_64_characters_at_most() {
    let service = Service::start().await;
    for (given, shown) in [
        ("小明", Some("小明")),
        ("<b>Alice</b>", Some("<b>Alice</b>")),
        ("a\u{202e}b\u{200b}c\r\nd\0", Some("abcd")),
        ("  spaced  ", Some("spaced")),
        ("\u{200b} \u{202e}", None),
        ("", None),
        (&"明".repeat(64), Some("明".repeat(64).as_str())),
    ] {
        let (browser, alice) = scanned(&service).await;
        let profile = json!({"profile": {"nickname": given}});
        alice.confirm_with(&service, &browser.scene, profile).await.ok();
        let status = browser.status().await;
        assert_eq!(status["profile"]["nickname"].as_str(), shown, "{given:?}");
    }
    let (browser, alice) = scanned(&service).await;
    let long = json!({"profile": {"nickname": "明".repeat(65)}});
    let refused = alice.confirm_with(&service, &browser.scene, long).await;
    refused.problem(400, "invalid_request");
    alice.confirm(&service, &browser.scene).await.ok();
}

#[tokio::test]
async fn a_picture_may_be_named_only_on_a_host_of_wechat() {
    let service = Service::start().await;
    let (browser, alice) = scanned(&service).await;
    for address in [
        "http://thirdwx.qlogo.cn/a",
        "https://qlogo.cn.evil.example/a",
        "https://evilqlogo.cn/a",
        "https://user@thirdwx.qlogo.cn/a",
        "https://evil.example/?thirdwx.qlogo.cn",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "wxfile://tmp_1.jpg",
        "",
    ] {
        let profile = json!({"profile": {"avatar_url": address}});
        let refused = alice.confirm_with(&service, &browser.scene, profile).await;
        let problem = refused.problem(400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("avatar_url"), "{problem}");
    }
    let good = json!({"profile": {"avatar_url": "https://thirdwx.qlogo.cn/mmopen/132"}});
    alice.confirm_with(&service, &browser.scene, good).await.ok();
    let profile = browser.status().await["profile"].clone();
    assert_eq!(profile, json!({"avatar_url": "https://thirdwx.qlogo.cn/mmopen/132"}));
}
