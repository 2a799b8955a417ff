//! What an operator says about Redis, and what the client library is told because of it.
//!
//! Every value here answers a way in which the library, left to its defaults, hangs, repeats or goes astray; the conformance
//! suite's fault tests show the ways.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectError, ReconnectPolicy, Server, ServerConfig, TcpConfig,
    TlsConfig, TlsConnector, TlsHostMapping, UnresponsiveConfig,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::fault::{ANY_REDIS, remedy};
use super::servers::{Access, Address};

/// Where Redis is and how to use it.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://`, `redis-cluster://`, `rediss-cluster://`, `redis-sentinel://` or `rediss-sentinel://`, with
    /// credentials; further nodes as `?node=host:port`, the Sentinel's name of the service as `sentinelServiceName=`.
    pub url: SecretString,
    /// What every key and channel begins with; no braces, since they mark the part that Redis Cluster hashes.
    pub prefix: String,
    /// Whether a durable write waits for a replica.
    pub wait: Wait,
    /// The only certificate authorities trusted (PEM); without it the system's.
    pub ca_file: Option<PathBuf>,
    /// What the sentinels themselves want, where it is not in the URL.
    pub sentinel_password: Option<SecretString>,
}

/// Whether a durable write counts only once a replica has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// As long as the primary of the shard has a replica that keeps up, and for ten seconds after.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always, so that no durable write succeeds without a replica.
    Always,
}

impl FromStr for Wait {
    type Err = FatalError;

    fn from_str(text: &str) -> Result<Self, FatalError> {
        match text {
            "auto" => Ok(Self::Auto),
            "0" => Ok(Self::Never),
            "1" => Ok(Self::Always),
            _ => Err(FatalError::Wait),
        }
    }
}

/// Why this process can't use this Redis, however often it tries. One line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalError {
    /// The URL.
    #[error("the Redis URL can't be used ({0}); an example: redis://user:password@redis.internal:6379")]
    Url(String),
    /// The prefix.
    #[error(
        "the Redis prefix must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_', '-' and ':'; an example: scanlogin"
    )]
    Prefix,
    /// The waiting.
    #[error("waiting for a replica is `auto`, `0` or `1`")]
    Wait,
    /// The file of certificate authorities.
    #[error("the file of certificate authorities for Redis can't be used: {0}")]
    CaFile(String),
    /// The server answered, and will always answer so.
    #[error("Redis refuses: {why}; {remedy}", why = .0.trim_end_matches('.'), remedy = remedy(.0).unwrap_or(ANY_REDIS))]
    Refused(String),
    /// The server's certificate is none that the settings let us trust.
    #[error("{why}; {remedy}", why = .0, remedy = remedy(.0).unwrap_or(ANY_REDIS))]
    Untrusted(String),
    /// The server lacks sharded pub/sub and script flags.
    #[error("Redis 7.0 or later is needed, this server says {0}")]
    TooOld(String),
}

impl FatalError {
    /// The setting that has to change.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Refused(_) | Self::Untrusted(_) | Self::TooOld(_) => "SCANLOGIN_REDIS_URL",
            Self::Prefix => "SCANLOGIN_REDIS_PREFIX",
            Self::Wait => "SCANLOGIN_REDIS_WAIT",
            Self::CaFile(_) => "SCANLOGIN_REDIS_CA_FILE",
        }
    }
}

/// How long one command may take. One that timed out may still be executed later, so only repeatable ones are sent.
const COMMAND: Duration = Duration::from_secs(1);

/// How many commands may queue in the library while it is busy with its connections. More than requests may be under way, since
/// those that were given up stay in the queue.
const QUEUED_MAX: usize = 16_384;

/// All that a client of the library is made from. Each is of one server: the library would follow a Cluster or sentinels as well,
/// but leaves all servers as long as it can't reach one, forgets sentinels, and follows later than our subscriptions do.
#[derive(Debug, Clone)]
pub(super) struct ClientSettings {
    config: Config,
    /// Everything that the URL names.
    pub(super) access: Access,
}

impl ClientSettings {
    pub(super) fn check(settings: &RedisSettings) -> Result<Self, FatalError> {
        let prefix = &settings.prefix;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(allowed) {
            return Err(FatalError::Prefix);
        }
        let (url, tls) = without_tls(settings.url.expose_secret())?;
        let mut config = Config::from_url(&url).map_err(|error| {
            // Behind a colon it repeats what it could not read, in which there may be a password.
            let problem = error.details().split(": ").next().unwrap_or_default();
            FatalError::Url(problem.to_owned())
        })?;
        if let (ServerConfig::Sentinel { password, .. }, Some(given)) =
            (&mut config.server, &settings.sentinel_password)
        {
            *password = Some(given.expose_secret().to_owned());
        }
        if tls {
            config.tls = Some(TlsConfig {
                connector: connector(settings.ca_file.as_deref())?,
                hostnames: TlsHostMapping::None,
            });
        }
        // Only for the very first connection: its failure is ours to judge, later ones the library repairs for ever.
        config.fail_fast = true;
        let access = Access::new(&config);
        Ok(Self { config, access })
    }

    /// Whether others than this machine can read on the way what is said to Redis.
    pub(super) fn is_in_the_clear(&self) -> bool {
        self.config.tls.is_none()
            && !self
                .config
                .server
                .hosts()
                .into_iter()
                .all(|server| Address::from(&server).is_loopback())
    }

