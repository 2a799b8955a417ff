//! What handlers take from a request: bounded in size and time, and refused with words.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::AppState;
use super::problem::{Code, Problem};
use crate::scene::SceneId;
use crate::web::json;

/// A body that is not here by then was sent by a stalled caller.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The scene in the path. What has not the form of one is unknown like one that never was.
#[derive(Debug, Clone, Copy)]
pub(super) struct SceneOf(pub(super) SceneId);

impl<S: Send + Sync> FromRequestParts<S> for SceneOf {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::unknown_scene())?;
        text.parse().map(Self).map_err(|_| Problem::unknown_scene())
    }
}

/// The whole body.
#[derive(Debug)]
pub(super) struct Whole(pub(super) Bytes);

impl FromRequest<AppState> for Whole {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(read) => Ok(Self(read?)),
            Err(_) => Err(Problem::new(
                Code::RequestTimeout,
                "The body did not arrive within ten seconds.",
            )),
        }
    }
}

/// A JSON object. An empty body counts as `{}`.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let is_json = media_type_is(request.headers(), "application/json");
        let Whole(body) = Whole::from_request(request, state).await?;
        if !is_json && !body.is_empty() {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "Send JSON, as Content-Type: application/json.",
            ));
        }
        json::object(&body).map(Self).map_err(Problem::invalid)
    }
}

/// A form (`application/x-www-form-urlencoded`). A parameter that comes twice is refused (RFC 6749 §3.2).
pub(super) struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    /// The parameter, unless it is missing or empty (RFC 6749 §3.2: without a value counts as omitted).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

impl Form {
    /// Reads a form.
    ///
    /// # Errors
    /// Why it is none, in words: OAuth errors have their own form.
    pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, &'static str> {
        if !is_form(headers) {
            return Err(NO_FORM);
        }
        let pairs = url::form_urlencoded::parse(body).into_owned();
        let pairs: Vec<_> = pairs.map(|(name, value)| (name, Zeroizing::new(value))).collect();
        let names: std::collections::HashSet<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        if names.len() < pairs.len() {
            Err("A parameter is there twice.")
        } else {
            Ok(Self(pairs))
        }
    }
}

/// The credentials of `Authorization: <scheme> <credentials>`; `None` when there are none or of another scheme.
pub(super) fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (given, credentials) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

/// What a body that is no form is told.
pub(super) const NO_FORM: &str = "Send a form, as Content-Type: application/x-www-form-urlencoded.";

/// Whether the body is said to be a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    media_type_is(headers, "application/x-www-form-urlencoded")
}

fn media_type_is(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    given
        .split(';')
        .next()
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(wanted))
}
