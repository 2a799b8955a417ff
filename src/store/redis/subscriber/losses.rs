//! From the moment when news may have been missed to the one when it is told. Hides what has to happen in between.
//!
//! Told is a channel that is live again, together with the others on their way back, and after the clients that carry commands
//! were aligned: what they read because of it must not be older than what was missed.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Cause;
use super::alignment::{Aligned, Alignment};
use super::channels::Channels;
use super::owners::Owners;
use crate::scene::SceneId;
use crate::telemetry::Metrics;

/// How long clients that would not follow are left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

pub(super) struct Losses {
    alignment: Alignment,
    owners: watch::Receiver<Owners>,
    metrics: Metrics,
    /// Something was lost since the last alignment.
    unaligned: bool,
    aligning: Option<BoxFuture<'static, Aligned>>,
    /// Told when the alignment has ended.
    held: Vec<SceneId>,
    /// Told as soon as there is room.
    ready: Vec<SceneId>,
    /// What was told, or watched for the first time, was perhaps read from an old master.
    again: bool,
    complained: bool,
    episode: Option<Episode>,
}

/// From the first loss to the time when all is well again: one line in the log at each end.
struct Episode {
    began: Instant,
    channels: usize,
}

impl Losses {
    pub(super) fn new(alignment: Alignment, owners: watch::Receiver<Owners>, metrics: Metrics) -> Self {
        Self {
            alignment,
            owners,
            metrics,
            unaligned: false,
            aligning: None,
            held: Vec::new(),
            ready: Vec::new(),
            again: false,
            complained: false,
            episode: None,
        }
    }

    /// News of so many channels may be missed from now on.
    pub(super) fn count(&mut self, cause: Cause, channels: usize, detail: &dyn Display) {
        if channels == 0 {
            return;
        }
        cause.count(&self.metrics);
        self.unaligned = true;
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

    /// Who owns what has changed: commands must follow even where nothing is watched, or they go on at a master that is none.
    /// Of a new master, channels may be live before commands reach it: then who has just begun to watch has read an old record.
    pub(super) fn owners_changed(&mut self, by_new_ones: bool) {
        self.unaligned = true;
        self.again |= by_new_ones;
    }

    /// Takes what is live again a step further.
    pub(super) fn advance(&mut self, channels: &mut Channels) {
        if self.aligning.is_some() {
            return;
        }
        let recovered = channels.take_recovered();
        if self.unaligned && (channels.is_whole() || !recovered.is_empty()) {
            self.unaligned = false;
            self.held = recovered;
            self.align(Duration::ZERO);
        } else if !recovered.is_empty() {
            self.ready.extend(recovered);
        } else if channels.is_whole() && self.ready.is_empty() {
            self.close_episode();
        }
    }

    /// How the alignment under way ended; never, while there is none. Cancelling it does no harm.
    pub(super) async fn alignment_ended(&mut self) -> Aligned {
        match &mut self.aligning {
            Some(aligning) => aligning.await,
            None => pending().await,
        }
    }

    /// Takes note of how it ended.
    pub(super) fn aligned(&mut self, outcome: Aligned, channels: &mut Channels) {
        self.aligning = None;
        self.ready.append(&mut self.held);
        self.ready.extend(channels.take_recovered());
        match outcome {
            Aligned::Yes => {
                self.complained = false;
                if std::mem::take(&mut self.again) {
                    self.ready = channels.live();
                }
            }
            Aligned::NotYet => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!("the Redis clients that carry commands do not follow to the new master in time");
                }
                self.again = true;
                self.align(AGAIN_AFTER);
            }
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

    fn align(&mut self, delay: Duration) {
        let alignment = self.alignment.clone();
        let owners = self.owners.borrow().clone();
        self.aligning = Some(Box::pin(async move {
            sleep(delay).await;
            alignment.run(owners).await
        }));
    }

    fn close_episode(&mut self) {
        if let Some(Episode { began, channels }) = self.episode.take() {
            let milliseconds = began.elapsed().as_millis();
            info!(channels, milliseconds, "watching all scenes again");
        }
    }
}
