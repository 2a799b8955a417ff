//! A real primary with two replicas and three sentinels of the test's own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::cli::cli;
use super::eventually;
use super::redis::{RedisServer, free_addr};

/// A primary that its replicas have left takes no writes.
const ISOLATED_STOPS: [&str; 4] = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"];

/// What the sentinels call the primary.
pub(crate) const SERVICE: &str = "main";

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Sentinels {
    /// The replicas first, so that they end before the primary they follow.
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Sentinels {
    /// Ready when it returns: replicas are in step, and the sentinels know all of them and each other.
    pub(crate) async fn start() -> Self {
        let primary = RedisServer::start_with(&ISOLATED_STOPS);
        let (host, port) = (primary.addr().ip().to_string(), primary.addr().port().to_string());
        let replica =
            || RedisServer::start_with(&[&ISOLATED_STOPS[..], &["--replicaof", &format!("{host} {port}")]].concat());
        let servers = vec![replica(), replica(), primary];
        for replica in &servers[..2] {
            eventually("the replica is in step", || async {
                cli(replica.addr(), &["INFO", "replication"])
                    .contains("master_link_status:up")
                    .then_some(())
            })
            .await;
        }
        let sentinels = (0..3).map(|_| Sentinel::start(&host, &port)).collect::<Vec<_>>();
        let all = Self { servers, sentinels };
        for addr in all.addrs() {
            eventually("the sentinel knows the others", || async {
                let info = cli(addr, &["INFO", "sentinel"]);
                info.contains("slaves=2,sentinels=3").then_some(())
            })
            .await;
        }
        all
    }

    /// Names every sentinel.
    pub(crate) fn url(&self) -> String {
        let addrs = self.addrs();
        format!(
            "redis-sentinel://{}?node={}&node={}&sentinelServiceName={SERVICE}",
            addrs[0], addrs[1], addrs[2]
        )
    }

    /// The primary of the beginning.
    pub(crate) fn primary(&self) -> &RedisServer {
        &self.servers[2]
    }

    /// The primary that each sentinel names, as `host:port`.
    pub(crate) fn masters(&self) -> Vec<String> {
        let ask = |addr| cli(addr, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).replace('\n', ":");
        self.addrs().into_iter().map(ask).collect()
    }

    /// A replica takes over from the living primary.
    pub(crate) async fn fail_over(&self) {
        eventually("a sentinel begins a fail-over", || async {
            (cli(self.addrs()[0], &["SENTINEL", "FAILOVER", SERVICE]) == "OK").then_some(())
        })
        .await;
    }

    /// Primary and replicas, whichever they are by now.
    pub(crate) fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    pub(crate) fn server_addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(RedisServer::addr).collect()
    }

    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(|sentinel| sentinel.addr).collect()
    }
}

impl Sentinel {
    fn start(host: &str, port: &str) -> Self {
        let addr = free_addr();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("sentinel.conf");
        let lines = [
            format!("port {}", addr.port()),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", dir.path().display()),
            format!("sentinel monitor {SERVICE} {host} {port} 2"),
            format!("sentinel down-after-milliseconds {SERVICE} 2000"),
            format!("sentinel failover-timeout {SERVICE} 10000"),
        ];
        std::fs::write(&config, lines.join("\n")).expect("a configuration");
        let child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not installed: `apt-get install redis-server`, or run scripts/test");
        Self { child, addr, _dir: dir }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
