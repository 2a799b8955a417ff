//! The whole life of a login, from the code on the screen to the person at the site.

use futures_util::future::join_all;
use serde_json::json;

use crate::stores::{Store, on_each_store};
use crate::support::eventually;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};

on_each_store! {
    a_person_scans_confirms_and_is_logged_in,
    a_person_can_say_no,
    a_browser_can_give_up_before_and_after_the_scan,
    a_scene_that_nobody_scans_expires,
    a_scan_that_nobody_answers_expires,
    a_confirm_in_the_last_moment_leaves_the_code_its_full_minute,
    a_code_is_redeemed_once_and_a_second_use_takes_back_what_the_first_gave,
    of_many_redemptions_at_once_one_succeeds_and_nothing_of_it_stays,
    t15_a_retry_of_the_same_step_succeeds_and_changes_nothing,
    a_person_who_scans_again_gets_a_fresh_token_and_the_old_one_dies,
    a_second_person_cannot_take_over_a_scanned_code,
}

async fn a_person_scans_confirms_and_is_logged_in(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    assert_eq!(events.next_is("waiting").await.data["version"], 1);
    let image = browser.code_image().await;
    assert_eq!((image.status, image.header("content-type")), (200, "image/jpeg"));
    assert!(image.body.starts_with(&[0xff, 0xd8, 0xff]));

    let mut alice = Phone::of("alice");
    let asked = alice.scan(&service, &browser.scene).await.ok();
    assert_eq!(asked["client"]["client_id"], "demo");
    assert_eq!(asked["browser"]["ip"], "127.0.0.1");
    assert!((1..=120).contains(&asked["expires_in"].as_u64().unwrap()), "{asked}");
    let scanned = events.next_is("scanned").await;
    assert_eq!(scanned.data["version"], 2);
    assert!(
        !scanned.data.to_string().contains("alice"),
        "the browser learns no openid"
    );

    let profile = json!({"profile": {"nickname": "Alice"}});
    let answer = alice.confirm_with(&service, &browser.scene, profile).await.ok();
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

async fn a_person_can_say_no(store: Store) {
    let service = store.service().start().await;
    for body in [json!({}), json!({"reason": "not_me"})] {
        let browser = Browser::start(&service).await;
        let mut events = browser.events().await;
        let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
        let answer = alice.decline_with(&service, &browser.scene, body).await.ok();
        assert_eq!(answer, json!({"state": "declined", "version": 3}));
        events.next_is("waiting").await;
        let mut next = events.next().await.unwrap();
        if next.event == "scanned" {
            next = events.next().await.unwrap();
        }
        assert_eq!(next.event, "declined");
        assert!(next.data.get("code").is_none());
        events.ends().await;
    }
    assert!(
        service
            .metric("scanlogin_declined_total", "client=\"demo\",reason=\"not_me\"")
            .await
            >= 1.0
    );
}

async fn a_browser_can_give_up_before_and_after_the_scan(store: Store) {
    let service = store.service().start().await;
    let before = Browser::start(&service).await;
    assert_eq!(before.cancel().await.status, 204);
    assert_eq!(before.status().await["state"], "cancelled");

    let after = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &after.scene).await;
    assert_eq!(after.cancel().await.status, 204);
    let late = alice.confirm(&service, &after.scene).await;
    assert_eq!(late.problem(409, "already_finished")["state"], "cancelled");
}

async fn a_scene_that_nobody_scans_expires(store: Store) {
    let service = store.service().with("SCENE_TTL", 1).start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    let waiting = events.next_is("waiting").await;
    let expired = events.next_is("expired").await;
    assert_eq!(expired.data["reason"], "time");
    assert_eq!(expired.data["version"], 1, "an expiry has no version of its own");
    assert_eq!(expired.data["expires_in"], 0);
    assert_ne!(expired.id, waiting.id, "but an id");
    events.ends().await;
    let status = browser.status().await;
    assert_eq!(
        (&status["state"], &status["id"]),
        (&json!("expired"), &json!(expired.id))
    );
}

async fn a_scan_that_nobody_answers_expires(store: Store) {
    let service = store.service().with("SCENE_TTL", 2).start().await;
    let browser = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let mut events = browser.events().await;
    events.next_is("scanned").await;
    assert_eq!(events.next_is("expired").await.data["version"], 2);
    let late = alice.confirm(&service, &browser.scene).await;
    assert_eq!(late.problem(410, "expired")["state"], "expired");
    assert_eq!(browser.status().await["state"], "expired");
}

