//! The page of the simulated phone, and the files it loads.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::Simulator;
use super::control::Problem;

#[derive(RustEmbed)]
#[folder = "assets/phone/"]
struct PhoneFiles;

#[derive(RustEmbed)]
#[folder = "assets/shared/"]
struct SharedFiles;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<Simulator> {
    Router::new()
        .route("/simulator/phone", get(page))
        .route("/simulator/assets/phone/{file}", get(phone_file))
        .route("/simulator/assets/shared/{file}", get(shared_file))
}

async fn page(headers: HeaderMap) -> Response {
    let mut response = file("index.html", PhoneFiles::get("index.html"), &headers);
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

async fn phone_file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let found = if is_plain(&name) { PhoneFiles::get(&name) } else { None };
    file(&name, found, &headers)
}

async fn shared_file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let found = if is_plain(&name) { SharedFiles::get(&name) } else { None };
    file(&name, found, &headers)
}

/// Whether it names a file of the folder itself; a debug build reads them from the disk.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !name.starts_with('.')
}

fn file(name: &str, found: Option<EmbeddedFile>, asked: &HeaderMap) -> Response {
    let Some(found) = found else {
        return Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such file").into_response();
    };
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(found.metadata.sha256_hash()));
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag));
    let headers = [
        (header::CONTENT_TYPE, media_type(name)),
        (header::ETAG, &etag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    if unchanged {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, found.data).into_response()
    }
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}
