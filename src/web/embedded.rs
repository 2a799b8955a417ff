//! The pages' files, carried in the binary.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::gzip;

/// Each file as gzip, with the hash of what was packed, since a debug build reads files from the disk. Made when it is first asked for:
/// as constant as the files are, and no more than these.
static PACKED: LazyLock<Mutex<HashMap<String, Packed>>> = LazyLock::new(Mutex::default);

struct Packed {
    /// What was packed.
    hash: [u8; 32],
    bytes: Bytes,
}

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
    let packed = gzip::is_taken(asked).then(|| packed(path, &file)).flatten();
    // Two answers to one question, which a cache must not take for one another (RFC 9110 §8.8.3.3).
    let etag = etag(&file, if packed.is_some() { "-gzip" } else { "" });
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
        None => (headers, file.data).into_response(),
    }
}

/// The file as gzip. All that there are are text.
fn packed(path: &str, file: &EmbeddedFile) -> Option<Bytes> {
    let hash = file.metadata.sha256_hash();
    let kept = || PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = kept()
        .get(path)
        .filter(|kept| kept.hash == hash)
        .map(|kept| kept.bytes.clone());
    if found.is_some() {
        return found;
    }
    // Outside of the lock: at worst it is made twice.
    let bytes = gzip::pack(&file.data).ok()?;
    let packed = Packed {
        hash,
        bytes: bytes.clone(),
    };
    kept().insert(path.to_owned(), packed);
    Some(bytes)
}

/// A debug build reads the files from the disk, where `..` leads elsewhere.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !name.starts_with('.')
}

fn etag(file: &EmbeddedFile, form: &str) -> HeaderValue {
    let hash = URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash());
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
