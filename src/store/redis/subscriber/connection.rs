//! The connection to one node. Hides sending, answers, keepalive and messages; whoever started it hears reports.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::Cause;
use super::channels::ConnectionId;
use super::replies::{Answer, BatchId, OutOfStep, Replies};
use crate::scene::{PublicState, SceneId};
use crate::store::News;
use crate::store::redis::keys::Keys;
use crate::store::redis::servers::Address;
use crate::store::redis::wire::{Dialer, Wire, WireError, error_text};
use crate::telemetry::Metrics;

/// How many orders may be unanswered at once; whoever gives them keeps to it.
pub(super) const WINDOW: usize = 32;

/// How long a silent server is left alone.
const PING_AFTER: Duration = Duration::from_millis(300);

/// How long a server that owes an answer may say nothing.
const DEAD_AFTER: Duration = Duration::from_millis(900);

/// How often the server's own count of our subscriptions is compared with ours.
const COUNT_EVERY: Duration = Duration::from_secs(4);

/// How many channels one `SUNSUBSCRIBE` names at most.
const BATCH: usize = 64;

/// What to do. Each is answered by exactly one report, unless the connection ends.
#[derive(Debug)]
pub(super) enum Order {
    /// Subscribe these, all of one hash tag.
    Subscribe(BatchId, Vec<SceneId>),
    /// Unsubscribe these.
    Release(Vec<SceneId>),
}

/// What a connection tells.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) from: ConnectionId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// It takes orders now.
    Up,
    /// It heard something that matters.
    Answer(Answer),
    /// It is over; the last report.
    Down(Fault),
}

/// Why a connection ended, or was none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    #[error("the server is a {0}")]
    NotMaster(String),
    #[error("nobody listens any more")]
    Stopped,
    #[error("a panic, logged where it happened")]
    Panicked,
}

impl Fault {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Wire(WireError::Closed(_)) | Self::Stopped => Cause::Closed,
            Self::Wire(WireError::Timeout) => Cause::Timeout,
            Self::Wire(WireError::Refused(_)) | Self::NotMaster(_) => Cause::Refused,
            Self::Wire(WireError::Invalid(_)) | Self::OutOfStep(OutOfStep::Unasked) | Self::Panicked => Cause::Invalid,
            Self::OutOfStep(OutOfStep::Miscounted { .. }) => Cause::Miscounted,
        }
    }
}

/// What a connection is made of.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: Address,
    pub(super) dialer: Dialer,
    /// Whether only a master will do.
    pub(super) master_only: bool,
    pub(super) names: Keys,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) metrics: Metrics,
}

impl Connection {
    /// Connects after `delay`, works until something goes wrong, and reports that, whatever it was: a connection that ended
    /// unnoticed would leave its channels deaf.
    pub(super) async fn run(mut self, delay: Duration) {
        let work = AssertUnwindSafe(self.work(delay)).catch_unwind();
        let fault = match work.await {
            Ok(Err(fault)) => fault,
            Err(_) => Fault::Panicked,
        };
        // The only one who could miss it has ended.
        let _ = self.report(What::Down(fault)).await;
    }

    async fn work(&mut self, delay: Duration) -> Result<Infallible, Fault> {
        sleep(delay).await;
        let (wire, role) = self.dialer.dial(&self.address).await?;
        match role {
            Some(role) if self.master_only && role != "master" => return Err(Fault::NotMaster(role)),
            _ => {}
        }
        self.metrics.store_connections_total.with_label_values(&["news"]).inc();
        self.report(What::Up).await?;
        let mut talk = Talk {
            wire,
            replies: Replies::default(),
            owed_since: Instant::now(),
            count_at: Instant::now() + COUNT_EVERY,
        };
        loop {
            let wake = talk.wake_at();
            // In this order: orders are few, and what there is to hear comes before the verdict that nothing was heard, also
            // when nobody listened for long because there was no room for news.
            tokio::select! {
                biased;
                order = self.orders.recv() => talk.send(order.ok_or(Fault::Stopped)?, &self.names)?,
                frame = talk.wire.frame() => {
                    self.take(&mut talk, frame?).await?;
                    continue;
                }
                () = sleep_until(wake) => talk.keep_alive()?,
            }
            while let Ok(order) = self.orders.try_recv() {
                talk.send(order, &self.names)?;
            }
            talk.wire.flush().await?;
        }
    }

