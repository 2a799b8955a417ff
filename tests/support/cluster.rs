//! A real Redis Cluster of the test's own: three masters with a replica each, as six processes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::timeout;

use super::cli::{OPERATOR, cli_lines, cli_pipe};
use super::eventually;
use super::guard::Guard;
use super::node::{LINK, Node};
use super::proxy::{Caller, Proxy};
use super::redis::free_addr;

/// Which slots each master owns in the beginning.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// After how long without an answer a node counts as gone.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many slots are on their way at once when many move.
const TOGETHER: usize = 250;

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// The nodes' links to each other.
    buses: Vec<Proxy>,
}

impl Cluster {
    /// Ready when it returns: every node knows every other, replicas are in step.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(guard: Option<&Arc<Guard>>) -> Self {
        let mut all = Vec::new();
        for _ in 0..6 {
            let bus_port = free_addr();
            let bus = Proxy::start(bus_port, LINK).await;
            all.push((start_node(guard, bus_port.port(), bus.addr().port()).await, bus));
        }
        // The client library asks the first of them first, so the first master is the one whose loss is worst.
        all.sort_by_key(|(node, _)| node.link.addr().port());
        let (nodes, buses) = all.into_iter().unzip();
        let cluster = Self { nodes, buses };
        for (epoch, (node, (first, last))) in cluster.nodes.iter().zip(SLOTS).enumerate() {
            node.cli_ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            node.cli_ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(epoch + 1).to_string()]);
        }
        eventually("every node knows six", || async {
            cluster.meet();
            // A handshake that a busy machine delays for longer than the nodes' timeout is given up by them.
            timeout(NODE_TIMEOUT * 2, cluster.all_known()).await.ok()
        })
        .await;
        for (replica, master) in cluster.nodes[3..].iter().zip(&cluster.nodes) {
            replica.cli_ok(&["CLUSTER", "REPLICATE", &id(master)]);
        }
        cluster.until_settled().await;
        cluster
    }

    fn meet(&self) {
        for (node, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let (link, bus) = (node.link.addr(), bus.addr().port().to_string());
            let (host, port) = (link.ip().to_string(), link.port().to_string());
            self.nodes[0].cli_ok(&["CLUSTER", "MEET", &host, &port, &bus]);
        }
    }

    async fn all_known(&self) {
        self.until_all("every node knows six", |node| {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_known_nodes:6")
        })
        .await;
    }

    /// Returns when all six agree, and every replica is in step.
    pub(crate) async fn until_settled(&self) {
        self.until_all("every node says ok", |node| {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && node.cli(&["CLUSTER", "NODES"]).matches("slave").count() == 3
        })
        .await;
        self.until_all("replicas are in step", |node| {
            let seen = node.cli(&["INFO", "replication"]);
            seen.contains("master_link_status:up") || (seen.contains("state=online") && !seen.contains(",offset=0,"))
        })
        .await;
    }

    /// The first three were made masters, each of the last three replica of the one three before it.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes' addresses behind their links.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// Has nobody taken for dead who is late, for tests that kill nobody.
    pub(crate) fn be_patient(&self) {
        for node in &self.nodes {
            node.cli_ok(&["CONFIG", "SET", "cluster-node-timeout", "30000"]);
        }
    }

    /// Names every node.
    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://{}", self.hosts())
    }

    /// What stands in a URL behind scheme and credentials.
    pub(crate) fn hosts(&self) -> String {
        let links = self
            .nodes
            .iter()
            .map(|node| node.link.addr().to_string())
            .collect::<Vec<_>>();
        format!("{}?node={}", links[0], links[1..].join("&node="))
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// What a node says that it owns.
    pub(crate) fn slots_of(&self, index: usize) -> Vec<u16> {
        let nodes = self.nodes[index].cli(&["CLUSTER", "NODES"]);
        let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
        let ranges = own.split(' ').skip(8).filter(|range| !range.starts_with('['));
        let slots = ranges.flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u16>().unwrap()..=last.parse().unwrap()
        });
        slots.collect()
    }

    /// Returns when this node says that it owns something.
    pub(crate) async fn until_owner(&self, index: usize) {
        eventually("it has taken over", || async {
            (!block_in_place(|| self.slots_of(index)).is_empty()).then_some(())
        })
        .await;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].server.kill();
    }

    /// The replica takes over from its living master.
    pub(crate) fn fail_over_to(&self, replica: usize) {
        self.nodes[replica].cli_ok(&["CLUSTER", "FAILOVER"]);
    }

    /// Moves slots with what is in them, as `redis-cli --cluster reshard` does, some at a time.
    pub(crate) fn move_slots(&self, from: usize, to: usize, slots: impl Iterator<Item = u16>) {
        let slots: Vec<u16> = slots.collect();
        for slots in slots.chunks(TOGETHER) {
            self.begin_to_move(from, to, slots);
            self.finish_moving(from, to, slots);
        }
    }

    /// All but the last step: what is in the slots is at the new place, and whoever asks at the old one is told ASK.
    pub(crate) fn begin_to_move(&self, from: usize, to: usize, slots: &[u16]) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        set_slots(target, slots, &format!("IMPORTING {}", id(source)));
        set_slots(source, slots, &format!("MIGRATING {}", id(target)));
        migrate(source, target, slots);
    }

    /// The last step.
    pub(crate) fn finish_moving(&self, from: usize, to: usize, slots: &[u16]) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let done = format!("NODE {}", id(target));
        set_slots(target, slots, &done);
        set_slots(source, slots, &done);
    }

    /// Cuts a node off from all others, while its clients still reach it.
    pub(crate) fn part(&self, index: usize) {
        self.part_with(index, &[], &[]);
    }

    /// The same; but the clients `with` it reach no other node, and those of `others` reach all but it.
    pub(crate) fn part_with(&self, index: usize, with: &[Caller], others: &[Caller]) {
        for (n, (node, bus)) in self.nodes.iter().zip(&self.buses).enumerate() {
            let is_beyond = |peer: &usize| (*peer == index) != (n == index);
            let nodes = (0..self.nodes.len()).filter(is_beyond);
            let nodes = nodes.map(|peer| Caller::From(self.nodes[peer].source()));
            let clients = if n == index { others } else { with };
            let parted: Vec<Caller> = nodes.chain(clients.iter().cloned()).collect();
            node.link.part_from(parted.clone());
            bus.part_from(parted);
        }
    }

    /// Ends what [`Self::part`] began.
    pub(crate) fn rejoin(&self) {
        let links = self.nodes.iter().map(|node| &node.link);
        links.chain(&self.buses).for_each(|link| link.part_from(Vec::new()));
    }

    async fn until_all(&self, what: &str, holds: impl Fn(&Node) -> bool + Sync) {
        for node in &self.nodes {
            eventually(what, || async { holds(node).then_some(()) }).await;
        }
    }
}

