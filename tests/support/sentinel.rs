//! A real primary with two replicas and three sentinels of the test's own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::block_in_place;

use super::cli::cli;
use super::guard::Guard;
use super::node::{LINK, Node};
use super::proxy::{Caller, Proxy};
use super::redis::{free_addr, operator, source_of};
use super::{eventually, temporary_directory};

/// What the sentinels call the primary.
pub(crate) const SERVICE: &str = "main";

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Sentinels {
    /// The replicas first, so that they end before the primary they follow.
    nodes: Vec<Node>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    child: Child,
    /// It writes what it learns there.
    config: PathBuf,
    addr: SocketAddr,
    link: Proxy,
    _dir: TempDir,
}

impl Sentinels {
    /// Ready when it returns: replicas are in step, and the sentinels know all of them and each other.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(guard: Option<&Arc<Guard>>) -> Self {
        let primary = start_node(guard, None).await;
        let of = Some(primary.link.addr());
        let nodes = vec![start_node(guard, of).await, start_node(guard, of).await, primary];
        eventually("the replicas are in step", || async {
            nodes[2].cli(&["SET", "something to replicate", "", "PX", "1"]);
            let seen = nodes[2].cli(&["INFO", "replication"]);
            (seen.matches("state=online").count() == 2 && !seen.contains(",offset=0,")).then_some(())
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(guard, nodes[2].link.addr()).await);
        }
        for sentinel in &sentinels {
            eventually("the sentinel knows the others", || async {
                let info = sentinel.cli(&["INFO", "sentinel"]);
                info.contains("slaves=2,sentinels=3").then_some(())
            })
            .await;
        }
        Self { nodes, sentinels }
    }

    /// Names every sentinel.
    pub(crate) fn url(&self) -> String {
        format!("redis-sentinel://{}", self.hosts())
    }

    /// What stands in a URL behind scheme and credentials.
    pub(crate) fn hosts(&self) -> String {
        hosts([0, 1, 2].map(|index| self.sentinels[index].link.addr()))
    }

    /// The same sentinels, each behind one more link, where all that they say is so much older.
    pub(crate) async fn hard_of_hearing(&self, delay: Duration) -> (String, Vec<Proxy>) {
        let mut links = Vec::new();
        for sentinel in &self.sentinels {
            links.push(Proxy::start(sentinel.link.addr(), delay).await);
        }
        let hosts = hosts([0, 1, 2].map(|index: usize| links[index].addr()));
        (format!("redis-sentinel://{hosts}"), links)
    }

    /// The primary of the beginning is the last.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// What every sentinel goes by from now on.
    pub(crate) fn set(&self, option: &str, value: &str) {
        for sentinel in &self.sentinels {
            assert_eq!(sentinel.cli(&["SENTINEL", "SET", SERVICE, option, value]), "OK");
        }
    }

    /// `kill -9` to one of the sentinels.
    pub(crate) fn kill_sentinel(&mut self, index: usize) {
        let child = &mut self.sentinels[index].child;
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
    }

    /// It comes back with what it knew.
    pub(crate) fn restart_sentinel(&mut self, index: usize) {
        let sentinel = &mut self.sentinels[index];
        sentinel.child = spawn(&sentinel.config);
    }

    /// Where the sentinels are reached without their links.
    pub(crate) fn sentinel_addrs(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(|sentinel| sentinel.addr).collect()
    }

    pub(crate) fn sentinel_pid(&self, index: usize) -> u32 {
        self.sentinels[index].child.id()
    }

    /// Has nobody taken for dead who is late, for tests that kill nobody.
    pub(crate) fn be_patient(&self) {
        self.set("down-after-milliseconds", "30000");
        for node in &self.nodes {
            node.cli_ok(&["CONFIG", "SET", "min-replicas-max-lag", "30"]);
        }
    }

    /// The primary of the beginning.
    pub(crate) fn primary(&self) -> &Node {
        &self.nodes[2]
    }

    /// `kill -9` to the primary of the beginning.
    pub(crate) fn kill_primary(&mut self) {
        self.nodes[2].server.kill();
    }

    /// The primary that each sentinel names, as `host:port`.
    pub(crate) fn masters(&self) -> Vec<String> {
        let ask = |sentinel: &Sentinel| {
            let named = sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            named.replace('\n', ":")
        };
        self.sentinels.iter().map(ask).collect()
    }

    /// Returns when each names another primary than it did.
    pub(crate) async fn until_replaced(&self, before: &[String]) {
        eventually("the sentinels name another primary", || async {
            let named = block_in_place(|| self.masters());
            named.iter().all(|master| !before.contains(master)).then_some(())
        })
        .await;
    }

    /// Cuts a node off from the others and from the sentinels, while its clients still reach it.
    pub(crate) fn part(&self, index: usize) {
        let sentinels = self.sentinels.iter().map(Sentinel::source);
        let others = self.nodes.iter().map(Node::source).chain(sentinels);
        self.nodes[index].link.part_from(others.map(Caller::From).collect());
    }

    /// Cuts some nodes, one of the sentinels and the clients `with` them off from the other nodes, the other sentinels, and the clients
    /// of `others`.
    pub(crate) fn part_with(&self, inside: &[usize], sentinel: usize, with: &[Caller], others: &[Caller]) {
        let nodes = self.nodes.iter().enumerate();
        let nodes = nodes.map(|(n, node)| (inside.contains(&n), &node.link, node.source()));
        let sentinels = self.sentinels.iter().enumerate();
        let sentinels = sentinels.map(|(n, each)| (n == sentinel, &each.link, each.source()));
        let all: Vec<(bool, &Proxy, IpAddr)> = nodes.chain(sentinels).collect();
        for (is_inside, link, _) in &all {
            let beyond = all.iter().filter(|(is_too, ..)| is_too != is_inside);
            let beyond = beyond.map(|(_, _, source)| Caller::From(*source));
            let clients = if *is_inside { others } else { with };
            link.part_from(beyond.chain(clients.iter().cloned()).collect());
        }
    }

    /// Cuts a node and one of the sentinels off from the other nodes; the other sentinels reach everybody.
    pub(crate) fn part_from_nodes(&self, node: usize, sentinel: usize) {
        let others = || {
            self.nodes
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != node)
                .map(|(_, other)| other)
        };
        let (node, sentinel) = (&self.nodes[node], &self.sentinels[sentinel]);
        for other in others() {
            other
                .link
                .part_from(vec![Caller::From(node.source()), Caller::From(sentinel.source())]);
        }
        let from_others: Vec<Caller> = others().map(|other| Caller::From(other.source())).collect();
        node.link.part_from(from_others.clone());
        sentinel.link.part_from(from_others);
    }

    /// A sentinel promotes a replica, and dies before it says so to the others.
    pub(crate) fn promotes_and_dies(&mut self, index: usize) {
        let sentinel = &mut self.sentinels[index];
        let crash = ["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"];
        assert_eq!(sentinel.cli(&crash), "OK");
        assert_eq!(sentinel.cli(&["SENTINEL", "FAILOVER", SERVICE]), "OK");
        let child = &mut sentinel.child;
        block_in_place(|| child.wait()).expect("it has ended");
    }

    /// One of the sentinels hears from the servers no more, and finds them down.
    pub(crate) async fn blind(&self, index: usize) {
        let sentinel = &self.sentinels[index];
        for node in &self.nodes {
            node.link.part_from(vec![Caller::From(sentinel.source())]);
        }
        eventually("it finds the primary down", || async {
            let said = sentinel.cli(&["SENTINEL", "MASTER", SERVICE]);
            said.contains("s_down").then_some(())
        })
        .await;
    }

    /// Ends what [`Self::part`] or [`Self::part_with`] began.
    pub(crate) fn rejoin(&self) {
        let sentinels = self.sentinels.iter().map(|sentinel| &sentinel.link);
        let links = self.nodes.iter().map(|node| &node.link).chain(sentinels);
        links.for_each(|link| link.part_from(Vec::new()));
    }

    /// A replica takes over from the living primary. Any sentinel will do: what one believes of the replicas may be ten seconds old.
    pub(crate) async fn fail_over(&self) {
        eventually("a sentinel begins a fail-over", || async {
            let mut answers = self
                .sentinels
                .iter()
                .map(|sentinel| sentinel.cli(&["SENTINEL", "FAILOVER", SERVICE]));
            answers.any(|answer| answer == "OK").then_some(())
        })
        .await;
    }
}

