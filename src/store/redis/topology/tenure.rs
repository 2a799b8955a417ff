//! Whether a primary under Sentinel is the primary still.
//!
//! A replica that sentinels promote on purpose, or because they can't see the primary any more, leaves it at once; the other
//! replicas follow a second later. What the primary is told meanwhile is lost, although a replica has it. At first a single
//! sentinel knows: the one that promotes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

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
    /// How many sentinels there are, as far as it knows.
    pub(super) sentinels: usize,
}

/// How sure one can be that nobody else is made the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::redis) enum Consent {
    /// More than half of all sentinels say so, and none says otherwise.
    Majority,
    /// Every sentinel says so.
    Unanimous,
}

/// What one round of asking them found.
#[derive(Debug, Clone)]
pub(super) struct Round {
    began: Instant,
    undisputed: Option<(Address, Consent)>,
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

    /// What those said who answered, of so many that were asked from `began` on.
    pub(super) fn of(began: Instant, asked: usize, verdicts: &[Verdict]) -> Self {
        let known = verdicts.iter().map(|verdict| verdict.sentinels);
        let all = known.max().unwrap_or_default().max(asked);
        let consent = match verdicts.len() {
            answered if answered == all => Some(Consent::Unanimous),
            answered if 2 * answered > all => Some(Consent::Majority),
            _ => None,
        };
        let same = verdicts.first().map(|first| &first.primary).filter(|primary| {
            let mut verdicts = verdicts.iter();
            verdicts.all(|verdict| verdict.is_content && verdict.primary == **primary)
        });
        Self {
            began,
            undisputed: same.cloned().zip(consent),
        }
    }
}

impl Tenure {
    pub(super) fn new(rounds: watch::Receiver<Round>, look: Arc<Notify>) -> Self {
        Self { rounds, look }
    }

    /// Who agrees that this server is the primary, and that nobody replaces it, at a moment after this was asked.
    pub(in crate::store::redis) async fn of(&self, server: &Address) -> Option<Consent> {
        let asked = Instant::now();
        let mut rounds = self.rounds.clone();
        self.look.notify_one();
        let round = timeout(LIMIT, rounds.wait_for(|round| round.began >= asked)).await;
        let undisputed = round.ok()?.ok()?.undisputed.clone();
        undisputed
            .filter(|(primary, _)| primary == server)
            .map(|(_, consent)| consent)
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
            sentinels: 3,
        }
    }

    fn consent(verdicts: &[Verdict]) -> Option<Consent> {
        let (primary, consent) = Round::of(Instant::now(), verdicts.len(), verdicts).undisputed?;
        assert_eq!(primary, address("one:1"));
        Some(consent)
    }

    #[test]
    fn a_primary_is_undisputed_while_most_sentinels_name_it_and_none_says_otherwise() {
        let yes = || says("one:1", true);
        assert_eq!(consent(&[yes(), yes(), yes()]), Some(Consent::Unanimous));
        assert_eq!(consent(&[yes(), yes()]), Some(Consent::Majority));
        assert_eq!(consent(&[yes()]), None, "two may have agreed on another");
        assert_eq!(consent(&[yes(), yes(), says("one:1", false)]), None);
        assert_eq!(consent(&[yes(), yes(), says("two:2", true)]), None);
        assert_eq!(consent(&[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_asked_afterwards_counts() {
        let (asked, rounds) = watch::channel(Round::none());
        let tenure = Tenure::new(rounds, Arc::default());
        let server = address("one:1");
        let yes = [says("one:1", true), says("one:1", true)];
        asked.send_replace(Round::of(Instant::now(), 3, &yes));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(tenure.of(&server).await, None);
        let answer = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            asked.send_replace(Round::of(Instant::now(), 3, &yes));
        };
        let (consent, ()) = tokio::join!(tenure.of(&server), answer);
        assert_eq!(consent, Some(Consent::Majority));
        assert_eq!(tenure.of(&address("two:2")).await, None);
    }
}
