//! What a connection is doing, and since when: a caller that sends its headers drop by drop is cut soon, a proxy that keeps
//! a connection for its next request is left in peace for longer than proxies do.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A caller that sends its headers slower than this is not one.
const HEAD: Duration = Duration::from_secs(10);

/// Longer than load balancers keep an idle connection (60 to 75 s usually), so that it is they who close it.
const IDLE: Duration = Duration::from_secs(100);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing of a next request has come.
    Idle(Instant),
    /// Some of its head has.
    Head(Instant),
    /// A request is being served, its body read and its response sent.
    Request,
}

/// One connection's phase. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Phases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: Mutex<Phase>,
    changed: Notify,
}

impl Default for Phases {
    fn default() -> Self {
        let phase = Mutex::new(Phase::Idle(Instant::now()));
        Self(Arc::new(Shared {
            phase,
            changed: Notify::new(),
        }))
    }
}

impl Phases {
    /// A request's head is complete; it is under way until what is answered here is dropped.
    pub(super) fn request(&self) -> UnderWay {
        self.set(Phase::Request);
        UnderWay(self.clone())
    }

    /// Returns when the caller has taken too long for the phase it is in.
    pub(super) async fn overdue(&self) {
        loop {
            let changed = self.0.changed.notified();
            let until = match self.get() {
                Phase::Idle(since) => since + IDLE,
                Phase::Head(since) => since + HEAD,
                Phase::Request => {
                    changed.await;
                    continue;
                }
            };
            tokio::select! {
                () = sleep_until(until) => return,
                () = changed => {}
            }
        }
    }

    fn get(&self) -> Phase {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.0.changed.notify_one();
    }

    fn heard(&self) {
        if let Phase::Idle(_) = self.get() {
            self.set(Phase::Head(Instant::now()));
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Phases);

impl UnderWay {
    /// It is, until the whole body was sent or given up.
    pub(super) fn until_sent(self, body: Body) -> Sent {
        Sent { body, _under_way: self }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(Phase::Idle(Instant::now()));
    }
}

/// A response's body, during which its request is under way.
#[derive(Debug)]
pub(super) struct Sent {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that tells when a next request begins to come.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    phases: Phases,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, phases: Phases) -> Self {
        Self { stream, phases }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phases.heard();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
