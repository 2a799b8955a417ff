//! What moves the topics: hints as they come, and re-reads where a hint may have been missed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::topic::{Believed, Issued};
use super::{Hub, LINGER, Reason, Shared, State, Topic};
use crate::audit::Event;
use crate::entropy;
use crate::scene::SceneId;
use crate::store::{Found, News, StoreError, Stored, not_settled, settled};

/// Scenes read in one round trip.
const BATCH: usize = 200;

/// Batches under way at once, so that ten thousand re-reads leave the store room for others.
const BATCHES: usize = 2;

/// How long one confirm that may not count yet may hold up what was read with it.
const SETTLED_WITHIN: Duration = Duration::from_millis(500);

/// News taken under one lock.
const NEWS: usize = 256;

/// Why a scene is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Lost,
    Deadline,
    Slow,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Deadline => "deadline",
            Self::Slow => "slow",
        }
    }
}

impl Hub {
    /// Serves the topics until `stop`: hints from `news`, re-reads, and leaving what nobody wants any more.
    pub async fn run(&self, mut news: mpsc::Receiver<News>, stop: CancellationToken) {
        let shared = &*self.shared;
        let mut pending = Pending::default();
        let mut reads = FuturesUnordered::new();
        let mut heard = Vec::with_capacity(NEWS);
        let looking = shared.health.look(&*shared.store);
        tokio::pin!(looking);
        loop {
            while reads.len() < BATCHES
                && let Some(batch) = pending.batch(shared)
            {
                reads.push(shared.read(batch));
            }
            let due = shared.lock().schedule.first().map(|(due, _)| *due);
            let retry_at = pending.retry_at(reads.len() < BATCHES);
            tokio::select! {
                () = stop.cancelled() => return,
                count = news.recv_many(&mut heard, NEWS) => {
                    if count == 0 { return }
                    shared.hear(heard.drain(..), &mut pending);
                }
                Some((batch, read)) = reads.next() => shared.settle(&batch, read, &mut pending),
                () = sleep_until_some(due) => shared.look(&mut pending).await,
                () = sleep_until_some(retry_at) => {}
                () = shared.wake.notified() => {}
                () = looking.as_mut() => {}
            }
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is to be read again, each scene once; those being asked first, those last that could just not be read.
#[derive(Debug, Default)]
struct Pending {
    causes: HashMap<SceneId, Cause>,
    first: VecDeque<SceneId>,
    then: VecDeque<SceneId>,
    failed: VecDeque<SceneId>,
    not_before: Option<Instant>,
}

/// Scenes to read, and why.
type Batch = Vec<(SceneId, Cause, Issued)>;

impl Pending {
    fn push(&mut self, id: SceneId, cause: Cause, scanned: bool) {
        if self.causes.insert(id, cause).is_none() {
            let queue = if scanned { &mut self.first } else { &mut self.then };
            queue.push_back(id);
        }
    }

    fn push_failed(&mut self, id: SceneId, cause: Cause) {
        if self.causes.insert(id, cause).is_none() {
            self.failed.push_back(id);
        }
    }

    /// After a batch: whether the store answered to any of it.
    fn answered(&mut self, any: bool, state: &State) {
        if !any {
            // The store is away; one batch after the other finds out when it is back.
            self.not_before =
                Some(Instant::now() + entropy::between(Duration::from_millis(100), Duration::from_millis(300)));
            return;
        }
        for id in self.failed.drain(..) {
            let scanned = state.topics.get(&id).is_some_and(Topic::is_scanned);
            let queue = if scanned { &mut self.first } else { &mut self.then };
            queue.push_back(id);
        }
    }

    fn batch(&mut self, shared: &Shared) -> Option<Batch> {
        if self.causes.is_empty() || self.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        self.not_before = None;
        let mut state = shared.lock();
        let mut batch = Batch::new();
        while batch.len() < BATCH
            && let Some(id) = (self.first.pop_front())
                .or_else(|| self.then.pop_front())
                .or_else(|| self.failed.pop_front())
        {
            let cause = self.causes.remove(&id).unwrap_or(Cause::Slow);
            if let Some(topic) = state.topics.get_mut(&id).filter(|topic| topic.has_members()) {
                batch.push((id, cause, topic.issue()));
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// When to try again after a failed read, if there is room for one.
    fn retry_at(&self, room: bool) -> Option<Instant> {
        self.not_before.filter(|_| room && !self.causes.is_empty())
    }
}

impl Shared {
    async fn read(&self, batch: Batch) -> (Batch, Vec<Found>) {
        let ids: Vec<SceneId> = batch.iter().map(|(id, ..)| *id).collect();
        let found = self.store.find(&ids).await;
        let read = found.into_iter().map(async |found| match found {
            Ok(Some(found)) => {
                let settled = timeout(SETTLED_WITHIN, settled(&*self.store, found)).await;
                settled.unwrap_or_else(|_| Err(not_settled()))
            }
            found => found,
        });
        (batch, join_all(read).await)
    }

    fn hear(&self, news: impl Iterator<Item = News>, pending: &mut Pending) {
        let mut state = self.lock();
        for news in news {
            match news {
                News::Changed(id, public) => {
                    if let Some(topic) = state.topics.get_mut(&id) {
                        topic.hint(public);
                        self.reschedule(&mut state, id);
                    }
                }
                News::Lost(ids) => {
                    for id in ids {
                        if let Some(topic) = state.topics.get(&id) {
                            pending.push(id, Cause::Lost, topic.is_scanned());
                        }
                    }
                }
            }
        }
    }

    fn settle(&self, batch: &Batch, read: Vec<Found>, pending: &mut Pending) {
        let mut expired = Vec::new();
        let mut state = self.lock();
        let answered = |read: &Found| !read.as_ref().is_err_and(StoreError::is_passing);
        pending.answered(read.iter().any(answered), &state);
        for ((id, cause, issued), read) in batch.iter().zip(read) {
            let Some(topic) = state.topics.get_mut(id) else {
                continue;
            };
            let believed = match &read {
                Ok(Some(read)) => topic.believe(read, *issued),
                Ok(None) => topic.lose(*issued),
                Err(error) if error.is_passing() => {
                    tracing::debug!(scene = ?id, %error, "a re-read failed, trying again");
                    pending.push_failed(*id, *cause);
                    self.count(*cause, "failed");
                    continue;
                }
                Err(error) => {
                    // No further read will change it, and a login that can't be read can't be finished.
                    tracing::error!(scene = ?id, %error, "a watched record can't be read: its streams end as lost");
                    topic.lose(*issued)
                }
            };
            match believed {
                Believed::Overtaken => pending.push(*id, *cause, true),
                Believed::New => {
                    if topic.told().is_some_and(|told| told.reason() == Some(Reason::Time)) {
                        self.metrics.login_steps_total.with_label_values(&["expired"]).inc();
                        expired.extend(read.ok().flatten());
                    }
                    self.count(*cause, "new");
                }
                Believed::Known => self.count(*cause, "known"),
            }
            self.reschedule(&mut state, *id);
        }
        drop(state);
        for Stored { scene, .. } in expired {
            self.audit.tell(Event::Expired, None, &scene);
        }
    }

    /// Looks at every topic that is due: reads it again, or leaves it.
    async fn look(&self, pending: &mut Pending) {
        let leaving = self.due_now(pending);
        for id in &leaving {
            self.store.unwatch(id).await;
        }
        if !leaving.is_empty() {
            let mut state = self.lock();
            for id in &leaving {
                state.topics.remove(id);
            }
            self.metrics
                .scenes_watched
                .set(i64::try_from(state.topics.len()).unwrap_or(i64::MAX));
            drop(state);
            self.left.notify_waiters();
        }
    }

    fn due_now(&self, pending: &mut Pending) -> Vec<SceneId> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut leaving = Vec::new();
        while let Some((due, id)) = state.schedule.first().copied()
            && due <= now
        {
            state.schedule.pop_first();
            let Some(topic) = state.topics.get_mut(&id) else {
                continue;
            };
            topic.set_due(None);
            if topic.leave_if_empty(LINGER) {
                leaving.push(id);
                continue;
            }
            if topic.has_members() {
                let expired = topic.told().is_some_and(|told| told.scene().deadline <= now);
                pending.push(
                    id,
                    if expired { Cause::Deadline } else { Cause::Slow },
                    topic.is_scanned(),
                );
            }
            self.reschedule(&mut state, id);
        }
        leaving
    }

    fn count(&self, cause: Cause, found: &str) {
        self.metrics
            .rereads_total
            .with_label_values(&[cause.as_str(), found])
            .inc();
    }
}
