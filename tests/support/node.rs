//! One redis-server of several, which the service and the other servers reach over a slow link alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::cli::{cli, cli_ok};
use super::guard::Guard;
use super::proxy::Proxy;
use super::redis::{RedisServer, arguments, free_addr, source_of};

/// What a link adds each way: bare loopback hides faults.
pub(crate) const LINK: Duration = Duration::from_millis(1);

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) server: RedisServer,
    pub(crate) link: Proxy,
}

impl Node {
    /// With the lines of a configuration that are made of its link's port.
    pub(crate) async fn start(guard: Option<&Arc<Guard>>, lines: impl FnOnce(u16) -> Vec<String>) -> Self {
        let (addr, tls) = (free_addr(), free_addr());
        let has_tls = guard.is_some_and(|guard| guard.has_tls());
        let link = Proxy::start(if has_tls { tls } else { addr }, LINK).await;
        let mut all = lines(link.addr().port());
        all.push(format!("bind-source-addr {}", source_of(addr.port())));
        all.extend(guard.iter().flat_map(|guard| guard.server_lines(tls.port())));
        let args = arguments(&all);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Self {
            server: RedisServer::start_at(addr, &args),
            link,
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
        cli(self.addr(), words)
    }

    /// As [`Self::cli`], where anything but `OK` is a failure of the test.
    pub(crate) fn cli_ok(&self, words: &[&str]) {
        cli_ok(self.addr(), words);
    }
}
