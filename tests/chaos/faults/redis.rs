//! What happens to Redis, and on the way to it.

use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::Injector;
use crate::support::cli::{OPERATOR, cli_lines};
use crate::support::eventually;
use crate::support::guard::{REPLICA, SERVICE};
use crate::support::node::LINK;
use crate::support::proxy::Proxy;
use crate::support::redis::Frozen;
use crate::world::{REPLICAS, Redis, ask, caller};

/// As long as a fail-over takes: what sentinels and nodes wait before they believe a death, and a second.
const FAIL_OVER: Duration = Duration::from_millis(3_500);
/// Sentinels that fail try again after twenty seconds.
const REPLACED_WITHIN: Duration = Duration::from_mins(1);
/// Redis has room for 16 KiB beside the queue that it limits.
const LONGER_THAN_AT_ONCE: usize = 20_000;
/// How many go and come back.
const SLOTS: usize = 200;

impl Injector<'_> {
    pub(super) fn tell_masters(&self, words: &[&str]) {
        for addr in self.world.redis.masters() {
            let answer = ask(addr, words);
            assert_eq!(answer, "OK", "{words:?} at {addr}");
        }
    }

    pub(super) async fn kill_pubsub(&mut self) {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            for addr in self.world.redis.masters() {
                ask(addr, &["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Transitions are written, and nobody is told of them.
    pub(super) async fn refuse_publishes(&mut self) {
        self.tell_masters(&["ACL", "SETUSER", SERVICE, "-spublish"]);
        self.hold(1_000, 4_000).await;
        self.tell_masters(&["ACL", "SETUSER", SERVICE, "+spublish"]);
        self.world.redis.forget_refusals();
    }

    /// Who listens is cut off by a message that does not fit into what is sent at once.
    pub(super) async fn limit_output(&mut self) {
        let limit = |limit| ["CONFIG", "SET", "client-output-buffer-limit", limit];
        self.tell_masters(&limit("pubsub 1 0 0"));
        let long = "x".repeat(LONGER_THAN_AT_ONCE);
        for _ in 0..self.rng.random_range(5..20) {
            for addr in self.world.redis.masters() {
                let channels = ask(addr, &["PUBSUB", "SHARDCHANNELS"]);
                let messages = channels.lines().map(|channel| format!("SPUBLISH {channel} {long}"));
                block_in_place(|| cli_lines(addr, &messages.collect::<Vec<_>>()));
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.tell_masters(&limit("pubsub 32mb 8mb 60"));
    }

    /// Too shortly for a fail-over.
    pub(super) async fn freeze_redis(&mut self) {
        let pid = self.some_primary().1;
        let frozen = Frozen::new(pid);
        self.hold(300, 1_300).await;
        drop(frozen);
    }

    pub(super) async fn freeze_redis_replica(&mut self) {
        let n = self.some_replica_of_redis();
        let frozen = Frozen::new(self.world.redis.server(n).pid());
        self.hold(1_000, 4_000).await;
        drop(frozen);
    }

    /// It comes back empty.
    pub(super) async fn kill_redis_replica(&mut self) {
        let n = self.some_replica_of_redis();
        self.world.redis.server(n).kill();
        self.hold(1_000, 4_000).await;
        self.world.redis.server(n).restart();
    }

    /// Longer than the others take to find it dead.
    pub(super) async fn freeze_sentinel(&mut self) {
        let n = self.rng.random_range(0..3);
        let Redis::Sentinel(sentinels) = &self.world.redis else {
            return;
        };
        let frozen = Frozen::new(sentinels.sentinel_pid(n));
        self.hold(1_000, 5_000).await;
        drop(frozen);
    }

    pub(super) async fn kill_sentinel(&mut self) {
        let n = self.rng.random_range(0..3);
        if let Redis::Sentinel(sentinels) = &mut self.world.redis {
            sentinels.kill_sentinel(n);
        }
        self.hold(1_000, 5_000).await;
        if let Redis::Sentinel(sentinels) = &mut self.world.redis {
            sentinels.restart_sentinel(n);
        }
    }

    pub(super) async fn pause_writes(&mut self) {
        self.tell_masters(&["CLIENT", "PAUSE", "1500", "WRITE"]);
        sleep(Duration::from_millis(1_500)).await;
    }

    pub(super) async fn restart_redis(&mut self) {
        let (n, _) = self.some_primary();
        self.world.redis.server(n).kill();
        self.hold(200, 3_000).await;
        self.world.redis.server(n).restart();
    }

    /// With all its data, and too shortly for a fail-over.
    pub(super) async fn load_redis(&mut self) {
        let (n, _) = self.some_primary();
        let loading = Duration::from_millis(self.rng.random_range(1_000..1_800));
        let server = self.world.redis.server(n);
        server.restart_loading(loading).await;
        let addr = server.addr();
        eventually("it has loaded", || async {
            (ask(addr, &["PING"]) == "PONG").then_some(())
        })
        .await;
        ask(addr, &["CONFIG", "SET", "key-load-delay", "0"]);
    }

    /// As it is while it believes itself a replica.
    pub(super) async fn make_read_only(&mut self) {
        let (n, _) = self.some_primary();
        let addr = self.world.redis.server(n).addr();
        ask(addr, &["REPLICAOF", "127.0.0.1", "1"]);
        self.hold(500, 2_500).await;
        ask(addr, &["REPLICAOF", "NO", "ONE"]);
    }

    pub(super) async fn use_up_memory(&mut self) {
        self.tell_masters(&["CONFIG", "SET", "maxmemory", "1mb"]);
        self.hold(1_000, 3_000).await;
        self.tell_masters(&["CONFIG", "SET", "maxmemory", "0"]);
    }

    /// Those that are there are cut off, and no new ones taken.
    pub(super) async fn refuse_connections(&mut self) {
        let mut held = Vec::new();
        for addr in self.world.redis.masters() {
            let mut connection = TcpStream::connect(addr).await.expect("a connection");
            say(&mut connection, &format!("AUTH {OPERATOR} {OPERATOR}")).await;
            say(&mut connection, "CONFIG SET maxclients 1").await;
            say(&mut connection, "CLIENT KILL TYPE normal SKIPME yes").await;
            say(&mut connection, "CLIENT KILL TYPE pubsub").await;
            held.push(connection);
        }
        self.hold(500, 2_000).await;
        for mut connection in held {
            say(&mut connection, "CONFIG SET maxclients 10000").await;
        }
    }

    pub(super) async fn cut_links(&mut self) {
        for _ in 0..5 {
            self.world.redis.links().into_iter().for_each(Proxy::cut);
            sleep(Duration::from_millis(300)).await;
        }
    }

    pub(super) async fn stall_link(&mut self) {
        let n = self.some_link();
        self.world.redis.links()[n].stall();
        self.hold(500, 4_000).await;
        self.world.redis.links()[n].heal();
    }

    pub(super) async fn blackhole_link(&mut self) {
        let n = self.some_link();
        self.world.redis.links()[n].blackhole();
        self.hold(500, 4_000).await;
        self.world.redis.links()[n].heal();
    }

    /// With sentinels or in a Cluster it is also how a server is reached by its replicas and its sentinels.
    fn some_link(&mut self) -> usize {
        self.rng.random_range(0..self.world.redis.links().len())
    }

    /// Slots with all that is in them go to another primary while they are in use, and come back.
    pub(super) async fn move_slots(&mut self) {
        let Redis::Cluster(cluster) = &self.world.redis else {
            return;
        };
        let masters = self.world.redis.masters();
        let places: Vec<usize> = cluster
            .addrs()
            .iter()
            .enumerate()
            .filter(|(_, addr)| masters.contains(addr))
            .map(|(n, _)| n)
            .collect();
        let (from, to) = (places[0], places[1]);
        let slots = block_in_place(|| cluster.slots_of(from));
        let counts = slots.iter().map(|slot| format!("CLUSTER COUNTKEYSINSLOT {slot}"));
        let counts = block_in_place(|| cli_lines(cluster.addrs()[from], &counts.collect::<Vec<_>>()));
        let mut slots: Vec<(Option<u32>, u16)> = counts.iter().map(|count| count.parse().ok()).zip(slots).collect();
        // Those with most in them first.
        slots.sort_unstable_by(|one, other| other.cmp(one));
        let moved: Vec<u16> = slots.into_iter().take(SLOTS).map(|(_, slot)| slot).collect();
        block_in_place(|| cluster.move_slots(from, to, moved.iter().copied()));
        sleep(Duration::from_millis(500)).await;
        block_in_place(|| cluster.move_slots(to, from, moved.into_iter()));
    }

    pub(super) async fn slow_links(&mut self) {
        for delay in [Duration::from_millis(40), LINK] {
            self.world
                .redis
                .links()
                .iter()
                .for_each(|link| link.slow_down_to(delay));
            self.hold(2_000, 4_000).await;
        }
    }

    /// TCP delivers all of it, in order and late.
    pub(super) async fn lose_packets(&mut self) {
        let n = self.some_link();
        self.world.redis.links()[n].lose_packets(Duration::from_millis(300));
        self.hold(2_000, 5_000).await;
        self.world.redis.links()[n].lose_packets(Duration::ZERO);
    }

    /// Redis does what it is asked, and nobody hears that it did.
    pub(super) async fn lose_replies(&mut self) {
        for _ in 0..10 {
            self.world
                .redis
                .links()
                .iter()
                .for_each(|link| link.lose_reply_to("EVAL"));
            sleep(Duration::from_millis(150)).await;
        }
    }

    /// A replica takes over from its living primary.
    /// Asked for again until another one is primary: Redis gives it up when the last fail-over is not long enough ago.
    pub(super) async fn fail_over(&mut self) {
        let before = self.world.redis.masters();
        let began = Instant::now();
        loop {
            match &self.world.redis {
                Redis::Standalone { .. } => return,
                Redis::Sentinel(sentinels) => sentinels.fail_over().await,
                Redis::Cluster(_) => {
                    let replicas = self.world.redis.replicas();
                    let replica = replicas[self.rng.random_range(0..replicas.len())];
                    ask(replica, &["CLUSTER", "FAILOVER"]);
                }
            }
            let asked = Instant::now();
            while asked.elapsed() < FAIL_OVER {
                if self.world.redis.masters().iter().any(|addr| !before.contains(addr)) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
            assert!(began.elapsed() < REPLACED_WITHIN, "nobody takes over");
        }
    }

    /// Healed as soon as it is dead: the rest is up to the others. It comes back, empty, once they have a new primary.
    pub(super) async fn kill_primary(&mut self, unreplicated: bool) -> u64 {
        self.world.redis.settles().await;
        let (n, _) = self.some_primary();
        let addr = self.world.redis.server(n).addr();
        if unreplicated {
            // Long enough for whole logins that only this server knows.
            ask(addr, &["ACL", "SETUSER", REPLICA, "-psync"]);
            ask(addr, &["CLIENT", "KILL", "TYPE", "replica"]);
            self.hold(2_500, 3_500).await;
        }
        self.world.redis.server(n).kill();
        let killed = self.recorder.now();
        // How long they take to agree is theirs. Before they have, it would be primary again, with nothing.
        let began = Instant::now();
        while !self.world.redis.has_replaced(n) {
            assert!(began.elapsed() < REPLACED_WITHIN, "nobody takes over");
            sleep(Duration::from_millis(50)).await;
        }
        let late = began.elapsed().saturating_sub(FAIL_OVER);
        sleep(FAIL_OVER.saturating_sub(began.elapsed())).await;
        self.hold(500, 1_500).await;
        self.world.redis.server(n).restart();
        killed + u64::try_from(late.as_millis()).unwrap()
    }

    pub(super) async fn freeze_primary(&mut self) -> u64 {
        let frozen = Frozen::new(self.some_primary().1);
        let since = self.recorder.now();
        sleep(FAIL_OVER).await;
        self.hold(500, 2_500).await;
        drop(frozen);
        since
    }

    /// It takes what the service writes, and the others have another. Half of the times every replica of the service reaches
    /// both sides; else one sees this one alone, and a sentinel that believes the same, and the others see the rest.
    pub(super) async fn part_primary(&mut self, has_replica: bool) {
        let (n, _) = self.some_primary();
        let lonely = self.rng.random_bool(0.5).then(|| self.rng.random_range(0..REPLICAS));
        let sentinel = self.rng.random_range(0..3);
        // A replica of Redis at its side acknowledges what those on the other side, who replace it, will never hear of.
        let beside = (n + 1 + self.rng.random_range(0..2)) % 3;
        let inside = if has_replica { vec![n, beside] } else { vec![n] };
        if let Some(replica) = lonely {
            println!("            with replica {replica} alone");
        }
        let (with, others): (Vec<usize>, Vec<usize>) = (0..REPLICAS).partition(|replica| lonely == Some(*replica));
        let callers = |replicas: Vec<usize>| replicas.into_iter().map(caller).collect::<Vec<_>>();
        let (with, others) = (callers(with), callers(others));
        match &self.world.redis {
            Redis::Standalone { .. } => {}
            Redis::Sentinel(sentinels) if lonely.is_some() => sentinels.part_with(&inside, sentinel, &with, &others),
            Redis::Sentinel(sentinels) if has_replica => sentinels.part_with(&inside, sentinel, &[], &[]),
            Redis::Sentinel(sentinels) => sentinels.part(n),
            Redis::Cluster(cluster) if lonely.is_some() => cluster.part_with(n, &with, &others),
            Redis::Cluster(cluster) => cluster.part(n),
        }
        sleep(FAIL_OVER).await;
        self.hold(1_500, 3_500).await;
        match &self.world.redis {
            Redis::Standalone { .. } => {}
            Redis::Sentinel(sentinels) => sentinels.rejoin(),
            Redis::Cluster(cluster) => cluster.rejoin(),
        }
    }

    /// Its place among the servers.
    fn some_replica_of_redis(&mut self) -> usize {
        let choice = self.rng.random_range(0..usize::MAX);
        self.world.redis.some_replica(choice)
    }

    /// Its place among the servers, and its process.
    fn some_primary(&mut self) -> (usize, u32) {
        let choice = self.rng.random_range(0..usize::MAX);
        let n = self.world.redis.some_master(choice);
        (n, self.world.redis.server(n).pid())
    }
}

/// One command on a connection that is there already; what it answers is known.
async fn say(connection: &mut TcpStream, words: &str) {
    let _ = connection.write_all(format!("{words}\r\n").as_bytes()).await;
    let _ = connection.read(&mut [0; 256]).await;
}
