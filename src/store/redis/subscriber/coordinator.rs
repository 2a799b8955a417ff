//! Decides where each wanted channel is subscribed. Hides connections, their loss and their replacement; never waits for any of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::Cause;
use super::channels::{Channels, ConnectionId, Waiter};
use super::connection::{Connection, Fault, Order, Report, WINDOW, What};
use super::losses::Losses;
use super::replies::Answer;
use crate::entropy::between;
use crate::scene::SceneId;
use crate::store::News;
use crate::store::redis::keys::Keys;
use crate::store::redis::servers::Address;
use crate::store::redis::topology::Owners;
use crate::store::redis::wire::Dialer;
use crate::telemetry::Metrics;

/// How many wishes or reports are taken together.
const TOGETHER: usize = 512;

/// How many reports may queue; a connection that has more to tell waits.
const REPORTS: usize = 1_024;

/// The least and the most time before a connection is tried again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(300));

/// How rarely refusals are logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What callers wish.
#[derive(Debug)]
pub(super) enum Wish {
    Want(SceneId, Waiter),
    Unwant(SceneId),
}

/// What a coordinator works with.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Whether only a master will do.
    pub(super) master_only: bool,
    pub(super) dialer: Dialer,
    pub(super) names: Keys,
    pub(super) owners: watch::Receiver<Owners>,
    /// Asks for a new look at who owns what.
    pub(super) look: Arc<Notify>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) metrics: Metrics,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

pub(super) struct Coordinator {
    around: Surroundings,
    channels: Channels,
    links: HashMap<ConnectionId, Link>,
    last_connection: u64,
    /// The connection to the owner of each hash tag.
    routes: HashMap<String, ConnectionId>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    losses: Losses,
    /// Servers to which the last attempt to connect failed.
    unreachable: HashSet<Address>,
    complained: Option<Instant>,
}

/// A connection, seen from here.
struct Link {
    address: Address,
    orders: mpsc::Sender<Order>,
    up: bool,
    /// How many orders are unanswered.
    in_flight: usize,
    /// What it holds and nobody wants there any more.
    release: Vec<SceneId>,
    _ends_with_this: DropGuard,
}

impl Link {
    fn has_room(&self) -> bool {
        self.up && self.in_flight < WINDOW
    }

    /// Never refuses while there is room; a connection that has ended has reported so.
    fn order(&mut self, order: Order) {
        self.in_flight += 1;
        let _ = self.orders.try_send(order);
    }
}

impl Coordinator {
    pub(super) fn new(around: Surroundings) -> Self {
        Self {
            losses: Losses::new(around.metrics.clone()),
            around,
            channels: Channels::default(),
            links: HashMap::new(),
            last_connection: 0,
            routes: HashMap::new(),
            reports: mpsc::channel(REPORTS),
            unreachable: HashSet::new(),
            complained: None,
        }
    }

