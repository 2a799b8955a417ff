//! This replica's streams: who here watches which scene, and what each was last told.
//!
//! A scene is a state and only the newest matters, so a topic is a `watch` channel: constant memory for each subscriber, no
//! queue to overflow, and a slow reader simply sees the newest. The hub never waits for a subscriber.
//!
//! Nothing is lost between a snapshot and the news: a subscription first has the store acknowledge its watch, and only then
//! reads. What pub/sub loses afterwards, the re-reads find ([`run`]).

mod health;
mod run;
mod topic;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::audit::Audit;
use crate::limits::network_of;
use crate::scene::{BrowserSecret, SceneId};
use crate::store::{SceneStore, StoreError, find_one, settled};
use crate::telemetry::Metrics;

pub use topic::{Reason, Told, Watched};

use health::Health;
use topic::{Believed, Topic};

/// How many streams this replica takes on.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// In all.
    pub total: usize,
    /// From one address (a /64 for IPv6).
    pub per_address: usize,
    /// Of one scene: a further one replaces the oldest.
    pub per_scene: usize,
}

/// A topic without subscribers is kept this long, for the browser that reconnects.
const LINGER: Duration = Duration::from_secs(1);

/// A first read that news keep overtaking is made again this often.
const READS: usize = 8;

/// This replica's topics. Clones share them.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn SceneStore>,
    metrics: Metrics,
    audit: Audit,
    limits: StreamLimits,
    slow_reread: Duration,
    state: Mutex<State>,
    /// The schedule's head came nearer, or there is something to read.
    wake: Notify,
    /// A topic has been left for good.
    left: Notify,
    health: Health,
}

