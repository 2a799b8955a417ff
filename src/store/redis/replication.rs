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

mod group;

use std::collections::{BTreeSet, HashMap};
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
use group::{Group, Members, Pace, followers, members};

/// How long durable writes still wait after the last replica that kept up was seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks while it is not known who they are.
const AGAIN: Duration = Duration::from_millis(100);

/// Which replicas a durable write waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copies {
    /// One, or as many as are there of those that are known.
    pub(super) count: i64,
    /// By name where each may be promoted, if it is known who they are.
    known: Option<Members>,
    /// Whom sentinels may promote, whether it follows or not.
    able: Members,
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
    All,
    /// As many as were to. Another one joined, which may be one of them.
    NotAllWhoJoined {
        count: i64,
    },
    /// One is slow, hangs, or is still sent what was before; or is not listed, though sentinels reach it, as one that is to be told whom to
    /// follow. It is promoted only by sentinels that can't reach the primary any more.
    NotAllWhoMay,
    /// One left, perhaps because a sentinel promotes it; or nobody knows who there is.
    NotAllKnown,
    Nobody,
}

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

impl Replication {
    pub(super) fn new(wait: Wait, commands: Arc<Commands>, topology: &Topology) -> Self {
        Self {
            wait,
            commands,
            sights: Mutex::default(),
            tenure: topology.tenure.clone(),
            cut_off: topology.cut_off.clone(),
            group: Mutex::default(),
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

    /// Why a durable write has not waited, as it is counted.
    pub(super) fn unasked(&self) -> &'static str {
        match self.wait {
            Wait::Never => "not_wanted",
            Wait::Auto | Wait::Always => "not_asked",
        }
    }

    fn wanted(&self, slot: u16) -> Copies {
        let group = self.group(slot).filter(|group| group.is_known);
        Copies {
            // One that is missing would only be waited for in vain.
            count: group.as_ref().map_or(1, |group| count(group.keeping_up().len()).max(1)),
            able: group.as_ref().map(|group| group.able().clone()).unwrap_or_default(),
            known: group.map(|group| group.members),
        }
    }

    /// What is known of this slot's primary, where sentinels choose it. Of the last one's replicas it says nothing.
    fn group(&self, slot: u16) -> Option<Group> {
        let nodes = self.commands.nodes();
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).clone();
        group.filter(|group| nodes.owners().of(slot) == Some(&group.primary))
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
        let needed = match reached.whom(wanted) {
            Whom::All => return Kept::Replicated,
            Whom::NotAllWhoJoined { count } => return Kept::Joined { count },
            Whom::Nobody => return Kept::Not,
            Whom::NotAllWhoMay => Consent::Majority,
            Whom::NotAllKnown => Consent::Unanimous,
        };
        match &reached.server {
            Some(server) if tenure.is_vouched_for(server, needed, since, deadline).await => Kept::Vouched,
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
        let is_known = || self.group(any_slot()).is_some_and(|group| group.is_known);
        while self.tenure.is_some() && self.wait != Wait::Never && !is_known() {
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
                let may_lose_one = match &self.tenure {
                    Some(tenure) => self.follow(tenure, server, &info).await,
                    None => self.cut_off.borrow().contains(server),
                };
                let is_there = |such: fn(Pace) -> bool| followers(&info).any(|(_, pace)| such(pace));
                let outlook = if is_there(|pace| pace == Pace::KeepsUp) {
                    Outlook::KeepsUp
                } else if may_lose_one {
                    Outlook::TakesOver
                } else if is_there(|pace| pace != Pace::Copies) {
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

    /// Keeps account of this primary's replicas. Whether one may be promoted that follows no more.
    async fn follow(&self, tenure: &Tenure, primary: &Address, info: &str) -> bool {
        let before = self.group.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let before = before.filter(|group| group.primary == *primary);
        let before = before.unwrap_or_else(|| Group::new(primary.clone(), Instant::now()));
        let mut group = before.seen(info, Instant::now());
        group.judge(tenure.now().await.as_ref(), Instant::now());
        group.tell(&before);
        let may_lose_one = group.may_lose_one();
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
        may_lose_one
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
        let asks_sentinels = self.tenure.is_some() && self.copies(any_slot()).is_some();
        let group = self.group(any_slot());
        let withheld = group.as_ref().and_then(Group::withheld);
        let words = match group.as_ref().filter(|group| group.is_known) {
            _ if is_alone => {
                return Some("no replica keeps up: confirms and redemptions are refused for now".to_owned());
            }
            None if asks_sentinels => {
                "too few sentinels agree on the primary and hear from it: confirms and redemptions are refused"
            }
            Some(group) if asks_sentinels && group.is_disputed() => {
                "a replica is missing, and too few sentinels vouch for the primary: confirms and redemptions are refused"
            }
            Some(_) | None => return None,
        };
        Some(withheld.map_or(words.to_owned(), |why| {
            format!("{words}; a sentinel does not say: {why}")
        }))
    }
}

/// Sentinels choose one primary for all.
fn any_slot() -> u16 {
    tags().next().map_or(0, |(_, slot)| slot)
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
        let keeping_up = members(self.info, |pace| matches!(pace, Pace::KeepsUp | Pace::Joins));
        if self.count < 1 {
            Whom::Nobody
        } else if !wanted.known.as_ref().is_some_and(|known| known.is_subset(&listed)) {
            Whom::NotAllKnown
        } else if self.count >= count(listed.len()) && wanted.able.is_subset(&listed) {
            Whom::All
        } else if (wanted.count..count(keeping_up.len())).contains(&self.count) {
            Whom::NotAllWhoJoined {
                count: count(keeping_up.len()),
            }
        } else {
            Whom::NotAllWhoMay
        }
    }
}

fn count(replicas: usize) -> i64 {
    i64::try_from(replicas).unwrap_or(i64::MAX)
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
    const LOADS: &str = "slave1:ip=127.0.0.1,port=4,state=online,offset=0,lag=9";
    const COPIES: &str = "slave1:ip=127.0.0.1,port=5,state=send_bulk,offset=0,lag=0";
    const JOINED: &str = "slave1:ip=127.0.0.1,port=3,state=online,offset=0,lag=0";

    fn reached(count: i64, there: &[&str], known: &[&str]) -> Whom {
        let (info, server, known) = (&*info(there), None, named(known));
        let wanted = Copies {
            count: super::count(known.len()),
            able: known.clone(),
            known: Some(known),
        };
        Reached { count, server, info }.whom(&wanted)
    }

    #[test]
    fn a_replica_that_joins_never_stands_in_for_one_that_left() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE], &one), Whom::All);
        assert_eq!(
            reached(1, &[JOINED], &one),
            Whom::NotAllKnown,
            "the one that was known is gone"
        );
        assert_eq!(reached(2, &[ONE, JOINED], &one), Whom::All);
        let both = ["127.0.0.1:1", "::1:1"];
        assert_eq!(reached(2, &[ONE, OTHER], &both), Whom::All);
        assert_eq!(reached(2, &[ONE, JOINED], &both), Whom::NotAllKnown);
        assert_eq!(reached(1, &[ONE, OTHER], &both), Whom::NotAllWhoMay);
        let (count, server, info) = (2, None, &*info(&[ONE, OTHER]));
        let unknown = Copies {
            count: 1,
            known: None,
            able: Members::new(),
        };
        let whom = Reached { count, server, info }.whom(&unknown);
        assert_eq!(whom, Whom::NotAllKnown, "there may be a third");
    }

    #[test]
    fn a_replica_that_joins_is_waited_for_too() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE, JOINED], &one), Whom::NotAllWhoJoined { count: 2 });
        assert_eq!(
            reached(0, &[ONE, JOINED], &one),
            Whom::Nobody,
            "the one that was known hangs"
        );
        assert_eq!(reached(1, &[ONE], &one), Whom::All, "there is no other");
    }

    #[test]
    fn a_replica_that_is_behind_is_not_waited_for_and_may_be_promoted() {
        let one = ["127.0.0.1:1"];
        assert_eq!(reached(1, &[ONE, LOADS], &one), Whom::NotAllWhoMay);
        assert_eq!(reached(1, &[ONE, COPIES], &one), Whom::NotAllWhoMay);
        assert_eq!(reached(2, &[ONE, LOADS], &one), Whom::All, "it has it by now");
        let wanted = || Copies {
            count: 1,
            known: Some(named(&one)),
            able: named(&["127.0.0.1:1", "127.0.0.1:4"]),
        };
        let whom = |count, there: &[&str]| {
            let (server, info) = (None, &*info(there));
            Reached { count, server, info }.whom(&wanted())
        };
        assert_eq!(whom(1, &[ONE]), Whom::NotAllWhoMay, "it does not follow");
        assert_eq!(whom(2, &[ONE, OTHER]), Whom::NotAllWhoMay, "another one has it instead");
        assert_eq!(
            reached(1, &[ONE], &["127.0.0.1:1", "127.0.0.1:4"]),
            Whom::NotAllKnown,
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