    /// Ends when nobody wishes, or listens, any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Wish>) {
        let news = self.around.news.clone();
        let mut wishes = Vec::new();
        let mut reports = Vec::new();
        // Kept over the turns: who queues anew at each never comes to the front while connections queue as well.
        let mut room = None;
        loop {
            if self.losses.are_to_be_told() && room.is_none() {
                room = Some(Box::pin(news.clone().reserve_owned()));
            }
            let wake = self.channels.next_wake();
            tokio::select! {
                count = queue.recv_many(&mut wishes, TOGETHER) => match count {
                    0 => return,
                    _ => wishes.drain(..).for_each(|wish| self.grant(wish)),
                },
                _ = self.reports.1.recv_many(&mut reports, TOGETHER) => self.hear(reports.drain(..)),
                changed = self.around.owners.changed() => match changed {
                    Ok(()) => {
                        self.channels.wake(None);
                        self.reroute(None);
                    }
                    Err(_) => return,
                },
                Some(reserved) = OptionFuture::from(room.as_mut()) => match reserved {
                    Ok(reserved) => {
                        reserved.send(News::Lost(self.losses.take()));
                        room = None;
                    }
                    Err(_) => return,
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.channels.wake(Some(Instant::now()));
                }
            }
            self.send_orders();
            self.losses.advance(&mut self.channels);
            let unheard = i64::try_from(self.channels.unheard()).unwrap_or(i64::MAX);
            self.around.metrics.scenes_unheard.set(unheard);
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Want(id, waiter) => self.channels.want(id, waiter),
            Wish::Unwant(id) => {
                if let Some(link) = self.channels.unwant(id).and_then(|at| self.links.get_mut(&at)) {
                    link.release.push(id);
                }
            }
        }
    }

    fn hear(&mut self, reports: impl Iterator<Item = Report>) {
        let mut taken = 0;
        for Report { from, what } in reports {
            // What connections say that were given up meanwhile is of no interest.
            let Some(link) = self.links.get_mut(&from) else {
                continue;
            };
            match what {
                What::Up => {
                    link.up = true;
                    if self.unreachable.remove(&link.address) {
                        info!(server = %link.address, "the subscriber is connected again");
                    }
                }
                What::Answer(Answer::Acknowledged(batch)) => {
                    link.in_flight -= 1;
                    self.channels.acknowledged(batch);
                }
                What::Answer(Answer::Refused(batch, text)) => {
                    link.in_flight -= 1;
                    self.channels.refused(batch, &text, Instant::now());
                    self.around.look.notify_one();
                    self.complain(&text);
                }
                What::Answer(Answer::Released) => link.in_flight -= 1,
                What::Answer(Answer::Taken(id)) => {
                    taken += usize::from(self.channels.taken(id, from, Instant::now()));
                    self.around.look.notify_one();
                }
                What::Answer(Answer::Nothing) => {}
                What::Down(fault) => self.replace(from, &fault),
            }
        }
        self.losses
            .count(Cause::Unsubscribed, taken, &"the server took them away");
    }

    /// Gives up a connection that has ended, and makes another.
    fn replace(&mut self, ended: ConnectionId, fault: &Fault) {
        let Some(link) = self.links.remove(&ended) else {
            return;
        };
        let lost = self.channels.cut(ended).live;
        self.losses
            .count(fault.cause(), lost, &format_args!("{}: {fault}", link.address));
        if !link.up && self.unreachable.insert(link.address.clone()) {
            warn!(server = %link.address, %fault, "the subscriber can't connect, and keeps trying");
        }
        self.around.look.notify_one();
        self.reroute(Some(&link.address));
    }

    /// Makes connections and routes fit to who owns what. A connection to `again` is made after a while.
    fn reroute(&mut self, again: Option<&Address>) {
        let owners = self.around.owners.borrow_and_update().clone();
        let addresses = owners.primaries();
        self.links.retain(|_, link| addresses.contains(&link.address));
        self.unreachable.retain(|address| addresses.contains(address));
        for address in addresses {
            if !self.links.values().any(|link| link.address == *address) {
                let delay = match again {
                    Some(again) if again == address => between(RECONNECT.0, RECONNECT.1),
                    _ => Duration::ZERO,
                };
                self.connect(address.clone(), delay);
            }
        }
        let by_address: HashMap<_, _> = self.links.iter().map(|(id, link)| (&link.address, *id)).collect();
        let routes = owners
            .of_tags()
            .filter_map(|(tag, address)| Some((tag, *by_address.get(address)?)));
        self.routes = routes.collect();
        let moved = self.channels.moved(|tag| self.routes.get(tag).copied());
        for (from, id) in moved.from {
            if let Some(link) = self.links.get_mut(&from) {
                link.release.push(id);
            }
        }
        self.losses.count(Cause::Moved, moved.live, &"they have another owner");
    }

    fn connect(&mut self, address: Address, delay: Duration) {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let (orders, received) = mpsc::channel(WINDOW);
        let connection = Connection {
            id,
            address: address.clone(),
            dialer: self.around.dialer.clone(),
            master_only: self.around.master_only,
            names: self.around.names.clone(),
            orders: received,
            reports: self.reports.0.clone(),
            news: self.around.news.clone(),
            metrics: self.around.metrics.clone(),
        };
        let stop = self.around.stop.child_token();
        self.around
            .tracker
            .spawn(stop.clone().run_until_cancelled_owned(connection.run(delay)));
        let link = Link {
            address,
            orders,
            up: false,
            in_flight: 0,
            release: Vec::new(),
            _ends_with_this: stop.drop_guard(),
        };
        self.links.insert(id, link);
    }

    /// Unsubscribes before it subscribes, so that a channel given up and wanted again ends up subscribed.
    fn send_orders(&mut self) {
        for link in self.links.values_mut() {
            if !link.release.is_empty() && link.has_room() {
                let release = std::mem::take(&mut link.release);
                link.order(Order::Release(release));
            }
        }
        let (links, routes) = (&mut self.links, &self.routes);
        while let Some(batch) = self.channels.next_batch(|tag| {
            let id = routes.get(tag)?;
            links
                .get(id)
                .filter(|link| link.has_room() && link.release.is_empty())
                .map(|_| *id)
        }) {
            if let Some(link) = links.get_mut(&batch.connection) {
                link.order(Order::Subscribe(batch.id, batch.channels));
            }
        }
    }

    fn complain(&mut self, text: &str) {
        let due = self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if due && !text.starts_with("MOVED") {
            self.complained = Some(Instant::now());
            warn!(error = text, "Redis refuses a subscription; it is tried again");
        }
    }
}
