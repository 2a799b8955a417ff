//! What a Redis is, found out by asking it and without changing it: for whoever looks why it does not work, or soon will not.
//!
//! It judges nothing, and starts nothing of what a store consists of. Each server is asked on one connection, all at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::clocks::ahead_of;
use super::commands::info_field;
use super::keys::Keys;
use super::servers::{Access, Address, Servers};
use super::settings::{ClientSettings, FatalError, RedisSettings};
use super::topology::{ClusterView, NO_SUCH_SERVICE, SentinelView, cluster_view, sentinel_view};
use super::wire::{Dialer, Wire, WireError, error_text};
use crate::entropy::os_rng;
use crate::scene::WriteId;

/// How long one server may take for its name, and how long for all that it is asked.
const NAME_LIMIT: Duration = Duration::from_secs(2);
const ASKING_LIMIT: Duration = Duration::from_secs(4);

/// How often it is asked for nothing but an answer.
const PINGS: usize = 7;

/// Stands for a key of our own, which is not there.
const KEY: &str = "KEY";

/// Each right of the service, by the very command, in a form that changes nothing: what it names is not there, nobody listens, or the
/// server finds the form wrong once it has looked at the right. So they can be tried on every server: replicas too, which is where a
/// user is forgotten that was made on the primary.
const TRIES: [(&str, &[&str]); 25] = [
    ("get", &["GET", KEY]),
    ("getrange", &["GETRANGE", KEY, "0", "1"]),
    ("set", &["SET", KEY, "", "XX", "PX", "1"]),
    ("del", &["DEL", KEY]),
    ("pttl", &["PTTL", KEY]),
    ("pexpire", &["PEXPIRE", KEY, "1"]),
    ("hget", &["HGET", KEY, "field"]),
    ("hmget", &["HMGET", KEY, "field"]),
    ("hset", &["HSET", KEY, "field", "value", "a field without a value"]),
    ("hdel", &["HDEL", KEY, "field"]),
    ("eval", &["EVAL", "return 1", "1", KEY]),
    (
        "evalsha",
        &["EVALSHA", "0000000000000000000000000000000000000000", "1", KEY],
    ),
    ("time", &["TIME"]),
    ("spublish", &["SPUBLISH", KEY, ""]),
    ("wait", &["WAIT", "0", "1"]),
    ("info", &["INFO", "server"]),
    ("ping", &["PING"]),
    ("ssubscribe", &["SSUBSCRIBE", KEY]),
    ("sunsubscribe", &["SUNSUBSCRIBE", KEY]),
    ("client|info", &["CLIENT", "INFO"]),
    ("client|id", &["CLIENT", "ID"]),
    ("zadd", &["ZADD", KEY, "XX", "1", "member"]),
    ("zcard", &["ZCARD", KEY]),
    ("zrange", &["ZRANGE", KEY, "0", "0"]),
    ("zrem", &["ZREM", KEY, "member"]),
];

/// Of them the one by which it shows whether a server takes writes: it looks at that before it looks for the key.
const WRITES: &str = "set";

/// Where the key is that is tried with, if it does not matter.
const ANY_TAG: &str = "00";

/// What a Cluster takes besides. The last one is about whatever comes next: nothing.
const CLUSTER_TRIES: [(&str, &[&str]); 2] = [("cluster|nodes", &["CLUSTER", "NODES"]), ("asking", &["ASKING"])];

/// All that was found out.
#[derive(Debug)]
pub struct Survey {
    /// How the servers stand to each other.
    pub shape: Shape,
    /// Those that hold data, with what each said.
    pub servers: Vec<Server>,
    /// As whom they were asked.
    pub user: String,
    /// The sealed `access_token` that is kept, by AppID.
    pub tokens: BTreeMap<String, Vec<u8>>,
}

/// How servers stand to each other, as the URL says and those who know tell.
#[derive(Debug)]
pub enum Shape {
    /// One server.
    Standalone,
    /// Servers that these sentinels watch.
    Sentinel(Vec<(Address, Result<SentinelView, Unreached>)>),
    /// The Cluster that these belong to.
    Cluster(Vec<(Address, Result<ClusterView, Unreached>)>),
}

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// What it said.
    pub found: Result<Facts, Unreached>,
}

