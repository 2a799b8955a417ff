//! Decides where each wanted channel is subscribed. Hides connections, their loss and their replacement; never waits for any of them.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::alignment::{Aligned, Alignment};
use super::channels::{Channels, ConnectionId, Waiter};
use super::connection::{Connection, Fault, Order, Report, WINDOW, What};
use super::owners::Owners;
use super::replies::Answer;
use super::wire::Dialer;
use super::{Cause, ChannelNames};
use crate::entropy::between;
use crate::scene::SceneId;
use crate::store::News;
use crate::store::redis::servers::{Address, Servers};
use crate::telemetry::Metrics;

/// How many wishes or reports are taken together.
const TOGETHER: usize = 512;

/// How many reports may queue; a connection that has more to tell waits.
const REPORTS: usize = 1_024;

/// The least and the most time before a connection is tried again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(300));

/// How long clients that would not follow are left alone.
const REALIGN: Duration = Duration::from_millis(500);

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
    pub(super) servers: Servers,
    pub(super) dialer: Dialer,
    pub(super) names: ChannelNames,
    pub(super) owners: watch::Receiver<Owners>,
    /// Asks for a new look at who owns what.
    pub(super) look: Arc<Notify>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) commands: Vec<Client>,
    pub(super) metrics: Metrics,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

pub(super) struct Coordinator {
    around: Surroundings,
    alignment: Alignment,
    channels: Channels,
    links: HashMap<ConnectionId, Link>,
    last_connection: u64,
    /// The connection to the owner of each hash tag.
    routes: HashMap<String, ConnectionId>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    telling: Telling,
    /// Servers to which the last attempt to connect failed.
    unreachable: HashSet<Address>,
    episode: Option<Episode>,
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

/// Losses on their way to the hub.
#[derive(Default)]
struct Telling {
    /// Something was lost since the clients that carry commands were last aligned.
    unaligned: bool,
    aligning: Option<BoxFuture<'static, Aligned>>,
    /// Told when the alignment has ended.
    held: Vec<SceneId>,
    /// Told as soon as there is room.
    ready: Vec<SceneId>,
    /// Clients did not follow in time, so what was told was perhaps read from an old master.
    again: bool,
}

/// From a loss to the time when all is well again.
struct Episode {
    began: Instant,
    channels: usize,
}

impl Coordinator {
    pub(super) fn new(around: Surroundings) -> Self {
        Self {
            alignment: Alignment::of(&around.servers, &around.commands),
            around,
            channels: Channels::default(),
            links: HashMap::new(),
            last_connection: 0,
            routes: HashMap::new(),
            reports: mpsc::channel(REPORTS),
            telling: Telling::default(),
            unreachable: HashSet::new(),
            episode: None,
            complained: None,
        }
    }

    /// Ends when nobody wishes, or listens, any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Wish>) {
        let news = self.around.news.clone();
        let mut wishes = Vec::new();
        let mut reports = Vec::new();
        loop {
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
                outcome = finished(&mut self.telling.aligning) => self.aligned(outcome),
                room = news.reserve(), if !self.telling.ready.is_empty() => match room {
                    Ok(room) => room.send(News::Lost(std::mem::take(&mut self.telling.ready))),
                    Err(_) => return,
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.channels.wake(Some(Instant::now()));
                }
            }
            self.send_orders();
            self.tell();
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
        self.lost(Cause::Unsubscribed, taken, &"the server took them away");
    }

    /// Gives up a connection that has ended, and makes another.
    fn replace(&mut self, ended: ConnectionId, fault: &Fault) {
        let Some(link) = self.links.remove(&ended) else {
            return;
        };
        let lost = self.channels.cut(ended).live;
        self.lost(fault.cause(), lost, &format_args!("{}: {fault}", link.address));
        if !link.up && self.unreachable.insert(link.address.clone()) {
            warn!(server = %link.address, %fault, "the subscriber can't connect, and keeps trying");
        }
        self.around.look.notify_one();
        self.reroute(Some(&link.address));
    }

    /// Makes connections and routes fit to who owns what. A connection to `again` is made after a while.
    fn reroute(&mut self, again: Option<&Address>) {
        let owners = self.around.owners.borrow_and_update().clone();
        let addresses = owners.addresses();
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
            .iter()
            .filter_map(|(tag, address)| Some((tag.to_owned(), *by_address.get(address)?)));
        self.routes = routes.collect();
        let moved = self.channels.moved(|tag| self.routes.get(tag).copied());
        for (from, id) in moved.from {
            if let Some(link) = self.links.get_mut(&from) {
                link.release.push(id);
            }
        }
        self.lost(Cause::Moved, moved.live, &"they have another owner");
    }

    fn connect(&mut self, address: Address, delay: Duration) {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let (orders, received) = mpsc::channel(WINDOW);
        let connection = Connection {
            id,
            address: address.clone(),
            dialer: self.around.dialer.clone(),
            master_only: !matches!(self.around.servers, Servers::Standalone(_)),
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

    /// Brings what was lost and is live again on its way to the hub.
    fn tell(&mut self) {
        if self.telling.aligning.is_some() {
            return;
        }
        let recovered = self.channels.take_recovered();
        if recovered.is_empty() {
            self.close_episode();
        } else if std::mem::take(&mut self.telling.unaligned) {
            self.telling.held = recovered;
            self.align(Duration::ZERO);
        } else {
            self.telling.ready.extend(recovered);
        }
    }

    fn align(&mut self, delay: Duration) {
        let alignment = self.alignment.clone();
        let commands = self.around.commands.clone();
        let master = self
            .around
            .owners
            .borrow()
            .addresses()
            .first()
            .map(|address| (*address).clone());
        self.telling.aligning = Some(Box::pin(async move {
            sleep(delay).await;
            alignment.run(commands, master).await
        }));
    }

    fn aligned(&mut self, outcome: Aligned) {
        let telling = &mut self.telling;
        telling.aligning = None;
        telling.ready.append(&mut telling.held);
        telling.ready.extend(self.channels.take_recovered());
        match outcome {
            Aligned::Yes if telling.again => {
                telling.again = false;
                telling.ready = self.channels.live();
            }
            Aligned::Yes => {}
            Aligned::NotYet => {
                if !telling.again {
                    warn!("the Redis clients that carry commands do not follow to the new master in time");
                }
                telling.again = true;
                self.align(REALIGN);
            }
        }
    }

    /// Counts a loss and logs it, unless it is part of one already logged.
    fn lost(&mut self, cause: Cause, channels: usize, detail: &dyn Display) {
        if channels == 0 {
            return;
        }
        cause.count(&self.around.metrics);
        self.telling.unaligned = true;
        let cause = cause.as_str();
        if let Some(episode) = &mut self.episode {
            episode.channels += channels;
            debug!(cause, channels, detail = %detail, "more subscriptions lost");
        } else {
            warn!(cause, channels, detail = %detail, "subscriptions lost: watching these scenes again");
            self.episode = Some(Episode {
                began: Instant::now(),
                channels,
            });
        }
    }

    fn close_episode(&mut self) {
        if !self.channels.is_whole() || !self.telling.ready.is_empty() {
            return;
        }
        if let Some(Episode { began, channels }) = self.episode.take() {
            let milliseconds = began.elapsed().as_millis();
            info!(channels, milliseconds, "watching all scenes again");
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

async fn finished(aligning: &mut Option<BoxFuture<'static, Aligned>>) -> Aligned {
    match aligning {
        Some(aligning) => aligning.await,
        None => pending().await,
    }
}
