//! A person's phone: scans, and answers.

use std::time::Duration;

use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::history::{Outcome, What};
use crate::upstream::Wechat;

/// How long somebody tries.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody whom the service no longer knows scans again.
const SCANS: usize = 3;
/// And somebody who is told that another was first: until Redis may have another primary, that knows less.
const INSISTS: usize = 12;

/// What the person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// Yes, by two taps.
    Twice,
}

/// One person, and what they call themselves.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) openid: String,
    pub(crate) nickname: String,
}

/// Scans `scene` and answers, until that is done or clearly refused; `tap` hears of each answer about to be sent.
pub(crate) async fn answer(
    client: &mut Client,
    wechat: &Wechat,
    scene: &str,
    person: &Person,
    answer: Answer,
    tap: &Notify,
) {
    let until = Instant::now() + PATIENCE;
    for _ in 0..SCANS {
        let Some(token) = scan(client, wechat, scene, person, until).await else {
            return;
        };
        client.dawdle(50, 600).await;
        tap.notify_one();
        let is_unknown = if answer == Answer::No {
            decline(client, scene, person, &token, until).await
        } else {
            confirm(client, scene, person, &token, answer, until).await
        };
        if !is_unknown {
            return;
        }
    }
}

async fn scan(client: &mut Client, wechat: &Wechat, scene: &str, person: &Person, until: Instant) -> Option<String> {
    let mut insisted = 0;
    loop {
        let mut token = None;
        let code = wechat.login(&person.openid).await;
        client.recorder.secret("a wx.login code", &code);
        let request = client.call(Method::POST, &format!("/scenes/{scene}/scan"));
        let read = |reply: &Value| {
            token = Some(reply["confirm_token"].as_str()?.to_owned());
            Some(())
        };
        let scanned = |outcome| What::Scan {
            scene: scene.to_owned(),
            openid: person.openid.clone(),
            outcome,
        };
        let outcome = client.ask(request.json(&json!({ "code": code })), read, scanned).await;
        if token.is_some() {
            return token;
        }
        let wait = match &outcome {
            // Call wx.login again, says the service.
            Outcome::Refused(refusal) if refusal.code.as_deref() == Some("invalid_wx_code") => {
                Duration::from_millis(100)
            }
            // Who came first may be forgotten.
            Outcome::Refused(refusal) if refusal.status == 409 && insisted < INSISTS => {
                insisted += 1;
                Duration::from_millis(client.rng.random_range(300..1_000))
            }
            _ => client.again(&outcome)?,
        };
        if Instant::now() + wait > until {
            return None;
        }
        sleep(wait).await;
    }
}

/// Whether the service does not know the token any more.
async fn confirm(
    client: &mut Client,
    scene: &str,
    person: &Person,
    token: &str,
    answer: Answer,
    until: Instant,
) -> bool {
    let body = json!({ "profile": { "nickname": person.nickname } });
    let mut taps = if answer == Answer::Twice { 2 } else { 1 };
    loop {
        let request = client.call(Method::POST, &format!("/scenes/{scene}/confirm"));
        let confirmed = |outcome| What::Confirm {
            scene: scene.to_owned(),
            openid: person.openid.clone(),
            nickname: Some(person.nickname.clone()),
            outcome,
        };
        let request = request.bearer_auth(token).json(&body);
        let outcome = client.ask(request, |reply| reply["version"].as_u64(), confirmed).await;
        taps -= u32::from(outcome.done().is_some());
        match next(client, &outcome, taps == 0, until) {
            Ok(wait) => sleep(wait).await,
            Err(is_unknown) => return is_unknown,
        }
    }
}

async fn decline(client: &mut Client, scene: &str, person: &Person, token: &str, until: Instant) -> bool {
    loop {
        let request = client.call(Method::POST, &format!("/scenes/{scene}/decline"));
        let declined = |outcome| What::Decline {
            scene: scene.to_owned(),
            openid: person.openid.clone(),
            outcome,
        };
        let request = request.bearer_auth(token).json(&json!({}));
        let outcome = client.ask(request, |reply| reply["version"].as_u64(), declined).await;
        match next(client, &outcome, outcome.done().is_some(), until) {
            Ok(wait) => sleep(wait).await,
            Err(is_unknown) => return is_unknown,
        }
    }
}

/// When to try again; or that it is over, and whether because the token is unknown.
fn next<T>(client: &mut Client, outcome: &Outcome<T>, is_done: bool, until: Instant) -> Result<Duration, bool> {
    if is_done {
        return Err(false);
    }
    if outcome.done().is_some() {
        return Ok(Duration::ZERO);
    }
    let is_unknown = outcome.refusal().is_some_and(|refusal| refusal.status == 401);
    let wait = client.again(outcome).ok_or(is_unknown)?;
    if Instant::now() + wait > until {
        return Err(false);
    }
    Ok(wait)
}
