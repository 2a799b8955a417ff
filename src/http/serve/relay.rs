//! Answers that last: sent without hyper, which keeps two buffers of 8 KiB for each connection, however little there is to say.
//!
//! hyper reads the request; its answer comes here instead, with the socket, and hyper's part of the connection is gone. The
//! connection ends with its stream.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::response::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::phase::BLOCKED;

/// How much is told at once, if there is so much.
const AT_ONCE_BYTES: usize = 16 * 1024;

/// How much a caller may go on to say while it is told something: nobody listens to it.
const UNASKED_BYTES: usize = 16 * 1024;

/// In an answer's extensions: it lasts.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Lasts;

/// Where such an answer goes. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Detour(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    answer: Mutex<Option<Answer>>,
    is_there: Notify,
}

/// An answer that lasts.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// Whether its caller knows chunks (RFC 9112 §7.1); one of HTTP/1.0 knows its end by the connection's.
    pub(super) in_chunks: bool,
}

impl Detour {
    pub(super) fn take(&self, answer: Answer) {
        *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.0.is_there.notify_one();
    }

    /// Once there is one.
    pub(super) async fn taken(&self) -> Answer {
        loop {
            let answer = self.0.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(answer) = answer {
                return answer;
            }
            self.0.is_there.notified().await;
        }
    }
}

/// Sends an answer until it ends, its caller hangs up, or takes too long to take what it is told.
pub(super) async fn relay<S>(mut stream: S, Answer { response, in_chunks }: Answer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let mut bytes = head(parts, in_chunks);
    let mut next = next_of(&mut body).now_or_never();
    loop {
        // What is there already goes at once: the first event with the head, the end with the last.
        let is_over = loop {
            match next {
                Some(Some(told)) => push(&mut bytes, &told, in_chunks),
                Some(None) => break true,
                None => break false,
            }
            next = if bytes.len() < AT_ONCE_BYTES {
                next_of(&mut body).now_or_never()
            } else {
                None
            };
        };
        if is_over && in_chunks {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        if !send(&mut stream, &bytes).await {
            return;
        }
        if is_over {
            let _ = timeout(BLOCKED, stream.shutdown()).await;
            return;
        }
        // With nothing to tell, it holds no memory for what it tells.
        bytes = Vec::new();
        next = tokio::select! {
            told = next_of(&mut body) => Some(told),
            () = hung_up(&mut stream) => return,
        };
    }
}

/// False where its caller takes nothing more.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match timeout(BLOCKED, stream.write(bytes)).await {
            Ok(Ok(length @ 1..)) => bytes = bytes.get(length..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// What is told next; none at the end, or where it broke.
async fn next_of(body: &mut Body) -> Option<Bytes> {
    loop {
        let frame = body.frame().await?.ok()?;
        if let Ok(bytes) = frame.into_data() {
            return Some(bytes);
        }
    }
}

/// As long as its caller listens, and does not talk without end.
async fn hung_up<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut unasked = 0;
    let mut buffer = [0; 64];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        unasked += length;
        if unasked > UNASKED_BYTES {
            return;
        }
    }
}

/// The status line and the headers (RFC 9112 §4, §5).
fn head(mut parts: Parts, in_chunks: bool) -> Vec<u8> {
    let headers = &mut parts.headers;
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if in_chunks {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(Timestamp::now().into())) {
        headers.insert(header::DATE, now);
    }
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).into_bytes();
    let line = |bytes: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue| {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    };
    for (name, value) in &parts.headers {
        line(&mut bytes, name, value);
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn push(bytes: &mut Vec<u8>, told: &[u8], in_chunks: bool) {
    if !in_chunks {
        bytes.extend_from_slice(told);
    } else if !told.is_empty() {
        // An empty chunk would be the last.
        bytes.extend_from_slice(format!("{:x}\r\n", told.len()).as_bytes());
        bytes.extend_from_slice(told);
        bytes.extend_from_slice(b"\r\n");
    }
}
