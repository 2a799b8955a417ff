//! What was answered, read whole, and held to what every answer must have.

use axum::body::Bytes;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::canaries;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// Sends the request and reads the answer to its end.
    pub(crate) async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let reply = Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole body"),
        };
        if let Ok(told) = serde_json::from_slice(&reply.body) {
            canaries::learn_from(&told);
        }
        reply
    }

    /// The body as text; a picture is only told by its length.
    pub(crate) fn text(&self) -> String {
        let text = std::str::from_utf8(&self.body).map(ToOwned::to_owned);
        text.unwrap_or_else(|_| format!("{} bytes", self.body.len()))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text()))
    }

    /// A header, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of a 200.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// A problem document, with everything that one must have.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{code} was expected: {}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{problem}");
        let kind = problem["type"].as_str().unwrap_or_default();
        assert!(
            kind.starts_with("http") && kind.ends_with(&format!("/problems#{code}")),
            "{problem}"
        );
        for words in ["title", "detail"] {
            assert!(
                problem[words].as_str().is_some_and(|words| words.len() > 5),
                "{problem}"
            );
        }
        problem
    }

    /// An OAuth error (RFC 6749 §5.2, RFC 6750 §3).
    #[track_caller]
    pub(crate) fn oauth_error(&self, status: u16, error: &str) {
        assert_eq!(self.status, status, "{error} was expected: {}", self.text());
        assert_eq!(self.json()["error"], error, "{}", self.text());
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(status == 401, !self.header("www-authenticate").is_empty());
    }
}
