//! The files of our pages.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::problem::{Code, Problem};
use crate::web::embedded;

/// What our pages may do: only what comes from us, and nothing inline.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' https://*.qlogo.cn; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /assets/{*path}`
pub(super) async fn file(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    page(&path, &headers)
}

/// A file, with what it may do if it is a page.
pub(super) fn page(path: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let mut response =
        embedded::file(path, asked).ok_or_else(|| Problem::new(Code::NotFound, "There is no such file."))?;
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
