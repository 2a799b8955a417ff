//! How many replicas a durable write waits for: as long as its shard has one that keeps up, and for a while after.
//!
//! Told by slot, not by server: when the only replica of a shard has become its primary, the shard remembers that it had one,
//! and stops durable writes for a while instead of taking them from a single copy without a word.
//!
//! One replica is enough where no other than an up-to-date one can take over. Sentinels may promote a replica while another one
//! still follows the old primary, and acknowledges what will be lost. So under Sentinel every replica that keeps up is waited for,
//! and while one is missing, or is behind, the sentinels are asked of each write whether it was promoted, or will be ([`Tenure`]):
//! those that are on its side of a parted network have not heard from the primary since the write, and may not have noticed yet.
//!
//! A primary of a Cluster that is cut off from its replica and most others takes writes until it notices, and loses them: while it
//! hears no majority, nothing is taken from it alone.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::InfoKind;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::commands::{Commands, info_field};
use super::fault::Fault;
use super::keys::tags;
use super::nodes::Node;
use super::servers::Address;
use super::settings::Wait;
use super::topology::{Consent, Owners, Tenure, Topology};

/// How long durable writes still wait after the last replica that kept up was seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long most sentinels must say that a replica which is gone was not promoted, before it counts no more. One that promotes it
/// and is silent meanwhile is heard of by the others within that time. And most must have heard from the primary since it is gone:
/// the others are too few to promote it.
const SETTLED: Duration = Duration::from_secs(3);
/// Between two looks while it is not known who they are.
const AGAIN: Duration = Duration::from_millis(100);
/// How many seconds ago one that keeps up was last heard. Replicas tell where they are each second; and a primary takes both moments
/// from clocks that differ by some milliseconds, so that each time a second begins it has heard them a second from now.
const LAG_SECONDS: RangeInclusive<i64> = -1..=2;

/// Which replicas a durable write waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copies {
    /// One, or as many as are there of those that are known.
    pub(super) count: i64,
    /// By name where each may be promoted, if it is known who they are.
    known: Option<Members>,
}

/// What became of the wait for them.
#[derive(Debug)]
pub(super) struct Reached<'a> {
    /// How many have it, whichever they are.
    pub(super) count: i64,
    /// Where it was written.
    pub(super) server: Option<Address>,
    /// What that said of its replicas afterwards.
    pub(super) info: &'a str,
}

/// Why a write stays, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Replicated,
    Vouched,
    /// As many have it as were to, and another one joined, which may be one of them instead of one that was known: all so many are to
    /// have it now.
    Joined {
        count: i64,
    },
    /// One replica has it, and of the one that has not nobody knows yet.
    Doubted,
    Not,
}

/// Who has a write, of those that sentinels may promote.
#[derive(Debug, PartialEq, Eq)]
enum Whom {
    /// All that are there or were known.
    Enough,
    /// As many as were to, which are not all that can: one joined.
    TooFew {
        count: i64,
    },
    /// All that can, which leaves those that hang, or are still sent what was before. One of these is promoted only by sentinels that
    /// can't reach the primary any more.
    AllButThoseBehind,
    /// At least one. Another one left, perhaps because a sentinel promotes it.
    Some,
    None,
}

/// Replicas, by the addresses that they announce.
type Members = BTreeSet<String>;

/// What is known of each slot's replicas.
#[derive(Debug)]
pub(super) struct Replication {
    wait: Wait,
    commands: Arc<Commands>,
    sights: Mutex<HashMap<u16, Sight>>,
    tenure: Option<Tenure>,
    /// In a Cluster, the primaries whose replicas will take over although nobody can say so yet.
    cut_off: watch::Receiver<BTreeSet<Address>>,
    /// Under Sentinel.
    group: Mutex<Option<Group>>,
    /// A primary whose replicas are not known yet, and since when it was looked at.
    stranger: Mutex<Option<(Address, Instant)>>,
}

/// What becomes of a primary's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlook {
    /// At least one keeps up.
    KeepsUp,
    /// One does not keep up, and may still: who sees that first has seen no better times.
    Lags,
    /// There is none.
    Gone,
    /// None is heard, and neither are the other primaries.
    TakesOver,
}