/// What a server said.
#[derive(Debug)]
pub struct Facts {
    /// Of itself, where the user may ask.
    pub info: Option<Info>,
    /// The median time there and back.
    pub latency: Duration,
    /// How many seconds this machine's clock is ahead of its own, where the user may ask.
    pub clock_ahead: Option<f64>,
    /// Whether it says that it takes writes from others than a primary.
    pub is_primary: bool,
    /// Whether it takes a write of this user.
    pub write: Write,
    /// What the user may not.
    pub denied: Vec<Denied>,
}

/// What came of trying to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It would have been done.
    Taken,
    /// No, in the server's words.
    Refused(String),
    /// The user may not, or what was tried with is not there.
    Unknown,
}

/// What INFO says.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a server says of itself, each for itself"
)]
pub struct Info {
    /// Such as 7.2.4.
    pub version: String,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: String,
    /// Whether it takes writes from others than a primary.
    pub is_primary: bool,
    /// How many follow it.
    pub replicas: usize,
    /// Whether it stops when too few follow it.
    pub wants_replicas: bool,
    /// What it does when it is full.
    pub maxmemory_policy: String,
    /// Whether it writes down each change.
    pub appends: bool,
    /// Whether its last snapshot failed.
    pub fails_to_save: bool,
    /// Whether it could not write down the last change.
    pub fails_to_append: bool,
    /// How much of what it may use it uses, from 0 on; nothing where it may use all that there is.
    pub fullness: Option<f64>,
    /// Whether it is still reading what it had.
    pub is_loading: bool,
}

/// A right that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Its name in an ACL.
    pub right: &'static str,
    /// What of it.
    pub what: Forbidden,
}

/// What a server does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// The command.
    Command,
    /// Our keys.
    Keys,
    /// Our channels.
    Channels,
}

/// Why a server did not say anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// Nobody knows its name.
    #[error("its name is not known here")]
    Name,
    /// There is no connection.
    #[error("there is no connection: {0}")]
    Connection(String),
    /// There is no trust.
    #[error("TLS fails: {0}")]
    Tls(String),
    /// There is a connection and no answer.
    #[error("it does not answer in time")]
    Silent,
    /// It answers with a no.
    #[error("it answers: {0}")]
    Refused(String),
    /// A sentinel that watches others.
    #[error("this sentinel watches no service of that name")]
    NoSuchService,
    /// A server where a sentinel was to be.
    #[error("it is a Redis, but no sentinel")]
    NoSentinel,
    /// It speaks something else.
    #[error("what answers there does not speak as Redis does")]
    Foreign,
}

impl From<WireError> for Unreached {
    fn from(error: WireError) -> Self {
        match error {
            // What TLS finds wrong comes as data that is wrong.
            WireError::Closed(error) if error.kind() == std::io::ErrorKind::InvalidData => Self::Tls(error.to_string()),
            WireError::Closed(error) => Self::Connection(error.to_string()),
            WireError::Timeout => Self::Silent,
            WireError::Refused(why) if why.contains("unknown command") && why.contains("SENTINEL") => Self::NoSentinel,
            WireError::Refused(why) => Self::Refused(why),
            WireError::Invalid(NO_SUCH_SERVICE) => Self::NoSuchService,
            WireError::Invalid(_) => Self::Foreign,
        }
    }
}

