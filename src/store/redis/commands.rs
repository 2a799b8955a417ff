//! Sending commands: how long a request may take, and what is tried again.
//!
//! Whatever is sent here is the same act when it is sent twice, since a command that timed out may have been executed, or be
//! executed later. On that rests everything that is tried again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::interfaces::{ClientLike, ServerInterface};
use fred::types::{ClusterHash, CustomCommand, InfoKind, Value};
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{Instrument, Span};

use super::clocks::ahead_of;
use super::fault::{Fault, Unfit, refusal_of};
use super::nodes::{Node, Nodes};
use super::route::Route;
use super::settings::FatalError;
use super::topology::Topology;
use crate::entropy;
use crate::store::StoreError;
use crate::telemetry::{Metrics, trace};

/// How long a request may take, everything tried again included.
const DEADLINE: Duration = Duration::from_millis(2_500);
/// After how long an outage requests are no longer tried again, so that they don't pile up.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a refusal the next one is taken for the same trouble.
const FRESH: Duration = Duration::from_secs(10);
/// How long a refusal is told that nobody has met again.
const TOLD: Duration = Duration::from_mins(1);
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

    /// Warns of servers that forget live scenes to make room: whoever waits for one of those is told that it was lost.
    pub(super) async fn warn_of_eviction(&self) {
        let nodes = self.nodes();
        for node in nodes.iter() {
            let info: Result<String, _> = node.shared().client().info(Some(InfoKind::Memory)).await;
            let info = info.unwrap_or_default();
            let policy = info_field(&info, "maxmemory_policy").unwrap_or("noeviction");
            if policy != "noeviction" {
                let server = &node.address;
                tracing::warn!(%server, policy, "redis evicts live scenes when it is full: set maxmemory-policy noeviction");
            }
        }
    }

    /// How many seconds this machine's clock is ahead of the servers': of that one's which differs most, of those that answer.
    pub(super) async fn clock_skew(&self) -> Option<f64> {
        let nodes = self.nodes();
        let skews = join_all(nodes.iter().map(|node| clock_skew(node))).await;
        skews.into_iter().flatten().max_by(|a, b| a.abs().total_cmp(&b.abs()))
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
        self.observed(op, self.insist(op, || Box::pin(attempt(self.route()))))
            .await
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

    /// Tries until the deadline, and no longer; once only when Redis has been away, or has refused this, for long.
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
        // What the last try that had an end was answered: it says more than that the one after it had none in time.
        let mut known = Fault::NoAnswer;
        loop {
            let fault = match timeout_at(started + DEADLINE, attempt()).await {
                Ok(Ok(answer)) => {
                    if let Some(lasted) = self.refusals.end(op) {
                        tracing::info!(op, after = ?lasted, "redis does this again");
                    }
                    return Ok(answer);
                }
                Ok(Err(fault)) => fault,
                Err(_) => {
                    self.refuse(op, started, &known);
                    return Err(known.into());
                }
            };
            if fault.may_pass() {
                self.look.notify_one();
            }
            if !patient || !fault.may_pass() || started.elapsed() + pause >= DEADLINE {
                self.refuse(op, started, &fault);
                return Err(fault.into());
            }
            sleep(entropy::between(pause / 2, pause)).await;
            pause = (pause * 2).min(Duration::from_millis(200));
            known = fault;
        }
    }

    fn refuse(&self, op: &'static str, since: Instant, fault: &Fault) {
        let why = match fault {
            // Nothing is wrong with asking for what is there, and one record says nothing of the next.
            Fault::Doubted | Fault::Corrupt(_) => return,
            fault => StoreError::from(fault.clone()).to_string(),
        };
        // Of a server that can't be reached, it is said once for all that is asked of it.
        let is_reached = self.nodes.borrow().outage().is_zero();
        if self.refusals.begin(op, since, &why, is_reached) {
            tracing::warn!(op, why, "redis does not do this");
        }
    }

    /// What does not go well, as far as requests of the last minute say.
    pub(super) fn trouble(&self) -> Option<String> {
        let nodes = self.nodes.borrow();
        nodes.trouble().or_else(|| self.refusals.latest())
    }

    async fn observed<T>(
        &self,
        op: &'static str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let span = trace::redis(op);
        let mut observation = Observation {
            metrics: &self.metrics,
            op,
            outcome: "given_up",
            started: Instant::now(),
            span: span.clone(),
        };
        let answer = request.instrument(tracing::debug_span!("store.redis", op));
        let answer = answer.instrument(span).await;
        observation.outcome = match &answer {
            Ok(_) => "ok",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::Full) => "full",
            Err(StoreError::Corrupt(_)) => "corrupt",
        };
        answer
    }
}

/// Counts a request when it ends, and also when nobody waits any more for what Redis does not answer.
struct Observation<'a> {
    metrics: &'a Metrics,
    op: &'static str,
    outcome: &'static str,
    started: Instant,
    span: Span,
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        if self.outcome != "ok" {
            trace::failed(&self.span, self.outcome);
        }
        self.metrics
            .store_request_seconds
            .with_label_values(&[self.op, self.outcome])
            .observe(self.started.elapsed().as_secs_f64());
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