#[derive(Debug, Clone, Copy)]
struct Sight {
    keeps_up: bool,
    last_kept_up: Option<Instant>,
    /// Whether it was told that nobody waits any more.
    told_alone: bool,
}

/// A primary and those that follow it, any of which sentinels may promote.
#[derive(Debug, Clone)]
struct Group {
    primary: Address,
    /// The replicas that it lists, and those that are gone and may be promoted all the same.
    members: Members,
    /// Those of them that don't keep up.
    missing: Members,
    /// Those of these that it lists no more.
    gone: Members,
    /// Since when the last of these is missing, or gone.
    fewer_since: Option<Instant>,
    /// Since when nobody says that one of them was promoted.
    undisputed_since: Option<Instant>,
}

impl Replication {
    pub(super) fn new(wait: Wait, commands: Arc<Commands>, topology: &Topology) -> Self {
        Self {
            wait,
            commands,
            sights: Mutex::default(),
            tenure: topology.tenure.clone(),
            cut_off: topology.cut_off.clone(),
            group: Mutex::default(),
            stranger: Mutex::default(),
        }
    }

    /// For how many replicas a durable write to this slot waits now, if it waits.
    pub(super) fn copies(&self, slot: u16) -> Option<Copies> {
        let waits = match self.wait {
            Wait::Never => false,
            Wait::Always => true,
            Wait::Auto => {
                let sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
                // Of a slot that could not be looked at nothing is known, so nothing is risked.
                sights.get(&slot).copied().is_none_or(Sight::asks)
            }
        };
        waits.then(|| self.wanted(slot))
    }

    fn wanted(&self, slot: u16) -> Copies {
        // What is known of the last primary's replicas says nothing of this one's.
        let nodes = self.commands.nodes();
        let primary = nodes.owners().of(slot);
        let group = self.group().filter(|group| Some(&group.primary) == primary);
        // One that is missing would only be waited for in vain.
        let there = group
            .as_ref()
            .map(|group| count(&group.members) - count(&group.missing));
        Copies {
            count: there.unwrap_or_default().max(1),
            known: group.map(|group| group.members),
        }
    }

    /// Whether a write stays, whoever is primary next: one that reached so far at `since`, and is asked about until `deadline`.
    pub(super) async fn keeps(
        &self,
        reached: &Reached<'_>,
        wanted: &Copies,
        since: Instant,
        deadline: Instant,
    ) -> Kept {
        let Some(tenure) = &self.tenure else {
            let is_enough = reached.count >= wanted.count;
            return if is_enough { Kept::Replicated } else { Kept::Not };
        };
        let who = match reached.whom(wanted) {
            Whom::Enough => return Kept::Replicated,
            Whom::TooFew { count } => return Kept::Joined { count },
            Whom::None => return Kept::Not,
            Whom::AllButThoseBehind => Consent::Majority,
            Whom::Some => Consent::Unanimous,
        };
        match &reached.server {
            Some(server) if tenure.is_vouched_for(server, who, since, deadline).await => Kept::Vouched,
            _ => Kept::Doubted,
        }
    }

