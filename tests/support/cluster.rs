//! A real Redis Cluster of the test's own: three masters with a replica each, as six processes.

use std::net::SocketAddr;

use super::cli::{cli, cli_ok};
use super::eventually;
use super::redis::{RedisServer, free_addr};

/// Which slots each master owns in the beginning.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Cluster {
    servers: Vec<RedisServer>,
}

impl Cluster {
    /// Ready when it returns: every node knows every other, replicas are in step.
    pub(crate) async fn start() -> Self {
        let servers = (0..6).map(|_| start_node()).collect::<Vec<_>>();
        let cluster = Self { servers };
        let addrs = cluster.addrs();
        for (epoch, (addr, (first, last))) in addrs.iter().zip(SLOTS).enumerate() {
            cli_ok(
                *addr,
                &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()],
            );
            cli_ok(*addr, &["CLUSTER", "SET-CONFIG-EPOCH", &(epoch + 1).to_string()]);
        }
        for addr in &addrs[1..] {
            let bus = cli(*addr, &["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().last().expect("a bus port");
            let (host, port) = (addr.ip().to_string(), addr.port().to_string());
            cli_ok(addrs[0], &["CLUSTER", "MEET", &host, &port, bus]);
        }
        cluster
            .until_all("every node knows six", |addr| {
                cli(addr, &["CLUSTER", "INFO"]).contains("cluster_known_nodes:6")
            })
            .await;
        for (replica, master) in addrs[3..].iter().zip(&addrs) {
            cli_ok(*replica, &["CLUSTER", "REPLICATE", &id(*master)]);
        }
        cluster
            .until_all("every node says ok", |addr| {
                cli(addr, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && cli(addr, &["CLUSTER", "NODES"]).matches("slave").count() == 3
            })
            .await;
        for replica in &addrs[3..] {
            cluster
                .until("the replica is in step", || {
                    cli(*replica, &["INFO", "replication"]).contains("master_link_status:up")
                })
                .await;
        }
        cluster
    }

    /// The first three were made masters, each of the last three replica of the one three before it.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(RedisServer::addr).collect()
    }

    /// Names every node.
    pub(crate) fn url(&self) -> String {
        let addrs = self.addrs();
        let others = addrs[1..].iter().map(|addr| format!("node={addr}")).collect::<Vec<_>>();
        format!("redis-cluster://{}?{}", addrs[0], others.join("&"))
    }

    pub(crate) fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, index: usize) {
        self.servers[index].kill();
    }

    /// The replica takes over from its living master.
    pub(crate) fn fail_over_to(&self, replica: usize) {
        cli_ok(self.addrs()[replica], &["CLUSTER", "FAILOVER"]);
    }

    /// Moves empty slots, as `redis-cli --cluster reshard` does.
    pub(crate) fn move_slots(&self, from: usize, to: usize, slots: impl Iterator<Item = u16>) {
        let addrs = self.addrs();
        let (source, target) = (id(addrs[from]), id(addrs[to]));
        for slot in slots.map(|slot| slot.to_string()) {
            cli_ok(addrs[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
            cli_ok(addrs[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
            cli_ok(addrs[to], &["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
            cli_ok(addrs[from], &["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
    }

    async fn until_all(&self, what: &str, holds: impl Fn(SocketAddr) -> bool + Sync) {
        self.until(what, || self.addrs().into_iter().all(&holds)).await;
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool + Sync) {
        eventually(what, || async { holds().then_some(()) }).await;
    }
}

fn start_node() -> RedisServer {
    RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-port",
        &free_addr().port().to_string(),
    ])
}

fn id(addr: SocketAddr) -> String {
    cli(addr, &["CLUSTER", "MYID"])
}
