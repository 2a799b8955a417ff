//! Whether a primary under Sentinel is the primary still.
//!
//! A replica that sentinels promote on purpose, or because they can't see the primary any more, leaves it at once; the other
//! replicas follow a second later. What the primary is told meanwhile is lost, although a replica has it. At first a single
//! sentinel knows: the one that promotes. And those that are parted from the primary, together with a replica, do not know it for
//! as long as a server may be silent before it counts as down.

use std::collections::BTreeSet;
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
    /// How often it was replaced before, as far as it knows. Who knows less is out of date.
    pub(super) epoch: u64,
    pub(super) opinion: Opinion,
    /// When that one last answered it, if it ever did.
    pub(super) heard: Option<Instant>,
    /// The replicas of it that this sentinel reaches, and may promote.
    pub(super) replicas: BTreeSet<String>,
    /// How many sentinels there are, as far as it knows.
    pub(super) sentinels: usize,
}

/// What a sentinel thinks of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// Nothing is wrong with it.
    Content,
    /// It does not hear from it, and has found nobody who says the same: alone it replaces nobody.
    Uneasy,
    /// It replaces it, or may, or does not say.
    Replaces,
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
    /// Whom all who answered, and are not out of date, call the primary, if none of them replaces it.
    undisputed: Option<Address>,
    /// When each of those last heard it who find nothing wrong with it.
    heard: Vec<Option<Instant>>,
    /// How many replicas there are that one of them may promote.
    replicas: usize,
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
        let newest = verdicts.iter().max_by_key(|verdict| verdict.epoch);
        let agrees = |newest: &Verdict, verdict: &Verdict| {
            let is_out_of_date = verdict.epoch < newest.epoch;
            verdict.opinion != Opinion::Replaces && (is_out_of_date || verdict.primary == newest.primary)
        };
        let newest = newest.filter(|newest| verdicts.iter().all(|verdict| agrees(newest, verdict)));
        let vouches = |verdict: &&Verdict| {
            verdict.opinion == Opinion::Content && newest.is_some_and(|newest| newest.primary == verdict.primary)
        };
        Self {
            began,
            undisputed: newest.map(|newest| newest.primary.clone()),
            replicas: verdicts
                .iter()
                .flat_map(|verdict| &verdict.replicas)
                .collect::<BTreeSet<_>>()
                .len(),
            heard: verdicts.iter().filter(vouches).map(|verdict| verdict.heard).collect(),
            all: known.max().unwrap_or_default().max(asked),
        }
    }

    /// Some of all so many agree on this server, heard it last at these moments, and reach so many replicas.
    #[cfg(test)]
    pub(in crate::store::redis) fn agreed(server: &Address, all: usize, heard: &[Instant], replicas: usize) -> Self {
        Self {
            undisputed: Some(server.clone()),
            heard: heard.iter().copied().map(Some).collect(),
            replicas,
            all,
            ..Self::none()
        }
    }

    /// How many replicas there are that a sentinel may promote, of those that were heard of.
    pub(in crate::store::redis) fn replicas(&self) -> usize {
        self.replicas
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
        needed: Consent,
        since: Instant,
        deadline: Instant,
    ) -> bool {
        while let Some(round) = self.now().await {
            // No consent is less than any.
            if round.consent_since(server, since) >= Some(needed) {
                return true;
            }
            if round.consent(server) < Some(needed) || Instant::now() + PAUSE >= deadline {
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

    fn says(primary: &str, opinion: Opinion) -> Verdict {
        Verdict {
            primary: address(primary),
            epoch: 1,
            opinion,
            heard: Some(Instant::now()),
            replicas: reached(&["three:3"]),
            sentinels: 3,
        }
    }

    fn reached(replicas: &[&str]) -> BTreeSet<String> {
        replicas.iter().map(|replica| (*replica).to_owned()).collect()
    }

    fn round(verdicts: &[Verdict]) -> Round {
        Round::of(Instant::now(), verdicts.len(), verdicts)
    }

    #[test]
    fn a_primary_is_undisputed_while_most_sentinels_name_it_and_none_says_otherwise() {
        let yes = || says("one:1", Opinion::Content);
        let consent = |verdicts: &[Verdict]| round(verdicts).consent(&address("one:1"));
        assert_eq!(consent(&[yes(), yes(), yes()]), Some(Consent::Unanimous));
        assert_eq!(consent(&[yes(), yes()]), Some(Consent::Majority));
        assert_eq!(consent(&[yes()]), None, "two may have agreed on another");
        assert_eq!(consent(&[yes(), yes(), says("one:1", Opinion::Replaces)]), None);
        assert_eq!(consent(&[yes(), yes(), says("two:2", Opinion::Content)]), None);
        let uneasy = || says("one:1", Opinion::Uneasy);
        assert_eq!(consent(&[yes(), yes(), uneasy()]), Some(Consent::Majority));
        assert_eq!(consent(&[yes(), uneasy(), uneasy()]), None, "two may replace it");
        assert_eq!(consent(&[]), None);
        assert_eq!(round(&[yes(), yes(), yes()]).consent(&address("two:2")), None);
    }

    #[test]
    fn who_is_out_of_date_speaks_for_nobody() {
        let now = |primary| Verdict {
            epoch: 2,
            ..says(primary, Opinion::Content)
        };
        let before = |primary| says(primary, Opinion::Uneasy);
        let consent = |server: &str, verdicts: &[Verdict]| round(verdicts).consent(&address(server));
        let replaced = [now("two:2"), now("two:2"), before("one:1")];
        assert_eq!(consent("two:2", &replaced), Some(Consent::Majority));
        assert_eq!(consent("one:1", &replaced), None);
        let just_replaced = [now("two:2"), before("one:1"), before("one:1")];
        assert_eq!(
            consent("two:2", &just_replaced),
            None,
            "the others have not heard of it"
        );
        assert_eq!(consent("one:1", &just_replaced), None);
    }

    #[test]
    fn a_replica_that_one_sentinel_reaches_may_be_promoted() {
        let reaches = |replicas: &[&str]| Verdict {
            replicas: reached(replicas),
            ..says("one:1", Opinion::Content)
        };
        let verdicts = [reaches(&["two:2"]), reaches(&["three:3"]), reaches(&[])];
        assert_eq!(round(&verdicts).replicas(), 2, "each reaches another");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_heard_from_it_since_does_not_know() {
        let server = address("one:1");
        let before = says("one:1", Opinion::Content);
        let since = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let after = || says("one:1", Opinion::Content);
        let never = Verdict { heard: None, ..after() };
        let consent = |verdicts: &[Verdict]| round(verdicts).consent_since(&server, since);
        assert_eq!(consent(&[after(), after(), after()]), Some(Consent::Unanimous));
        assert_eq!(consent(&[after(), after(), before.clone()]), Some(Consent::Majority));
        assert_eq!(consent(&[after(), before.clone(), never]), None);
        assert_eq!(consent(&[after(), after(), says("one:1", Opinion::Replaces)]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_asked_afterwards_counts() {
        let (asked, rounds) = watch::channel(Round::none());
        let tenure = Tenure::new(rounds, Arc::default());
        let server = address("one:1");
        let yes = [says("one:1", Opinion::Content), says("one:1", Opinion::Content)];
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
