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
    /// The replicas of it that this sentinel has heard of.
    pub(super) replicas: Vec<Replica>,
    /// How many sentinels there are, as far as it knows.
    pub(super) sentinels: usize,
    /// How many of them must find it down before one replaces it; for that one most must vote, who need not find it down themselves.
    pub(super) quorum: usize,
    /// Why it does not say, if it may not.
    pub(super) withheld: Option<String>,
}

/// A replica, as a sentinel sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    /// The address that it announces.
    pub(super) name: String,
    /// Whether this sentinel may promote it, whomever it follows.
    pub(super) is_reached: bool,
}

impl Verdict {
    /// Of a sentinel that must not say more than whom it calls the primary.
    pub(super) fn withheld(primary: Address, why: String) -> Self {
        Self {
            primary,
            epoch: 0,
            opinion: Opinion::Replaces,
            heard: None,
            replicas: Vec::new(),
            sentinels: 1,
            quorum: 1,
            withheld: Some(why),
        }
    }
}

/// What a sentinel thinks of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// Nothing is wrong with it.
    Content,
    /// It does not hear from it, and has not found as many who say the same as it takes to replace it.
    Uneasy,
    /// It replaces it, or may, or does not say.
    Replaces,
}

/// How sure one can be that nobody else is made the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::redis) enum Consent {
    /// More than half of all sentinels say so, and so many that the others are too few to replace it; and none says otherwise.
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
    /// Its replicas that one of them may promote.
    able: BTreeSet<String>,
    /// All that any has heard of.
    replicas: BTreeSet<String>,
    /// How many sentinels there are.
    all: usize,
    /// How many of them it takes to replace it.
    quorum: usize,
    /// Why one of them does not say, if it may not.
    withheld: Option<String>,
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
        let replicas = || verdicts.iter().flat_map(|verdict| &verdict.replicas);
        let name = |replica: &Replica| replica.name.clone();
        let newest = newest.filter(|newest| verdicts.iter().all(|verdict| agrees(newest, verdict)));
        let vouches = |verdict: &&Verdict| {
            verdict.opinion == Opinion::Content && newest.is_some_and(|newest| newest.primary == verdict.primary)
        };
        Self {
            began,
            undisputed: newest.map(|newest| newest.primary.clone()),
            able: replicas().filter(|replica| replica.is_reached).map(name).collect(),
            replicas: replicas().map(name).collect(),
            heard: verdicts.iter().filter(vouches).map(|verdict| verdict.heard).collect(),
            all: known.max().unwrap_or_default().max(asked),
            quorum: verdicts.iter().map(|verdict| verdict.quorum).min().unwrap_or(1),
            withheld: verdicts.iter().find_map(|verdict| verdict.withheld.clone()),
        }
    }

    /// Some of three agree on this server, heard it last at these moments, and have heard of these replicas, of whom they reach some.
    #[cfg(test)]
    pub(in crate::store::redis) fn agreed(
        server: &Address,
        heard: &[Instant],
        replicas: &BTreeSet<String>,
        able: &BTreeSet<String>,
    ) -> Self {
        Self {
            undisputed: Some(server.clone()),
            heard: heard.iter().copied().map(Some).collect(),
            able: able.clone(),
            replicas: replicas.clone(),
            all: 3,
            quorum: 2,
            ..Self::none()
        }
    }

    /// The replicas that a sentinel may promote, of those who answered: one may reach another than the next.
    pub(in crate::store::redis) fn able(&self) -> &BTreeSet<String> {
        &self.able
    }

    /// All replicas that any of them has heard of.
    pub(in crate::store::redis) fn replicas(&self) -> &BTreeSet<String> {
        &self.replicas
    }

    /// Why a sentinel does not say what it thinks, if it may not.
    pub(in crate::store::redis) fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
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
            most if 2 * most > self.all && self.all - most < self.quorum => Some(Consent::Majority),
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
            replicas: replicas(&["three:3"]),
            sentinels: 3,
            quorum: 2,
            withheld: None,
        }
    }

    /// Those that it reaches; of one that has a `-` it has only heard.
    fn replicas(names: &[&str]) -> Vec<Replica> {
        let replica = |name: &&str| Replica {
            name: name.trim_start_matches('-').to_owned(),
            is_reached: !name.starts_with('-'),
        };
        names.iter().map(replica).collect()
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
        let hears_of = |names: &[&str]| Verdict {
            replicas: replicas(names),
            ..says("one:1", Opinion::Content)
        };
        let round = round(&[
            hears_of(&["two:2", "-three:3"]),
            hears_of(&["three:3", "-four:4"]),
            hears_of(&[]),
        ]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(*round.able(), names(&["two:2", "three:3"]), "each reaches another");
        assert_eq!(*round.replicas(), names(&["two:2", "three:3", "four:4"]));
    }

    #[test]
    fn where_few_may_replace_a_primary_most_are_not_enough_to_vouch_for_it() {
        let of_quorum = |quorum| Verdict {
            quorum,
            ..says("one:1", Opinion::Content)
        };
        let consent = |verdicts: &[Verdict]| round(verdicts).consent(&address("one:1"));
        assert_eq!(consent(&[of_quorum(2), of_quorum(2)]), Some(Consent::Majority));
        assert_eq!(
            consent(&[of_quorum(2), of_quorum(1)]),
            None,
            "the third alone may replace it"
        );
        assert_eq!(
            consent(&[of_quorum(1), of_quorum(1), of_quorum(1)]),
            Some(Consent::Unanimous)
        );
    }

    #[test]
    fn who_must_not_say_more_than_a_name_vouches_for_nobody() {
        let withheld = || Verdict::withheld(address("one:1"), "NOPERM".to_owned());
        let yes = || says("one:1", Opinion::Content);
        let round = round(&[yes(), yes(), withheld()]);
        assert_eq!(
            (round.consent(&address("one:1")), round.withheld()),
            (None, Some("NOPERM"))
        );
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