/// Asks all servers of these settings, and for the `access_token` kept of each of these AppIDs.
///
/// # Errors
/// [`FatalError`] of the settings themselves.
pub async fn survey(settings: &RedisSettings, appids: &[&str]) -> Result<Survey, FatalError> {
    let access = ClientSettings::check(settings)?.access;
    let (shape, addresses) = whom_to_ask(&access).await;
    let tags = match &shape {
        Shape::Cluster(seeds) => tags_by_owner(seeds),
        Shape::Standalone | Shape::Sentinel(_) => BTreeMap::new(),
    };
    let errand = Errand {
        dialer: access.dialer("scanlogin-doctor"),
        keys: Keys::new(&settings.prefix),
        appids,
        tags,
        database: access.database.map(|database| database.to_string()),
        in_cluster: matches!(shape, Shape::Cluster(_)),
    };
    let visits = addresses.iter().map(|address| errand.visit(address));
    let mut tokens = BTreeMap::new();
    let mut servers = Vec::new();
    for (address, visit) in addresses.iter().zip(join_all(visits).await) {
        let found = visit.map(|(facts, kept)| {
            tokens.extend(kept);
            facts
        });
        let address = address.clone();
        servers.push(Server { address, found });
    }
    Ok(Survey {
        shape,
        servers,
        user: access.username.unwrap_or_else(|| "default".to_owned()),
        tokens,
    })
}

/// The servers that hold data, as far as anybody tells.
async fn whom_to_ask(access: &Access) -> (Shape, Vec<Address>) {
    match &access.servers {
        Servers::Standalone(address) => (Shape::Standalone, vec![address.clone()]),
        Servers::Sentinel {
            sentinels,
            service,
            username,
            password,
        } => {
            let dialer = Dialer {
                username: username.clone(),
                password: password.clone(),
                ..access.dialer("scanlogin-doctor")
            };
            let views = sentinels.iter().map(|sentinel| async {
                let view = within(sentinel, sentinel_view(&dialer, sentinel, service)).await;
                (sentinel.clone(), view)
            });
            let views = join_all(views).await;
            let told = views.iter().filter_map(|(_, view)| view.as_ref().ok());
            let all: BTreeSet<Address> = told.flat_map(|view| view.servers().cloned()).collect();
            (Shape::Sentinel(views), all.into_iter().collect())
        }
        Servers::Cluster(seeds) => {
            let dialer = access.dialer("scanlogin-doctor");
            let views = seeds.iter().map(|seed| async {
                let view = within(seed, cluster_view(&dialer, seed)).await;
                (seed.clone(), view)
            });
            let views = join_all(views).await;
            let told = views.iter().filter_map(|(_, view)| view.as_ref().ok());
            let all: BTreeSet<Address> = told.flat_map(|view| view.servers().cloned()).collect();
            (Shape::Cluster(views), all.into_iter().collect())
        }
    }
}

fn tags_by_owner(seeds: &[(Address, Result<ClusterView, Unreached>)]) -> BTreeMap<Address, String> {
    let views = seeds.iter().filter_map(|(_, view)| view.as_ref().ok());
    let owned = views.flat_map(ClusterView::owned);
    owned.map(|(tag, owner)| (owner, tag)).collect()
}

/// First the name, as what connects says no more than that it failed.
async fn within<T>(address: &Address, asking: impl Future<Output = Result<T, WireError>>) -> Result<T, Unreached> {
    match timeout(NAME_LIMIT, lookup_host((address.host.as_str(), address.port))).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(Unreached::Name),
    }
    let asked = timeout(ASKING_LIMIT, asking).await;
    Ok(asked.unwrap_or(Err(WireError::Timeout))?)
}

/// What every server is asked.
struct Errand<'a> {
    dialer: Dialer,
    keys: Keys,
    appids: &'a [&'a str],
    /// A hash tag of scenes that a node of a Cluster owns: of others it only says where they are.
    tags: BTreeMap<Address, String>,
    in_cluster: bool,
    /// Where the keys are, if that is said.
    database: Option<String>,
}

type Kept = Vec<(String, Vec<u8>)>;

