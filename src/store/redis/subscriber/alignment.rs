//! Brings the clients that carry commands to the servers that we listen to, so that what is read after a loss is not older
//! than what was missed. Hides what fred needs for that.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::store::redis::servers::{Address, Servers};

/// How long it may hold up the telling of a loss.
const LIMIT: Duration = Duration::from_millis(1_200);

/// How long between two looks at clients that reconnect by themselves.
const PAUSE: Duration = Duration::from_millis(20);

/// What it takes.
#[derive(Debug, Clone)]
pub(super) enum Alignment {
    /// Nothing: there is one server only, or nobody to align.
    None,
    /// Being connected to the master that the sentinels name, which fred by itself notices after many seconds.
    Master,
    /// Knowing who owns which slots.
    Slots,
}

impl Alignment {
    pub(super) fn of(servers: &Servers, commands: &[Client]) -> Self {
        match servers {
            Servers::Standalone(_) => Self::None,
            _ if commands.is_empty() => Self::None,
            Servers::Sentinel { .. } => Self::Master,
            Servers::Cluster(_) => Self::Slots,
        }
    }

    /// Brings them there, within a bound.
    pub(super) async fn run(self, commands: Vec<Client>, master: Option<Address>) -> Aligned {
        let in_time = match (self, master) {
            (Self::Master, Some(master)) => timeout(LIMIT, bring_to(&commands, &master)).await.is_ok(),
            (Self::Slots, _) => {
                // A client that can't learn them now follows redirections, so this is as good as it gets.
                let _ = timeout(LIMIT, join_all(commands.iter().map(ClusterInterface::sync_cluster))).await;
                true
            }
            (Self::None | Self::Master, _) => true,
        };
        if in_time { Aligned::Yes } else { Aligned::NotYet }
    }
}

/// How an [`Alignment`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aligned {
    Yes,
    /// Some may still read from a server that is no longer the master.
    NotYet,
}

async fn bring_to(commands: &[Client], master: &Address) {
    let is_there = |client: &Client| {
        let servers = client.active_connections();
        client.is_connected() && servers.iter().all(|server| Address::from(server) == *master)
    };
    loop {
        let elsewhere = commands.iter().filter(|client| !is_there(client)).collect::<Vec<_>>();
        if elsewhere.is_empty() {
            return;
        }
        // Those that fail are seen to be elsewhere again.
        let _ = join_all(elsewhere.into_iter().map(ClientLike::force_reconnection)).await;
        sleep(PAUSE).await;
    }
}