    /// Looks each second until `shutdown`, where that decides or tells anything.
    pub(super) async fn watch(&self, shutdown: CancellationToken) {
        if self.wait == Wait::Never {
            return;
        }
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => self.look().await,
            }
        }
    }

    /// Looks until it is known whom a durable write must wait for, where that has to be found out.
    pub(super) async fn find_out(&self) {
        self.look().await;
        while self.tenure.is_some() && self.wait != Wait::Never && self.group().is_none() {
            sleep(AGAIN).await;
            self.look().await;
        }
    }

    /// Looks once, at all at the same time. A server that can't be asked changes nothing: what was seen of its slots stays.
    pub(super) async fn look(&self) {
        let nodes = self.commands.nodes();
        join_all(nodes.iter().map(|node| self.look_at(node, nodes.owners()))).await;
    }

    async fn look_at(&self, node: &Node, owners: &Owners) {
        let server = &node.address;
        let info = node.shared().client().info::<String>(Some(InfoKind::Replication)).await;
        // While nobody asks anything else, this is what notices that a server is frozen.
        match node.heard(info.map_err(Fault::from)) {
            Ok(info) if info_field(&info, "role") == Some("master") => {
                let keeps_up = followers(&info).any(|(_, pace)| pace == Pace::KeepsUp);
                let gone = match &self.tenure {
                    Some(tenure) => self.follow(tenure, server.clone(), &info).await,
                    None => Some(Members::new()),
                };
                let outlook = if keeps_up || gone.as_ref().is_some_and(|gone| !gone.is_empty()) {
                    Outlook::KeepsUp
                } else if gone.is_none() || self.cut_off.borrow().contains(server) {
                    Outlook::TakesOver
                } else if followers(&info).any(|(_, pace)| pace != Pace::Copies) {
                    Outlook::Lags
                } else {
                    Outlook::Gone
                };
                self.see(owners, server, outlook);
            }
            Ok(_) => {}
            Err(fault) => tracing::debug!(%server, ?fault, "its replicas are not known"),
        }
    }

    /// Keeps account of this primary's replicas, once they are known, and says which are gone and may be promoted.
    async fn follow(&self, tenure: &Tenure, primary: Address, info: &str) -> Option<Members> {
        let seen = members(info, |pace| pace == Pace::KeepsUp);
        let listed = members(info, |_| true);
        let now = Instant::now();
        let before = self.group().filter(|group| group.primary == primary);
        let before = if let Some(before) = before {
            before
        } else {
            // Who sees it for the first time may see what is left of it on the wrong side of a network, and most sentinels be on the
            // other, without having noticed yet.
            let since = self.strange_since(&primary, now);
            tenure.now().await?.consent_since(&primary, since)?;
            Group {
                primary,
                members: listed.clone(),
                missing: Members::new(),
                gone: Members::new(),
                fewer_since: None,
                undisputed_since: None,
            }
        };
        let members: Members = before.members.union(&listed).cloned().collect();
        let missing: Members = members.difference(&seen).cloned().collect();
        let gone: Members = members.difference(&listed).cloned().collect();
        let is_more = !(missing.is_subset(&before.missing) && gone.is_subset(&before.gone));
        let fewer_since = if is_more { Some(now) } else { before.fewer_since };
        let mut group = Group {
            members,
            fewer_since: fewer_since.filter(|_| !missing.is_empty()),
            undisputed_since: None,
            missing,
            gone,
            ..before.clone()
        };
        if let Some(fewer_since) = group.fewer_since {
            let round = tenure.now().await;
            let is_undisputed = round
                .as_ref()
                .is_some_and(|round| round.consent(&group.primary).is_some());
            let is_heard = round.is_some_and(|round| round.consent_since(&group.primary, fewer_since).is_some());
            let undisputed_since = before.undisputed_since.filter(|_| !is_more).unwrap_or(now);
            group.undisputed_since = is_undisputed.then_some(undisputed_since);
            if is_heard && group.undisputed_since.is_some_and(|since| since.elapsed() >= SETTLED) {
                group.missing = listed.difference(&seen).cloned().collect();
                group.members = listed;
                group.gone = Members::new();
            }
        }
        let (primary, missing) = (&group.primary, group.missing.len());
        if is_more {
            tracing::warn!(%primary, missing, "a replica is missing or behind: durable writes wait until the sentinels vouch for the primary");
        } else if (&group.members, &group.missing) != (&before.members, &before.missing) {
            let replicas = group.members.len() - missing;
            tracing::info!(%primary, replicas, missing, "durable writes wait for other replicas");
        }
        let gone = group.gone.clone();
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
        Some(gone)
    }

    /// Since when this primary is looked at without it being known who its replicas are.
    fn strange_since(&self, primary: &Address, now: Instant) -> Instant {
        let mut stranger = self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stranger.take().filter(|(address, _)| address == primary);
        stranger.insert(before.unwrap_or_else(|| (primary.clone(), now))).1
    }

    fn see(&self, owners: &Owners, server: &Address, outlook: Outlook) {
        let now = Instant::now();
        let keeps_up = outlook == Outlook::KeepsUp;
        let slots = tags().map(|(_, slot)| slot);
        let slots: Vec<u16> = slots.filter(|slot| owners.of(*slot) == Some(server)).collect();
        let (mut changed, mut is_alone) = (false, false);
        {
            let mut sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
            for slot in slots {
                let before = sights.get(&slot);
                changed |= before.is_some_and(|sight| sight.keeps_up != keeps_up);
                let last_kept_up = match (outlook, before) {
                    (Outlook::KeepsUp | Outlook::TakesOver, _) | (Outlook::Lags, None) => Some(now),
                    // Who could not be asked for a while may have lost its replica just now.
                    (_, Some(before)) if before.keeps_up => Some(now),
                    (_, before) => before.and_then(|sight| sight.last_kept_up),
                };
                let mut sight = Sight {
                    keeps_up,
                    last_kept_up,
                    told_alone: true,
                };
                sight.told_alone = !sight.asks();
                is_alone |= sight.told_alone && before.is_some_and(|before| !before.told_alone);
                sights.insert(slot, sight);
            }
        }
        if is_alone && self.wait == Wait::Auto {
            tracing::warn!(%server, "durable writes go on without a replica: what is confirmed now may be lost with this server");
        }
        if changed && keeps_up {
            tracing::info!(%server, "a replica keeps up again: durable writes wait for it");
        } else if changed && self.wait == Wait::Always {
            tracing::warn!(%server, "no replica keeps up: durable writes fail");
        } else if changed {
            tracing::warn!(%server, patience = ?PATIENCE, "no replica keeps up: durable writes fail, and then go on without one");
        }
    }

    /// What keeps durable writes from being kept, if anything does.
    pub(super) fn trouble(&self) -> Option<String> {
        let is_alone = {
            let sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
            let refuses = |sight: &Sight| !sight.keeps_up && (self.wait == Wait::Always || sight.asks());
            sights.values().any(refuses)
        };
        let is_disputed = |group: &Group| group.fewer_since.is_some() && group.undisputed_since.is_none();
        let words = match self.group() {
            _ if is_alone => "no replica keeps up: confirms and redemptions are refused for now",
            Some(group) if is_disputed(&group) => {
                "a replica is missing, and too few sentinels say that it was not promoted: confirms and redemptions are refused"
            }
            None if self.tenure.is_some() && self.wait != Wait::Never => {
                "too few sentinels agree on the primary and hear from it: confirms and redemptions are refused"
            }
            _ => return None,
        };
        Some(words.to_owned())
    }

    fn group(&self) -> Option<Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sight {
    fn asks(self) -> bool {
        self.keeps_up || self.last_kept_up.is_some_and(|at| at.elapsed() < PATIENCE)
    }
}

