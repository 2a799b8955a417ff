//! Sending commands: how long a request may take, and what is tried again.
//!
//! Whatever is sent here is the same act when it is sent twice, since a command that timed out may have been executed, or be
//! executed later. On that rests everything that is tried again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::interfaces::{ClientLike, ServerInterface};
use fred::types::InfoKind;
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::fault::{Fault, Unfit, refusal_of};
use super::nodes::{Node, Nodes};
use super::route::Route;
use super::settings::FatalError;
use super::topology::Topology;
use crate::entropy;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// How long a request may take, everything tried again included.
const DEADLINE: Duration = Duration::from_millis(2_500);
/// After how long an outage requests are no longer tried again, so that they don't pile up.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests may be under way.
const IN_FLIGHT: usize = 8_192;

/// Everybody who can be asked, and how asking goes.
#[derive(Debug)]
pub(super) struct Commands {
    nodes: watch::Receiver<Arc<Nodes>>,
    /// Asks who has what, when it seems to be somebody else.
    look: Arc<Notify>,
    silence: watch::Receiver<Option<String>>,
    in_flight: Semaphore,
    refusals: Refusals,
    metrics: Metrics,
}

impl Commands {
    pub(super) fn new(nodes: watch::Receiver<Arc<Nodes>>, topology: &Topology, metrics: Metrics) -> Self {
        Self {
            nodes,
            look: Arc::clone(&topology.look),
            silence: topology.silence.clone(),
            in_flight: Semaphore::new(IN_FLIGHT),
            refusals: Refusals::default(),
            metrics,
        }
    }

    /// Who has what now.
    pub(super) fn nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes.borrow())
    }

    /// The way of all requests but the waiting ones.
    pub(super) fn route(&self) -> Route {
        Route::new(self.nodes(), None)
    }

    /// Sends a request on the clients that all share, and again while that may help. Always ends within 2.5 seconds.
    pub(super) async fn run<T, F>(
        &self,
        op: &'static str,
        attempt: impl Fn(Route) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
        T: Send,
    {
        self.observed(op, self.insist(op, || attempt(self.route()))).await
    }

    /// As [`Self::run`], but each attempt, to the owner of `slot`, has a client for itself alone, whose connection it may block.
    pub(super) async fn run_waiting<T, F>(
        &self,
        op: &'static str,
        slot: u16,
        attempt: impl Fn(Route) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
        T: Send,
    {
        let attempt = &attempt;
        let once = || async move {
            let nodes = self.nodes();
            let waiter = nodes.of_slot(slot)?.waiter().await?;
            Box::pin(attempt(Route::new(Arc::clone(&nodes), Some(waiter.link.clone())))).await
        };
        self.observed(op, self.insist(op, once)).await
    }

    /// Whether any server answers within a second.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let nodes = self.nodes();
        let ping = async {
            let asked = nodes.iter().map(|node| async {
                let answer = timeout(Duration::from_secs(1), node.shared().client().ping::<()>(None)).await;
                node.heard(answer.map_or(Err(Fault::NoAnswer), |answer| answer.map_err(Fault::from)))
            });
            let none = || StoreError::Unavailable("nobody says where redis is".to_owned());
            let mut answers = join_all(asked).await;
            match answers.iter().position(Result::is_ok) {
                Some(_) => Ok(()),
                None => Err(answers.pop().and_then(Result::err).map_or_else(none, StoreError::from)),
            }
        };
        self.observed("ready", ping).await
    }

    /// Whether the servers will do, apart from what the scripts need: their version, and the right to ask and wait.
    pub(super) async fn check(&self) -> Result<(), Unfit> {
        let nodes = self.nodes();
        let mut yet = match &*self.silence.borrow() {
            Some(silence) => match refusal_of(silence) {
                Some(fatal) => return Err(Unfit::Forever(fatal)),
                None => silence.clone(),
            },
            None => "nobody says where redis is".to_owned(),
        };
        let mut is_any_fit = false;
        for checked in join_all(nodes.iter().map(|node| check(node))).await {
            match checked {
                Ok(()) => is_any_fit = true,
                Err(Unfit::Yet(why)) => yet = why,
                Err(unfit) => return Err(unfit),
            }
        }
        is_any_fit.then_some(()).ok_or(Unfit::Yet(yet))
    }

    /// Tries until the deadline; once only when Redis has been away, or has refused this, for long.
    async fn insist<T, F>(&self, op: &'static str, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(StoreError::Unavailable("too many requests are under way".to_owned()));
        };
        let started = Instant::now();
        let patient = self.nodes.borrow().outage().max(self.refusals.lasted(op)) < PATIENCE;
        let mut pause = Duration::from_millis(25);
        loop {
            let fault = match attempt().await {
                Ok(answer) => {
                    self.refusals.end(op);
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            if fault.may_pass() {
                self.look.notify_one();
            }
            if !patient || !fault.may_pass() {
                return Err(fault.into());
            }
            if started.elapsed() + pause >= DEADLINE {
                // Nothing is wrong with asking for what is there.
                if !matches!(fault, Fault::Doubted) {
                    self.refusals.begin(op, started);
                }
                return Err(fault.into());
            }
            sleep(entropy::between(pause / 2, pause)).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    async fn observed<T>(
        &self,
        op: &'static str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let answer = timeout(DEADLINE, request)
            .instrument(tracing::debug_span!("store.redis", op))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())));
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::Full) => "full",
            Err(StoreError::Corrupt(_)) => "corrupt",
        };
        self.metrics
            .store_request_seconds
            .with_label_values(&[op, outcome])
            .observe(started.elapsed().as_secs_f64());
        answer
    }
}

async fn check(node: &Node) -> Result<(), Unfit> {
    let client = node.shared().client();
    let info: String = client.info(Some(InfoKind::Server)).await?;
    let version = info_field(&info, "redis_version").unwrap_or("nothing of its version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 7) {
        return Err(Unfit::Forever(FatalError::TooOld(version.to_owned())));
    }
    let _: String = client.info(Some(InfoKind::Replication)).await?;
    let () = client.ping(None).await?;
    if node.has_waiters() {
        let _: i64 = client.wait(0, 1).await?;
    }
    Ok(())
}

/// Since when each kind of request has come to nothing although it was tried until its deadline. A server that takes no writes
/// still answers reads.
#[derive(Debug, Default)]
struct Refusals(Mutex<HashMap<&'static str, Instant>>);

impl Refusals {
    fn lasted(&self, op: &'static str) -> Duration {
        self.lock().get(op).map_or(Duration::ZERO, Instant::elapsed)
    }

    fn begin(&self, op: &'static str, since: Instant) {
        self.lock().entry(op).or_insert(since);
    }

    fn end(&self, op: &'static str) {
        self.lock().remove(op);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of INFO.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
