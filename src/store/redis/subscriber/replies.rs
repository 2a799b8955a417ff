//! What one connection is owed, in the order it was asked. Pure: hides how pushes and replies are told apart.
//!
//! A subscription is answered by pushes, one per channel, and an error takes the place of all of them. `sunsubscribe` pushes come
//! unasked as well, so they never answer anything: a `PING` behind each unsubscription does.

use std::collections::{HashSet, VecDeque};

use crate::scene::SceneId;

/// Names one `SSUBSCRIBE`; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BatchId(pub(super) u64);

/// What was sent and not answered yet.
#[derive(Debug)]
enum Owed {
    /// `SSUBSCRIBE`, and the channels it still awaits.
    Batch(BatchId, HashSet<SceneId>),
    /// `SUNSUBSCRIBE`s and the `PING` behind them.
    Release(HashSet<SceneId>),
    /// `PING`.
    Ping,
    /// `CLIENT INFO`.
    Count,
}

/// What a frame meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// All channels of the batch are subscribed, or were until a later [`Answer::Taken`].
    Acknowledged(BatchId),
    /// None of the batch is.
    Refused(BatchId, String),
    /// The unsubscriptions at the front are done.
    Released,
    /// The server took this channel away.
    Taken(SceneId),
    /// Nothing that anybody must know.
    Nothing,
}

/// The server and we no longer mean the same: only a new connection helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutOfStep {
    /// An answer to nothing that was asked.
    #[error("an answer to nothing that was asked")]
    Unasked,
    /// The server counts other subscriptions than it confirmed.
    #[error("the server counts {theirs} subscriptions, we {ours}")]
    Miscounted {
        /// The server's number.
        theirs: usize,
        /// Ours.
        ours: usize,
    },
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Replies {
    owed: VecDeque<Owed>,
    held: HashSet<SceneId>,
}

impl Replies {
    /// Whether any answer is outstanding.
    pub(super) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// `SSUBSCRIBE` was sent.
    pub(super) fn expect_batch(&mut self, batch: BatchId, channels: &[SceneId]) {
        self.owed
            .push_back(Owed::Batch(batch, channels.iter().copied().collect()));
    }

    /// `SUNSUBSCRIBE`s and a `PING` were sent.
    pub(super) fn expect_release(&mut self, channels: &[SceneId]) {
        self.owed.push_back(Owed::Release(channels.iter().copied().collect()));
    }

    /// `PING` was sent.
    pub(super) fn expect_pong(&mut self) {
        self.owed.push_back(Owed::Ping);
    }

    /// `CLIENT INFO` was sent.
    pub(super) fn expect_count(&mut self) {
        self.owed.push_back(Owed::Count);
    }

    /// A push said `ssubscribe`.
    pub(super) fn subscribed(&mut self, channel: SceneId) -> Result<Answer, OutOfStep> {
        let Some(Owed::Batch(batch, awaited)) = self.owed.front_mut() else {
            return Err(OutOfStep::Unasked);
        };
        if !awaited.remove(&channel) {
            return Err(OutOfStep::Unasked);
        }
        self.held.insert(channel);
        if !awaited.is_empty() {
            return Ok(Answer::Nothing);
        }
        let batch = *batch;
        self.owed.pop_front();
        Ok(Answer::Acknowledged(batch))
    }

    /// A push said `sunsubscribe`.
    pub(super) fn unsubscribed(&mut self, channel: SceneId) -> Answer {
        self.held.remove(&channel);
        match self.owed.front() {
            Some(Owed::Release(channels)) if channels.contains(&channel) => Answer::Nothing,
            _ => Answer::Taken(channel),
        }
    }

    /// An error came. `CLIENT INFO` and `PING` may be forbidden: then that was the answer.
    pub(super) fn refused(&mut self, text: &str) -> Result<Answer, OutOfStep> {
        match self.owed.front() {
            // The PING behind it is still to be answered.
            Some(Owed::Release(_)) => Ok(Answer::Nothing),
            Some(Owed::Batch(batch, _)) => {
                let answer = Answer::Refused(*batch, text.to_owned());
                self.owed.pop_front();
                Ok(answer)
            }
            Some(Owed::Ping | Owed::Count) => {
                self.owed.pop_front();
                Ok(Answer::Nothing)
            }
            None => Err(OutOfStep::Unasked),
        }
    }

    /// Any other reply came.
    pub(super) fn replied(&mut self, text: &str) -> Result<Answer, OutOfStep> {
        match self.owed.pop_front() {
            Some(Owed::Release(_)) => Ok(Answer::Released),
            Some(Owed::Ping) => Ok(Answer::Nothing),
            Some(Owed::Count) => match (subscriptions(text), self.held.len()) {
                (Some(theirs), ours) if theirs != ours => Err(OutOfStep::Miscounted { theirs, ours }),
                _ => Ok(Answer::Nothing),
            },
            Some(Owed::Batch(..)) | None => Err(OutOfStep::Unasked),
        }
    }
}