impl Kept {
    /// In the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Replicated => "replicated",
            Self::Vouched => "vouched",
            Self::Joined { .. } | Self::Doubted | Self::Not => "unreplicated",
        }
    }
}

impl Reached<'_> {
    /// Which replicas have it. A count alone does not say: one that joined may stand in for one that left to be promoted.
    fn whom(&self, wanted: &Copies) -> Whom {
        let listed = members(self.info, |_| true);
        let able = members(self.info, |pace| matches!(pace, Pace::KeepsUp | Pace::Joins));
        let is_gone = !wanted.known.as_ref().is_some_and(|known| known.is_subset(&listed));
        let has_reached = |there: &Members| self.count >= count(there);
        if self.count < 1 {
            Whom::None
        } else if is_gone {
            Whom::Some
        } else if has_reached(&listed) {
            Whom::Enough
        } else if has_reached(&able) {
            Whom::AllButThoseBehind
        } else if self.count >= wanted.count {
            Whom::TooFew { count: count(&able) }
        } else {
            Whom::Some
        }
    }
}

fn count(members: &Members) -> i64 {
    i64::try_from(members.len()).unwrap_or(i64::MAX)
}

/// How a replica follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    KeepsUp,
    /// It has said nothing yet, which takes up to a second, or longer while it loads what it was sent.
    Joins,
    /// It hangs, or loads: what it said last was long ago.
    Lags,
    /// It is sent everything anew, or waits for that.
    Copies,
}

/// Those that follow so.
fn members(info: &str, which: impl Fn(Pace) -> bool) -> Members {
    let members = followers(info).filter(|(_, pace)| which(*pace));
    members.map(|(name, _)| name).collect()
}

