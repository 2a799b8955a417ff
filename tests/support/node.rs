//! One redis-server of several, which the service and the other servers reach over a slow link alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::cli::{cli, cli_as_operator};
use super::guard::Guard;
use super::proxy::Proxy;
use super::redis::{RedisServer, free_addr, source_of};

/// What a link adds each way: bare loopback hides faults.
pub(crate) const LINK: Duration = Duration::from_millis(1);

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) server: RedisServer,
    pub(crate) link: Proxy,
    guard: Option<Arc<Guard>>,
}

impl Node {
    /// With the lines of a configuration that are made of its link's port.
    pub(crate) async fn start(guard: Option<&Arc<Guard>>, lines: impl FnOnce(u16) -> Vec<String>) -> Self {
        let (addr, tls) = (free_addr(), free_addr());
        let link = Proxy::start(if guard.is_some() { tls } else { addr }, LINK).await;
        let mut all = lines(link.addr().port());
        all.push(format!("bind-source-addr {}", source_of(addr.port())));
        all.extend(guard.iter().flat_map(|guard| guard.server_lines(tls.port())));
        let mut args = Vec::new();
        for line in &all {
            let (name, values) = line.split_once(' ').expect("a value");
            args.push(format!("--{name}"));
            args.extend(values.split(' ').map(str::to_owned));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Self {
            server: RedisServer::start_at(addr, &args),
            link,
            guard: guard.cloned(),
        }
    }

    /// Where it is reached without its link, for what is no part of the story.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Where the others see it come from.
    pub(crate) fn source(&self) -> IpAddr {
        source_of(self.addr().port())
    }

    /// What it answers to somebody who may do everything.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        match self.guard {
            Some(_) => cli_as_operator(self.addr(), words),
            None => cli(self.addr(), words),
        }
    }

    /// As [`Self::cli`], where anything but `OK` is a failure of the test.
    pub(crate) fn cli_ok(&self, words: &[&str]) {
        let answer = self.cli(words);
        assert_eq!(answer, "OK", "{words:?} at {}", self.addr());
    }
}