#[derive(Default)]
struct State {
    topics: HashMap<SceneId, Topic>,
    /// When to look at which topic again; each topic stands here at most once ([`Topic::due`]).
    schedule: BTreeSet<(Instant, SceneId)>,
    streams: usize,
    addresses: HashMap<IpAddr, usize>,
    last_member: u64,
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such scene.
    #[error("no such scene")]
    NotFound,
    /// The browser secret is not this scene's.
    #[error("the browser secret does not fit")]
    WrongSecret,
    /// This replica holds as many streams as it may.
    #[error("this replica holds as many streams as it may")]
    Full,
    /// This address holds as many streams as it may: so many.
    #[error("this address holds as many streams as it may: {0}")]
    AddressFull(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hub {
    /// A hub without topics. `slow_reread` is how often a watched scene is read although nothing says so.
    #[must_use]
    pub fn new(
        store: Arc<dyn SceneStore>,
        metrics: Metrics,
        audit: Audit,
        limits: StreamLimits,
        slow_reread: Duration,
    ) -> Self {
        let shared = Shared {
            store,
            metrics,
            audit,
            limits,
            slow_reread,
            state: Mutex::default(),
            wake: Notify::new(),
            left: Notify::new(),
            health: Health::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Subscribes the browser that holds `secret` to a scene; the subscription's first state is a snapshot read afterwards.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn subscribe(
        &self,
        id: SceneId,
        secret: &BrowserSecret,
        peer: IpAddr,
    ) -> Result<Subscription, OpenError> {
        let membership = self.join(id, network_of(peer)).await?;
        let is_first = !membership.topic(|topic| topic.is_watched());
        if is_first {
            self.shared.store.watch(&id).await?;
            membership.topic(Topic::set_watched);
        }
        for _ in 0..READS {
            let issued = membership.topic(Topic::issue);
            let Some(read) = find_one(&*self.shared.store, &id).await? else {
                match membership.topic(|topic| topic.lose(issued)) {
                    Believed::Overtaken => continue,
                    Believed::New | Believed::Known => return Err(OpenError::NotFound),
                }
            };
            if !read.scene.browser_secret.matches(secret) {
                return Err(OpenError::WrongSecret);
            }
            let Some(read) = settled(&*self.shared.store, read).await? else {
                continue;
            };
            match membership.topic(|topic| topic.believe(&read, issued)) {
                Believed::Overtaken => {}
                Believed::New | Believed::Known => {
                    membership.reschedule();
                    if is_first {
                        self.shared
                            .metrics
                            .login_steps_total
                            .with_label_values(&["watched"])
                            .inc();
                    }
                    let told = membership.topic(|topic| topic.told());
                    return told.map_or(Err(OpenError::NotFound), |told| membership.watch(told, secret));
                }
            }
        }
        Err(StoreError::Unavailable("the scene changes faster than it can be read".to_owned()).into())
    }

    /// Returns why, once the store answers nobody: for callers that must not wait in vain. Known within two seconds.
    pub async fn store_away(&self) -> StoreError {
        self.shared.health.away().await
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.lock().streams
    }

    /// Takes a place in the topic of `id`, making the topic if need be. Nobody has to go yet: whoever joins may know no secret.
    async fn join(&self, id: SceneId, network: IpAddr) -> Result<Membership, OpenError> {
        loop {
            let left = self.shared.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if let Some(membership) = self.try_join(id, network)? {
                return Ok(membership);
            }
            left.await;
        }
    }

    /// `None` while the topic is just being left: its unwatch must not overtake our watch.
    fn try_join(&self, id: SceneId, network: IpAddr) -> Result<Option<Membership>, OpenError> {
        let limits = self.shared.limits;
        let mut state = self.shared.lock();
        let state = &mut *state;
        if state.topics.get(&id).is_some_and(Topic::is_leaving) {
            return Ok(None);
        }
        if state.streams >= limits.total {
            return Err(OpenError::Full);
        }
        let of_address = state.addresses.entry(network).or_default();
        if *of_address >= limits.per_address {
            return Err(OpenError::AddressFull(limits.per_address));
        }
        *of_address += 1;
        state.streams += 1;
        state.last_member += 1;
        let member = state.last_member;
        let topic = state.topics.entry(id).or_insert_with(Topic::new);
        let replaced = topic.join(member);
        self.shared.metrics.streams_open.inc();
        self.shared
            .metrics
            .scenes_watched
            .set(i64::try_from(state.topics.len()).unwrap_or(i64::MAX));
        Ok(Some(Membership {
            hub: self.clone(),
            id,
            network,
            member,
            replaced,
        }))
    }
}

/// One stream's view of its scene. Dropping it leaves.
#[derive(Debug)]
pub struct Subscription {
    receiver: watch::Receiver<Option<Told>>,
    current: Told,
    membership: Membership,
}

/// Why [`Subscription::changed`] returned.
#[derive(Debug)]
pub enum Change {
    /// This is the state now.
    Told,
    /// A newer stream of the same scene took this one's place.
    Replaced,
}

impl Subscription {
    /// What is told now.
    #[must_use]
    pub fn current(&self) -> &Told {
        &self.current
    }

    /// Waits until something else is told; never returns twice for the same event. Cancel safe.
    pub async fn changed(&mut self) -> Change {
        loop {
            tokio::select! {
                biased;
                () = self.membership.replaced.notified() => return Change::Replaced,
                changed = self.receiver.changed() => {
                    // The sender lives in the topic, and the topic as long as this membership.
                    if changed.is_err() { return Change::Replaced }
                    let told = self.receiver.borrow_and_update().clone();
                    if let Some(told) = told && told.id() != self.current.id() {
                        self.current = told;
                        return Change::Told;
                    }
                }
            }
        }
    }
}

/// A place in a topic; given back when dropped.
#[derive(Debug)]
struct Membership {
    hub: Hub,
    id: SceneId,
    network: IpAddr,
    member: u64,
    replaced: Arc<Notify>,
}

impl Membership {
    /// Does something with the topic, which lives at least as long as this membership.
    fn topic<T>(&self, act: impl FnOnce(&mut Topic) -> T) -> T {
        act(self.hub.shared.lock().topics.entry(self.id).or_insert_with(Topic::new))
    }

    fn reschedule(&self) {
        self.hub.shared.reschedule(&mut self.hub.shared.lock(), self.id);
    }

    fn watch(self, current: Told, secret: &BrowserSecret) -> Result<Subscription, OpenError> {
        if !current.opens_for(secret) {
            return Err(OpenError::WrongSecret);
        }
        let most = self.hub.shared.limits.per_scene;
        let mut receiver = self.topic(|topic| {
            topic.admit(self.member, most);
            topic.receiver()
        });
        // What `current` is not the newest of will be found changed.
        receiver.mark_changed();
        Ok(Subscription {
            receiver,
            current,
            membership: self,
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let shared = &self.hub.shared;
        let mut state = shared.lock();
        state.streams -= 1;
        shared.metrics.streams_open.dec();
        if let Some(count) = state.addresses.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                state.addresses.remove(&self.network);
            }
        }
        if let Some(topic) = state.topics.get_mut(&self.id) {
            topic.part(self.member);
        }
        shared.reschedule(&mut state, self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a topic where it belongs in the schedule.
    fn reschedule(&self, state: &mut State, id: SceneId) {
        let Some(topic) = state.topics.get_mut(&id) else { return };
        let due = topic.next_due(Instant::now(), LINGER, self.slow_reread);
        if due == topic.due() {
            return;
        }
        if let Some(before) = topic.set_due(due) {
            state.schedule.remove(&(before, id));
        }
        if let Some(due) = due {
            state.schedule.insert((due, id));
            if state.schedule.first() == Some(&(due, id)) {
                self.wake.notify_one();
            }
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
