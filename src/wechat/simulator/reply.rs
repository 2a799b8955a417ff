//! An answer of WeChat's, and how it goes out: whole, late, or broken.

use std::io;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::calls::{Call, token_tail};
use super::errcode::Errcode;
use super::faults::{Fault, Instead};

const JSON: &str = "application/json; encoding=utf-8";
const HTML: &str = "text/html";

/// What WeChat answers. Its errors have status 200 too.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) errcode: Errcode,
    content_type: &'static str,
    body: Bytes,
    /// Of an access_token that this answer gives.
    pub(super) token_tail: Option<String>,
}

impl Reply {
    /// `body` under the content type that `call` gives its successes.
    pub(super) fn success(call: Call, body: impl Into<Bytes>) -> Self {
        let content_type = match call {
            Call::Token | Call::StableToken => JSON,
            Call::Jscode2session => "text/plain",
            // Also of a PNG.
            Call::Getwxacodeunlimit => "image/jpeg",
        };
        Self {
            status: StatusCode::OK,
            errcode: Errcode::OK,
            content_type,
            body: body.into(),
            token_tail: None,
        }
    }

    /// A success that gives `access_token`.
    pub(super) fn token(call: Call, access_token: &str, expires_in: u64) -> Self {
        let body = serde_json::json!({ "access_token": access_token, "expires_in": expires_in });
        Self {
            token_tail: Some(token_tail(access_token)),
            ..Self::success(call, body.to_string())
        }
    }

    pub(super) fn error(call: Call, errcode: Errcode) -> Self {
        let usual = Self::success(call, errcode.to_json());
        let content_type = match call {
            Call::Getwxacodeunlimit => JSON,
            Call::Token | Call::StableToken | Call::Jscode2session => usual.content_type,
        };
        Self {
            errcode,
            content_type,
            ..usual
        }
    }

    /// A body given by an order keeps the call's content type, so that an error may come as a picture; HTML is HTML.
    pub(super) fn instead(call: Call, instead: &Instead) -> Self {
        let reply = match (&instead.body, instead.errcode) {
            (Some(body), errcode) => Self {
                errcode: errcode.unwrap_or(Errcode::OK),
                ..Self::success(call, body.clone())
            },
            (None, Some(errcode)) => Self::error(call, errcode),
            (None, None) => Self::success(call, format!("<html><h1>{}</h1></html>\n", instead.status)),
        };
        let content_type = if reply.body.starts_with(b"<") {
            HTML
        } else {
            reply.content_type
        };
        Self {
            status: instead.status,
            content_type,
            ..reply
        }
    }

    /// Sends it, late, cut or broken as `fault` says.
    pub(super) async fn send(self, fault: &Fault) -> Response {
        tokio::time::sleep(fault.delay).await;
        let half = self.body.slice(..self.body.len() / 2);
        let body = if fault.truncate { half } else { self.body };
        let declared = HeaderValue::from(body.len().max(1));
        let mut response = Response::new(if fault.reset {
            breaking_off(&body)
        } else {
            Body::from(body)
        });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if fault.reset {
            headers.insert(header::CONTENT_LENGTH, declared);
        }
        response
    }
}

/// Half of `body`, then an error, at which the connection is closed.
fn breaking_off(body: &Bytes) -> Body {
    let half = body.slice(..body.len() / 2);
    let end = stream::once(async {
        // Once pending, so that what came before is flushed to the wire and not dropped with the connection.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(end))
}
