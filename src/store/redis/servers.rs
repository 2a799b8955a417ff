//! Where Redis is: one server, one watched by sentinels, or a cluster. Hides the forms in which fred and Redis write addresses.

use std::fmt;
use std::net::IpAddr;

use fred::types::config::{Server, ServerConfig};
use secrecy::SecretString;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Address {
    /// Reads `host:port`; the host may be an IPv6 address without brackets, as Redis writes them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<&Server> for Address {
    fn from(server: &Server) -> Self {
        let host = server.host.trim_start_matches('[').trim_end_matches(']');
        Self {
            host: host.to_owned(),
            port: server.port,
        }
    }
}

/// The servers that the configuration names.
#[derive(Debug, Clone)]
pub enum Servers {
    /// One server, whatever its role.
    Standalone(Address),
    /// The server that the sentinels call the master of `service`.
    Sentinel {
        /// All that are known.
        sentinels: Vec<Address>,
        /// What they call the master.
        service: String,
        /// For the sentinels themselves, where they ask for one.
        username: Option<String>,
        /// For the sentinels themselves, where they ask for one.
        password: Option<SecretString>,
    },
    /// The cluster that any of these belong to.
    Cluster(Vec<Address>),
}

impl Servers {
    /// The name for which certificates are made of servers that are told by IP address: a cluster tells its nodes so, even if it
    /// is itself known by names.
    #[must_use]
    pub fn certified_name(&self) -> Option<&str> {
        let named = |seed: &Address| seed.host.parse::<IpAddr>().is_err();
        match self {
            Self::Cluster(seeds) if seeds.iter().all(named) => seeds.first().map(|seed| seed.host.as_str()),
            Self::Cluster(_) | Self::Standalone(_) | Self::Sentinel { .. } => None,
        }
    }
}

impl From<&ServerConfig> for Servers {
    fn from(config: &ServerConfig) -> Self {
        let addresses = |hosts: &[Server]| hosts.iter().map(Address::from).collect();
        match config {
            ServerConfig::Centralized { server } => Self::Standalone(server.into()),
            ServerConfig::Clustered { hosts, .. } => Self::Cluster(addresses(hosts)),
            ServerConfig::Sentinel {
                hosts,
                service_name,
                username,
                password,
            } => Self::Sentinel {
                sentinels: addresses(hosts),
                service: service_name.clone(),
                username: username.clone(),
                password: password.clone().map(SecretString::from),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fred::types::config::Config;
    use secrecy::ExposeSecret;

    fn servers(url: &str) -> Servers {
        Servers::from(&Config::from_url(url).unwrap().server)
    }

    #[test]
    fn every_kind_of_url_names_its_servers() {
        let Servers::Standalone(address) = servers("redis://user:word@example.com:7001/2") else {
            panic!("not standalone");
        };
        assert_eq!(address.to_string(), "example.com:7001");

        let Servers::Cluster(mut seeds) = servers("redis-cluster://a:1?node=b:2&node=c:3") else {
            panic!("not a cluster");
        };
        seeds.sort();
        assert_eq!(
            seeds.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a:1", "b:2", "c:3"]
        );

        let url = "redis-sentinel://:inner@a:1?node=b:2&sentinelServiceName=main&sentinelUsername=u&sentinelPassword=p";
        let Servers::Sentinel {
            sentinels,
            service,
            username,
            password,
        } = servers(url)
        else {
            panic!("not sentinel");
        };
        assert_eq!(sentinels.len(), 2);
        assert_eq!((service.as_str(), username.as_deref()), ("main", Some("u")));
        assert_eq!(password.unwrap().expose_secret(), "p");
    }

    #[test]
    fn a_sentinels_password_is_not_printed() {
        let servers = servers("redis-sentinel://a:1?sentinelServiceName=main&sentinelPassword=opensesame");
        assert!(!format!("{servers:?}").contains("opensesame"));
    }

    #[test]
    fn ipv6_addresses_are_read_as_redis_writes_them_and_shown_with_brackets() {
        let address = Address::parse("fd00::1:6379").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("fd00::1", 6379));
        assert_eq!(address.to_string(), "[fd00::1]:6379");
        assert_eq!(Address::parse("example.com:port"), None);
    }
}