fn hosts([a, b, c]: [SocketAddr; 3]) -> String {
    format!("{a}?node={b}&node={c}&sentinelServiceName={SERVICE}")
}

async fn start_node(guard: Option<&Arc<Guard>>, primary: Option<SocketAddr>) -> Node {
    Node::start(guard, |link| {
        let mut lines = vec![
            // A primary that its replicas have left takes no writes.
            "min-replicas-to-write 1".to_owned(),
            "min-replicas-max-lag 2".to_owned(),
            "replica-announce-ip 127.0.0.1".to_owned(),
            format!("replica-announce-port {link}"),
        ];
        lines.extend(primary.map(|primary| format!("replicaof {} {}", primary.ip(), primary.port())));
        lines
    })
    .await
}

impl Sentinel {
    async fn start(guard: Option<&Arc<Guard>>, primary: SocketAddr) -> Self {
        let (addr, tls) = (free_addr(), free_addr());
        let has_tls = guard.is_some_and(|guard| guard.has_tls());
        let link = Proxy::start(if has_tls { tls } else { addr }, LINK).await;
        let dir = temporary_directory();
        let config = dir.path().join("sentinel.conf");
        let mut lines = vec![
            format!("port {}", addr.port()),
            "bind 127.0.0.1".to_owned(),
            format!("bind-source-addr {}", source_of(addr.port())),
            format!("dir {}", dir.path().display()),
            format!("sentinel monitor {SERVICE} {} {} 2", primary.ip(), primary.port()),
            format!("sentinel down-after-milliseconds {SERVICE} 2000"),
            format!("sentinel failover-timeout {SERVICE} 10000"),
            "sentinel announce-ip 127.0.0.1".to_owned(),
            format!("sentinel announce-port {}", link.addr().port()),
            operator(),
        ];
        lines.extend(guard.iter().flat_map(|guard| guard.sentinel_lines(tls.port(), SERVICE)));
        std::fs::write(&config, lines.join("\n")).expect("a configuration");
        Self {
            child: spawn(&config),
            config,
            addr,
            link,
            _dir: dir,
        }
    }

    /// Where the others see it come from.
    fn source(&self) -> IpAddr {
        source_of(self.addr.port())
    }

    fn cli(&self, words: &[&str]) -> String {
        cli(self.addr, words)
    }
}

fn spawn(config: &Path) -> Child {
    Command::new("redis-server")
        .arg(config)
        .arg("--sentinel")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is not installed: `apt-get install redis-server`, or run scripts/test")
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
