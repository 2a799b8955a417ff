//! One client of the library, kept connected whatever happens.
//!
//! The library repairs broken connections, but its routing task can end, and a frozen server it doesn't notice while commands
//! keep being written. So a task starts the client anew when it ended, and moves it when a command went unanswered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::{ClientLike, ClusterInterface, EventInterface};
use fred::types::config::{Options, Server};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::entropy;

/// One client.
#[derive(Debug, Clone)]
pub(super) struct Link {
    client: Client,
    stalled: Arc<Notify>,
}

/// How long reconnecting on purpose may take before the connections are left to the library again.
const RESYNC: Duration = Duration::from_secs(2);
/// Between two of them.
const RESYNC_GAP: Duration = Duration::from_secs(1);

impl Link {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            stalled: Arc::default(),
        }
    }

    /// The library's own handle.
    pub(super) fn library(&self) -> Client {
        self.client.clone()
    }

    /// For commands: each fails at once while there is no connection, instead of waiting in the library's queue.
    pub(super) fn client(&self) -> WithOptions<Client> {
        self.client.with_options(&Options {
            fail_fast: true,
            ..Options::default()
        })
    }

    /// For commands to one of [`Self::servers`].
    pub(super) fn client_of(&self, server: &Server) -> WithOptions<Client> {
        self.client.with_options(&Options {
            fail_fast: true,
            cluster_node: Some(server.clone()),
            ..Options::default()
        })
    }

    /// Whether its servers own slots.
    pub(super) fn is_clustered(&self) -> bool {
        self.client.is_clustered()
    }

    /// The primaries it is connected to.
    pub(super) fn servers(&self) -> Vec<Server> {
        self.client.active_connections()
    }

    /// The primary of a slot; without a Cluster the only one there is.
    pub(super) fn owner(&self, slot: u16) -> Option<Server> {
        if self.client.is_clustered() {
            self.client.cached_cluster_state()?.get_server(slot).cloned()
        } else {
            self.servers().into_iter().next()
        }
    }

    /// Says that a command got no answer: the connection may be to a server that is frozen, or primary no more.
    pub(super) fn report_stall(&self) {
        self.stalled.notify_one();
    }

    /// Connects to what is primary now. In a Cluster, whoever watches its owners does that once there is another one.
    async fn resync(&self) {
        if self.client.is_clustered() {
            return;
        }
        if let Ok(Err(error)) = timeout(RESYNC, self.client.force_reconnection()).await {
            tracing::debug!(%error, "reconnecting to redis on purpose failed");
        }
    }

    /// Connects and keeps connected until `shutdown`. `on_end` hears why the client could not start, or ended.
    pub(super) async fn keep(self, shutdown: CancellationToken, on_end: impl Fn(&fred::error::Error) + Send) {
        while !shutdown.is_cancelled() {
            let mut connection = self.client.connect();
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {
                        let _ = timeout(RESYNC, self.client.quit()).await;
                        connection.abort();
                        return;
                    }
                    ended = &mut connection => {
                        if let Ok(Err(error)) = ended {
                            on_end(&error);
                        }
                        break;
                    }
                    () = self.stalled.notified() => {
                        self.resync().await;
                        let _ = timeout(RESYNC_GAP, shutdown.cancelled()).await;
                        // What was reported meanwhile is about the connection that is gone.
                        let _ = self.stalled.notified().now_or_never();
                    }
                }
            }
            let pause = entropy::between(Duration::from_millis(50), Duration::from_millis(300));
            let _ = timeout(pause, shutdown.cancelled()).await;
        }
    }
}

/// Whether Redis can be reached, by the connection events of one client: told once when it goes and once when it comes.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Mutex<Option<Instant>>,
}

impl Outage {
    /// How long it has lasted; zero when there is none.
    pub(super) fn lasted(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// An answer came, so there is none.
    pub(super) fn end(&self) {
        if let Some(since) = self.lock().take() {
            tracing::info!(after = ?since.elapsed(), "redis answers again");
        }
    }

    /// Follows the events until `shutdown`.
    pub(super) async fn follow(self: Arc<Self>, link: Link, shutdown: CancellationToken) {
        let mut errors = link.client.error_rx();
        let mut connected = link.client.reconnect_rx();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                error = errors.recv() => match error {
                    Ok((error, server)) => self.begin(&error, server.as_ref()),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                connected = connected.recv() => match connected {
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => self.end(),
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }

    fn begin(&self, error: &fred::error::Error, server: Option<&Server>) {
        let mut since = self.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            let server = server.map(ToString::to_string);
            tracing::warn!(server, %error, "redis can't be reached");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