async fn a_confirm_in_the_last_moment_leaves_the_code_its_full_minute(store: Store) {
    let service = store.service().with("SCENE_TTL", 2).start().await;
    let browser = Browser::start(&service).await;
    let code = browser.code_of("alice", &service).await;
    let after_the_deadline = eventually("the scene's own time is over", || async {
        let status = browser.status().await;
        (status["expires_in"] == 0).then_some(status)
    });
    let status = after_the_deadline.await;
    assert_eq!((&status["state"], &status["code"]), (&json!("confirmed"), &json!(code)));
    Site::demo().redeem(&service, &code).await.ok();
}

async fn a_code_is_redeemed_once_and_a_second_use_takes_back_what_the_first_gave(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let code = browser.code_of("alice", &service).await;
    let given = Site::demo().redeem(&service, &code).await.ok();
    let token = given["access_token"].as_str().unwrap();

    let guess = [("code", code.as_str()), ("code_verifier", "guessed")];
    let thief = Site::demo().token(&service, &guess).await;
    thief.oauth_error(400, "invalid_grant");
    Site::userinfo(&service, token).await.ok();

    let again = Site::demo().redeem(&service, &code).await;
    again.oauth_error(400, "invalid_grant");
    Site::userinfo(&service, token).await.oauth_error(401, "invalid_token");
    let status = browser.status().await;
    assert_eq!((&status["state"], &status["version"]), (&json!("confirmed"), &json!(3)));
    assert!(status.get("code").is_none(), "nothing is left to redeem");
}

async fn of_many_redemptions_at_once_one_succeeds_and_nothing_of_it_stays(store: Store) {
    let service = store.service().start().await;
    let code = Browser::start(&service).await.code_of("alice", &service).await;
    let site = Site::demo();
    let tries: Vec<Reply> = join_all((0..64).map(|_| site.redeem(&service, &code))).await;
    let (given, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(
        given.len(),
        1,
        "{:?}",
        given.iter().map(Reply::text).collect::<Vec<_>>()
    );
    for reply in refused {
        reply.oauth_error(400, "invalid_grant");
    }
    let token = given[0].json();
    let userinfo = Site::userinfo(&service, token["access_token"].as_str().unwrap()).await;
    userinfo.oauth_error(401, "invalid_token");
}

async fn t15_a_retry_of_the_same_step_succeeds_and_changes_nothing(store: Store) {
    let service = store.service().start().await;

    let browser = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let first = alice.confirm(&service, &browser.scene).await.ok();
    let before = browser.status().await;
    assert_eq!(alice.confirm(&service, &browser.scene).await.ok(), first);
    let after = browser.status().await;
    for same in ["id", "version", "code"] {
        assert_eq!(after[same], before[same], "{same}");
    }

    let browser = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let first = alice.decline(&service, &browser.scene).await.ok();
    let before = browser.status().await["id"].clone();
    assert_eq!(alice.decline(&service, &browser.scene).await.ok(), first);
    assert_eq!(browser.status().await["id"], before);

    let browser = Browser::start(&service).await;
    assert_eq!(browser.cancel().await.status, 204);
    let before = browser.status().await["id"].clone();
    assert_eq!(browser.cancel().await.status, 204);
    assert_eq!(browser.status().await["id"], before);
}

async fn a_person_who_scans_again_gets_a_fresh_token_and_the_old_one_dies(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let old = Phone::that_scanned("alice", &service, &browser.scene).await;
    let seen = events.next_is("scanned").await;
    let new = Phone::that_scanned("alice", &service, &browser.scene).await;
    assert_ne!(old.token, new.token);
    let dead = old.confirm(&service, &browser.scene).await;
    dead.problem(401, "confirm_token_required");
    let status = browser.status().await;
    assert_eq!((&status["id"], &status["version"]), (&json!(seen.id), &json!(2)));
    new.confirm(&service, &browser.scene).await.ok();
    assert_eq!(
        events.next_is("confirmed").await.data["version"],
        3,
        "and nothing in between"
    );
}

async fn a_second_person_cannot_take_over_a_scanned_code(store: Store) {
    let service = store.service().start().await;
    let browser = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    let mut mallory = Phone::of("mallory");
    let refused = mallory.scan(&service, &browser.scene).await;
    refused.problem(409, "scanned_by_another");
    alice.confirm(&service, &browser.scene).await.ok();
    let code = browser.status().await["code"].as_str().unwrap().to_owned();
    let given = Site::demo().redeem(&service, &code).await.ok();
    let claims = Site::verified(&service, given["id_token"].as_str().unwrap()).await;
    assert_eq!(claims["sub"], "alice");
}
