//! A real redis-server process of the test's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use super::cli::{OPERATOR, cli, cli_ok};
use super::{canaries, eventually, remains, temporary_directory};

/// Dies with the test, which fails if the server still runs and holds a secret.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    addr: SocketAddr,
    args: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    /// Keeps nothing on disk; `noeviction`.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments of redis-server's command line.
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_at(free_addr(), args)
    }

    /// The same, where nothing listens yet.
    pub fn start_at(addr: SocketAddr, args: &[&str]) -> Self {
        let dir = temporary_directory();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(addr, &args, &dir);
        Self { child, addr, args, dir }
    }

    /// Another server with the same arguments that replicates this one, and has all its data.
    pub async fn replica(&self) -> Self {
        let primary = format!("{} {}", self.addr.ip(), self.addr.port());
        let args = self.args.iter().map(String::as_str);
        let replica = Self::start_with(&args.chain(["--replicaof", &primary]).collect::<Vec<_>>());
        eventually("the replica is in step", || async {
            cli_ok(self.addr, &["SET", "something to replicate", "", "PX", "1"]);
            let seen = cli(self.addr, &["INFO", "replication"]);
            let acknowledges = seen.contains("state=online") && !seen.contains(",offset=0,");
            acknowledges.then_some(())
        })
        .await;
        replica
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill redis-server");
        self.child.wait().expect("reap redis-server");
    }

    /// Starts it again, empty, at the same address.
    pub fn restart(&mut self) {
        self.kill();
        // Which is there if somebody had it saved.
        let _ = std::fs::remove_file(self.dir.path().join("dump.rdb"));
        self.come_back();
    }

    /// `kill -9`; [`Self::come_back`] has all that it had.
    pub async fn kill_saved(&mut self) {
        self.save().await;
        self.kill();
    }

    /// Starts it again at the same address, once it was killed so.
    pub fn come_back(&mut self) {
        self.child = spawn(self.addr, &self.args, &self.dir);
    }

    async fn save(&self) {
        eventually("it is saved, and not just then for a replica", || async {
            // Else it would lose what it had acknowledged since it saved.
            cli_ok(self.addr, &["CLIENT", "PAUSE", "10000", "WRITE"]);
            (cli(self.addr, &["SAVE"]) == "OK").then_some(())
        })
        .await;
    }

    /// `kill -9`, and starts it again as a primary with all that it had, but answers `LOADING` for at least so long.
    pub async fn restart_loading(&mut self, loading: Duration) {
        self.save().await;
        let keys: u128 = cli(self.addr, &["DBSIZE"]).parse().expect("a number");
        self.kill();
        let delay = (loading.as_micros() / keys.max(1)).to_string();
        let mut args = self.args.clone();
        // It serves connections once in so many bytes.
        let slowly = [
            "--key-load-delay",
            &delay,
            "--loading-process-events-interval-bytes",
            "1024",
        ];
        args.extend(
            ["--replicaof", "no", "one"]
                .into_iter()
                .chain(slowly)
                .map(str::to_owned),
        );
        self.child = spawn(self.addr, &args, &self.dir);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let dump = remains::dump(self.addr);
        let _ = self.child.kill();
        let _ = self.child.wait();
        canaries::assert_none_in("Redis", &dump);
    }
}

/// A process stopped by SIGSTOP until this is dropped.
pub struct Frozen(Pid);

impl Frozen {
    pub fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// What makes [`OPERATOR`] known to a server, as the line of a configuration.
pub(crate) fn operator() -> String {
    format!("user {OPERATOR} on >{OPERATOR} ~* &* +@all")
}

/// The lines of a configuration, without their values' quotes, as arguments of the command line.
pub(crate) fn arguments(lines: &[String]) -> Vec<String> {
    let mut args = Vec::new();
    for line in lines {
        let (name, values) = line.split_once(' ').expect("a value");
        args.push(format!("--{name}"));
        args.extend(values.split(' ').map(str::to_owned));
    }
    args
}

/// An address of loopback that only the server that listens on `port` speaks from.
pub fn source_of(port: u16) -> IpAddr {
    let [high, low] = port.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

/// An address of loopback where nothing listens just now, and which nobody is given by chance: the system draws the ports of
/// connections and of listeners that name none from above these.
pub fn free_addr() -> SocketAddr {
    const PORTS: Range<u32> = 10_000..30_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Test programs that run beside each other begin at different places.
    let begin = std::process::id().wrapping_mul(7_919);
    let count = PORTS.end - PORTS.start;
    let drawn = (0..count).map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count);
    let free = drawn
        .filter_map(|place| u16::try_from(PORTS.start + place).ok())
        .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    free.and_then(|listener| listener.local_addr().ok())
        .expect("a free port")
}

fn spawn(addr: SocketAddr, args: &[String], dir: &TempDir) -> Child {
    let mut child = Command::new("redis-server")
        .args([
            "--port",
            &addr.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args([
            "--repl-diskless-sync-delay",
            "0",
            "--maxmemory-policy",
            "noeviction",
            "--dir",
            &dir.path().display().to_string(),
        ])
        .args(arguments(&[operator()]))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is not installed: `apt-get install redis-server`, or run scripts/test");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(addr).is_err() {
        assert!(
            child.try_wait().expect("its status").is_none(),
            "redis-server ended at its start"
        );
        assert!(Instant::now() < deadline, "redis-server does not listen");
        std::thread::yield_now();
    }
    child
}
