//! Whether this machine and Redis tell the same time.
//!
//! No scene goes by that: its time is what Redis says is left of it, run off on a clock that nobody sets. But the times in
//! id_tokens are this machine's, and sites refuse those of another hour; and the times in logs are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::commands::Commands;
use crate::telemetry::Metrics;

/// What may be between two machines that keep their clocks.
const SKEW_MAX: f64 = 2.0;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);

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