/// In one go: one at a time would have the server save its configuration for each.
fn set_slots(node: &Node, slots: &[u16], state: &str) {
    let commands = slots.iter().map(|slot| format!("CLUSTER SETSLOT {slot} {state}"));
    cli_pipe(node.addr(), &commands.collect::<Vec<_>>());
}

/// Moves all keys of slots that are on their way.
fn migrate(source: &Node, target: &Node, slots: &[u16]) {
    // Not by the link: the source stands still for as long as each key takes.
    let (host, port) = (target.addr().ip(), target.link.target().port());
    loop {
        let lists = slots.iter().map(|slot| format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        let keys = cli_lines(source.addr(), &lists.collect::<Vec<_>>());
        let keys: Vec<String> = keys.into_iter().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            return;
        }
        let moves = keys
            .iter()
            .map(|key| format!("MIGRATE {host} {port} {key} 0 1000 AUTH2 {OPERATOR} {OPERATOR}"));
        for answer in cli_lines(source.addr(), &moves.collect::<Vec<_>>()) {
            assert!(["OK", "NOKEY"].contains(&&*answer), "{answer}");
        }
    }
}

async fn start_node(guard: Option<&Arc<Guard>>, bus_port: u16, announced_bus_port: u16) -> Node {
    Node::start(guard, |link| {
        let has_tls = guard.is_some_and(|guard| guard.has_tls());
        let announced = if has_tls {
            "cluster-announce-tls-port"
        } else {
            "cluster-announce-port"
        };
        let mut lines = vec![
            "cluster-enabled yes".to_owned(),
            format!("cluster-node-timeout {}", NODE_TIMEOUT.as_millis()),
            format!("cluster-port {bus_port}"),
            "cluster-announce-ip 127.0.0.1".to_owned(),
            format!("cluster-announce-bus-port {announced_bus_port}"),
            format!("{announced} {link}"),
        ];
        if has_tls {
            lines.push("tls-cluster yes".to_owned());
        }
        lines
    })
    .await
}

fn id(node: &Node) -> String {
    node.cli(&["CLUSTER", "MYID"])
}
