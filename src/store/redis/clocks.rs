//! Whether this machine and Redis tell the same time.
//!
//! No scene goes by that: its time is what Redis says is left of it, run off on a clock that nobody sets. But the times in
//! id_tokens are this machine's, and sites refuse those of another hour; and the times in logs are.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::commands::Commands;
use crate::telemetry::Metrics;

/// What may be between two machines that keep their clocks.
const SKEW_MAX: f64 = 2.0;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// How many seconds this machine's clock is ahead of what a server answers to TIME just now: half of the way there and back is ahead
/// of that.
pub(super) fn ahead_of(seconds: i64, micros: i32, there_and_back: Duration) -> Option<f64> {
    let on_the_way = SignedDuration::try_from(there_and_back / 2).ok()?;
    let theirs = Timestamp::new(seconds, micros.checked_mul(1_000)?).ok()?;
    Some((Timestamp::now().duration_since(theirs) - on_the_way).as_secs_f64())
}

/// Compares the clocks until `shutdown`, and tells when they begin to differ, and when they no longer do.
pub(super) async fn compare(commands: Arc<Commands>, metrics: Metrics, shutdown: CancellationToken) {
    let mut differ = false;
    while !shutdown.is_cancelled() {
        if let Some(seconds) = commands.clock_skew().await {
            metrics.clock_skew_seconds.set(seconds);
            match (differ, seconds.abs() > SKEW_MAX) {
                (false, true) => tracing::warn!(
                    seconds,
                    "this machine's clock is not redis's, but so many seconds ahead: sites may refuse its id_tokens; let both keep time by NTP"
                ),
                (true, false) => tracing::info!(seconds, "this machine's clock agrees with redis's again"),
                (false, false) | (true, true) => {}
            }
            differ = seconds.abs() > SKEW_MAX;
        }
        let _ = timeout(PERIOD, shutdown.cancelled()).await;
    }
}