/// Every replica, whether it is online or not: `slave0:ip=127.0.0.1,port=6380,state=online,offset=1,lag=0` and its like.
fn followers(info: &str) -> impl Iterator<Item = (String, Pace)> {
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

    fn info(replicas: &[&str]) -> String {
        let replicas = replicas.join("\r\n");
        format!("# Replication\r\nrole:master\r\nconnected_slaves:1\r\n{replicas}\r\nslave_read_only:1\r\n")
    }

    fn named(names: &[&str]) -> Members {
        names.iter().map(ToString::to_string).collect()
    }

    const ONE: &str = "slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=0";
    const OTHER: &str = "slave12:ip=::1,port=1,state=online,offset=9,lag=2";
    const HEARD_AS_A_SECOND_BEGAN: &str = "slave0:ip=127.0.0.1,port=2,state=online,offset=9,lag=-1";
    const LOADS: &str = "slave1:ip=127.0.0.1,port=4,state=online,offset=0,lag=9";
    const COPIES: &str = "slave1:ip=127.0.0.1,port=5,state=send_bulk,offset=0,lag=0";
    const JOINED: &str = "slave1:ip=127.0.0.1,port=3,state=online,offset=0,lag=0";

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

    fn keeping_up(there: &[&str]) -> Members {
        members(&info(there), |pace| pace == Pace::KeepsUp)
    }

    fn reached(count: i64, there: &[&str], known: &[&str]) -> Whom {
        let (info, server, known) = (&*info(there), None, named(known));
        let wanted = Copies {
            count: super::count(&known),
            known: Some(known),
        };
        Reached { count, server, info }.whom(&wanted)
    }

    #[test]
    fn a_replica_that_joins_never_stands_in_for_one_that_left() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE], &one), Whom::Enough);
        assert_eq!(
            reached(1, &[JOINED], &one),
            Whom::Some,
            "the one that was known is gone"
        );
        assert_eq!(reached(2, &[ONE, JOINED], &one), Whom::Enough);
        let both = ["127.0.0.1:1", "::1:1"];
        assert_eq!(reached(2, &[ONE, OTHER], &both), Whom::Enough);
        assert_eq!(reached(2, &[ONE, JOINED], &both), Whom::Some);
        assert_eq!(reached(1, &[ONE, OTHER], &both), Whom::Some);
        let (count, server, info) = (2, None, &*info(&[ONE, OTHER]));
        let unknown = Copies { count: 1, known: None };
        let whom = Reached { count, server, info }.whom(&unknown);
        assert_eq!(whom, Whom::Some, "there may be a third");
    }

    #[test]
    fn a_replica_that_joins_is_waited_for_too() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE, JOINED], &one), Whom::TooFew { count: 2 });
        assert_eq!(
            reached(0, &[ONE, JOINED], &one),
            Whom::None,
            "the one that was known hangs"
        );
        assert_eq!(reached(1, &[ONE], &one), Whom::Enough, "there is no other");
    }

    #[test]
    fn a_replica_that_is_behind_is_not_waited_for_and_may_be_promoted() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE, LOADS], &one), Whom::AllButThoseBehind);
        assert_eq!(reached(1, &[ONE, COPIES], &one), Whom::AllButThoseBehind);
        assert_eq!(reached(2, &[ONE, LOADS], &one), Whom::Enough, "it has it by now");
        assert_eq!(
            reached(1, &[ONE], &["127.0.0.1:1", "127.0.0.1:4"]),
            Whom::Some,
            "it was, and may be promoted still"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_lost_its_last_replica_is_waited_for_a_little_longer() {
        let sight = Sight {
            keeps_up: false,
            last_kept_up: Some(Instant::now()),
            told_alone: false,
        };
        assert!(sight.asks());
        tokio::time::advance(PATIENCE).await;
        assert!(!sight.asks());
        let never = Sight {
            last_kept_up: None,
            ..sight
        };
        assert!(!never.asks(), "it never had one");
        let has_one = Sight {
            keeps_up: true,
            ..never
        };
        assert!(has_one.asks());
    }
}
