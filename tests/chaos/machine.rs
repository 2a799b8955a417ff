//! Whether the machine itself stood still: then the times of that moment say nothing of the service.

use std::time::Duration;

use tokio::time::sleep;

use crate::history::{ClientName, Fault, Loss, Reach, What};
use crate::recorder::Recorder;
use crate::world::Shape;

const TICK: Duration = Duration::from_millis(100);
/// A machine that is only busy wakes who sleeps well within this.
const STILL_MS: u64 = 1_000;
/// What waited in that time is done after it, all at once.
const CATCHES_UP_MS: u64 = 5_000;
/// A sentinel that missed so much replaces no primary for so long: its TILT mode.
const TILTS_FROM_MS: u64 = 2_000;
const TILT_MS: u64 = 30_000;

/// Writes down whenever it woke much later than it had asked to, as a fault that nobody injected. It may make any request
/// late or fail; that a login is lost, misdelivered or doubled, it excuses no more than any other fault does.
pub(crate) async fn watch(recorder: Recorder, shape: Shape) {
    loop {
        let from_ms = recorder.now();
        sleep(TICK).await;
        let to_ms = recorder.now();
        if to_ms - from_ms > STILL_MS {
            println!("{to_ms:>7} ms  the machine stood still for {} ms", to_ms - from_ms);
            let mut still = stood_still(from_ms, to_ms);
            if shape == Shape::Sentinel && to_ms - from_ms >= TILTS_FROM_MS {
                still.recovery_bound_ms += TILT_MS;
            }
            recorder.write(ClientName::Harness, from_ms, What::Fault(still));
        }
    }
}

pub(crate) fn stood_still(from_ms: u64, to_ms: u64) -> Fault {
    Fault {
        kind: "Machine Stood Still".to_owned(),
        reach: Reach::All,
        from_ms,
        to_ms,
        loses: Loss::Nothing,
        hides_news_ms: Some(CATCHES_UP_MS),
        hides_loss_ms: 0,
        kills_lease_holder: false,
        pauses: true,
        invalidations: 0,
        is_graceful: false,
        recovery_bound_ms: CATCHES_UP_MS,
        durable_bound_ms: 0,
    }
}
