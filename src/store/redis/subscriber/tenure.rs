//! Whether a primary under Sentinel is the primary still.
//!
//! A replica that sentinels promote on purpose, or because they can't see the primary any more, leaves it at once; the other
//! replicas follow a second later. What the primary is told meanwhile is lost, although a replica has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::owners::majority;
use crate::store::redis::servers::Address;

/// How long the sentinels have to say so: a round that had just begun, and one more.
const LIMIT: Duration = Duration::from_millis(900);

/// What one sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whom it calls the primary.
    pub(super) primary: Address,
    /// Whether it finds nothing wrong with that one, and replaces it by nobody.
    pub(super) is_content: bool,
}

/// What one round of asking them found.
#[derive(Debug, Clone)]
pub(super) struct Round {
    began: Instant,
    undisputed: Option<Address>,
}

/// Who asks the sentinels again and again, for those who must know now.
#[derive(Debug, Clone)]
pub(in crate::store::redis) struct Tenure {
    rounds: watch::Receiver<Round>,
    look: Arc<Notify>,
}

impl Round {
    /// Nothing was asked yet.
    pub(super) fn none() -> Self {
        Self::of(Instant::now(), 1, &[])
    }

    /// What those said of all `sentinels` who were asked from `began` on.
    pub(super) fn of(began: Instant, sentinels: usize, verdicts: &[Verdict]) -> Self {
        // A single one knows that it has begun to promote another.
        let undisputed = 2 * verdicts.len() > sentinels && verdicts.iter().all(|verdict| verdict.is_content);
        let named: Vec<_> = verdicts.iter().map(|verdict| verdict.primary.clone()).collect();
        Self {
            began,
            undisputed: majority(&named).filter(|_| undisputed).cloned(),
        }
    }
}

impl Tenure {
    pub(super) fn new(rounds: watch::Receiver<Round>, look: Arc<Notify>) -> Self {
        Self { rounds, look }
    }

    /// Whether more than half of all sentinels call this server the primary, and none of those that answer has begun to replace
    /// it, at a moment after this was asked.
    pub(in crate::store::redis) async fn is_held_by(&self, server: &Address) -> bool {
        let asked = Instant::now();
        let mut rounds = self.rounds.clone();
        self.look.notify_one();
        let round = timeout(LIMIT, rounds.wait_for(|round| round.began >= asked)).await;
        matches!(round, Ok(Ok(round)) if round.undisputed.as_ref() == Some(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn says(primary: &str, is_content: bool) -> Verdict {
        Verdict {
            primary: address(primary),
            is_content,
        }
    }

    fn undisputed(verdicts: &[Verdict]) -> Option<Address> {
        Round::of(Instant::now(), 3, verdicts).undisputed
    }

    #[test]
    fn a_primary_is_undisputed_while_most_sentinels_name_it_and_none_replaces_it() {
        let one = Some(address("one:1"));
        let yes = says("one:1", true);
        assert_eq!(undisputed(&[yes.clone(), yes.clone(), yes.clone()]), one);
        assert_eq!(undisputed(&[yes.clone(), yes.clone()]), one);
        assert_eq!(
            undisputed(std::slice::from_ref(&yes)),
            None,
            "two may have agreed on another"
        );
        assert_eq!(undisputed(&[yes.clone(), yes.clone(), says("one:1", false)]), None);
        assert_eq!(undisputed(&[yes.clone(), says("two:2", true)]), None);
        assert_eq!(undisputed(&[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_asked_afterwards_counts() {
        let (asked, rounds) = watch::channel(Round::none());
        let tenure = Tenure::new(rounds, Arc::default());
        let server = address("one:1");
        let yes = [says("one:1", true), says("one:1", true)];
        asked.send_replace(Round::of(Instant::now(), 3, &yes));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!tenure.is_held_by(&server).await);
        let answer = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            asked.send_replace(Round::of(Instant::now(), 3, &yes));
        };
        let (held, ()) = tokio::join!(tenure.is_held_by(&server), answer);
        assert!(held);
        assert!(!tenure.is_held_by(&address("two:2")).await);
    }
}
