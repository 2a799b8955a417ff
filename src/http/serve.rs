//! A listener: HTTP/1.1 connections with bounded headers and time, which end in good order.

mod descriptors;
mod door;
mod phase;
mod relay;

use std::convert::Infallible;
use std::future::pending;
use std::iter;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Version};
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
pub(super) use self::relay::Lasts;
use self::relay::{Answer, Detour, relay};
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
                    let talking = (router.clone(), closing.clone());
                    tracker.spawn(connection(stream, peer.ip(), place, talking, tracker.clone()));
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
            let talking = (router.clone(), closing.clone());
            tracker.spawn(connection(
                stream,
                peer.ip(),
                Place::default(),
                talking,
                tracker.clone(),
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

async fn connection(
    stream: TcpStream,
    caller: IpAddr,
    place: Place,
    (router, closing): (Router, CancellationToken),
    tracker: TaskTracker,
) {
    // Events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD));
    if let Some((stream, answer)) = converse(stream, caller, router, closing).await {
        // In a task of its own, which is as large as that needs.
        tracker.spawn(async move {
            relay(stream, answer).await;
            drop(place);
        });
    }
}

/// How a connection's talking ended.
enum Ended {
    Over(hyper::Result<()>),
    /// The caller takes too long, and whether to send its headers.
    Overdue(bool),
    /// An answer lasts.
    Lasting(Answer),
}

/// One connection, from its first request to its end.
#[cfg(any(test, fuzzing))]
pub(super) async fn talk<S>(stream: S, caller: IpAddr, router: Router, closing: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some((stream, answer)) = converse(stream, caller, router, closing).await {
        relay(stream, answer).await;
    }
}

/// Answers requests until the caller closes, takes too long, or all is `closing`; or until an answer lasts, which is then to be
/// [relayed](relay).
async fn converse<S>(stream: S, caller: IpAddr, router: Router, closing: CancellationToken) -> Option<(S, Answer)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (phases, detour) = (Phases::default(), Detour::default());
    let during = (phases.clone(), detour.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (under_way, detour) = (during.0.request(), during.1.clone());
        let (is_read, in_chunks) = (request.method() == Method::GET, request.version() >= Version::HTTP_11);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectedTo(caller));
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request).await;
            if is_read && response.extensions().get::<Lasts>().is_some() {
                detour.take(Answer { response, in_chunks });
                return pending().await;
            }
            Ok::<_, Infallible>(response.map(|body| under_way.until_sent(body)))
        }
    });
    let mut connection = http1::Builder::new()
        // Without a timer of hyper's: that also runs while a connection is idle, and would cut it under the proxy that
        // keeps it.
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Watched::new(stream, phases.clone())), service);
    let ended = {
        let talking = async {
            tokio::select! {
                ended = &mut connection => return Ended::Over(ended),
                sending_headers = phases.overdue() => return Ended::Overdue(sending_headers),
                () = closing.cancelled() => {}
            }
            tokio::select! {
                ended = &mut connection => return Ended::Over(ended),
                () = phases.speaks() => {}
                () = sleep(FIRST_WORD) => {}
            }
            Pin::new(&mut connection).graceful_shutdown();
            Ended::Over((&mut connection).await)
        };
        tokio::select! {
            ended = talking => ended,
            answer = detour.taken() => Ended::Lasting(answer),
        }
    };
    match ended {
        Ended::Over(Ok(())) | Ended::Overdue(false) => {}
        Ended::Over(Err(error)) => tracing::debug!(%error, "a connection broke"),
        Ended::Overdue(true) => {
            // The one thing said outside of a reply: whoever still sends its headers has no request yet.
            let mut stream = connection.into_parts().io.into_inner().into_inner();
            let _ = timeout(LAST_WORD, stream.write_all(TOO_SLOW)).await;
        }
        Ended::Lasting(answer) => return Some((connection.into_parts().io.into_inner().into_inner(), answer)),
    }
    None
}

#[cfg(test)]
mod tests;
