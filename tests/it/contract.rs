//! What each call meets in each state, cell by cell, and what each secret opens.

use reqwest::Method;

use crate::stores::{Store, on_each_store};
use crate::support::cli::cli;
use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

on_each_store! {
    each_call_meets_each_state_as_the_contract_says,
    a_secret_opens_what_it_is_for_and_nothing_else,
}

const STATES: [&str; 8] = [
    "waiting",
    "scanned",
    "confirmed",
    "declined",
    "cancelled",
    "expired unscanned",
    "expired scanned",
    "later",
];

/// The table of the contract: a call, and its status in each of [`STATES`].
const TABLE: [(Call, [u16; 8]); 10] = [
    (Call::Code, [200, 410, 410, 410, 410, 410, 410, 404]),
    (Call::Stream, [200, 200, 200, 200, 200, 200, 200, 404]),
    (Call::Status, [200, 200, 200, 200, 200, 200, 200, 404]),
    (Call::Poll, [200, 200, 200, 200, 200, 200, 200, 404]),
    (Call::Scan("alice"), [200, 200, 409, 409, 409, 410, 410, 404]),
    (Call::Scan("mallory"), [200, 409, 409, 409, 409, 410, 410, 404]),
    (Call::Confirm, [401, 200, 200, 409, 409, 401, 410, 404]),
    (Call::Decline, [401, 200, 409, 200, 409, 401, 410, 404]),
    (Call::Avatar, [401, 200, 409, 409, 409, 401, 410, 404]),
    (Call::Cancel, [204, 204, 409, 409, 204, 204, 204, 404]),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Code,
    Stream,
    Status,
    Poll,
    Scan(&'static str),
    Confirm,
    Decline,
    Avatar,
    Cancel,
}

/// A scene brought into a state, with those who brought it there.
struct Scene {
    browser: Browser,
    alice: Phone,
}

impl Scene {
    async fn in_state(state: &str, service: &Service, store: &Store) -> Self {
        let browser = Browser::start(service).await;
        let mut alice = Phone::of("alice");
        let scene = &browser.scene;
        if !matches!(state, "waiting" | "expired unscanned") {
            alice.scan(service, scene).await.ok();
        }
        match (state, store) {
            ("confirmed", _) => drop(alice.confirm(service, scene).await.ok()),
            ("declined", _) => drop(alice.decline(service, scene).await.ok()),
            ("cancelled", _) => assert_eq!(browser.cancel().await.status, 204),
            ("later", Store::Redis(redis)) => {
                let key = format!("scanlogin:{{{}}}:{scene}", &scene[..2]);
                assert_eq!(cli(redis.addr(), &["DEL", &key]), "1");
            }
            _ => {}
        }
        Self { browser, alice }
    }

    async fn meets(&self, call: Call, service: &Service) -> Reply {
        let (browser, scene) = (&self.browser, &self.browser.scene);
        match call {
            Call::Code => browser.code_image().await,
            Call::Stream => {
                let response = browser.events_request().send().await.unwrap();
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                let body = if status == 200 {
                    let first = EventStream::new(response).next().await.expect("an event");
                    first.data.to_string().into()
                } else {
                    response.bytes().await.unwrap()
                };
                Reply { status, headers, body }
            }
            Call::Status => Reply::to(browser.status_request("")).await,
            Call::Poll => Reply::to(browser.status_request("?wait=1&after=other")).await,
            Call::Scan(openid) => Phone::of(openid).scan(service, scene).await,
            Call::Confirm => self.alice.confirm(service, scene).await,
            Call::Decline => self.alice.decline(service, scene).await,
            Call::Avatar => self.alice.upload_avatar(service, scene, JPEG).await,
            Call::Cancel => browser.cancel().await,
        }
    }
}

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture \xff\xd9";

async fn each_call_meets_each_state_as_the_contract_says(store: Store) {
    let service = store.service().start().await;
    let brief = store.service().with("SCENE_TTL", 2).start().await;
    let mut expiring = Vec::new();
    for (call, expected) in TABLE {
        for (state, status) in STATES.into_iter().zip(expected) {
            if state == "later" && matches!(store, Store::Embedded) {
                continue; // Nothing reaches into the process; the clock would take minutes.
            }
            let at = if state.starts_with("expired") { &brief } else { &service };
            let scene = Scene::in_state(state, at, &store).await;
            if state.starts_with("expired") {
                expiring.push((scene, call, state, status));
            } else {
                check(&scene.meets(call, at).await, call, state, status);
            }
        }
    }
    for (scene, call, state, status) in expiring {
        eventually("the scene expires", || async {
            (scene.browser.status().await["state"] == "expired").then_some(())
        })
        .await;
        check(&scene.meets(call, &brief).await, call, state, status);
    }
}

fn check(reply: &Reply, call: Call, state: &str, status: u16) {
    assert_eq!(reply.status, status, "{call:?} in {state}: {}", reply.text());
    let name = state.split(' ').next().unwrap();
    match status {
        401 => drop(reply.problem(401, "confirm_token_required")),
        404 => drop(reply.problem(404, "unknown_scene")),
        409 if call == Call::Scan("mallory") && state == "scanned" => {
            reply.problem(409, "scanned_by_another");
        }
        409 => assert_eq!(reply.problem(409, "already_finished")["state"], name),
        410 if call == Call::Code => drop(reply.problem(410, "not_waiting")),
        410 => assert_eq!(reply.problem(410, "expired")["state"], "expired"),
        _ => {}
    }
    if status == 200 && matches!(call, Call::Stream | Call::Status | Call::Poll) {
        assert_eq!(reply.json()["state"], name, "{call:?} in {state}");
    }
}

async fn a_secret_opens_what_it_is_for_and_nothing_else(store: Store) {
    let service = store.service().start().await;
    let scene = Scene::in_state("confirmed", &service, &store).await;
    let other = Scene::in_state("confirmed", &service, &store).await;
    let code = scene.browser.status().await["code"].as_str().unwrap().to_owned();
    let others_code = other.browser.status().await["code"].as_str().unwrap().to_owned();
    let (place, secret_of_code) = code.rsplit_once('.').unwrap();

    let wrong_for_browser: [&str; 5] = [&scene.alice.token, secret_of_code, &code, &other.browser.secret, ""];
    let id = &scene.browser.scene;
    for secret in wrong_for_browser {
        for (method, path) in [
            (Method::GET, format!("/events/{id}")),
            (Method::GET, format!("/scenes/{id}")),
            (Method::GET, format!("/scenes/{id}?wait=1")),
            (Method::DELETE, format!("/scenes/{id}")),
        ] {
            let request = || service.call(method.clone(), &path);
            let in_query = format!(
                "{path}{}browser_secret={}",
                if path.contains('?') { '&' } else { '?' },
                scene.browser.secret
            );
            let as_bearer = Reply::to(request().bearer_auth(secret)).await;
            as_bearer.problem(401, "browser_secret_required");
            let as_cookie = Reply::to(request().header("cookie", format!("scanlogin_{id}={secret}"))).await;
            as_cookie.problem(401, "browser_secret_required");
            let as_query = Reply::to(service.call(method.clone(), &in_query)).await;
            as_query.problem(401, "browser_secret_required");
        }
    }
    let wrong_for_phone: [&str; 5] = [&scene.browser.secret, secret_of_code, &code, &other.alice.token, ""];
    for secret in wrong_for_phone {
        let phone = Phone {
            token: secret.to_owned(),
            ..scene.alice.clone()
        };
        for reply in [
            phone.confirm(&service, id).await,
            phone.decline(&service, id).await,
            phone.upload_avatar(&service, id, JPEG).await,
        ] {
            reply.problem(401, "confirm_token_required");
        }
    }
    let (_, others_secret) = others_code.rsplit_once('.').unwrap();
    let wrong_for_site: [&str; 4] = [&scene.browser.secret, &scene.alice.token, others_secret, ""];
    for secret in wrong_for_site {
        let refused = Site::demo().redeem(&service, &format!("{place}.{secret}")).await;
        refused.oauth_error(400, "invalid_grant");
    }
    Site::demo().redeem(&service, &code).await.ok();
}
