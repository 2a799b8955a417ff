//! The files of our pages.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::problem::{Code, Problem};
use crate::web::embedded;

/// What our pages may do: only what comes from us, and nothing inline. A site's own picture may be shown, and the site's pages may frame
/// what is its own.
fn content_security_policy(logo: Option<&str>, framed_by: &[String]) -> String {
    let logo = logo.map(|origin| format!(" {origin}")).unwrap_or_default();
    let framed_by = if framed_by.is_empty() {
        "'none'".to_owned()
    } else {
        framed_by.join(" ")
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https://*.qlogo.cn{logo}; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors {framed_by}"
    )
}

/// `GET /assets/{*path}`
pub(super) async fn file(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    page(&path, &headers)
}

/// `GET /web/v1/scan-login.js`: the web component, for the pages of whatever site.
///
/// The number is that of its interface. What is behind it may change with every version of the service, so it is asked for again each
/// time, as all files are.
pub(super) async fn component(headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = embedded::component(&headers).ok_or_else(|| Problem::broken("the web component is missing"))?;
    let headers = response.headers_mut();
    // It is the same for everybody and asks for nobody's cookies: any page may load it, and only the calls it makes are of listed ones.
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("cross-origin"),
    );
    Ok(response)
}

/// A file, with what it may do if it is a page.
pub(super) fn page(path: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let mut response =
        embedded::file(path, asked).ok_or_else(|| Problem::new(Code::NotFound, "There is no such file."))?;
    protect(&mut response, None, &[]);
    Ok(response)
}

/// Says what a page may do, and who may frame it.
pub(super) fn protect(response: &mut Response, logo: Option<&str>, framed_by: &[String]) {
    let headers = response.headers_mut();
    // The settings are checked to be origins; whatever else it is, nothing is allowed.
    let policy = HeaderValue::try_from(content_security_policy(logo, framed_by));
    let policy = policy.unwrap_or(HeaderValue::from_static("default-src 'none'"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    if framed_by.is_empty() {
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    } else {
        // Which knows no lists: browsers that know the policy leave it aside.
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    }
}