    /// A client of this server that is not connected yet.
    pub(super) fn client(&self, address: &Address) -> fred::clients::Client {
        let mut server = Server::from(address);
        let name = address.name_in_certificate(self.access.servers.certified_name());
        server.tls_server_name = Some(name.into());
        let config = Config {
            server: ServerConfig::Centralized { server },
            ..self.config.clone()
        };
        let connection = ConnectionConfig {
            connection_timeout: COMMAND,
            // Connecting takes several round trips in it.
            internal_command_timeout: COMMAND,
            max_command_attempts: 1,
            max_command_buffer_len: QUEUED_MAX,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(Duration::from_millis(1_500)),
                interval: Duration::from_millis(500),
            },
            tcp: TcpConfig {
                nodelay: Some(true),
                keepalive: Some(
                    socket2::TcpKeepalive::new()
                        .with_time(Duration::from_secs(2))
                        .with_interval(Duration::from_secs(1)),
                ),
                user_timeout: Some(Duration::from_secs(2)),
                ..TcpConfig::default()
            },
            // A demoted primary refuses writes with the socket left open; behind a name that has its successor's address by now, only
            // a new connection leads there. LOADING is not among them: its caller tries again.
            reconnect_errors: vec![ReconnectError::ReadOnly, ReconnectError::MasterDown],
            ..ConnectionConfig::default()
        };
        let performance = PerformanceConfig {
            default_command_timeout: COMMAND,
            ..PerformanceConfig::default()
        };
        let mut policy = ReconnectPolicy::new_constant(0, 50);
        policy.set_jitter(250);
        fred::clients::Client::new(config, Some(performance), Some(connection), Some(policy))
    }
}

/// The library would read the system's certificates for any `rediss` URL, even where a file of our own replaces them.
fn without_tls(url: &str) -> Result<(String, bool), FatalError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(FatalError::Url("it has no scheme".to_owned()));
    };
    match scheme {
        "redis" | "redis-cluster" | "redis-sentinel" => Ok((url.to_owned(), false)),
        "rediss" => Ok((format!("redis://{rest}"), true)),
        "rediss-cluster" => Ok((format!("redis-cluster://{rest}"), true)),
        "rediss-sentinel" => Ok((format!("redis-sentinel://{rest}"), true)),
        _ => Err(FatalError::Url(
            "its scheme is none of redis, rediss, redis-cluster, rediss-cluster, redis-sentinel, rediss-sentinel"
                .to_owned(),
        )),
    }
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, FatalError> {
    let Some(path) = ca_file else {
        return TlsConnector::default_rustls().map_err(|error| FatalError::CaFile(error.details().to_owned()));
    };
    let unusable = |why: &dyn std::fmt::Display| FatalError::CaFile(format!("{}: {why}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"no certificate in it"));
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> RedisSettings {
        RedisSettings {
            url: url.into(),
            prefix: "scanlogin".to_owned(),
            wait: Wait::Auto,
            ca_file: None,
            sentinel_password: None,
        }
    }

    #[test]
    fn every_topology_is_named_by_its_url() {
        let config = |url| ClientSettings::check(&settings(url)).unwrap().config;
        assert!(config("redis://127.0.0.1:6379/1").server.is_centralized());
        assert!(config("redis-cluster://a:1?node=b:2").server.is_clustered());
        let sentinel = config("redis-sentinel://a:1?node=b:2&sentinelServiceName=main");
        assert_eq!(sentinel.server.hosts().len(), 2);
    }

    #[test]
    fn the_sentinels_password_is_its_own() {
        let settings = RedisSettings {
            sentinel_password: Some("guard".into()),
            ..settings("redis-sentinel://:data@a:1?sentinelServiceName=main")
        };
        let config = ClientSettings::check(&settings).unwrap().config;
        assert_eq!(config.password.as_deref(), Some("data"));
        let ServerConfig::Sentinel { password, .. } = config.server else {
            panic!("sentinels");
        };
        assert_eq!(password.as_deref(), Some("guard"));
    }

    #[test]
    fn what_can_not_be_used_says_so_in_one_line_without_the_password() {
        for url in [
            "127.0.0.1:6379",
            "http://a:1",
            "redis://:hush@",
            "redis-sentinel://:hush@a:1",
            "redis-cluster://a:1?node=somebody:hush@b:1",
            "redis-cluster://a:1?node=b\n:\0:",
        ] {
            let said = ClientSettings::check(&settings(url)).unwrap_err().to_string();
            assert!(
                !said.contains("hush") && !said.contains(char::is_control),
                "{url}: {said}"
            );
        }
        for prefix in ["", "a{b}", "a b", "a\n"] {
            let settings = RedisSettings {
                prefix: prefix.to_owned(),
                ..settings("redis://a")
            };
            assert_eq!(ClientSettings::check(&settings).unwrap_err(), FatalError::Prefix);
        }
        let settings = RedisSettings {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..settings("rediss://a")
        };
        assert!(matches!(ClientSettings::check(&settings), Err(FatalError::CaFile(_))));
    }

    #[test]
    fn settings_do_not_print_their_secrets() {
        let settings = RedisSettings {
            sentinel_password: Some("hush".into()),
            ..settings("redis://:hush@a")
        };
        assert!(!format!("{settings:?}").contains("hush"));
    }

    #[test]
    fn waiting_is_auto_0_or_1() {
        assert_eq!("auto".parse(), Ok(Wait::Auto));
        assert_eq!("0".parse(), Ok(Wait::Never));
        assert_eq!("1".parse(), Ok(Wait::Always));
        assert_eq!("2".parse::<Wait>(), Err(FatalError::Wait));
    }
}