    async fn take(&self, talk: &mut Talk, frame: BytesFrame) -> Result<(), Fault> {
        let answer = match &frame {
            BytesFrame::Push { data, .. } => match Push::read(data, &self.names) {
                Some(Push::Message(id, payload)) => {
                    self.announce(id, payload).await?;
                    Answer::Nothing
                }
                Some(Push::Subscribed(id)) => talk.replies.subscribed(id)?,
                Some(Push::Unsubscribed(id)) => talk.replies.unsubscribed(id),
                None => Answer::Nothing,
            },
            reply => match error_text(reply) {
                Some(text) => talk.replies.refused(text)?,
                None => talk.replies.replied(reply.as_str().unwrap_or_default())?,
            },
        };
        if answer != Answer::Nothing {
            self.report(What::Answer(answer)).await?;
        }
        Ok(())
    }

    async fn announce(&self, id: SceneId, payload: &[u8]) -> Result<(), Fault> {
        let news = match serde_json::from_slice::<PublicState>(payload) {
            Ok(state) => News::Changed(id, state),
            Err(error) => {
                debug!(scene = ?id, %error, "a message can't be read, the record will be");
                Cause::Undecodable.count(&self.metrics);
                News::Lost(vec![id])
            }
        };
        self.news.send(news).await.map_err(|_| Fault::Stopped)
    }

    async fn report(&self, what: What) -> Result<(), Fault> {
        let report = Report { from: self.id, what };
        self.reports.send(report).await.map_err(|_| Fault::Stopped)
    }
}

/// An open conversation and what is owed in it.
struct Talk {
    wire: Wire,
    replies: Replies,
    owed_since: Instant,
    count_at: Instant,
}

impl Talk {
    fn send(&mut self, order: Order, names: &Keys) -> Result<(), Fault> {
        self.owe();
        match order {
            Order::Subscribe(batch, channels) => {
                self.push("SSUBSCRIBE", &channels, names)?;
                self.replies.expect_batch(batch, &channels);
            }
            Order::Release(channels) => {
                let mut by_tag = BTreeMap::<_, Vec<_>>::new();
                for id in &channels {
                    by_tag.entry(id.hash_tag()).or_default().push(*id);
                }
                for part in by_tag.values().flat_map(|ids| ids.chunks(BATCH)) {
                    self.push("SUNSUBSCRIBE", part, names)?;
                }
                self.wire.push(["PING"])?;
                self.replies.expect_release(&channels);
            }
        }
        Ok(())
    }

    fn push(&mut self, command: &str, channels: &[SceneId], names: &Keys) -> Result<(), Fault> {
        let channels = channels.iter().map(|id| names.scene(id)).collect::<Vec<_>>();
        let words = std::iter::once(command).chain(channels.iter().map(String::as_str));
        Ok(self.wire.push(words)?)
    }

    fn wake_at(&self) -> Instant {
        if self.replies.is_owed() {
            self.wire.heard().max(self.owed_since) + DEAD_AFTER
        } else {
            self.count_at.min(self.wire.heard() + PING_AFTER)
        }
    }

    fn keep_alive(&mut self) -> Result<(), Fault> {
        if self.replies.is_owed() {
            return Err(WireError::Timeout.into());
        }
        self.owe();
        if self.count_at <= Instant::now() {
            self.count_at = Instant::now() + COUNT_EVERY;
            self.wire.push(["CLIENT", "INFO"])?;
            self.replies.expect_count();
        } else {
            self.wire.push(["PING"])?;
            self.replies.expect_pong();
        }
        Ok(())
    }

    /// From now on the server owes something, if it did not before.
    fn owe(&mut self) {
        if !self.replies.is_owed() {
            self.owed_since = Instant::now();
        }
    }
}

/// A push that concerns a scene.
pub(super) enum Push<'a> {
    Message(SceneId, &'a [u8]),
    Subscribed(SceneId),
    Unsubscribed(SceneId),
}

impl<'a> Push<'a> {
    /// `None` for every other push.
    pub(super) fn read(data: &'a [BytesFrame], names: &Keys) -> Option<Self> {
        let [kind, channel, rest, ..] = data else {
            return None;
        };
        let id = names.scene_of(channel.as_str()?)?;
        match kind.as_str()? {
            "smessage" => Some(Self::Message(id, rest.as_bytes().unwrap_or_default())),
            "ssubscribe" => Some(Self::Subscribed(id)),
            "sunsubscribe" => Some(Self::Unsubscribed(id)),
            _ => None,
        }
    }
}