impl Errand<'_> {
    async fn visit(&self, address: &Address) -> Result<(Facts, Kept), Unreached> {
        within(address, self.ask(address)).await
    }

    async fn ask(&self, address: &Address) -> Result<(Facts, Kept), WireError> {
        let (mut wire, role) = self.dialer.dial(address).await?;
        let selected = self.select(&mut wire).await?;
        let info = allowed(wire.ask(["INFO"]).await)?;
        let latency = latency(&mut wire).await?;
        let asked = Instant::now();
        let time = allowed(wire.ask(["TIME"]).await)?;
        let clock_ahead = time.and_then(|time| {
            let (seconds, micros) = pair(&time)?;
            ahead_of(seconds, micros, asked.elapsed())
        });
        let kept = if selected.is_ok() {
            self.kept(&mut wire).await?
        } else {
            Kept::new()
        };
        // Last, as it subscribes and asks for what is on its way.
        let (mut denied, write) = self.denied(&mut wire, address).await?;
        denied.extend(selected.err());
        let facts = Facts {
            info: info.as_ref().and_then(|info| Some(Info::read(info.as_str()?))),
            latency,
            clock_ahead,
            is_primary: role.is_some_and(|role| role == "master"),
            write,
            denied,
        };
        Ok((facts, kept))
    }

    /// Whether it is asked of the database in which the keys are.
    async fn select(&self, wire: &mut Wire) -> Result<Result<(), Denied>, WireError> {
        let Some(database) = &self.database else {
            return Ok(Ok(()));
        };
        match wire.ask(["SELECT", database]).await {
            Ok(_) => Ok(Ok(())),
            Err(WireError::Refused(why)) => match forbidden(&why) {
                Some(what) => Ok(Err(Denied { right: "select", what })),
                None => Err(WireError::Refused(why)),
            },
            Err(error) => Err(error),
        }
    }

    /// What of a Cluster is elsewhere is told there.
    async fn kept(&self, wire: &mut Wire) -> Result<Kept, WireError> {
        let mut kept = Kept::new();
        for appid in self.appids {
            let key = self.keys.access_token(appid);
            let sealed = allowed(wire.ask(["HGET", &key, "sealed"]).await)?;
            if let Some(BytesFrame::BlobString { data, .. }) = sealed {
                kept.push(((*appid).to_owned(), data.to_vec()));
            }
        }
        Ok(kept)
    }

    async fn denied(&self, wire: &mut Wire, address: &Address) -> Result<(Vec<Denied>, Write), WireError> {
        let tag = self.tags.get(address).map_or(ANY_TAG, String::as_str);
        let key = self.keys.doctor(tag, &WriteId::random(&mut os_rng()));
        let cluster: &[_] = if self.in_cluster { &CLUSTER_TRIES } else { &[] };
        let tries: Vec<_> = TRIES.iter().chain(cluster).collect();
        for (_, words) in &tries {
            wire.push(words.iter().map(|word| if *word == KEY { key.as_str() } else { word }))?;
        }
        wire.flush().await?;
        let (mut denied, mut write) = (Vec::new(), Write::Unknown);
        for (right, _) in tries {
            let reply = wire.frame().await?;
            let error = error_text(&reply);
            if *right == WRITES {
                write = error.map_or(Write::Taken, refused_write);
            }
            denied.extend(error.and_then(forbidden).map(|what| Denied { right, what }));
        }
        Ok((denied, write))
    }
}

/// What an error forbids. Any other one says that the right was there.
fn forbidden(error: &str) -> Option<Forbidden> {
    let why = error.strip_prefix("NOPERM")?;
    Some(if why.contains(" run ") {
        Forbidden::Command
    } else if why.contains("channel") {
        Forbidden::Channels
    } else {
        Forbidden::Keys
    })
}

/// Whoever says that the key is elsewhere says nothing about writes.
fn refused_write(error: &str) -> Write {
    match error.split(' ').next().unwrap_or_default() {
        "NOPERM" | "MOVED" | "ASK" | "TRYAGAIN" => Write::Unknown,
        _ => Write::Refused(error.to_owned()),
    }
}

/// An answer, and none where the server refuses one.
fn allowed(answer: Result<BytesFrame, WireError>) -> Result<Option<BytesFrame>, WireError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(WireError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An answer that is a refusal takes as long as any other.
async fn latency(wire: &mut Wire) -> Result<Duration, WireError> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let asked = Instant::now();
        allowed(wire.ask(["PING"]).await)?;
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(PINGS / 2).copied().unwrap_or_default())
}

