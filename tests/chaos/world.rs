//! What logins run against: real replicas behind a real nginx, on a real Redis of some shape, with a simulated WeChat.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::checker::Text;
use crate::history::Usage;
use crate::recorder::Recorder;
use crate::site;
use crate::support::cli::{cli, cli_lines, command};
use crate::support::clock::WallClock;
use crate::support::cluster::Cluster;
use crate::support::control_group::ControlGroup;
use crate::support::guard::{Guard, PASSWORDS};
use crate::support::nginx::Nginx;
use crate::support::node::{LINK, Node};
use crate::support::process::{Log, scanlogin};
use crate::support::proxy::{Caller, Proxy};
use crate::support::redis::{RedisServer, arguments, free_addr};
use crate::support::reply::Reply;
use crate::support::sentinel::Sentinels;
use crate::support::service::{Service, ServiceBuilder};
use crate::support::shape::{Security, Topology};
use crate::upstream::{APP_SECRET, APPID, Upstream};

/// Each has a password of its own.
pub(crate) const REPLICAS: usize = PASSWORDS.len();
/// By how many seconds each replica's clock is wrong.
const SKEWS: [&str; REPLICAS] = ["+0", "+300", "-300"];
/// Of a scene: so short that what nobody scans ends within the run.
pub(crate) const SCENE_LIFE: Duration = Duration::from_secs(30);
/// As `Cluster` makes them.
const CLUSTER_PRIMARIES: usize = 3;
/// Redis takes no longer to come to rest.
const SETTLES_WITHIN: Duration = Duration::from_secs(40);
/// Nor do the replicas, once nobody asks anything.
const RESTS_WITHIN: Duration = Duration::from_mins(1);

/// How Redis stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    Standalone,
    Sentinel,
    Cluster,
}

/// Redis itself.
#[derive(Debug)]
pub(crate) enum Redis {
    /// With a replica, and a link of its own for each replica of the service.
    Standalone {
        /// The replica first, so that it ends before its primary.
        servers: Vec<RedisServer>,
        links: Vec<Proxy>,
    },
    Sentinel(Sentinels),
    Cluster(Cluster),
}

/// All of it. Dies with the run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) nginx: Nginx,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) redis: Redis,
    pub(crate) upstream: Upstream,
    /// Streams that nobody reads, nor closes before the service has ended them all.
    pub(crate) unread: Vec<TcpStream>,
    _files: TempDir,
}

/// A place where one process of the service runs after the other.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) addr: SocketAddr,
    clock: WallClock,
    pub(crate) memory: ControlGroup,
    skew: &'static str,
    builder: ServiceBuilder,
    service: Service,
    /// What those before it had logged.
    logged: Vec<String>,
}

