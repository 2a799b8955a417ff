//! A name for each request, in its reply and in the log.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;

/// Where the name is, in a request and in its reply.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// This request's name.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::random))
    }
}

impl RequestId {
    fn random() -> Self {
        let bytes = rand::random();
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string())
    }

    /// The caller's own, if it can do no harm in a log.
    pub(super) fn of(request: &Request) -> Self {
        let given = request
            .headers()
            .get(X_REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        let harmless = |id: &&str| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        given
            .filter(harmless)
            .map_or_else(Self::random, |id| Self(id.to_owned()))
    }

    /// Tells it to the request's handler, and to the service that the handler may hand it on to.
    pub fn give(request: &mut Request) -> Self {
        let id = Self::of(request);
        request.extensions_mut().insert(id.clone());
        request.headers_mut().insert(X_REQUEST_ID, id.value());
        id
    }

    /// Tells it to the caller, and that no answer is kept unless it says otherwise.
    pub fn mark(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, self.value());
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }

    fn value(&self) -> HeaderValue {
        HeaderValue::try_from(&self.0).unwrap_or(HeaderValue::from_static(""))
    }
}
