//! A primary and those that follow it, any of which sentinels may promote.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::redis::servers::Address;
use crate::store::redis::topology::{Consent, Round};

/// How long most sentinels must say that a replica which is gone was not promoted, before it counts no more: none of them reaches it,
/// and most have heard from the primary since it is gone, so that the others are too few to promote it. One that they do reach may have
/// been promoted by a sentinel that died before it could say so, which comes back and has its way.
const SETTLED: Duration = Duration::from_secs(3);
/// How many seconds ago one that keeps up was last heard. Replicas tell where they are each second; and a primary takes both moments
/// from clocks that differ by some milliseconds, so that each time a second begins it has heard them a second from now.
const LAG_SECONDS: RangeInclusive<i64> = -1..=2;

/// Replicas, by the addresses that they announce.
pub(super) type Members = BTreeSet<String>;

/// What is known of a primary's replicas, from one look to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) primary: Address,
    /// When it was first looked at.
    since: Instant,
    /// Whether most sentinels have heard from it after that. Who sees it for the first time may see what is left of it on the wrong
    /// side of a network, and most sentinels be on the other, without having noticed yet.
    pub(super) is_known: bool,
    /// The replicas that it lists, and those that are gone and may be promoted all the same.
    pub(super) members: Members,
    /// Those of them that don't keep up.
    missing: Members,
    /// Those of these that it lists no more.
    pub(super) gone: Members,
    /// Since when the last of these is missing, or gone.
    fewer_since: Option<Instant>,
    /// Since when nobody says that one of them was promoted.
    undisputed_since: Option<Instant>,
    /// What the sentinels said last.
    consent: Option<Consent>,
    /// The replicas that those who consented last may promote, whether these follow this primary or not: one that died comes back
    /// with what was before, and is told seconds later whom to follow.
    able: Members,
    /// All that they had ever heard of.
    all: Members,
    /// Why a sentinel did not say, if it may not.
    withheld: Option<String>,
}

impl Group {
    pub(super) fn new(primary: Address, now: Instant) -> Self {
        Self {
            primary,
            since: now,
            is_known: false,
            members: Members::new(),
            missing: Members::new(),
            gone: Members::new(),
            fewer_since: None,
            undisputed_since: None,
            consent: None,
            able: Members::new(),
            all: Members::new(),
            withheld: None,
        }
    }

    /// After a look at the primary, which says this of its replicas.
    pub(super) fn seen(&self, info: &str, now: Instant) -> Self {
        let listed = members(info, |_| true);
        let keeping_up = members(info, |pace| pace == Pace::KeepsUp);
        let members: Members = self.members.union(&listed).cloned().collect();
        let missing: Members = members.difference(&keeping_up).cloned().collect();
        let gone: Members = members.difference(&listed).cloned().collect();
        let is_more = !(missing.is_subset(&self.missing) && gone.is_subset(&self.gone));
        let of_before = |since: Option<Instant>| since.filter(|_| !is_more && !missing.is_empty());
        Self {
            fewer_since: of_before(self.fewer_since).or(is_more.then_some(now)),
            undisputed_since: of_before(self.undisputed_since),
            members,
            missing,
            gone,
            ..self.clone()
        }
    }

    /// After the sentinels were asked.
    pub(super) fn judge(&mut self, round: Option<&Round>, now: Instant) {
        let consent_since = |since| round.and_then(|round| round.consent_since(&self.primary, since));
        self.consent = round.and_then(|round| round.consent(&self.primary));
        self.withheld = round.and_then(|round| round.withheld().map(str::to_owned));
        if let Some(round) = round.filter(|_| self.consent.is_some()) {
            self.able = round.able().clone();
            self.all = round.replicas().clone();
        }
        // One that is reached and does not follow may have been promoted just before.
        let needed = if self.all_follow() {
            Consent::Majority
        } else {
            Consent::Unanimous
        };
        self.is_known |= consent_since(self.since) >= Some(needed);
        self.undisputed_since = self.consent.map(|_| self.undisputed_since.unwrap_or(now));
        let is_settled = self.undisputed_since.is_some_and(|since| now - since >= SETTLED);
        if is_settled && self.all_follow() && self.fewer_since.is_some_and(|since| consent_since(since).is_some()) {
            self.members = self.members.difference(&self.gone).cloned().collect();
            self.missing = self.missing.difference(&self.gone).cloned().collect();
            self.gone = Members::new();
        }
    }

    /// Whether a write that one of them does not have comes to nothing, as far as the sentinels said.
    pub(super) fn is_disputed(&self) -> bool {
        let needed = if self.gone.is_empty() {
            Consent::Majority
        } else {
            Consent::Unanimous
        };
        self.lacks_one() && self.consent < Some(needed)
    }