impl World {
    pub(crate) async fn start(shape: Shape, http: &reqwest::Client, recorder: &Recorder) -> Self {
        let upstream = Upstream::start(http, recorder).await;
        let files = tempfile::tempdir().expect("a temporary directory");
        let keys = signing_keys(files.path(), recorder);
        // Without TLS, by which the links would not see what they lose.
        let guard = Arc::new(Guard::new(shape.topology(), Security::Acl).expect("users"));
        let redis = Redis::start(shape, &guard).await;
        for password in PASSWORDS {
            recorder.secret("a password at Redis", password);
        }
        recorder.secret("the client's secret", site::CLIENT_SECRET);
        let addrs: Vec<_> = (0..REPLICAS).map(|_| free_addr()).collect();
        let nginx = Nginx::start(&addrs).await;
        let mut replicas = Vec::new();
        for (n, (addr, skew)) in addrs.into_iter().zip(SKEWS).enumerate() {
            let (clock, memory) = (WallClock::new(skew), ControlGroup::new());
            let builder = redis
                .tell(n, &guard, memory.of(clock.of(Service::builder())))
                .with("LISTEN", addr)
                .with("PUBLIC_URL", nginx.base())
                .with("TRUSTED_PROXIES", "127.0.0.0/8")
                .with("SIGNING_KEYS_FILE", keys.display())
                .with("WECHAT_API_BASE", &upstream.bases[n])
                .with("SIMULATOR", true)
                .with("WECHAT_APPID", APPID)
                .with("WECHAT_SECRET", APP_SECRET)
                .with("CLIENT_ID", site::CLIENT_ID)
                .with("CLIENT_SECRET", site::CLIENT_SECRET)
                .with("CLIENT_NAME", "Chaos")
                .with("SCENE_TTL", SCENE_LIFE.as_secs())
                .with("HEARTBEAT", 5)
                // Drawing and reading pictures is most of what this machine does.
                .with("CODE_WIDTH", 280)
                .with("LIMITS", "on")
                .with("LIMIT_STREAMS_PER_ADDRESS", 20_000)
                // Longer than the proxy keeps connections that nobody uses.
                .with("DRAIN_DELAY", 3);
            replicas.push(Replica {
                addr,
                service: builder.clone().start().await,
                clock,
                memory,
                skew,
                builder,
                logged: Vec::new(),
            });
        }
        Self {
            nginx,
            replicas,
            redis,
            upstream,
            unread: Vec::new(),
            _files: files,
        }
    }

    /// The most that one replica holds, and what Redis and all replicas hold altogether.
    pub(crate) async fn usage(&self) -> Usage {
        let masters = self.redis.masters();
        let sum = |of: fn(SocketAddr) -> u64| masters.iter().map(|addr| of(*addr)).sum();
        Usage {
            rss_kb: self.most(|replica| replica.memory_kb("VmRSS:")),
            fds: self.most(Replica::fds),
            redis_bytes: sum(|addr| info_field(addr, "memory", "used_memory")),
            redis_keys: sum(|addr| ask(addr, &["DBSIZE"]).parse().unwrap_or(0)),
            held: self.held().await,
        }
    }

    /// The most resident memory that any of the replicas that run now has ever had.
    pub(crate) fn peak_rss_kb(&self) -> u64 {
        self.most(|replica| replica.memory_kb("VmHWM:"))
    }

    /// The most that one replica has.
    fn most(&self, of: fn(&Replica) -> u64) -> u64 {
        self.replicas.iter().map(of).max().unwrap_or(0)
    }