/// A second on the way at most, as a command may take no longer.
async fn clock_skew(node: &Node) -> Option<f64> {
    let asked = Instant::now();
    let time = CustomCommand::new_static("TIME", ClusterHash::FirstKey, false);
    let (seconds, micros): (i64, i32) = node.shared().client().custom(time, Vec::<Value>::new()).await.ok()?;
    ahead_of(seconds, micros, asked.elapsed())
}

/// Which kinds of request come to nothing. A server that takes no writes still answers reads.
#[derive(Debug, Default)]
struct Refusals(Mutex<HashMap<&'static str, Refusal>>);

#[derive(Debug)]
struct Refusal {
    since: Instant,
    last: Instant,
    why: String,
    is_told: bool,
}

impl Refusal {
    /// What was refused long ago, and not asked for since, may be done by now.
    fn is_fresh(&self) -> bool {
        self.last.elapsed() < FRESH
    }
}

impl Refusals {
    fn lasted(&self, op: &'static str) -> Duration {
        let refusals = self.lock();
        let refusal = refusals.get(op).filter(|refusal| refusal.is_fresh());
        refusal.map_or(Duration::ZERO, |refusal| refusal.since.elapsed())
    }

    /// Whether it is to be told, which is done once.
    fn begin(&self, op: &'static str, since: Instant, why: &str, may_tell: bool) -> bool {
        let mut refusals = self.lock();
        let before = refusals.get(op);
        let was_told = before.is_some_and(|refusal| refusal.is_told);
        let since = before
            .filter(|refusal| refusal.is_fresh())
            .map_or(since, |refusal| refusal.since);
        let refusal = Refusal {
            since,
            last: Instant::now(),
            why: why.to_owned(),
            is_told: was_told || may_tell,
        };
        refusals.insert(op, refusal);
        may_tell && !was_told
    }

    /// How long it lasted, if it had begun.
    fn end(&self, op: &'static str) -> Option<Duration> {
        self.lock().remove(op).map(|refusal| refusal.since.elapsed())
    }

    /// One that nobody has tried since is told for a minute.
    fn latest(&self) -> Option<String> {
        let refusals = self.lock();
        let fresh = refusals.iter().filter(|(_, refusal)| refusal.last.elapsed() < TOLD);
        let (op, refusal) = fresh.max_by_key(|(_, refusal)| refusal.last)?;
        Some(format!("{op}: {}", refusal.why))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of INFO.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::advance;

    use super::super::topology::Owners;
    use super::*;

    fn commands() -> Commands {
        let topology = Topology {
            owners: watch::channel(Owners::default()).1,
            look: Arc::default(),
            silence: watch::channel(None).1,
            tenure: None,
            cut_off: watch::channel(BTreeSet::new()).1,
        };
        let nodes = Nodes::of(Owners::default(), BTreeMap::new());
        let metrics = Metrics::new().unwrap();
        Commands::new(watch::channel(Arc::new(nodes)).1, &topology, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_and_then_not_answered_in_time_is_remembered_by_how_it_was_refused() {
        let commands = commands();
        let tries = AtomicUsize::new(0);
        let began = Instant::now();
        let refused = commands.run("create", |_| async {
            if tries.fetch_add(1, Ordering::Relaxed) > 0 {
                pending::<()>().await;
            }
            Err::<(), _>(Fault::Again("READONLY".to_owned()))
        });
        let refused = refused.await.unwrap_err().to_string();
        assert!(began.elapsed() < DEADLINE + Duration::from_millis(10));
        assert!(refused.contains("READONLY"), "{refused}");
        assert_eq!(commands.trouble(), Some(format!("create: {refused}")));
        commands.run("create", async |_| Ok(())).await.unwrap();
        assert_eq!(commands.trouble(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_long_ago_is_tried_again_like_anything_else() {
        let refusals = Refusals::default();
        refusals.begin("grant", Instant::now(), "READONLY", true);
        advance(Duration::from_secs(3)).await;
        refusals.begin("grant", Instant::now(), "READONLY", true);
        assert_eq!(refusals.lasted("grant"), Duration::from_secs(3));
        advance(FRESH).await;
        assert_eq!(refusals.lasted("grant"), Duration::ZERO, "by now it may be done");
        refusals.begin("grant", Instant::now(), "READONLY", true);
        assert_eq!(refusals.lasted("grant"), Duration::ZERO, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_first_refused_in_an_outage_is_told_once_when_that_is_over() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(!refusals.begin("replace", now, "no answer", false));
        assert!(refusals.begin("replace", now, "NOREPLICAS", true));
        assert!(!refusals.begin("replace", now, "NOREPLICAS", true));
        refusals.end("replace").unwrap();
        assert!(refusals.begin("replace", now, "READONLY", true));
    }
}
