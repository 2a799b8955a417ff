//! What holds of whatever is asked of every listener: see the crate's `fuzzing`.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::embedded;
use super::request_id::{RequestId, X_REQUEST_ID};

/// The lines are `X-Request-Id`, a path and `If-None-Match`.
pub(crate) fn request_id(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut request = Request::new(axum::body::Body::empty());
    let sent = HeaderValue::from_bytes(lines.next().unwrap_or_default());
    if let Ok(value) = &sent {
        request.headers_mut().insert(X_REQUEST_ID, value.clone());
    }
    let RequestId(id) = RequestId::of(&request);
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    assert!((1..=64).contains(&id.len()) && id.bytes().all(is_harmless), "{id}");

    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let mut asked = HeaderMap::new();
    if let Some(etag) = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok()) {
        asked.insert(header::IF_NONE_MATCH, etag);
    }
    if let Some(found) = embedded::file(&path, &asked) {
        let leaves = path.starts_with('/') || path.split('/').any(|part| part.starts_with('.'));
        assert!(!leaves && !path.contains('\\'), "{path} is outside");
        let is_known = found.status() == StatusCode::NOT_MODIFIED;
        assert!(is_known || found.status() == StatusCode::OK);
        let etag = found
            .headers()
            .get(header::ETAG)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let sent = asked
            .get(header::IF_NONE_MATCH)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        assert!(!is_known || sent.windows(etag.len()).any(|part| part == etag));
    }
}
