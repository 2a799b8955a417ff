//! How long something took, judged on a machine that may be busy.

use std::time::Duration;

use tokio::time::Instant;

/// Runs from its start on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    began: Instant,
    /// What [`waited`] said then.
    waited: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            waited: waited(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// It took less than that; where there was more to do than processors to do it, so much longer as somebody had to wait for one.
    #[track_caller]
    pub(crate) fn took_less_than(&self, bound: Duration) {
        let (took, waited) = (self.elapsed(), waited().saturating_sub(self.waited));
        assert!(
            took < bound + waited,
            "{took:?} instead of {bound:?}, and somebody waited for a processor for {waited:?} of it"
        );
    }
}

/// For how long there was a task on this machine that waited for a processor, since it started: `some` of the kernel's pressure stall
/// information (<https://docs.kernel.org/accounting/psi.html>). Nothing where it tells none.
fn waited() -> Duration {
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "));
    let total = some.and_then(|some| some.split(' ').find_map(|field| field.strip_prefix("total=")));
    Duration::from_micros(total.and_then(|micros| micros.parse().ok()).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "instead of 1s")]
async fn what_takes_an_hour_is_noticed_on_a_busy_machine_too() {
    let asked = Stopwatch::start();
    tokio::time::advance(Duration::from_hours(1)).await;
    asked.took_less_than(Duration::from_secs(1));
}
