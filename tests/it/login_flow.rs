//! The whole life of a login, from the code on the screen to the person at the site.

use serde_json::json;

use crate::support::roles::{Browser, Phone, Site};
use crate::support::store::{Store, on_each_store};

on_each_store! {
    a_person_scans_confirms_and_is_logged_in,
}

async fn a_person_scans_confirms_and_is_logged_in(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    assert_eq!(events.next_is("waiting").await.data["version"], 1);

    let mut alice = Phone::of("alice");
    let asked = alice.scan(&service, &browser.scene).await.ok();
    assert_eq!(asked["client"]["client_id"], "demo");
    assert_eq!(events.next_is("scanned").await.data["version"], 2);

    let answer = alice
        .confirm_with(&service, &browser.scene, json!({"profile": {"nickname": "Alice"}}))
        .await
        .ok();
    assert_eq!(answer, json!({"state": "confirmed", "version": 3}));
    let confirmed = events.next_is("confirmed").await;
    assert_eq!(confirmed.data["profile"], json!({"nickname": "Alice"}));
    events.ends().await;

    let code = confirmed.data["code"].as_str().unwrap();
    let given = Site::demo().redeem(&service, code).await.ok();
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["nickname"], "Alice");
    assert_eq!(claims["iss"], service.public_url.as_str());
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(Site::userinfo(&service, token).await.ok()["sub"], "alice");
}