    /// Whether one that may be promoted does not have what is written.
    fn lacks_one(&self) -> bool {
        !self.missing.is_empty() || !self.able().is_subset(&self.members)
    }

    /// The replicas that sentinels may promote: of those that do not say, any that they ever heard of.
    pub(super) fn able(&self) -> &Members {
        if self.consent.is_some() { &self.able } else { &self.all }
    }

    /// Whether the primary lists all of them.
    fn all_follow(&self) -> bool {
        let follows = |name| self.members.contains(name) && !self.gone.contains(name);
        self.able().iter().all(follows)
    }

    /// Whether one may be promoted that follows no more.
    pub(super) fn may_lose_one(&self) -> bool {
        !self.is_known || !self.gone.is_empty() || !self.all_follow()
    }

    /// Why it is not known what a sentinel thinks, where it may not say.
    pub(super) fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    pub(super) fn keeping_up(&self) -> Members {
        self.members.difference(&self.missing).cloned().collect()
    }

    pub(super) fn tell(&self, before: &Self) {
        let what = |group: &Self| {
            (
                group.is_known,
                group.lacks_one(),
                group.missing.clone(),
                group.members.clone(),
            )
        };
        if !self.is_known || what(self) == what(before) {
            return;
        }
        let (primary, replicas, able) = (&self.primary, self.keeping_up().len(), self.able().len());
        if self.lacks_one() {
            tracing::warn!(%primary, replicas, able, "a replica is missing, behind or follows nobody: durable writes wait until the sentinels vouch for the primary");
        } else {
            tracing::info!(%primary, replicas, able, "it is known whom durable writes wait for");
        }
    }
}

/// How a replica follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    KeepsUp,
    /// It has said nothing yet, which takes up to a second, or longer while it loads what it was sent.
    Joins,
    /// It hangs, or loads: what it said last was long ago.
    Lags,
    /// It is sent everything anew, or waits for that.
    Copies,
}

/// Those that follow so.
pub(super) fn members(info: &str, which: impl Fn(Pace) -> bool) -> Members {
    let members = followers(info).filter(|(_, pace)| which(*pace));
    members.map(|(name, _)| name).collect()
}

