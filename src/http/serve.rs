//! A listener: HTTP/1.1 connections with bounded headers and time, which end in good order.

mod descriptors;
mod door;
mod phase;

use std::convert::Infallible;
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::door::Place;
use self::phase::{Phases, Watched};
use super::peer::ConnectedTo;
pub use descriptors::{Share, raise_limit};
pub use door::Door;

/// The longest request line and headers, in bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// What a caller hears that sends its headers too slowly, and for how long it is said.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const LAST_WORD: Duration = Duration::from_secs(1);

/// When no connection can be accepted because descriptors are used up, existing ones need the processor more.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// As many as the system keeps for us until we accept them.
const BACKLOG: usize = 1_024;

/// A caller that acknowledges nothing for so long has gone without a word, or its window has been closed for so long. Heartbeats
/// make a stream find out: with one each 15 s it gives up its place within a minute.
const UNHEARD: Duration = Duration::from_secs(45);

/// How long a connection that has nothing under way is left to say something, once all is closing: its request may be on the way,
/// and one that is not idempotent a proxy sends to nobody else when it fails.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// The same is not complained about more often: each connection that ends makes room for one, and there is none again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Serves `router` until `closing`; then accepts no more, lets each connection finish its request, and closes it. Takes its `share`
/// of file descriptors, and `tracker` has the tasks of its connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    mut share: Share,
    closing: CancellationToken,
    tracker: TaskTracker,
) {
    let (mut complaints, mut complaints_of_many) = (Complaints::default(), Complaints::default());
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = share.accept(&listener, tracker.len()) => accepted,
        };
        match accepted {
            Ok(stream) => {
                let Ok(peer) = stream.peer_addr() else { continue };
                if let Some(place) = share.admit(peer.ip()) {
                    tracker.spawn(connection(stream, peer.ip(), place, router.clone(), closing.clone()));
                } else if complaints_of_many.are_due() {
                    tracing::warn!(ip = %peer.ip(), "an address has as many connections as it may; further ones are closed");
                }
            }
            Err(error) => {
                if complaints.are_due() {
                    tracing::error!(%error, "no connection can be accepted; existing ones go on");
                }
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    // Who is connected but not accepted yet would be reset.
    let waiting = listener
        .into_std()
        .map(|listener| iter::from_fn(move || listener.accept().ok()));
    for (stream, _) in waiting.into_iter().flatten().take(BACKLOG) {
        let accepted = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = accepted
            && let Ok(peer) = stream.peer_addr()
        {
            tracker.spawn(connection(
                stream,
                peer.ip(),
                Place::default(),
                router.clone(),
                closing.clone(),
            ));
        }
    }
}

/// When the same was last complained about.
#[derive(Debug, Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    /// Whether to complain now.
    fn are_due(&mut self) -> bool {
        let are_due = self.0.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY);
        if are_due {
            self.0 = Some(Instant::now());
        }
        are_due
    }
}

async fn connection(stream: TcpStream, caller: IpAddr, _place: Place, router: Router, closing: CancellationToken) {
    // Events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD));
    talk(stream, caller, router, closing).await;
}

/// Answers requests until the caller closes, takes too long, or all is `closing`.
pub(super) async fn talk<S>(stream: S, caller: IpAddr, router: Router, closing: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let phases = Phases::default();
    let during = phases.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = during.request();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectedTo(caller));
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request).await;
            Ok::<_, Infallible>(response.map(|body| under_way.until_sent(body)))
        }
    });
    let mut connection = http1::Builder::new()
        // Without a timer of hyper's: that also runs while a connection is idle, and would cut it under the proxy that
        // keeps it.
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Watched::new(stream, phases.clone())), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        sending_headers = phases.overdue() => {
            if sending_headers {
                // The one thing said outside of a reply: whoever still sends its headers has no request yet.
                let mut stream = connection.into_parts().io.into_inner();
                let _ = timeout(LAST_WORD, stream.write_all(TOO_SLOW)).await;
            }
            return;
        }
        () = closing.cancelled() => {
            let ended = tokio::select! {
                ended = &mut connection => Some(ended),
                () = phases.speaks() => None,
                () = sleep(FIRST_WORD) => None,
            };
            if let Some(ended) = ended {
                ended
            } else {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

#[cfg(test)]
mod tests;
