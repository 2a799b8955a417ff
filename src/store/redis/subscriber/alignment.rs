//! Brings the clients that carry commands to the servers that we listen to. Hides what fred needs for that.

use std::collections::BTreeSet;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::owners::Owners;
use crate::store::redis::servers::{Address, Servers};

/// How long it may hold up the telling of a loss.
const LIMIT: Duration = Duration::from_millis(1_200);

/// How long until clients are looked at again that did not follow at once.
const PAUSE: Duration = Duration::from_millis(50);

/// The same, after some tries.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long it is tried to make a client learn new owners. Where it knows them by other names than we do, that is in vain.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);

/// What it takes.
#[derive(Debug, Clone)]
pub(super) enum Alignment {
    /// Nothing: there is one server only, or nobody to align.
    None,
    /// Being connected to the master that the sentinels name. By itself fred stays up to eleven seconds with the old one.
    Master(Vec<Client>),
    /// Knowing who owns which slots.
    Slots(Vec<Client>),
}

/// How an [`Alignment`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aligned {
    Yes,
    /// Some may still read from a server that is no longer the master.
    NotYet,
}

impl Alignment {
    pub(super) fn of(servers: &Servers, commands: Vec<Client>) -> Self {
        match servers {
            Servers::Standalone(_) => Self::None,
            Servers::Sentinel { .. } => Self::Master(commands),
            Servers::Cluster(_) => Self::Slots(commands),
        }
    }

    /// Brings them there, within a bound.
    pub(super) async fn run(self, owners: Owners) -> Aligned {
        match self {
            Self::Master(commands) => {
                let Some(master) = owners.addresses().first().copied().cloned() else {
                    return Aligned::Yes;
                };
                match timeout(LIMIT, bring_to(&commands, &master)).await {
                    Ok(()) => Aligned::Yes,
                    Err(_) => Aligned::NotYet,
                }
            }
            Self::Slots(commands) => {
                let all_know = async {
                    while !commands.iter().all(|client| knows(client, &owners)) {
                        sleep(PAUSE).await;
                    }
                };
                // One that still asks the wrong server is told so by it, so this is as good as it gets.
                let _ = timeout(LIMIT, all_know).await;
                Aligned::Yes
            }
            Self::None => Aligned::Yes,
        }
    }

    /// Makes the clients of a Cluster learn its owners whenever those change; by themselves they do only when a server tells them
    /// MOVED. While one learns them it does nothing else, and if it asks a frozen server first, for as long as that takes; before
    /// the others have agreed on a new owner there is nothing to be learnt.
    pub(super) async fn keep(self, owners: watch::Receiver<Owners>) {
        if let Self::Slots(commands) = self {
            join_all(commands.iter().map(|client| follow(client, owners.clone()))).await;
        }
    }
}

async fn follow(client: &Client, mut owners: watch::Receiver<Owners>) {
    while owners.changed().await.is_ok() {
        let until = Instant::now() + FOLLOWS_WITHIN;
        let mut pause = PAUSE;
        while client.sync_cluster().await.is_err() || !knows(client, &owners.borrow_and_update()) {
            if Instant::now() > until {
                tracing::debug!("a Redis client does not learn the Cluster's owners");
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn knows(client: &Client, owners: &Owners) -> bool {
    let Some(slots) = client.cached_cluster_state() else {
        return false;
    };
    let known: BTreeSet<Address> = slots.unique_primary_nodes().iter().map(Address::from).collect();
    owners.addresses().into_iter().all(|owner| known.contains(owner))
}

fn is_elsewhere(client: &Client, master: &Address) -> bool {
    let servers = client.active_connections();
    servers.iter().any(|server| Address::from(server) != *master)
}

async fn bring_to(commands: &[Client], master: &Address) {
    loop {
        let elsewhere = commands.iter().filter(|client| is_elsewhere(client, master));
        // Those that fail are found elsewhere, or not connected, once more.
        let _ = join_all(elsewhere.map(ClientLike::force_reconnection)).await;
        if !commands
            .iter()
            .any(|client| !client.is_connected() || is_elsewhere(client, master))
        {
            return;
        }
        sleep(PAUSE).await;
    }
}