/// Every replica, whether it is online or not: `slave0:ip=127.0.0.1,port=6380,state=online,offset=1,lag=0` and its like.
pub(super) fn followers(info: &str) -> impl Iterator<Item = (String, Pace)> {
    info.lines().filter_map(|line| {
        let (name, fields) = line.split_once(':')?;
        let _: u32 = name.strip_prefix("slave")?.parse().ok()?;
        let field = |name: &str| {
            let mut fields = fields.trim_end().split(',');
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let number = |name: &str| field(name).and_then(|number| number.parse::<i64>().ok());
        let pace = match (number("lag"), number("offset")) {
            _ if field("state") != Some("online") => Pace::Copies,
            (Some(lag), Some(offset)) if LAG_SECONDS.contains(&lag) && offset > 0 => Pace::KeepsUp,
            (Some(lag), Some(0)) if LAG_SECONDS.contains(&lag) => Pace::Joins,
            _ => Pace::Lags,
        };
        Some((format!("{}:{}", field("ip")?, field("port")?), pace))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=0";
    const OTHER: &str = "slave12:ip=::1,port=1,state=online,offset=9,lag=2";
    const HEARD_AS_A_SECOND_BEGAN: &str = "slave0:ip=127.0.0.1,port=2,state=online,offset=9,lag=-1";

    fn info(replicas: &[&str]) -> String {
        format!("role:master\r\n{}\r\n", replicas.join("\r\n"))
    }

    fn named(names: &[&str]) -> Members {
        names.iter().map(ToString::to_string).collect()
    }

    fn keeping_up(there: &[&str]) -> Members {
        members(&info(there), |pace| pace == Pace::KeepsUp)
    }

    #[test]
    fn a_replica_keeps_up_when_it_is_online_and_was_heard_of_just_now() {
        assert_eq!(keeping_up(&[ONE]), named(&["127.0.0.1:1"]));
        assert_eq!(keeping_up(&[ONE, OTHER]), named(&["127.0.0.1:1", "::1:1"]));
        assert_eq!(keeping_up(&[HEARD_AS_A_SECOND_BEGAN]), named(&["127.0.0.1:2"]));
        for not in [
            "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=3",
            "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=-2",
            "slave0:ip=127.0.0.1,port=1,state=wait_bgsave,offset=0,lag=0",
            "slave0:ip=127.0.0.1,port=1,state=online,offset=0,lag=1",
            "slave0:ip=127.0.0.1,port=1,state=online,offset=9",
            "",
        ] {
            assert_eq!(keeping_up(&[not]), named(&[]), "{not}");
        }
    }

    const BEHIND: &str = "slave1:ip=::1,port=1,state=wait_bgsave,offset=0,lag=0";

    fn both() -> Members {
        named(&["127.0.0.1:1", "::1:1"])
    }

    fn primary() -> Address {
        Address::parse("primary:1").unwrap()
    }

    /// A second later the primary lists these; and so many sentinels, of three, hear from it, vouch for it, and reach these alone.
    async fn look(group: &mut Group, there: &[&str], sentinels: usize) {
        look_where(group, there, sentinels, &members(&info(there), |_| true)).await;
    }

    /// The same where they reach `able`.
    async fn look_where(group: &mut Group, there: &[&str], sentinels: usize, able: &Members) {
        tokio::time::advance(Duration::from_secs(1)).await;
        *group = group.seen(&info(there), Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        let round = Round::agreed(&primary(), &vec![Instant::now(); sentinels], &both(), able);
        group.judge(Some(&round), Instant::now());
    }

    async fn of_two() -> Group {
        let mut group = Group::new(primary(), Instant::now());
        look(&mut group, &[ONE, OTHER], 3).await;
        assert!(group.is_known && !group.lacks_one());
        group
    }

    #[tokio::test(start_paused = true)]
    async fn who_they_are_is_known_once_most_sentinels_have_heard_from_the_primary() {
        let mut group = Group::new(primary(), Instant::now());
        look(&mut group, &[ONE, OTHER], 1).await;
        assert!(!group.is_known);
        // Perhaps it went to the other side of a network, with those that are not heard of.
        look(&mut group, &[ONE], 2).await;
        assert!(group.is_known);
        assert_eq!(group.members, both());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_counts_until_most_sentinels_have_vouched_for_three_seconds() {
        let mut group = of_two().await;
        for _ in 0..3 {
            look(&mut group, &[ONE], 2).await;
            assert_eq!(group.members, both());
        }
        assert!(group.is_disputed(), "the third may be promoting it");
        look(&mut group, &[ONE], 2).await;
        assert_eq!(group.members, named(&["127.0.0.1:1"]));
        assert!(!group.lacks_one());
        look(&mut group, &[ONE], 1).await;
        assert!(group.is_disputed() && group.may_lose_one(), "others may reach it");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_and_reached_counts_until_every_sentinel_vouches() {
        let mut group = of_two().await;
        for _ in 0..60 {
            look_where(&mut group, &[ONE], 2, &both()).await;
            assert!(group.is_disputed(), "the third promoted it, died, and will be back");
        }
        assert_eq!(group.members, both());
        look_where(&mut group, &[ONE], 3, &both()).await;
        assert!(!group.is_disputed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_reached_and_does_not_follow_at_first_sight_may_have_been_promoted_just_before() {
        let mut group = Group::new(primary(), Instant::now());
        look_where(&mut group, &[ONE], 2, &both()).await;
        assert!(!group.is_known && group.may_lose_one());
        look_where(&mut group, &[ONE], 3, &both()).await;
        assert!(group.is_known && group.lacks_one() && !group.is_disputed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_counts_while_too_few_sentinels_vouch() {
        let mut group = of_two().await;
        for _ in 0..60 {
            look(&mut group, &[ONE], 1).await;
        }
        assert_eq!(group.members, both());
        look(&mut group, &[ONE], 3).await;
        assert_eq!(group.members, both(), "they have only begun");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_behind_counts_and_is_not_waited_for() {
        let mut group = of_two().await;
        for _ in 0..60 {
            look(&mut group, &[ONE, BEHIND], 2).await;
        }
        assert_eq!(group.members, both());
        assert_eq!(group.keeping_up(), named(&["127.0.0.1:1"]));
        assert!(!group.is_disputed(), "most are enough");
        // It goes: only now may somebody be promoting it.
        look(&mut group, &[ONE], 2).await;
        assert!(group.is_disputed());
        assert_eq!(group.members, both());
        look(&mut group, &[ONE, OTHER], 2).await;
        assert_eq!((group.keeping_up(), group.lacks_one()), (both(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_follows_nobody_counts_until_most_sentinels_say_that_it_is_away() {
        let mut group = Group::new(primary(), Instant::now());
        look_where(&mut group, &[ONE], 3, &both()).await;
        assert!(group.lacks_one() && !group.is_disputed());
        look(&mut group, &[ONE], 1).await;
        assert!(group.is_disputed(), "who is cut off reaches nobody");
        group.judge(None, Instant::now());
        assert!(group.is_disputed(), "and nobody says who there is");
        look(&mut group, &[ONE], 2).await;
        assert!(!group.lacks_one() && !group.may_lose_one());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_and_goes_counts_on() {
        let mut group = of_two().await;
        for _ in 0..20 {
            look(&mut group, &[ONE], 3).await;
            look(&mut group, &[ONE], 3).await;
            look(&mut group, &[ONE, BEHIND], 3).await;
            assert_eq!(group.members, both());
        }
    }
}
