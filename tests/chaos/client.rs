//! One call of one client, and what it makes of the answer.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::history::{ClientName, Outcome, Refusal, What};
use crate::recorder::Recorder;

/// Nobody waits longer for an answer; a picture may take 20 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// How soon somebody whose connection went away while the answer was on its way hangs up.
const HANGS_UP_WITHIN: Duration = Duration::from_millis(30);

/// A client of the service, which it reaches through the proxy before all replicas.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: ClientName,
    pub(crate) recorder: Recorder,
    pub(crate) rng: StdRng,
    http: reqwest::Client,
    base: String,
    /// How often its connection goes away with an answer on it, 0 to 1.
    pub(crate) flakiness: f64,
}

impl Client {
    pub(crate) fn new(http: &reqwest::Client, base: &str, recorder: &Recorder, name: ClientName, seed: u64) -> Self {
        Self {
            name,
            recorder: recorder.clone(),
            rng: StdRng::seed_from_u64(seed),
            http: http.clone(),
            base: base.to_owned(),
            flakiness: 0.0,
        }
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        request.header("x-forwarded-for", self.name.address().to_string())
    }

    /// Sends it, and records what `what` makes of the outcome. `read` takes the JSON of a 2xx.
    pub(crate) async fn ask<T: Clone>(
        &mut self,
        request: RequestBuilder,
        read: impl FnOnce(&Value) -> Option<T>,
        what: impl FnOnce(Outcome<T>) -> What,
    ) -> Outcome<T> {
        let sent = self.recorder.now();
        let outcome = if self.rng.random_bool(self.flakiness) {
            let _ = timeout(self.rng.random_range(Duration::ZERO..HANGS_UP_WITHIN), whole(request)).await;
            Outcome::Abandoned
        } else {
            match timeout(PATIENCE, whole(request)).await.ok().flatten() {
                Some(reply) => outcome_of(&reply, |told| {
                    self.recorder.told(told);
                    read(told)
                }),
                None => Outcome::Unknown,
            }
        };
        self.recorder.write(self.name, sent, what(outcome.clone()));
        outcome
    }

    /// How long to wait before trying again, if that is what the outcome asks for.
    pub(crate) fn again<T>(&mut self, outcome: &Outcome<T>) -> Option<Duration> {
        let jitter = self
            .rng
            .random_range(Duration::from_millis(100)..Duration::from_millis(600));
        match outcome {
            Outcome::Unknown | Outcome::Abandoned => Some(jitter),
            Outcome::Refused(refusal) if refusal.status >= 500 || refusal.status == 429 => {
                Some(Duration::from_secs(refusal.retry_after.unwrap_or(1).min(5)) + jitter)
            }
            Outcome::Done(_) | Outcome::Refused(_) => None,
        }
    }

    /// Somewhere between, as people are.
    pub(crate) async fn dawdle(&mut self, least_ms: u64, most_ms: u64) {
        sleep(Duration::from_millis(self.rng.random_range(least_ms..=most_ms))).await;
    }
}

/// An answer, read whole.
struct Whole {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn whole(request: RequestBuilder) -> Option<Whole> {
    let response = request.send().await.ok()?;
    Some(Whole {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.ok()?.to_vec(),
    })
}

fn outcome_of<T>(reply: &Whole, read: impl FnOnce(&Value) -> Option<T>) -> Outcome<T> {
    let json = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    if (200..300).contains(&reply.status) {
        return match read(&json) {
            Some(value) => Outcome::Done(value),
            None => Outcome::Refused(refusal(reply.status, &reply.headers, &Value::Null)),
        };
    }
    // What the proxy says by itself is not the service's answer, which has a name of its own.
    if reply.headers.contains_key("x-request-id") {
        Outcome::Refused(refusal(reply.status, &reply.headers, &json))
    } else {
        Outcome::Unknown
    }
}

fn refusal(status: u16, headers: &HeaderMap, json: &Value) -> Refusal {
    let retry_after = headers.get("retry-after").and_then(|value| value.to_str().ok());
    Refusal {
        status,
        code: json["code"].as_str().or(json["error"].as_str()).map(str::to_owned),
        retry_after: retry_after.and_then(|seconds| seconds.parse().ok()),
        state: serde_json::from_value(json["state"].clone()).ok(),
    }
}

/// The bytes of a 200, or the refusal.
pub(crate) async fn bytes(request: RequestBuilder) -> Outcome<Vec<u8>> {
    let Some(reply) = timeout(PATIENCE, whole(request)).await.ok().flatten() else {
        return Outcome::Unknown;
    };
    if reply.status == 200 {
        return Outcome::Done(reply.body);
    }
    outcome_of(&reply, |_| None)
}

/// The answer whose body is still to come; or the refusal.
pub(crate) async fn open(request: RequestBuilder) -> Result<Response, Outcome<()>> {
    let response = timeout(PATIENCE, request.send()).await.ok().and_then(Result::ok);
    let Some(response) = response else {
        return Err(Outcome::Unknown);
    };
    if response.status() == 200 {
        return Ok(response);
    }
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let Ok(body) = response.bytes().await else {
        return Err(Outcome::Unknown);
    };
    let reply = Whole {
        status,
        headers,
        body: body.to_vec(),
    };
    Err(match status {
        204 => Outcome::Done(()),
        _ => outcome_of(&reply, |_| None),
    })
}

/// The data of an `unavailable` event.
pub(crate) fn unavailable(problem: &Value, retry_ms: Option<u64>) -> Refusal {
    Refusal {
        // When to come again is what the stream's own `retry:` said.
        retry_after: retry_ms.map(|retry| retry.div_ceil(1_000)),
        ..refusal(503, &HeaderMap::new(), problem)
    }
}
