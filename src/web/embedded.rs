//! The pages' files, carried in the binary.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::gzip::{self, Constant};

/// Each file by its hash: a debug build reads files from the disk, where they change.
static FILES: LazyLock<Mutex<HashMap<[u8; 32], Arc<Constant>>>> = LazyLock::new(Mutex::default);

#[derive(RustEmbed)]
#[folder = "assets/"]
struct Assets;

/// The web component, which is a package of its own.
#[derive(RustEmbed)]
#[folder = "web/dist/"]
struct Component;

/// The file at `path` below `assets/`, or that the browser which asks so has it already. `None` if there is no such file.
pub fn file(path: &str, asked: &HeaderMap) -> Option<Response> {
    let file = path.split('/').all(is_plain).then(|| Assets::get(path))??;
    Some(reply(path, file, asked))
}

/// The web component, likewise.
#[must_use]
pub fn component(asked: &HeaderMap) -> Option<Response> {
    let path = "scan-login.js";
    Some(reply(path, Component::get(path)?, asked))
}

fn reply(path: &str, file: EmbeddedFile, asked: &HeaderMap) -> Response {
    let hash = file.metadata.sha256_hash();
    let bytes = || match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let file = Arc::clone(files.entry(hash).or_insert_with(|| Arc::new(Constant::new(bytes()))));
    drop(files);
    let packed = file.packed(asked);
    // Two answers to one question, which a cache must not take for one another (RFC 9110 §8.8.3.3).
    let etag = etag(hash, if packed.is_some() { "-gzip" } else { "" });
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type(path))),
        // Asked for again each time, answered 304: a new version is there at once.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, etag),
        gzip::VARY,
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    match packed {
        _ if unchanged => (StatusCode::NOT_MODIFIED, headers).into_response(),
        Some(packed) => (headers, [gzip::IS_GZIP], packed).into_response(),
        None => (headers, file.plain()).into_response(),
    }
}

/// A debug build reads the files from the disk, where `..` leads elsewhere.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !name.starts_with('.')
}

fn etag(hash: [u8; 32], form: &str) -> HeaderValue {
    let hash = URL_SAFE_NO_PAD.encode(hash);
    HeaderValue::try_from(format!("\"{hash}{form}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The page at `path` with each `{{name}}` in it replaced by the text of that name, which stays text. `None` if there is no such file,
/// or if it wants another text.
#[must_use]
pub fn filled(path: &str, texts: &[(&str, &str)]) -> Option<String> {
    let file = Assets::get(path)?;
    let page = String::from_utf8_lossy(&file.data);
    let mut parts = page.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}")?;
        let (_, text) = texts.iter().find(|(known, _)| *known == name)?;
        push_escaped(&mut filled, text);
        filled.push_str(rest);
    }
    Some(filled)
}

/// As text in HTML, and in an attribute in quotes (HTML §13.2.5.36).
fn push_escaped(page: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            _ => page.push(c),
        }
    }
}
