//! Where Redis is: one server, one watched by sentinels, or a cluster. Hides the forms in which fred and Redis write addresses.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use fred::types::config::{Config, Server, ServerConfig, TlsConnector};
use secrecy::SecretString;

use super::wire::Dialer;

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

impl Address {
    /// The name that this server's certificate must be for, where those that are told by IP address go by `certified_name`.
    pub(super) fn name_in_certificate<'a>(&'a self, certified_name: Option<&'a str>) -> &'a str {
        certified_name.filter(|_| self.is_ip()).unwrap_or(&self.host)
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    fn is_ip(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
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

impl From<&Address> for Server {
    fn from(address: &Address) -> Self {
        let host = if address.host.contains(':') {
            format!("[{}]", address.host)
        } else {
            address.host.clone()
        };
        Self::new(host, address.port)
    }
}

/// Where Redis is, and how to come there.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where.
    pub servers: Servers,
    /// As whom, where servers ask; `default` if there is only a password.
    pub username: Option<String>,
    /// With which password, where servers ask.
    pub password: Option<SecretString>,
    /// With TLS, and then how; sentinels too.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// In which of a server's databases the keys are. Channels are the same in all of them.
    pub database: Option<u8>,
}

impl Access {
    /// What the library would connect to, in the same way.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            servers: Servers::from(&config.server),
            username: config.username.clone(),
            password: config.password.clone().map(SecretString::from),
            tls: config.tls.as_ref().map(|tls| match &tls.connector {
                TlsConnector::Rustls(connector) => Arc::clone(connector.config()),
            }),
            database: config.database,
        }
    }

    /// For connections that `CLIENT LIST` calls `name`.
    pub(super) fn dialer(&self, name: &'static str) -> Dialer {
        Dialer {
            name,
            username: self.username.clone(),
            password: self.password.clone(),
            tls: self.tls.clone(),
            certified_name: self.servers.certified_name().map(str::to_owned),
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
        match self {
            Self::Cluster(seeds) if !seeds.iter().any(Address::is_ip) => seeds.first().map(|seed| seed.host.as_str()),
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
