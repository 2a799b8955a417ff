//! From the moment when news may have been missed to the one when it is told: once a channel is live again, together with the
//! others on their way back. Commands go to a new owner before channels do, so what is then read is not older than what was missed.

use std::fmt::Display;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Cause;
use super::channels::Channels;
use crate::scene::SceneId;
use crate::telemetry::Metrics;

pub(super) struct Losses {
    metrics: Metrics,
    /// Told as soon as there is room.
    ready: Vec<SceneId>,
    episode: Option<Episode>,
}

/// From the first loss to the time when all is well again: one line in the log at each end.
struct Episode {
    began: Instant,
    channels: usize,
}

impl Losses {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ready: Vec::new(),
            episode: None,
        }
    }

    /// News of so many channels may be missed from now on.
    pub(super) fn count(&mut self, cause: Cause, channels: usize, detail: &dyn Display) {
        if channels == 0 {
            return;
        }
        cause.count(&self.metrics);
        let cause = cause.as_str();
        if let Some(episode) = &mut self.episode {
            episode.channels += channels;
            debug!(cause, channels, %detail, "more subscriptions lost");
        } else {
            warn!(cause, channels, %detail, "subscriptions lost: watching these scenes again");
            self.episode = Some(Episode {
                began: Instant::now(),
                channels,
            });
        }
    }

    /// Takes what is live again to be told.
    pub(super) fn advance(&mut self, channels: &mut Channels) {
        self.ready.extend(channels.take_recovered());
        if channels.is_whole()
            && self.ready.is_empty()
            && let Some(Episode { began, channels }) = self.episode.take()
        {
            let milliseconds = began.elapsed().as_millis();
            info!(channels, milliseconds, "watching all scenes again");
        }
    }

    /// Whether [`Losses::take`] gives anything.
    pub(super) fn are_to_be_told(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What is to be told now.
    pub(super) fn take(&mut self) -> Vec<SceneId> {
        std::mem::take(&mut self.ready)
    }
}
