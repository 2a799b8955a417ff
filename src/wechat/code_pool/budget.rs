//! How many codes this replica may ask of WeChat.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most so many in any minute; WeChat counts 5,000 for an AppID.
const PER_MINUTE: u32 = 4_000;

/// At most so many at once. What is left of the minute's share comes evenly.
const BURST: u32 = 400;

const APART: Duration = Duration::from_nanos(60_000_000_000 / (PER_MINUTE - BURST) as u64);

/// A generic cell rate: remembers only when everything spent will have come in again.
#[derive(Debug)]
pub(super) struct Budget {
    whole_at: Mutex<Instant>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            whole_at: Mutex::new(Instant::now()),
        }
    }

    /// One for a page that waits.
    pub(super) fn spend(&self) -> bool {
        self.spend_within(BURST)
    }

    /// One that nobody waits for: half of the burst is left to those who do.
    pub(super) fn spend_spare(&self) -> bool {
        self.spend_within(BURST / 2)
    }

    fn spend_within(&self, burst: u32) -> bool {
        let now = Instant::now();
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*whole_at).max(now) + APART;
        let is_within = next <= now + APART * burst;
        if is_within {
            *whole_at = next;
        }
        is_within
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_minute_sees_more_than_its_share() {
        let budget = Budget::new();
        advance(Duration::from_mins(10)).await;
        let mut spent = 0;
        for _ in 0..60_000 {
            spent += u32::from(budget.spend());
            advance(Duration::from_millis(1)).await;
        }
        assert!((PER_MINUTE - 1..=PER_MINUTE).contains(&spent), "{spent}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_leaves_half_to_those_who_wait() {
        let budget = Budget::new();
        let ahead = (0..1_000).filter(|_| budget.spend_spare()).count();
        let waited_for = (0..1_000).filter(|_| budget.spend()).count();
        assert_eq!((ahead, waited_for), (200, 200));
    }
}
