//! How often something may happen: the rule alone, whoever keeps count.
//!
//! A generic cell rate (ITU-T I.371 §A): all that is remembered of somebody is how long it takes until whatever was taken has come in
//! again, the debt.

use std::time::Duration;

/// So many at once, and from then on one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    period: Duration,
    burst: u32,
    apart: Duration,
}

/// What became of taking one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is taken. The debt now.
    Yes(Duration),
    /// None is left; the next one comes in after this.
    NotFor(Duration),
}

impl Rate {
    /// `count` in each `period` in the long run, all of which may be taken at once: so after a rest one period may see twice as many.
    #[must_use]
    pub fn bursting(count: u32, period: Duration) -> Self {
        let count = count.max(1);
        Self {
            count,
            period,
            burst: count,
            apart: period / count,
        }
    }

    /// `count` at once, of which each comes in again only after a whole `period`: never more than `count` in the first one.
    #[must_use]
    pub fn once(count: u32, period: Duration) -> Self {
        Self {
            count,
            period,
            burst: count.max(1),
            apart: period,
        }
    }

    /// Never more than `count` in any `period`: half of them at once, the others evenly.
    #[must_use]
    pub fn within(count: u32, period: Duration) -> Self {
        Self::keeping(count, period, count / 2)
    }

    /// The same, but a tenth of them at once.
    #[must_use]
    pub fn smooth(count: u32, period: Duration) -> Self {
        Self::keeping(count, period, count / 10)
    }

    fn keeping(count: u32, period: Duration, burst: u32) -> Self {
        let burst = burst.max(1);
        Self {
            count,
            period,
            burst,
            apart: period / count.saturating_sub(burst).max(1),
        }
    }

    /// The same for those whom nobody waits for: half of what may be taken at once is left to others.
    #[must_use]
    pub fn sparing(self) -> Self {
        Self {
            burst: (self.burst / 2).max(1),
            ..self
        }
    }

    /// How many in a [`Self::period`].
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// What [`Self::count`] is counted in.
    #[must_use]
    pub fn period(self) -> Duration {
        self.period
    }

    /// How long one takes to come in again.
    #[must_use]
    pub fn apart(self) -> Duration {
        self.apart
    }

    /// The greatest debt.
    #[must_use]
    pub fn whole(self) -> Duration {
        self.apart * self.burst
    }

    /// After how long one is left, to somebody with this debt.
    #[must_use]
    pub fn wait(self, debt: Duration) -> Duration {
        (debt + self.apart).saturating_sub(self.whole())
    }

    /// The debt of somebody with this debt who gives one back.
    #[must_use]
    pub fn given_back(self, debt: Duration) -> Duration {
        debt.saturating_sub(self.apart)
    }

    /// Takes one, of somebody with this debt. One that is greater than can be, after a clock was put back, counts as the greatest.
    #[must_use]
    pub fn take(self, debt: Duration) -> Taken {
        let next = debt.min(self.whole()) + self.apart;
        match next.checked_sub(self.whole()) {
            None | Some(Duration::ZERO) => Taken::Yes(next),
            Some(wait) => Taken::NotFor(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are taken by somebody who tries each millisecond for so long after a rest.
    fn taken_within(rate: Rate, time: Duration) -> u32 {
        let (mut taken, mut debt) = (0, Duration::ZERO);
        for _ in 0..time.as_millis() {
            if let Taken::Yes(next) = rate.take(debt) {
                taken += 1;
                debt = next;
            }
            debt = debt.saturating_sub(Duration::from_millis(1));
        }
        taken
    }

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn after_a_burst_they_come_one_after_the_other() {
        let rate = Rate::bursting(120, MINUTE);
        assert_eq!(taken_within(rate, Duration::from_millis(120)), 120);
        assert_eq!(taken_within(rate, MINUTE), 239);
        assert_eq!(rate.take(rate.whole()), Taken::NotFor(Duration::from_millis(500)));
    }

    #[test]
    fn a_smooth_rate_is_kept_in_any_minute() {
        for count in [1, 7, 10, 120, 4_000] {
            for rate in [Rate::smooth(count, MINUTE), Rate::within(count, MINUTE)] {
                let taken = taken_within(rate, MINUTE);
                assert!((count.max(2) - 1..=count).contains(&taken), "{taken} of {count}");
            }
        }
    }

    #[test]
    fn whoever_is_sparing_leaves_half_to_others() {
        let rate = Rate::smooth(4_000, MINUTE);
        let mut debt = Duration::ZERO;
        while let Taken::Yes(next) = rate.sparing().take(debt) {
            debt = next;
        }
        assert_eq!(debt, rate.whole() / 2);
        assert!(matches!(rate.take(debt), Taken::Yes(_)));
    }

    #[test]
    fn a_debt_that_no_clock_explains_is_paid_in_a_period() {
        let rate = Rate::bursting(5, MINUTE);
        assert_eq!(rate.take(Duration::from_hours(1)), Taken::NotFor(rate.apart()));
    }
}
