//! A name for each request, in its reply and in the log.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
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
}

/// Tells a request's name to its handler, to the service that the handler may hand it on to, and to the caller.
pub(super) async fn give(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let value = HeaderValue::try_from(&id.0).unwrap_or(HeaderValue::from_static(""));
    request.extensions_mut().insert(id);
    request.headers_mut().insert(X_REQUEST_ID, value.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}
