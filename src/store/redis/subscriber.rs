//! The connection that listens: one per Redis node, for all watched scenes. Hides how a subscription is kept up while servers
//! restart, freeze, fail over and hand slots to each other.
//!
//! A channel is *wanted* from `watch` to `unwatch`. The [`coordinator`] alone decides where each is subscribed: off, asked for at
//! one connection, or live there. Whatever goes wrong (a connection ends or falls silent, a server takes a subscription away, a
//! slot has another owner) is one path: off, subscribed again at the owner, acknowledged, and only then [`News::Lost`], so that
//! what is read because of it can miss nothing. Own code on `redis-protocol`, because the client libraries tried go deaf in one or
//! the other of these cases.
//!
//! What a server's user for this needs is in `docs/redis.md`.

mod channels;
mod connection;
mod coordinator;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod losses;
mod replies;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::coordinator::{Coordinator, Surroundings, Wish};
use super::keys::Keys;
use super::servers::{Access, Servers};
use super::topology::Topology;
use crate::scene::SceneId;
use crate::store::{News, StoreError};
use crate::telemetry::Metrics;

/// How long `watch` waits for the acknowledgement.
const WATCH_LIMIT: Duration = Duration::from_secs(2);

/// How many wishes may queue; who comes then waits.
const WISHES: usize = 1_024;

/// Keeps the wanted channels subscribed. It ends with its token, or when this is dropped.
#[derive(Debug)]
pub struct Subscriber {
    wishes: mpsc::Sender<Wish>,
}

impl Subscriber {
    /// Starts connecting to whom `topology` names, and tells `news` from then on. While `news` is full, the servers' messages wait
    /// in their sockets. All channels begin with `prefix`.
    #[must_use]
    pub fn start(
        access: &Access,
        prefix: &str,
        topology: Topology,
        news: mpsc::Sender<News>,
        metrics: Metrics,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (wishes, queue) = mpsc::channel(WISHES);
        let surroundings = Surroundings {
            master_only: !matches!(access.servers, Servers::Standalone(_)),
            dialer: access.dialer("scanlogin-subscriber"),
            names: Keys::new(prefix),
            owners: topology.owners,
            look: topology.look,
            news,
            metrics,
            tracker: tracker.clone(),
            stop: stop.clone(),
        };
        let coordinator = Coordinator::new(surroundings);
        tracker.spawn(stop.run_until_cancelled_owned(coordinator.run(queue)));
        Self { wishes }
    }

    /// From its return on, every message of this scene's channel is told as news, until `unwatch`. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], when its server did not acknowledge within two seconds or refuses. The channel stays
    /// wanted until `unwatch`: once it is live after all, [`News::Lost`] says so.
    pub async fn watch(&self, id: &SceneId) -> Result<(), StoreError> {
        let (waiter, acknowledged) = oneshot::channel();
        let wish = async {
            self.wishes.send(Wish::Want(*id, waiter)).await.ok()?;
            acknowledged.await.ok()
        };
        match timeout(WATCH_LIMIT, wish).await {
            Ok(Some(outcome)) => outcome.map_err(StoreError::Unavailable),
            Ok(None) => Err(StoreError::Unavailable("the subscriber has stopped".to_owned())),
            Err(_) => Err(StoreError::Unavailable(
                "the subscription is not acknowledged".to_owned(),
            )),
        }
    }

    /// Ends `watch`. Idempotent; news already under way may still come.
    pub async fn unwatch(&self, id: &SceneId) {
        // A subscriber that has stopped watches nothing.
        let _ = self.wishes.send(Wish::Unwant(*id)).await;
    }
}

/// Why news may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// A connection ended.
    Closed,
    /// A server fell silent.
    Timeout,
    /// A server would not have us.
    Refused,
    /// A server did not keep to the protocol.
    Invalid,
    /// A server held other subscriptions than it had confirmed.
    Miscounted,
    /// A server took subscriptions away.
    Unsubscribed,
    /// Slots, or the role of master, have another owner.
    Moved,
    /// A message could not be read.
    Undecodable,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Miscounted => "miscounted",
            Self::Unsubscribed => "unsubscribed",
            Self::Moved => "moved",
            Self::Undecodable => "undecodable",
        }
    }

    fn count(self, metrics: &Metrics) {
        metrics.store_lost_total.with_label_values(&[self.as_str()]).inc();
    }
}