/// `ssub=` of `CLIENT INFO`; servers before 7.0.3 don't tell.
fn subscriptions(client_info: &str) -> Option<usize> {
    client_info
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("ssub="))
        .and_then(|count| count.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const ONE: BatchId = BatchId(1);
    const TWO: BatchId = BatchId(2);

    fn scenes<const N: usize>() -> [SceneId; N] {
        let mut rng = StdRng::seed_from_u64(7);
        std::array::from_fn(|_| SceneId::random(&mut rng))
    }

    #[test]
    fn a_batch_counts_with_its_last_channel() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a, b]);
        assert_eq!(replies.subscribed(b), Ok(Answer::Nothing));
        assert!(replies.is_owed());
        assert_eq!(replies.subscribed(a), Ok(Answer::Acknowledged(ONE)));
        assert!(!replies.is_owed());
    }

    #[test]
    fn an_error_answers_the_front_batch_alone() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a]);
        replies.expect_batch(TWO, &[b]);
        assert_eq!(
            replies.refused("MOVED 1 b:1"),
            Ok(Answer::Refused(ONE, "MOVED 1 b:1".to_owned()))
        );
        assert_eq!(replies.subscribed(b), Ok(Answer::Acknowledged(TWO)));
    }

    #[test]
    fn an_unasked_sunsubscribe_answers_nothing() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a]);
        assert_eq!(replies.unsubscribed(b), Answer::Taken(b));
        assert_eq!(replies.subscribed(a), Ok(Answer::Acknowledged(ONE)));
        assert_eq!(replies.unsubscribed(a), Answer::Taken(a));
    }

    #[test]
    fn a_channel_taken_between_its_ack_and_the_batchs_last_one_is_told_before_the_batch() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a, b]);
        assert_eq!(replies.subscribed(a), Ok(Answer::Nothing));
        assert_eq!(replies.unsubscribed(a), Answer::Taken(a));
        assert_eq!(replies.subscribed(b), Ok(Answer::Acknowledged(ONE)));
    }

    #[test]
    fn our_own_unsubscription_is_no_loss_and_its_ping_ends_it() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a]);
        replies.expect_release(&[a]);
        replies.expect_batch(TWO, &[a, b]);
        assert_eq!(replies.subscribed(a), Ok(Answer::Acknowledged(ONE)));
        assert_eq!(replies.unsubscribed(a), Answer::Nothing);
        assert_eq!(replies.replied("PONG"), Ok(Answer::Released));
        assert_eq!(replies.subscribed(a), Ok(Answer::Nothing));
        assert_eq!(replies.subscribed(b), Ok(Answer::Acknowledged(TWO)));
    }

    #[test]
    fn a_refused_unsubscription_does_not_refuse_the_batch_behind_it() {
        let [a, b] = scenes();
        let mut replies = Replies::default();
        replies.expect_release(&[a]);
        replies.expect_batch(ONE, &[b]);
        assert_eq!(replies.refused("MOVED 1 b:1"), Ok(Answer::Nothing));
        assert_eq!(replies.replied("PONG"), Ok(Answer::Released));
        assert_eq!(replies.subscribed(b), Ok(Answer::Acknowledged(ONE)));
    }

    #[test]
    fn answers_to_nothing_end_the_connection() {
        let [a, b] = scenes();
        assert_eq!(Replies::default().subscribed(a), Err(OutOfStep::Unasked));
        assert_eq!(Replies::default().replied("PONG"), Err(OutOfStep::Unasked));
        assert_eq!(Replies::default().refused("ERR"), Err(OutOfStep::Unasked));
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a]);
        assert_eq!(replies.subscribed(b), Err(OutOfStep::Unasked), "another channel");
        assert_eq!(replies.replied("PONG"), Err(OutOfStep::Unasked), "a batch passed over");
    }

    #[test]
    fn a_server_that_counts_other_subscriptions_is_found_out() {
        let [a] = scenes();
        let mut replies = Replies::default();
        replies.expect_batch(ONE, &[a]);
        replies.subscribed(a).unwrap();
        for (text, outcome) in [
            ("id=7 sub=0 psub=0 ssub=1 multi=-1", Ok(Answer::Nothing)),
            ("id=7 sub=0 psub=0 multi=-1", Ok(Answer::Nothing)),
            (
                "id=7 ssub=0 multi=-1",
                Err(OutOfStep::Miscounted { theirs: 0, ours: 1 }),
            ),
        ] {
            replies.expect_count();
            assert_eq!(replies.replied(text), outcome, "{text}");
        }
        replies.expect_count();
        assert_eq!(replies.refused("NOPERM"), Ok(Answer::Nothing), "it may be forbidden");
    }
}
