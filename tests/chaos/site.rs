//! A site's backend: redeems the code, and asks who that is.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::history::{Identity, Outcome, What};
use crate::support::roles::with_form;

pub(crate) const CLIENT_ID: &str = "chaos-site";
pub(crate) const CLIENT_SECRET: &str = "the-secret-of-the-chaos-site";

/// As long as a code lives.
const PATIENCE: Duration = Duration::from_mins(1);

/// Redeems the code, until that is done or clearly refused; then asks for the claims.
pub(crate) async fn redeem(client: &mut Client, code: &str) {
    client.recorder.told(&json!({ "code": code }));
    let until = Instant::now() + PATIENCE;
    let access_token = loop {
        let mut access_token = None;
        let request = client
            .call(Method::POST, "/token")
            .basic_auth(CLIENT_ID, Some(CLIENT_SECRET));
        let request = with_form(request, &[("grant_type", "authorization_code"), ("code", code)]);
        let read = |reply: &Value| {
            access_token = Some(reply["access_token"].as_str()?.to_owned());
            identity(&claims(reply["id_token"].as_str()?)?)
        };
        let redeemed = |outcome| What::Redeem {
            code: code.to_owned(),
            client_id: CLIENT_ID.to_owned(),
            outcome,
        };
        let outcome = client.ask(request, read, redeemed).await;
        if let Some(access_token) = access_token {
            break access_token;
        }
        match client.again(&outcome) {
            Some(wait) if Instant::now() + wait < until => sleep(wait).await,
            _ => return,
        }
    };
    while Instant::now() < until {
        let request = client.call(Method::GET, "/userinfo").bearer_auth(&access_token);
        let told = |outcome| What::Userinfo {
            code: code.to_owned(),
            outcome,
        };
        let outcome: Outcome<Identity> = client.ask(request, identity, told).await;
        match client.again(&outcome) {
            Some(wait) => sleep(wait).await,
            None => return,
        }
    }
}

/// The payload of an id_token; that its signature is right is another test's.
fn claims(id_token: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(id_token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn identity(claims: &Value) -> Option<Identity> {
    Some(Identity {
        sub: claims["sub"].as_str()?.to_owned(),
        nickname: claims["nickname"].as_str().map(str::to_owned),
    })
}
