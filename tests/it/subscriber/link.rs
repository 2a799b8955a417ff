//! A slow way to a server, and one that begins with a lie.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A way to a server on which every byte takes a millisecond each way: bare loopback hides faults.
pub(super) struct Link {
    addr: SocketAddr,
    stop: CancellationToken,
}

impl Link {
    pub(super) async fn to(server: SocketAddr) -> Self {
        Self::forward((Ipv4Addr::LOCALHOST, 0).into(), server, None).await
    }

    pub(super) async fn at(addr: SocketAddr, server: SocketAddr) -> Self {
        Self::forward(addr, server, None).await
    }

    /// The first connection is answered with `lie`, whatever it asks.
    pub(super) async fn lying_first(lie: String, server: SocketAddr) -> Self {
        Self::forward((Ipv4Addr::LOCALHOST, 0).into(), server, Some(lie)).await
    }

    async fn forward(addr: SocketAddr, server: SocketAddr, mut lie: Option<String>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, stop, tasks) = (
            listener.local_addr().unwrap(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let (inner_tasks, inner_stop) = (tasks.clone(), stop.clone());
        let accept = async move {
            while let Ok((near, _)) = listener.accept().await {
                let lie = lie.take();
                let serve = async move {
                    match lie {
                        Some(lie) => speak(near, &lie).await,
                        None => join(near, server).await,
                    }
                };
                inner_tasks.spawn(inner_stop.clone().run_until_cancelled_owned(serve));
            }
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept));
        Self { addr, stop }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn speak(mut near: TcpStream, text: &str) {
    // Who is spoken to may hang up at any word.
    let _ = near.write_all(text.as_bytes()).await;
    let mut ignored = Vec::new();
    let _ = near.read_to_end(&mut ignored).await;
}

async fn join(near: TcpStream, server: SocketAddr) {
    let Ok(far) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = pump(near_read, far_write) => {}
        () = pump(far_read, near_write) => {}
    }
}

/// Hands on what comes, each piece a millisecond later.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut delayed) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(1);
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = delayed.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