    async fn held(&self) -> u64 {
        const GAUGES: [&str; 3] = [
            "scanlogin_streams_open",
            "scanlogin_scenes_watched",
            "scanlogin_requests_under_way",
        ];
        let mut held = 0;
        for replica in &self.replicas {
            let metrics = Reply::to(replica.service.http.get(format!("{}/metrics", replica.service.ops)))
                .await
                .text();
            for gauge in GAUGES {
                let line = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(gauge)?.strip_prefix(' '));
                held += line.and_then(|value| value.parse::<u64>().ok()).expect("a gauge");
            }
        }
        held
    }

    /// Waits until nobody holds more than at `base`, a minute at most: the checker looks at what is left then.
    pub(crate) async fn comes_to_rest(&mut self, base: &Usage) {
        let began = Instant::now();
        while began.elapsed() < RESTS_WITHIN {
            if self.held().await == 0 {
                self.unread.clear();
                if base.has_so_few_fds(self.most(Replica::fds)) {
                    return;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Everything that somebody could read secrets in.
    pub(crate) async fn texts(&self, http: &reqwest::Client) -> Vec<Text> {
        let mut texts = Vec::new();
        for (n, replica) in self.replicas.iter().enumerate() {
            let log = [replica.logged.clone(), replica.service.log().lines()].concat();
            texts.push(Text {
                name: format!("the log of replica {n}"),
                bytes: log.join("\n").into_bytes(),
            });
            let metrics = http.get(format!("{}/metrics", replica.service.ops)).send().await;
            texts.push(Text {
                name: format!("the metrics of replica {n}"),
                bytes: metrics.expect("metrics").bytes().await.expect("metrics").to_vec(),
            });
        }
        for addr in self.redis.masters() {
            texts.push(Text {
                name: format!("the dump of {addr}"),
                bytes: dump(addr),
            });
        }
        texts
    }
}

impl Replica {
    pub(crate) fn pid(&self) -> u32 {
        self.service.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.service.process.signal(signal);
    }

    /// Waits for the end of a process that was told to end: how long that took.
    pub(crate) async fn ended(&mut self) -> Duration {
        let began = Instant::now();
        while !self.service.process.has_ended() && began.elapsed() < SETTLES_WITHIN {
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }

    /// A new process takes the place of one that has ended.
    pub(crate) async fn start(&mut self) {
        self.logged.extend(self.service.log().lines());
        self.service = self.builder.clone().start_unready().await;
    }

    /// Its wall clock jumps by so many seconds; none is what it was at first.
    pub(crate) fn set_clock(&self, jump: Option<&str>) {
        self.clock.set(jump.unwrap_or(self.skew));
    }

    /// Of the process that runs now.
    pub(crate) fn log(&self) -> &Log {
        self.service.log()
    }

    /// A line of its status.
    fn memory_kb(&self, name: &str) -> u64 {
        let status = fs::read_to_string(PathBuf::from(format!("/proc/{}/status", self.pid()))).unwrap_or_default();
        let size = status.lines().find_map(|line| line.strip_prefix(name));
        size.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(0)
    }

    fn fds(&self) -> u64 {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        fds.map_or(0, |fds| fds.count() as u64)
    }
}

impl Redis {
    async fn start(shape: Shape, guard: &Arc<Guard>) -> Self {
        match shape {
            Shape::Standalone => {
                let args = arguments(&guard.server_lines(0));
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let primary = RedisServer::start_with(&args);
                let replica = primary.replica().await;
                let mut links = Vec::new();
                for _ in 0..REPLICAS {
                    links.push(Proxy::start(primary.addr(), LINK).await);
                }
                Self::Standalone {
                    servers: vec![replica, primary],
                    links,
                }
            }
            Shape::Sentinel => {
                let sentinels = Sentinels::start_with(Some(guard)).await;
                // Else the second fail-over within twenty seconds would wait for their end.
                sentinels.set("failover-timeout", "2500");
                Self::Sentinel(sentinels)
            }
            Shape::Cluster => Self::Cluster(Cluster::start_with(Some(guard)).await),
        }
    }

    /// Replica `n` of the service is told of it.
    fn tell(&self, n: usize, guard: &Guard, builder: ServiceBuilder) -> ServiceBuilder {
        let (kind, hosts) = match self {
            Self::Standalone { links, .. } => ("", links[n].addr().to_string()),
            Self::Sentinel(sentinels) => ("-sentinel", sentinels.hosts()),
            Self::Cluster(cluster) => ("-cluster", cluster.hosts()),
        };
        let builder = builder.with("REDIS_URL", guard.url(PASSWORDS[n], kind, &hosts));
        match self {
            Self::Sentinel(_) => builder.with("REDIS_SENTINEL_PASSWORD", PASSWORDS[n]),
            Self::Standalone { .. } | Self::Cluster(_) => builder,
        }
    }

    /// The server at a place in [`Self::addrs`].
    pub(crate) fn server(&mut self, n: usize) -> &mut RedisServer {
        match self {
            Self::Standalone { servers, .. } => &mut servers[n],
            Self::Sentinel(sentinels) => &mut sentinels.nodes_mut()[n].server,
            Self::Cluster(cluster) => &mut cluster.nodes_mut()[n].server,
        }
    }

    /// What lies between the service and the servers.
    pub(crate) fn links(&self) -> Vec<&Proxy> {
        match self {
            Self::Standalone { links, .. } => links.iter().collect(),
            Self::Sentinel(_) | Self::Cluster(_) => self.nodes().iter().map(|node| &node.link).collect(),
        }
    }

    fn nodes(&self) -> &[Node] {
        match self {
            Self::Standalone { .. } => &[],
            Self::Sentinel(sentinels) => sentinels.nodes(),
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        match self {
            Self::Standalone { servers, .. } => servers.iter().map(RedisServer::addr).collect(),
            Self::Sentinel(_) | Self::Cluster(_) => self.nodes().iter().map(Node::addr).collect(),
        }
    }

    /// Those that the sentinels name, or that say so themselves; all must be there to say it.
    pub(crate) fn masters(&self) -> Vec<SocketAddr> {
        if let Self::Sentinel(sentinels) = self {
            let named = block_in_place(|| sentinels.masters());
            let is_named = |node: &&Node| named.contains(&node.link.addr().to_string());
            return self.nodes().iter().filter(is_named).map(Node::addr).collect();
        }
        let says = |addr: &SocketAddr| ask(*addr, &["ROLE"]).starts_with("master");
        self.addrs().into_iter().filter(says).collect()
    }

    /// Whether others have a primary in the place of that one, which is dead.
    pub(crate) fn has_replaced(&self, n: usize) -> bool {
        let dead = self.addrs()[n];
        match self {
            Self::Standalone { .. } => false,
            Self::Sentinel(_) => matches!(self.masters()[..], [primary] if primary != dead),
            Self::Cluster(_) => {
                let says = |addr: &SocketAddr| *addr != dead && ask(*addr, &["ROLE"]).starts_with("master");
                self.addrs().into_iter().filter(says).count() == CLUSTER_PRIMARIES
            }
        }
    }

    /// The place of one of the primaries, by `choice`.
    pub(crate) fn some_master(&self, choice: usize) -> usize {
        self.place_of_one(&self.masters(), choice)
    }

    /// The place of one of those that follow a primary.
    pub(crate) fn some_replica(&self, choice: usize) -> usize {
        self.place_of_one(&self.replicas(), choice)
    }

    fn place_of_one(&self, candidates: &[SocketAddr], choice: usize) -> usize {
        let chosen = candidates[choice % candidates.len()];
        let place = self.addrs().iter().position(|addr| *addr == chosen);
        place.expect("it is one of them")
    }

    /// Those that follow a primary.
    pub(crate) fn replicas(&self) -> Vec<SocketAddr> {
        let says = |addr: &SocketAddr| ask(*addr, &["ROLE"]).starts_with("slave");
        self.addrs().into_iter().filter(says).collect()
    }

    /// Those without a time to live.
    pub(crate) fn endless_keys(&self) -> Vec<String> {
        let on = |addr: SocketAddr| {
            let keys = ask(addr, &["--scan"]);
            let keys: Vec<&str> = keys.lines().collect();
            let asked: Vec<String> = keys.iter().map(|key| format!("PTTL {key}")).collect();
            let lives = block_in_place(|| cli_lines(addr, &asked));
            assert_eq!(lives.len(), keys.len(), "{addr} does not say how long its keys live");
            // What has ended since is told as -2.
            let endless = keys.into_iter().zip(lives).filter(|(_, life)| life == "-1");
            endless.map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        };
        self.masters().into_iter().flat_map(on).collect()
    }

    /// What anybody was refused for want of a right, as each server and sentinel that is still there says.
    pub(crate) fn refusals(&self) -> String {
        let mut asked = self.addrs();
        if let Self::Sentinel(sentinels) = self {
            asked.extend(sentinels.sentinel_addrs());
        }
        asked.into_iter().map(|addr| ask(addr, &["ACL", "LOG"])).collect()
    }

    /// Forgets what [`Self::refusals`] would tell.
    pub(crate) fn forget_refusals(&self) {
        for addr in self.addrs() {
            ask(addr, &["ACL", "LOG", "RESET"]);
        }
    }

    /// Waits until everybody agrees who is who, and each primary has a replica that is in step.
    pub(crate) async fn settles(&self) {
        self.settles_with(1).await;
    }

    /// Waits until every replica is in step too, as whoever begins a fail-over by hand should: one that is missing may be told for ten
    /// seconds by no sentinel whom to follow.
    pub(crate) async fn is_whole(&self) {
        let replicas = if matches!(self, Self::Sentinel(_)) { 2 } else { 1 };
        self.settles_with(replicas).await;
    }

    async fn settles_with(&self, replicas: usize) {
        let began = Instant::now();
        while !self.is_settled(replicas) {
            assert!(
                began.elapsed() < SETTLES_WITHIN,
                "Redis does not come to rest: {}",
                self.words()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Who says what of itself.
    fn words(&self) -> String {
        let said = |addr: SocketAddr| format!("\n{addr}: {}", ask(addr, &["INFO", "replication"]));
        let said: String = self.addrs().into_iter().map(said).collect();
        format!("{:?}{said}", self.masters())
    }

    fn is_settled(&self, replicas: usize) -> bool {
        let masters = self.masters();
        let in_step = masters.iter().all(|addr| {
            let seen = ask(*addr, &["INFO", "replication"]);
            let online = seen
                .lines()
                .filter(|line| line.contains("state=online") && !line.contains(",offset=0,"));
            online.count() >= replicas
        });
        match self {
            Self::Standalone { .. } => masters.len() == 1 && in_step,
            // Who was primary before is told of it seconds later. A sentinel that saw its clock jump, or its machine stand still,
            // does nothing for half a minute.
            Self::Sentinel(sentinels) => {
                let acts = |addr: SocketAddr| !ask(addr, &["INFO", "sentinel"]).contains("sentinel_tilt:1");
                masters.len() == 1 && in_step && sentinels.sentinel_addrs().into_iter().all(acts)
            }
            Self::Cluster(cluster) => {
                let ok = |addr: SocketAddr| ask(addr, &["CLUSTER", "INFO"]).contains("cluster_state:ok");
                masters.len() == CLUSTER_PRIMARIES && in_step && cluster.addrs().into_iter().all(ok)
            }
        }
    }
}

impl Shape {
    fn topology(self) -> Topology {
        match self {
            Self::Standalone => Topology::Standalone,
            Self::Sentinel => Topology::Sentinel,
            Self::Cluster => Topology::Cluster,
        }
    }
}

/// Where they are, in this directory.
fn signing_keys(directory: &Path, recorder: &Recorder) -> PathBuf {
    let keys = directory.join("keys.json");
    let made = scanlogin().args(["keys", "new", "--out"]).arg(&keys).output();
    assert!(made.expect("it runs").status.success(), "no signing keys");
    let made: Value = serde_json::from_slice(&fs::read(&keys).expect("the keys")).expect("JSON");
    recorder.secret(
        "the signing key",
        made["keys"][0]["d"].as_str().expect("its private part"),
    );
    keys
}

/// As what links know replica `n` of the service.
pub(crate) fn caller(n: usize) -> Caller {
    Caller::Saying(PASSWORDS[n])
}

/// `redis-cli`, from a task.
pub(crate) fn ask(addr: SocketAddr, words: &[&str]) -> String {
    block_in_place(|| cli(addr, words))
}

fn info_field(addr: SocketAddr, section: &str, name: &str) -> u64 {
    let info = ask(addr, &["INFO", section]);
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Every key with its value, as Redis itself writes them down.
fn dump(addr: SocketAddr) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().display().to_string();
    // Compressed text would hide what is searched for.
    ask(addr, &["CONFIG", "SET", "rdbcompression", "no"]);
    let saved = block_in_place(|| command(addr).args(["--rdb", &path]).output());
    assert!(saved.expect("redis-cli").status.success(), "no dump of {addr}");
    fs::read(path).expect("the dump")
}
