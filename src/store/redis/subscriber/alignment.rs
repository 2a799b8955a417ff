//! Brings the clients that carry commands to the servers that we listen to. Hides what fred needs for that.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::store::redis::servers::{Address, Servers};

/// How long it may hold up the telling of a loss.
const LIMIT: Duration = Duration::from_millis(1_200);

/// How long until clients are looked at again that did not follow at once.
const PAUSE: Duration = Duration::from_millis(50);

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
    pub(super) async fn run(self, master: Option<Address>) -> Aligned {
        match (self, master) {
            (Self::Master(commands), Some(master)) => match timeout(LIMIT, bring_to(&commands, &master)).await {
                Ok(()) => Aligned::Yes,
                Err(_) => Aligned::NotYet,
            },
            (Self::Slots(commands), _) => {
                // One that can't learn them now follows redirections, so this is as good as it gets.
                let _ = timeout(LIMIT, join_all(commands.iter().map(ClusterInterface::sync_cluster))).await;
                Aligned::Yes
            }
            (Self::None | Self::Master(_), _) => Aligned::Yes,
        }
    }
}

async fn bring_to(commands: &[Client], master: &Address) {
    let is_elsewhere = |client: &&Client| {
        let servers = client.active_connections();
        servers.iter().any(|server| Address::from(server) != *master)
    };
    loop {
        let elsewhere = commands.iter().filter(is_elsewhere);
        // Those that fail are found elsewhere, or not connected, once more.
        let _ = join_all(elsewhere.map(ClientLike::force_reconnection)).await;
        if !commands
            .iter()
            .any(|client| !client.is_connected() || is_elsewhere(&client))
        {
            return;
        }
        sleep(PAUSE).await;
    }
}
