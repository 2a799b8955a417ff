//! One client of the library, kept connected whatever happens.
//!
//! The library repairs broken connections, but its routing task can end, and a frozen server it doesn't notice while commands
//! keep being written. So a task starts the client anew when it ended, and moves it when a command went unanswered.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::Options;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::servers::Address;
use crate::entropy;
use crate::telemetry::Metrics;

/// One client.
#[derive(Debug, Clone)]
pub(super) struct Link {
    client: Client,
    stalled: Arc<Notify>,
}

/// How long reconnecting on purpose may take before the connections are left to the library again.
const RECONNECT: Duration = Duration::from_secs(2);
/// Between two of them.
const RECONNECT_GAP: Duration = Duration::from_secs(1);
/// How a server says that it is no primary: see the library's `reconnect_errors` in the settings.
const IS_NO_PRIMARY: [&str; 2] = ["READONLY", "MASTERDOWN"];

impl Link {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            stalled: Arc::default(),
        }
    }

    /// For commands: each fails at once while there is no connection, instead of waiting in the library's queue.
    pub(super) fn client(&self) -> WithOptions<Client> {
        self.client.with_options(&Options {
            fail_fast: true,
            ..Options::default()
        })
    }

    /// Says that a command got no answer: the connection may be to a server that is frozen.
    pub(super) fn report_stall(&self) {
        self.stalled.notify_one();
    }

    async fn reconnect(&self) {
        if let Ok(Err(error)) = timeout(RECONNECT, self.client.force_reconnection()).await {
            tracing::debug!(%error, "reconnecting to redis on purpose failed");
        }
    }

    /// Connects and keeps connected until `shutdown`. `on_end` hears why the client could not start, or ended.
    pub(super) async fn keep(self, shutdown: CancellationToken, on_end: impl Fn(&Error) + Send) {
        while !shutdown.is_cancelled() {
            let mut connection = self.client.connect();
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {
                        let _ = timeout(RECONNECT, self.client.quit()).await;
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
                        self.reconnect().await;
                        let _ = timeout(RECONNECT_GAP, shutdown.cancelled()).await;
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

/// Whether a server can be reached, by the connection events of one client: told when it goes, once for each kind of reason, and when
/// it comes.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Unreached>>);

#[derive(Debug)]
struct Unreached {
    since: Instant,
    /// Which kinds of reason were told.
    told: Vec<ErrorKind>,
    why: String,
}

impl Outage {
    /// How long it has lasted; zero when there is none.
    pub(super) fn lasted(&self) -> Duration {
        let outage = self.lock();
        outage.as_ref().map_or(Duration::ZERO, |outage| outage.since.elapsed())
    }

    /// What it is, if there is one.
    pub(super) fn why(&self) -> Option<String> {
        self.lock().as_ref().map(|outage| outage.why.clone())
    }

    /// Follows the events from here on until `shutdown`, and counts the connections that are made.
    pub(super) fn follow(
        self: Arc<Self>,
        server: Address,
        link: &Link,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut errors = link.client.error_rx();
        let mut connected = link.client.reconnect_rx();
        let made = metrics.store_connections_total.with_label_values(&["commands"]);
        async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    error = errors.recv() => match error {
                        Ok((error, _)) => self.note(&server, &error),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    },
                    connected = connected.recv() => {
                        made.inc_by(match connected {
                            Ok(_) => 1,
                            Err(RecvError::Lagged(missed)) => missed,
                            Err(RecvError::Closed) => return,
                        });
                        self.end(&server);
                    }
                }
            }
        }
    }

    fn note(&self, server: &Address, error: &Error) {
        // It was reached, and said so itself: only to be asked again by a new connection.
        if IS_NO_PRIMARY.iter().any(|word| error.details().starts_with(word)) {
            return;
        }
        let mut outage = self.lock();
        let outage = outage.get_or_insert_with(|| Unreached {
            since: Instant::now(),
            told: Vec::new(),
            why: String::new(),
        });
        outage.why = error.to_string();
        if !outage.told.contains(error.kind()) {
            outage.told.push(error.kind().clone());
            tracing::warn!(%server, %error, "redis can't be reached");
        }
    }

    fn end(&self, server: &Address) {
        if let Some(outage) = self.lock().take() {
            tracing::info!(%server, after = ?outage.since.elapsed(), "redis answers again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unreached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
