//! What is refused, and in which order, when there is more to do than can be done.
//!
//! Everything that a request does here takes the store or WeChat bounded time, so what is under way tells how far they are behind.
//! New scenes are refused first, then streams, then plain questions for a state, then scans, and last what ends a login under way:
//! whoever shows a code or holds a phone in hand is served before whoever has only come. Bodies still being sent count for nothing,
//! or a few slow senders could close the door.

mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::store::StoreError;
use crate::telemetry::Metrics;

pub use memory::Memory;

/// What a request is for, in the order in which it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A new scene.
    Start,
    /// The picture of a code. It may take WeChat so long that it counts apart.
    Picture,
    /// Opening a stream or a long-poll, and an avatar, which anybody may ask for. What is waited for afterwards counts among the
    /// streams.
    Watch,
    /// The state as it is, without waiting: the last way for a page to learn that its login was confirmed.
    Status,
    /// A scan; and who has logged in, which can be asked again.
    Scan,
    /// What ends a login: an answer, a cancelling, a redemption.
    Finish,
}

impl Work {
    /// How much may be under way already when this is taken on.
    fn most(self) -> usize {
        match self {
            Self::Start | Self::Picture => 512,
            Self::Watch => 1_024,
            Self::Status => 1_536,
            Self::Scan => 2_048,
            Self::Finish => 4_096,
        }
    }

    /// How long its caller is kept waiting, however many steps of the way are slow. Given up, it is as if the caller had gone:
    /// whatever it then still does, trying again is the same act.
    fn limit(self) -> Duration {
        match self {
            Self::Start | Self::Watch | Self::Status | Self::Finish => Duration::from_millis(2_800),
            // WeChat may take five seconds of it.
            Self::Scan => Duration::from_millis(5_800),
            // WeChat may take fifteen, and another replica as long before.
            Self::Picture => Duration::from_millis(19_800),
        }
    }

    /// Whether this is what fills memory: a scene in the embedded store, a picture, a stream.
    fn takes_memory(self) -> bool {
        match self {
            Self::Start | Self::Picture | Self::Watch => true,
            Self::Status | Self::Scan | Self::Finish => false,
        }
    }

    /// Its name, in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Picture => "picture",
            Self::Watch => "watch",
            Self::Status => "status",
            Self::Scan => "scan",
            Self::Finish => "finish",
        }
    }
}

/// Why something was not done, or failed.
#[derive(Debug)]
pub(super) enum Undone<E> {
    /// It was not begun.
    Overloaded(Overloaded),
    /// It failed, or took too long.
    Failed(E),
}

/// This replica does as much as it can. Another may do more, or this one in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica does as much as it can")]
pub(super) struct Overloaded;

impl Overloaded {
    /// When to come again.
    pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);
}

/// What is under way. Clones share it.
#[derive(Debug, Clone)]
pub struct Load(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: AtomicUsize,
    pictures: AtomicUsize,
    /// Whether memory is nearly used up.
    is_tight: AtomicBool,
    metrics: Metrics,
}

impl Load {
    /// Nothing.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            requests: AtomicUsize::new(0),
            pictures: AtomicUsize::new(0),
            is_tight: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Whether memory is nearly used up.
    pub(super) fn is_tight(&self) -> bool {
        self.0.is_tight.load(Ordering::Relaxed)
    }

    /// Does this, if it can be taken on, within the time that there is for it.
    pub(super) async fn carry<T, E: From<StoreError>>(
        &self,
        work: Work,
        doing: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Undone<E>> {
        let _under_way = self.admit(work).map_err(Undone::Overloaded)?;
        let late = || Err(StoreError::Unavailable("no answer in time".to_owned()).into());
        let done = timeout(work.limit(), doing).await;
        done.unwrap_or_else(|_| late()).map_err(Undone::Failed)
    }

    /// Takes this on until what is returned is dropped.
    fn admit(&self, work: Work) -> Result<UnderWay, Overloaded> {
        let room = |under_way: usize| (under_way < work.most()).then_some(under_way + 1);
        let is_refused = (work.takes_memory() && self.is_tight())
            || self
                .0
                .count(work)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
                .is_err();
        if is_refused {
            self.0
                .metrics
                .requests_shed_total
                .with_label_values(&[work.name()])
                .inc();
            return Err(Overloaded);
        }
        self.0.metrics.requests_under_way.inc();
        Ok(UnderWay {
            load: self.clone(),
            work,
        })
    }
}

impl Inner {
    fn count(&self, work: Work) -> &AtomicUsize {
        match work {
            Work::Picture => &self.pictures,
            Work::Start | Work::Watch | Work::Status | Work::Scan | Work::Finish => &self.requests,
        }
    }
}

/// Something under way.
#[derive(Debug)]
struct UnderWay {
    load: Load,
    work: Work,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.load.0.count(self.work).fetch_sub(1, Ordering::Relaxed);
        self.load.0.metrics.requests_under_way.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_fuller_it_is_the_less_is_taken_on_and_what_ends_a_login_last() {
        let load = Load::new(Metrics::new().unwrap());
        let order = [Work::Start, Work::Watch, Work::Status, Work::Scan, Work::Finish];
        let mut under_way = Vec::new();
        for full in order {
            while let Ok(taken) = load.admit(full) {
                under_way.push(taken);
            }
            let is_taken = |work: Work| load.admit(work).is_ok();
            let expected = order.map(|work| work as u8 > full as u8);
            assert_eq!(order.map(is_taken), expected, "{full:?} at {}", under_way.len());
            assert!(is_taken(Work::Picture), "counted apart");
        }
        under_way.truncate(Work::Start.most() - 1);
        assert!(load.admit(Work::Start).is_ok(), "what has ended makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_carried_ends_in_its_time_and_makes_room() {
        let load = Load::new(Metrics::new().unwrap());
        for (work, limit) in [
            (Work::Start, 3),
            (Work::Watch, 3),
            (Work::Status, 3),
            (Work::Finish, 3),
            (Work::Scan, 6),
            (Work::Picture, 20),
        ] {
            let began = Instant::now();
            let carried = load.carry(work, pending::<Result<(), StoreError>>()).await;
            assert!(
                matches!(carried, Err(Undone::Failed(StoreError::Unavailable(_)))),
                "{work:?}"
            );
            assert!(
                began.elapsed() < Duration::from_secs(limit),
                "{work:?}: {:?}",
                began.elapsed()
            );
            assert_eq!(load.0.count(work).load(Ordering::Relaxed), 0, "{work:?}");
        }
    }
}
