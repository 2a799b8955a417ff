//! The simulator's own calls: logins, faults, the record, and what they answer to bad input.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::calls::CallRecord;
use super::faults::FaultOrder;
use super::logins::Person;
use super::{Simulator, forward, phone};
use crate::entropy::os_rng;
use crate::web;

const BODY_MAX: usize = 64 * 1024;
const NAME_MAX: usize = 128;

pub(super) fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/simulator/login", post(login))
        .route("/simulator/faults", post(arm_fault).delete(forget_faults))
        .route("/simulator/calls", get(calls))
        .route("/simulator/mini-programs", get(mini_programs))
        .route("/simulator/revoke", post(revoke))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .merge(phone::router())
        .merge(forward::router())
        .method_not_allowed_fallback(async || {
            let detail = "see the Allow header";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .with_state(simulator)
}

/// What went wrong with a call of the simulator's own, as RFC 9457 has it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
        }
    }

    fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, media_type, body.to_string()).into_response()
    }
}

#[derive(Deserialize)]
struct LoginRequest {
    openid: Option<String>,
    unionid: Option<String>,
    /// The Mini Program in which `wx.login` is called; the code counts in any without it.
    appid: Option<String>,
}

async fn login(
    State(simulator): State<Simulator>,
    Input(asked): Input<LoginRequest>,
) -> Result<Json<serde_json::Value>, Problem> {
    for (field, name) in [
        ("openid", &asked.openid),
        ("unionid", &asked.unionid),
        ("appid", &asked.appid),
    ] {
        let wrong =
            |name: &String| !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic());
        if name.as_ref().is_some_and(wrong) {
            let detail = format!("{field}: give 1 to {NAME_MAX} visible ASCII characters");
            return Err(Problem::invalid(detail));
        }
    }
    let person = Person {
        openid: asked.openid.unwrap_or_else(random_openid),
        unionid: asked.unionid,
        appid: asked.appid,
    };
    let openid = person.openid.clone();
    let code = simulator.logins().start(person, Instant::now(), &mut os_rng());
    Ok(Json(json!({ "code": code, "openid": openid })))
}

/// 28 characters, as WeChat's have.
fn random_openid() -> String {
    let mut openid = format!("o{}", URL_SAFE_NO_PAD.encode(os_rng().random::<[u8; 21]>()));
    openid.truncate(28);
    openid
}

async fn arm_fault(State(simulator): State<Simulator>, Input(order): Input<FaultOrder>) -> Result<StatusCode, Problem> {
    simulator.faults().arm(order).map_err(Problem::invalid)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget_faults(State(simulator): State<Simulator>) -> StatusCode {
    simulator.faults().forget();
    StatusCode::NO_CONTENT
}

async fn calls(State(simulator): State<Simulator>) -> Json<Vec<CallRecord>> {
    Json(simulator.call_log().to_vec())
}

async fn mini_programs(State(simulator): State<Simulator>) -> Json<Vec<String>> {
    Json(simulator.mini_programs())
}

async fn revoke(State(simulator): State<Simulator>) -> StatusCode {
    simulator.tokens().revoke();
    StatusCode::NO_CONTENT
}

/// A JSON body; an empty one counts as `{}`.
struct Input<T>(T);

impl<T: DeserializeOwned> FromRequest<Simulator> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Simulator) -> Result<Self, Problem> {
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
            let media_type = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
            media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
        });
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                "body_too_large"
            } else {
                "invalid_request"
            };
            Problem::new(rejection.status(), code, rejection.body_text())
        })?;
        if !body.is_empty() && !is_json {
            let detail = "send the body as Content-Type: application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported_media_type", detail));
        }
        web::json::object(&body).map(Self).map_err(Problem::invalid)
    }
}
