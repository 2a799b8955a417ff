//! How many calls WeChat takes in a minute or a day.

use tokio::time::{Duration, Instant};

pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

/// So many calls in a window, which begins with its first call.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u32,
    window: Duration,
    since: Option<Instant>,
    used: u32,
}

impl Quota {
    pub(super) const fn new(limit: u32, window: Duration) -> Self {
        Self {
            limit,
            window,
            since: None,
            used: 0,
        }
    }

    /// Counts a call, unless the window's are used up: then false.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            self.since = Some(now);
            self.used = 0;
        }
        let left = self.used < self.limit;
        if left {
            self.used += 1;
        }
        left
    }

    /// Whether the next call begins a new window.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.duration_since(since) >= self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_quota_comes_back_with_the_next_window() {
        let mut quota = Quota::new(2, MINUTE);
        let start = Instant::now();
        assert!(quota.take(start));
        assert!(quota.take(start + Duration::from_secs(59)));
        assert!(!quota.take(start + Duration::from_secs(59)));
        assert!(quota.take(start + MINUTE));
    }
}