/// By the same count by which it refuses writes: what waits for its replicas is left out.
fn fullness(info: &str) -> Option<f64> {
    let number = |name| info_field(info, name)?.parse::<f64>().ok();
    let max = number("maxmemory").filter(|max| *max > 0.0)?;
    Some((number("used_memory")? - number("mem_not_counted_for_evict").unwrap_or_default()) / max)
}

/// Two numbers.
fn pair(reply: &BytesFrame) -> Option<(i64, i32)> {
    let BytesFrame::Array { data, .. } = reply else {
        return None;
    };
    let [first, second] = data.as_slice() else {
        return None;
    };
    Some((first.as_str()?.parse().ok()?, second.as_str()?.parse().ok()?))
}

impl Info {
    fn read(text: &str) -> Self {
        let field = |name| info_field(text, name).unwrap_or_default();
        let is_err = |name| field(name) == "err";
        Self {
            version: field("redis_version").to_owned(),
            mode: field("redis_mode").to_owned(),
            is_primary: field("role") == "master",
            replicas: field("connected_slaves").parse().unwrap_or_default(),
            wants_replicas: info_field(text, "min_slaves_good_slaves").is_some(),
            maxmemory_policy: field("maxmemory_policy").to_owned(),
            appends: field("aof_enabled") == "1",
            fails_to_save: is_err("rdb_last_bgsave_status"),
            fails_to_append: is_err("aof_last_write_status"),
            fullness: fullness(text),
            is_loading: field("loading") == "1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_is_read() {
        let info = Info::read(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n\
             # Persistence\r\nloading:0\r\naof_enabled:1\r\nrdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n\
             # Replication\r\nrole:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:2\r\n",
        );
        assert_eq!(
            (info.version.as_str(), info.mode.as_str(), info.replicas),
            ("7.0.15", "standalone", 2)
        );
        assert!(info.is_primary && info.wants_replicas && info.appends && info.fails_to_append);
        assert!(!info.fails_to_save && !info.is_loading && info.fullness.is_none());
        let half = Info::read("used_memory:600\r\nmaxmemory:1000\r\nmem_not_counted_for_evict:100\r\n");
        assert!((half.fullness.unwrap() - 0.5).abs() < 1e-9, "{half:?}");
    }

    #[test]
    fn what_refuses_a_write_is_told_from_what_says_nothing_about_it() {
        for refused in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Errors writing to the AOF file: No space left on device",
            "READONLY You can't write against a read only replica.",
            "CLUSTERDOWN The cluster is down",
        ] {
            assert_eq!(refused_write(refused), Write::Refused(refused.to_owned()));
        }
        for nothing in [
            "NOPERM No permissions to access a key",
            "MOVED 13254 127.0.0.1:7000",
            "ASK 13254 127.0.0.1:7000",
            "TRYAGAIN Multiple keys request during rehashing of slot",
        ] {
            assert_eq!(refused_write(nothing), Write::Unknown, "{nothing}");
        }
    }

    /// The words of 7.0, and those from 7.2 on.
    #[test]
    fn what_is_forbidden_is_told_apart_in_the_words_of_each_version() {
        for (error, what) in [
            (
                "NOPERM this user has no permissions to run the 'set' command",
                Some(Forbidden::Command),
            ),
            (
                "NOPERM User u has no permissions to run the 'set' command",
                Some(Forbidden::Command),
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                Some(Forbidden::Keys),
            ),
            ("NOPERM No permissions to access a key", Some(Forbidden::Keys)),
            (
                "NOPERM this user has no permissions to access one of the channels used as arguments",
                Some(Forbidden::Channels),
            ),
            ("NOPERM No permissions to access a channel", Some(Forbidden::Channels)),
            ("READONLY You can't write against a read only replica.", None),
            ("MOVED 13254 127.0.0.1:7000", None),
            ("NOSCRIPT No matching script.", None),
        ] {
            assert_eq!(forbidden(error), what, "{error}");
        }
    }
}
