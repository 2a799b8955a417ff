//! Redis in every shape that the service can be told of by a URL alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use scanlogin::store::redis::{RedisSettings, Wait};

use super::cluster::Cluster;
use super::guard::{Guard, PASSWORD};
use super::node::Node;
use super::sentinel::Sentinels;
use super::service::ServiceBuilder;

/// How its processes stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topology {
    Standalone,
    Sentinel,
    Cluster,
}

/// What it asks of those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    Plain,
    /// Users with the least rights.
    Acl,
    /// TLS, and users with the least rights.
    AclTls,
}

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Shape {
    servers: Servers,
    guard: Option<Arc<Guard>>,
}

#[derive(Debug)]
enum Servers {
    Standalone(Box<[Node; 1]>),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

impl Shape {
    /// Ready when it returns; every server is behind a slow link.
    pub(crate) async fn start(topology: Topology, security: Security) -> Self {
        let guard = Guard::new(topology, security).map(Arc::new);
        let with = guard.as_ref();
        let servers = match topology {
            Topology::Standalone => Servers::Standalone(Box::new([Node::start(with, |_| Vec::new()).await])),
            Topology::Sentinel => Servers::Sentinel(Sentinels::start_with(with).await),
            Topology::Cluster => Servers::Cluster(Cluster::start_with(with).await),
        };
        Self { servers, guard }
    }

    /// All that the service is told, but for the files.
    pub(crate) fn url(&self) -> String {
        let (kind, hosts) = match &self.servers {
            Servers::Standalone(node) => ("", node[0].link.addr().to_string()),
            Servers::Sentinel(sentinels) => ("-sentinel", sentinels.hosts()),
            Servers::Cluster(cluster) => ("-cluster", cluster.hosts()),
        };
        match &self.guard {
            Some(guard) => guard.url(PASSWORD, kind, &hosts),
            None => format!("redis{kind}://{hosts}"),
        }
    }

    /// The same for the store alone.
    pub(crate) fn settings(&self, prefix: &str) -> RedisSettings {
        RedisSettings {
            url: self.url().into(),
            prefix: prefix.to_owned(),
            wait: Wait::Auto,
            ca_file: self.ca_file(),
            sentinel_password: self.sentinel_password().map(Into::into),
        }
    }

    /// A service that is told of it.
    pub(crate) fn tell(&self, service: ServiceBuilder) -> ServiceBuilder {
        let mut service = service.redis_url(&self.url());
        if let Some(file) = self.ca_file() {
            service = service.with("REDIS_CA_FILE", file.display());
        }
        if let Some(password) = self.sentinel_password() {
            service = service.with("REDIS_SENTINEL_PASSWORD", password);
        }
        service
    }

    /// The servers that hold data, sentinels aside.
    pub(crate) fn nodes(&self) -> &[Node] {
        match &self.servers {
            Servers::Standalone(node) => &**node,
            Servers::Sentinel(sentinels) => sentinels.nodes(),
            Servers::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// Where the sentinels are reached without their links.
    pub(crate) fn sentinel_addrs(&self) -> Vec<SocketAddr> {
        match &self.servers {
            Servers::Sentinel(sentinels) => sentinels.sentinel_addrs(),
            Servers::Standalone(_) | Servers::Cluster(_) => Vec::new(),
        }
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut [Node] {
        match &mut self.servers {
            Servers::Standalone(node) => &mut **node,
            Servers::Sentinel(sentinels) => sentinels.nodes_mut(),
            Servers::Cluster(cluster) => cluster.nodes_mut(),
        }
    }

    /// Has nobody taken for dead who is late, for tests that kill nobody.
    pub(crate) fn be_patient(&self) {
        match &self.servers {
            Servers::Standalone(_) => {}
            Servers::Sentinel(sentinels) => sentinels.be_patient(),
            Servers::Cluster(cluster) => cluster.be_patient(),
        }
    }

    /// The commands that the service may use, where it may not use all.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.guard.as_ref().map(|guard| guard.commands()).unwrap_or_default()
    }

    fn ca_file(&self) -> Option<PathBuf> {
        self.guard.as_ref().and_then(|guard| guard.ca_file())
    }

    fn sentinel_password(&self) -> Option<&'static str> {
        let is_sentinel = matches!(self.servers, Servers::Sentinel(_));
        (self.guard.is_some() && is_sentinel).then_some(PASSWORD)
    }
}
