//! The servers that commands go to, each with clients of its own for as long as it is a primary.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::error::Error;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::link::{Link, Outage};
use super::servers::Address;
use super::settings::ClientSettings;
use super::topology::{Owners, Topology};
use crate::telemetry::Metrics;

/// How many durable writes may wait for a replica of one primary at the same time. Each blocks its connection.
const WAITERS: usize = 8;

/// Who has what, and how to reach them. A snapshot: whoever holds one keeps its servers' connections open.
#[derive(Debug)]
pub(super) struct Nodes {
    owners: Owners,
    by_address: BTreeMap<Address, Arc<Node>>,
    /// While nobody says who the primaries are.
    nobody_since: Option<Instant>,
}

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    shared: Link,
    waiters: Option<Waiters>,
    outage: Arc<Outage>,
    _ends_with_this: DropGuard,
}

/// What all clients are made with.
pub(super) struct Making<F> {
    pub(super) settings: ClientSettings,
    /// Whether any write waits for a replica.
    pub(super) waits: bool,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    /// Hears why a connection could not be made, or ended.
    pub(super) on_end: F,
    pub(super) metrics: Metrics,
}

impl Nodes {
    pub(super) fn of(owners: Owners, by_address: BTreeMap<Address, Arc<Node>>) -> Self {
        let nobody_since = by_address.is_empty().then(Instant::now);
        Self {
            owners,
            by_address,
            nobody_since,
        }
    }

    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Who has the keys of this slot.
    pub(super) fn of_slot(&self, slot: u16) -> Result<&Arc<Node>, Fault> {
        let owner = self.owners.of(slot).and_then(|owner| self.by_address.get(owner));
        owner.ok_or_else(|| Fault::Again("nobody says which server has this key".to_owned()))
    }

    pub(super) fn at(&self, address: &Address) -> Option<&Arc<Node>> {
        self.by_address.get(address)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.by_address.values()
    }

    /// Why one of them can't be reached, if one can't.
    pub(super) fn trouble(&self) -> Option<String> {
        self.iter().find_map(|node| {
            let why = node.outage.why()?;
            Some(format!("{} can't be reached: {why}", node.address))
        })
    }

    /// For how long none of them could be reached.
    pub(super) fn outage(&self) -> Duration {
        let unknown = self.nobody_since.map_or(Duration::ZERO, |since| since.elapsed());
        let unreached = self.iter().map(|node| node.outage.lasted()).min();
        unreached.unwrap_or(unknown)
    }
}

impl<F: Fn(&Error) + Clone + Send + Sync + 'static> Making<F> {
    /// Follows who is primary: commands first, and then `owners` of what is returned, so that what is read because of a change is
    /// read where that was made.
    pub(super) fn follow(self, topology: &Topology) -> (watch::Receiver<Arc<Nodes>>, watch::Receiver<Owners>) {
        let (found, nodes) = watch::channel(Arc::new(Nodes::of(Owners::default(), BTreeMap::new())));
        let (followed, owners) = watch::channel(Owners::default());
        let mut topology = topology.owners.clone();
        topology.mark_changed();
        let tasks = self.tasks.clone();
        let shutdown = self.shutdown.clone();
        let following = async move {
            while topology.changed().await.is_ok() {
                let owners = topology.borrow_and_update().clone();
                let known = Arc::clone(&found.borrow());
                let node = |address: &Address| {
                    let node = known.at(address).cloned();
                    (address.clone(), node.unwrap_or_else(|| Arc::new(self.node(address))))
                };
                let by_address = owners.primaries().iter().map(node).collect();
                found.send_replace(Arc::new(Nodes::of(owners.clone(), by_address)));
                followed.send_replace(owners);
            }
        };
        tasks.spawn(shutdown.run_until_cancelled_owned(following));
        (nodes, owners)
    }

    fn node(&self, address: &Address) -> Node {
        let stop = self.shutdown.child_token();
        let link = || Link::new(self.settings.client(address));
        let (shared, outage) = (link(), Arc::new(Outage::default()));
        let following = Arc::clone(&outage).follow(address.clone(), &shared, &self.metrics, stop.clone());
        self.tasks.spawn(following);
        self.tasks.spawn(shared.clone().keep(stop.clone(), self.on_end.clone()));
        let waiters = self.waits.then(|| Waiters::new((0..WAITERS).map(|_| link()).collect()));
        for link in waiters.iter().flat_map(|waiters| waiters.all.iter()) {
            self.tasks.spawn(link.clone().keep(stop.clone(), |_: &Error| {}));
        }
        Node {
            address: address.clone(),
            shared,
            waiters,
            outage,
            _ends_with_this: stop.drop_guard(),
        }
    }
}

impl Node {
    /// For all commands but those that block.
    pub(super) fn shared(&self) -> &Link {
        &self.shared
    }

    /// A client for somebody alone, whose connection may be blocked.
    pub(super) async fn waiter(&self) -> Result<Waiter<'_>, Fault> {
        match &self.waiters {
            Some(waiters) => waiters.take().await,
            None => Err(Fault::Refused("no connection may wait for a replica".to_owned())),
        }
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.waiters.is_some()
    }

    /// What it answered. Where one client got no answer, no other needs to find the same out for itself.
    pub(super) fn heard<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(Fault::NoAnswer) = answer {
            let waiters = self.waiters.iter().flat_map(|waiters| waiters.all.iter());
            waiters.chain([&self.shared]).for_each(Link::report_stall);
        }
        answer
    }
}

/// The clients for requests that block their connection: one request at a time each, taken in turn, so that none is tried
/// twice in a row.
#[derive(Debug)]
struct Waiters {
    all: Vec<Link>,
    idle: Mutex<VecDeque<Link>>,
    count: Semaphore,
}

impl Waiters {
    fn new(all: Vec<Link>) -> Self {
        Self {
            idle: Mutex::new(all.iter().cloned().collect()),
            count: Semaphore::new(all.len()),
            all,
        }
    }

    async fn take(&self) -> Result<Waiter<'_>, Fault> {
        let permit = self.count.acquire().await.ok();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        // There are as many permits as clients, and a client comes back before its permit.
        match (permit, idle) {
            (Some(permit), Some(link)) => Ok(Waiter {
                waiters: self,
                link,
                _permit: permit,
            }),
            _ => Err(Fault::Again("no connection is left to wait for a replica".to_owned())),
        }
    }
}

/// One of them, taken.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    pub(super) link: Link,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut idle = self.waiters.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push_back(self.link.clone());
    }
}
