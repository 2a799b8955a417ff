//! Sending commands: how long a request may take, and what is tried again.
//!
//! Whatever is sent here is the same act when it is sent twice, since a command that timed out may have been executed, or be
//! executed later. On that rests everything that is tried again.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, ServerInterface};
use fred::types::InfoKind;
use fred::types::config::Server;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::fault::{Fault, Unfit};
use super::link::{Link, Outage};
use super::route::{Moving, Route};
use super::settings::{ClientSettings, FatalError};
use crate::entropy;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// How long a request may take, everything tried again included.
const DEADLINE: Duration = Duration::from_millis(2_500);
/// After how long an outage requests are no longer tried again, so that they don't pile up.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests may be under way.
const IN_FLIGHT: usize = 8_192;
/// How many durable writes may wait for a replica at the same time. Each blocks its connection.
const WAITERS: usize = 8;
/// How many of them may wait for those of one Cluster shard, which may be gone.
const WAITERS_OF_A_SHARD: usize = WAITERS / 2;

/// All clients.
#[derive(Debug)]
pub(super) struct Commands {
    shared: Link,
    waiters: Option<Waiters>,
    in_flight: Semaphore,
    outage: Arc<Outage>,
    refusals: Refusals,
    moving: watch::Receiver<Moving>,
    metrics: Metrics,
}

impl Commands {
    /// Connects in the background. `on_end` hears why the connection of the shared client could not be made, or ended.
    pub(super) fn start(
        settings: &ClientSettings,
        waits: bool,
        moving: watch::Receiver<Moving>,
        metrics: Metrics,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
        on_end: impl Fn(&Error) + Send + 'static,
    ) -> Self {
        let shared = Link::new(settings.client());
        let outage = Arc::new(Outage::default());
        tasks.spawn(Arc::clone(&outage).follow(shared.clone(), shutdown.clone()));
        tasks.spawn(shared.clone().keep(shutdown.clone(), on_end));
        let waiters = waits.then(|| Waiters::new((0..WAITERS).map(|_| Link::new(settings.client())).collect()));
        for link in waiters.iter().flat_map(|waiters| waiters.all.iter()) {
            tasks.spawn(link.clone().keep(shutdown.clone(), |_| {}));
        }
        Self {
            shared,
            waiters,
            in_flight: Semaphore::new(IN_FLIGHT),
            outage,
            refusals: Refusals::default(),
            moving,
            metrics,
        }
    }

    /// Sends a request on the shared client, and again while that may help. Always ends within 2.5 seconds.
    pub(super) async fn run<T, F>(
        &self,
        op: &'static str,
        attempt: impl Fn(Route) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
        T: Send,
    {
        let once = || async {
            let answer = attempt(self.route()).await;
            self.check_stall(answer)
        };
        self.observed(op, self.insist(op, once)).await
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
        let once = || async {
            let Some(waiters) = &self.waiters else {
                return Err(Fault::Refused("no connection may wait for a replica".to_owned()));
            };
            let primary = self.shared.is_clustered().then(|| self.shared.owner(slot)).flatten();
            let waiter = waiters.take(primary).await?;
            let answer = attempt(Route::new(&waiter.link, &self.moving)).await;
            self.check_stall(answer)
        };
        self.observed(op, self.insist(op, once)).await
    }

    /// Whether Redis answers within a second.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let ping = async {
            let answer = timeout(Duration::from_secs(1), self.shared.client().ping::<()>(None)).await;
            let answer = answer.map_or(Err(Fault::NoAnswer), |answer| answer.map_err(Fault::from));
            Ok(self.check_stall(answer)?)
        };
        self.observed("ready", ping).await
    }

    /// Whether this server will do, apart from what the scripts need: its version, and the right to ask and wait.
    pub(super) async fn check(&self) -> Result<(), Unfit> {
        let client = self.shared.client();
        let info: String = client.info(Some(InfoKind::Server)).await?;
        let version = info_field(&info, "redis_version").unwrap_or("nothing of its version");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(Unfit::Forever(FatalError::TooOld(version.to_owned())));
        }
        let _: String = client.info(Some(InfoKind::Replication)).await?;
        let () = client.ping(None).await?;
        if self.waiters.is_some() {
            let _: i64 = client.wait(0, 1).await?;
        }
        Ok(())
    }

    /// The way of all requests but the waiting ones.
    pub(super) fn route(&self) -> Route {
        Route::new(&self.shared, &self.moving)
    }

    /// The client that all requests but the waiting ones share.
    pub(super) fn shared(&self) -> &Link {
        &self.shared
    }

    /// Says that a server gave no answer. Where one client got none, no other needs to find the same out for itself.
    pub(super) fn report_stall(&self) {
        self.links().for_each(Link::report_stall);
    }

    pub(super) fn check_stall<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(Fault::NoAnswer) = answer {
            self.report_stall();
        }
        answer
    }

    /// All clients of the library: who knows of a fail-over before it does may move them.
    pub(super) fn clients(&self) -> Vec<Client> {
        self.links().map(Link::library).collect()
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        let waiters = self.waiters.iter().flat_map(|waiters| waiters.all.iter());
        waiters.chain([&self.shared])
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
        let patient = self.outage.lasted().max(self.refusals.lasted(op)) < PATIENCE;
        let mut pause = Duration::from_millis(25);
        loop {
            match attempt().await {
                Ok(answer) => {
                    self.outage.end();
                    self.refusals.end(op);
                    return Ok(answer);
                }
                Err(fault) if patient && fault.may_pass() && started.elapsed() + pause < DEADLINE => {
                    sleep(entropy::between(pause / 2, pause)).await;
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                Err(fault) => {
                    if patient && fault.may_pass() {
                        self.refusals.begin(op, started);
                    }
                    return Err(fault.into());
                }
            }
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

/// The clients for requests that block their connection: one request at a time each, taken in turn, so that none is tried
/// twice in a row.
#[derive(Debug)]
struct Waiters {
    all: Vec<Link>,
    idle: Mutex<VecDeque<Link>>,
    count: Semaphore,
    /// For each shard's primary.
    shares: Mutex<HashMap<Server, Arc<Semaphore>>>,
}

impl Waiters {
    fn new(all: Vec<Link>) -> Self {
        Self {
            idle: Mutex::new(all.iter().cloned().collect()),
            count: Semaphore::new(all.len()),
            shares: Mutex::default(),
            all,
        }
    }

    async fn take(&self, primary: Option<Server>) -> Result<Waiter<'_>, Fault> {
        let share = match primary {
            Some(primary) => self.share(primary).acquire_owned().await.ok(),
            None => None,
        };
        let permit = self.count.acquire().await.ok();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        // There are as many permits as clients, and a client comes back before its permit.
        match (permit, idle) {
            (Some(permit), Some(link)) => Ok(Waiter {
                waiters: self,
                link,
                _permits: (permit, share),
            }),
            _ => Err(Fault::Again("no connection is left to wait for a replica".to_owned())),
        }
    }

    fn share(&self, primary: Server) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.entry(primary);
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(WAITERS_OF_A_SHARD))))
    }
}

#[derive(Debug)]
struct Waiter<'a> {
    waiters: &'a Waiters,
    link: Link,
    _permits: (SemaphorePermit<'a>, Option<OwnedSemaphorePermit>),
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut idle = self.waiters.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push_back(self.link.clone());
    }
}

/// One line of INFO.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
