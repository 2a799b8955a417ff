//! Whether a primary under Sentinel is the primary still.
//!
//! A replica that sentinels promote on purpose, or because they can't see the primary any more, leaves it at once; the other
//! replicas follow a second later. What the primary is told meanwhile is lost, although a replica has it. At first a single
//! sentinel knows: the one that promotes. And those that are parted from the primary, together with a replica, do not know it for
//! as long as a server may be silent before it counts as down.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::store::redis::servers::Address;

/// How long the sentinels have to say so: a round that had just begun, and one more.
const LIMIT: Duration = Duration::from_millis(900);
/// Between two questions to those who have not heard from it yet.
const PAUSE: Duration = Duration::from_millis(50);

/// What one sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whom it calls the primary.
    pub(super) primary: Address,
    /// Whether it finds nothing wrong with that one, and replaces it by nobody.
    pub(super) is_content: bool,
    /// When that one last answered it, if it ever did.
    pub(super) heard: Option<Instant>,
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
pub(in crate::store::redis) struct Round {
    began: Instant,
    /// Whom all who answered call the primary, if none of them finds anything wrong with it.
    undisputed: Option<Address>,
    /// When each of them last heard it.
    heard: Vec<Option<Instant>>,
    /// How many sentinels there are.
    all: usize,
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
        let named = verdicts.first().map(|first| &first.primary).filter(|primary| {
            let mut verdicts = verdicts.iter();
            verdicts.all(|verdict| verdict.is_content && verdict.primary == **primary)
        });
        Self {
            began,
            undisputed: named.cloned(),
            heard: verdicts.iter().map(|verdict| verdict.heard).collect(),
            all: known.max().unwrap_or_default().max(asked),
        }
    }

    /// Who agrees that this server is the primary, and that nobody replaces it.
    pub(in crate::store::redis) fn consent(&self, server: &Address) -> Option<Consent> {
        self.consent_of(server, self.heard.len())
    }

    /// The same of those whom it answered after `since`: who is parted from it since before may replace it without knowing that yet.
    pub(in crate::store::redis) fn consent_since(&self, server: &Address, since: Instant) -> Option<Consent> {
        let heard = self.heard.iter().flatten().filter(|heard| **heard > since);
        self.consent_of(server, heard.count())
    }

    fn consent_of(&self, server: &Address, sentinels: usize) -> Option<Consent> {
        self.undisputed.as_ref().filter(|named| *named == server)?;
        match sentinels {
            all if all == self.all => Some(Consent::Unanimous),
            most if 2 * most > self.all => Some(Consent::Majority),
            _ => None,
        }
    }
}

impl Tenure {
    pub(super) fn new(rounds: watch::Receiver<Round>, look: Arc<Notify>) -> Self {
        Self { rounds, look }
    }

    /// What the sentinels say at a moment after this was asked.
    pub(in crate::store::redis) async fn now(&self) -> Option<Round> {
        let asked = Instant::now();
        let mut rounds = self.rounds.clone();
        self.look.notify_one();
        let round = timeout(LIMIT, rounds.wait_for(|round| round.began >= asked)).await;
        Some(round.ok()?.ok()?.clone())
    }

    /// Whether most agree that this server is the primary, and none says otherwise.
    pub(in crate::store::redis) async fn is_held_by(&self, server: &Address) -> bool {
        let round = self.now().await;
        round.is_some_and(|round| round.consent(server).is_some())
    }

    /// Whether so many sentinels hear from this server after `since`, until `deadline`, and agree that it is the primary. Of all of
    /// them, one that does not answer may be the one that promotes.
    pub(in crate::store::redis) async fn is_vouched_for(
        &self,
        server: &Address,
        who: Consent,
        since: Instant,
        deadline: Instant,
    ) -> bool {
        while let Some(round) = self.now().await {
            if round.consent_since(server, since) >= Some(who) {
                return true;
            }
            if round.consent(server) < Some(who) || Instant::now() + PAUSE >= deadline {
                return false;
            }
            sleep(PAUSE).await;
        }
        false
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
            heard: Some(Instant::now()),
            sentinels: 3,
        }
    }

    fn round(verdicts: &[Verdict]) -> Round {
        Round::of(Instant::now(), verdicts.len(), verdicts)
    }

    #[test]
    fn a_primary_is_undisputed_while_most_sentinels_name_it_and_none_says_otherwise() {
        let yes = || says("one:1", true);
        let consent = |verdicts: &[Verdict]| round(verdicts).consent(&address("one:1"));
        assert_eq!(consent(&[yes(), yes(), yes()]), Some(Consent::Unanimous));
        assert_eq!(consent(&[yes(), yes()]), Some(Consent::Majority));
        assert_eq!(consent(&[yes()]), None, "two may have agreed on another");
        assert_eq!(consent(&[yes(), yes(), says("one:1", false)]), None);
        assert_eq!(consent(&[yes(), yes(), says("two:2", true)]), None);
        assert_eq!(consent(&[]), None);
        assert_eq!(round(&[yes(), yes(), yes()]).consent(&address("two:2")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_heard_from_it_since_does_not_know() {
        let server = address("one:1");
        let before = says("one:1", true);
        let since = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let after = || says("one:1", true);
        let never = Verdict { heard: None, ..after() };
        let consent = |verdicts: &[Verdict]| round(verdicts).consent_since(&server, since);
        assert_eq!(consent(&[after(), after(), after()]), Some(Consent::Unanimous));
        assert_eq!(consent(&[after(), after(), before.clone()]), Some(Consent::Majority));
        assert_eq!(consent(&[after(), before.clone(), never]), None);
        assert_eq!(consent(&[after(), after(), says("one:1", false)]), None);
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
        let (is_held, ()) = tokio::join!(tenure.is_held_by(&server), answer);
        assert!(is_held);
        assert!(!tenure.is_held_by(&address("two:2")).await);
    }
}
