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

mod alignment;
mod channels;
mod connection;
mod coordinator;
mod losses;
mod owners;
mod replies;
mod tenure;
mod topology;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::types::config::{Config, TlsConnector};
use secrecy::SecretString;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::alignment::Alignment;
use self::coordinator::{Coordinator, Surroundings, Wish};
use self::owners::Owners;
use self::tenure::Round;
pub(super) use self::tenure::{Consent, Tenure};
use self::topology::Findings;
use self::wire::Dialer;
use super::keys::Keys;
use super::route::Moving;
use super::servers::Servers;
use crate::scene::SceneId;
use crate::store::{News, StoreError};
use crate::telemetry::Metrics;

/// How long `watch` waits for the acknowledgement.
const WATCH_LIMIT: Duration = Duration::from_secs(2);

/// How many wishes may queue; who comes then waits.
const WISHES: usize = 1_024;

/// What to listen to, and as whom.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where.
    pub servers: Servers,
    /// As whom, where servers ask; `default` if there is only a password.
    pub username: Option<String>,
    /// With which password, where servers ask.
    pub password: Option<SecretString>,
    /// With TLS, and then how; sentinels too.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What all channels begin with.
    pub prefix: String,
}

impl Listen {
    /// What fred would connect to, in the same way.
    #[must_use]
    pub fn new(config: &Config, prefix: &str) -> Self {
        Self {
            servers: Servers::from(&config.server),
            username: config.username.clone(),
            password: config.password.clone().map(SecretString::from),
            tls: config.tls.as_ref().map(|tls| match &tls.connector {
                TlsConnector::Rustls(connector) => Arc::clone(connector.config()),
            }),
            prefix: prefix.to_owned(),
        }
    }
}

/// Keeps the wanted channels subscribed. It ends with its token, or when this is dropped.
#[derive(Debug)]
pub struct Subscriber {
    wishes: mpsc::Sender<Wish>,
    tenure: Option<Tenure>,
}

impl Subscriber {
    /// Starts connecting, and tells `news` from then on. While `news` is full, the servers' messages wait in their sockets.
    ///
    /// `commands` are the clients that read what is told as lost: before it is told they are brought to the same master. `moving`
    /// is told which slots are on their way.
    #[must_use]
    pub fn start(
        listen: Listen,
        news: mpsc::Sender<News>,
        commands: Vec<Client>,
        moving: watch::Sender<Moving>,
        metrics: Metrics,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (wishes, queue) = mpsc::channel(WISHES);
        let (owners_found, owners) = watch::channel(Owners::default());
        let (asked, rounds) = watch::channel(Round::none());
        let look = Arc::new(Notify::new());
        let tenure = matches!(listen.servers, Servers::Sentinel { .. }).then(|| Tenure::new(rounds, Arc::clone(&look)));
        let dialer = Dialer {
            username: listen.username,
            password: listen.password,
            tls: listen.tls,
            certified_name: listen.servers.certified_name().map(str::to_owned),
        };
        let findings = Findings {
            owners: owners_found,
            rounds: asked,
            moving,
        };
        let observer = topology::observe(listen.servers.clone(), dialer.clone(), findings, Arc::clone(&look));
        tracker.spawn(stop.clone().run_until_cancelled_owned(observer));
        let following = Alignment::of(&listen.servers, commands.clone()).keep(owners.clone());
        tracker.spawn(stop.clone().run_until_cancelled_owned(following));
        let surroundings = Surroundings {
            servers: listen.servers,
            dialer,
            names: Keys::new(&listen.prefix),
            owners,
            look,
            news,
            metrics,
            tracker: tracker.clone(),
            stop: stop.clone(),
        };
        let coordinator = Coordinator::new(surroundings, commands);
        tracker.spawn(stop.run_until_cancelled_owned(coordinator.run(queue)));
        Self { wishes, tenure }
    }

    /// Whether the primary is the primary still, where sentinels decide that.
    pub(super) fn tenure(&self) -> Option<Tenure> {
        self.tenure.clone()
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
