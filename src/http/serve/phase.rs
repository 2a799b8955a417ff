//! What a connection is doing, and since when: a caller that sends its headers drop by drop is cut soon, one that does not
//! read its answer a little later; a proxy that keeps a connection for its next request is left in peace for longer than
//! proxies do.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A caller that sends its headers slower than this is not one.
const HEAD: Duration = Duration::from_secs(10);

/// Longer than load balancers keep an idle connection (60 to 75 s usually), so that it is they who close it.
const IDLE: Duration = Duration::from_secs(100);

/// A caller that takes nothing of its answer for so long will not read the rest. An event stream that has nothing to say
/// waits for nobody.
pub(super) const BLOCKED: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
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
    moment: Mutex<Moment>,
    changed: Notify,
}

#[derive(Debug)]
struct Moment {
    phase: Phase,
    /// Since when there is something to write that the caller has no room for.
    blocked: Option<Instant>,
}

impl Moment {
    /// Until when the caller has to move.
    fn end(&self) -> Option<Instant> {
        match (self.phase, self.blocked) {
            (Phase::Head(since), _) => Some(since + HEAD),
            (Phase::Idle(_) | Phase::Request, Some(since)) => Some(since + BLOCKED),
            (Phase::Idle(since), None) => Some(since + IDLE),
            (Phase::Request, None) => None,
        }
    }
}

impl Default for Phases {
    fn default() -> Self {
        let moment = Moment {
            phase: Phase::Idle(Instant::now()),
            blocked: None,
        };
        Self(Arc::new(Shared {
            moment: Mutex::new(moment),
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

    /// Returns when the caller has taken too long for what it has to do next, and says whether that was sending its headers.
    pub(super) async fn overdue(&self) -> bool {
        loop {
            let changed = self.0.changed.notified();
            let Some(end) = self.lock().end() else {
                changed.await;
                continue;
            };
            tokio::select! {
                () = sleep_until(end) => return matches!(self.lock().phase, Phase::Head(_)),
                () = changed => {}
            }
        }
    }

    /// Returns at once, or as soon as something of a request comes.
    pub(super) async fn speaks(&self) {
        loop {
            let changed = self.0.changed.notified();
            if !matches!(self.lock().phase, Phase::Idle(_)) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Moment> {
        self.0.moment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        self.lock().phase = phase;
        self.0.changed.notify_one();
    }

    fn heard(&self) {
        let phase = self.lock().phase;
        if let Phase::Idle(_) = phase {
            self.set(Phase::Head(Instant::now()));
        }
    }

    fn set_blocked(&self, blocked: bool) {
        let now = Instant::now();
        let mut moment = self.lock();
        moment.blocked = blocked.then_some(now);
        // The end of an answer may still have been on its way.
        if let Phase::Idle(since) = &mut moment.phase {
            *since = now;
        }
        drop(moment);
        self.0.changed.notify_one();
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

/// A socket that tells when a next request begins to come, and when the caller has no room for more of an answer.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    phases: Phases,
    blocked: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, phases: Phases) -> Self {
        Self {
            stream,
            phases,
            blocked: false,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn tried_to_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() != self.blocked {
            self.blocked = written.is_pending();
            self.phases.set_blocked(self.blocked);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phases.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.tried_to_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.tried_to_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
