//! What went wrong, by what the server or the library says.

use fred::error::{Error, ErrorKind};

use super::servers::Address;
use super::settings::FatalError;
use super::topology::NO_SUCH_SERVICE;
use crate::certificate::Distrust;
use crate::store::StoreError;

/// Why one attempt failed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// There was no answer in time.
    NoAnswer,
    /// Another attempt may go better.
    Again(String),
    /// The server that was asked named another one.
    Redirected(Redirection),
    /// Too few sentinels say that this server is the primary, so that what it says may be old.
    Doubted,
    /// It would be answered the same way again.
    Refused(String),
    /// The server takes no more.
    Full,
    /// What is kept can't be read.
    Corrupt(String),
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) address: Address,
    /// Whether it is not there for everybody yet.
    pub(super) asking: bool,
}

impl Redirection {
    /// Reads `MOVED slot host:port` and `ASK slot host:port`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let asking = match words.next()? {
            "ASK" => true,
            "MOVED" => false,
            _ => return None,
        };
        let address = Address::parse(words.nth(1)?).filter(|address| !address.host.is_empty())?;
        Some(Self { address, asking })
    }
}

impl Fault {
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer | Self::Again(_) | Self::Redirected(_) | Self::Doubted => true,
            Self::Refused(_) | Self::Full | Self::Corrupt(_) => false,
        }
    }
}

impl From<Error> for Fault {
    /// The library passes most answers on as text only: their first word says what they are.
    fn from(error: Error) -> Self {
        if let Some(to) = Redirection::parse(error.details()) {
            return Self::Redirected(to);
        }
        let word = error.details().split_whitespace().next().unwrap_or_default();
        match word {
            "OOM" => Self::Full,
            "WRONGTYPE" => Self::Corrupt(error.details().to_owned()),
            "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS"
            | "MISCONF" | "BUSY" | "UNBLOCKED" => Self::Again(error.details().to_owned()),
            _ if word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase()) => {
                Self::Refused(error.details().to_owned())
            }
            _ if *error.kind() == ErrorKind::Timeout => Self::NoAnswer,
            _ => Self::Again(error.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoAnswer => Self::Unavailable("no answer in time".to_owned()),
            Fault::Again(why) | Fault::Refused(why) => Self::Unavailable(why),
            Fault::Redirected(to) => Self::Unavailable(format!("the key is at {}", to.address)),
            Fault::Doubted => {
                Self::Unavailable("this may be the old primary, and the new one not known yet".to_owned())
            }
            Fault::Full => Self::Full,
            Fault::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

/// Why a server is not used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It may be fit later.
    Yet(String),
    /// It will never be.
    Forever(FatalError),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        match refusal(&error) {
            Some(fatal) => Self::Forever(fatal),
            None => Self::Yet(error.to_string()),
        }
    }
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) if is_refusal(&why) => Self::Forever(FatalError::Refused(why)),
            fault => Self::Yet(StoreError::from(fault).to_string()),
        }
    }
}

/// What an operator can do about what Redis says, or about what a connection to it comes to; nothing where that is not known.
pub(super) fn remedy(why: &str) -> Option<&'static str> {
    const RIGHTS: &str = "give its user the rights that docs/redis.md lists";
    const A_RIGHT: &str =
        "give its user the rights that docs/redis.md lists: `scanlogin doctor` names the one that is missing";
    const MODE: &str = "redis:// is for one server, redis-cluster:// for a Cluster, redis-sentinel:// for sentinels";
    const NOBODY: &str = "nothing listens there: start it, or give the port that it has";
    const TLS: &str = "rediss:// is for a Redis with TLS, redis:// for one without";
    const NO_REDIS: &str = "what answers there does not speak as Redis does: give the host and the port that it has";
    let known = [
        // Of a script, and of keys and channels, it does not say which.
        ("The user executing the script", A_RIGHT),
        ("permissions to access", A_RIGHT),
        ("NOPERM", RIGHTS),
        ("WRONGPASS", "give the user and the password that it has"),
        ("NOAUTH", "it wants a password, as in redis://user:password@host:6379"),
        (
            "ERR DB index",
            "leave the number behind the / out, or give one that it has",
        ),
        ("cluster support disabled", MODE),
        ("SENTINEL", MODE),
        (
            NO_SUCH_SERVICE,
            "give as sentinelServiceName the name that `sentinel monitor` has in the sentinels' configuration",
        ),
        (
            "nobody says which server",
            "of a Cluster every slot must have an owner (redis-cli --cluster check), and of sentinels most must name one primary",
        ),
        ("Decode Error", NO_REDIS),
        ("not a frame of RESP3", NO_REDIS),
        ("lookup", "its host is not known here"),
        ("Connection refused", NOBODY),
        ("ConnectionRefused", NOBODY),
        (
            "imed out",
            "it does not answer: a firewall may be between, and rediss:// is for a Redis with TLS alone",
        ),
        ("reset", TLS),
        ("closed", TLS),
    ];
    let known = || known.iter().find(|(words, _)| why.contains(words));
    let of_certificate = Distrust::of(why).map(distrusted);
    of_certificate
        .or_else(|| remedy_of_writes(why))
        .or_else(|| known().map(|(_, remedy)| *remedy))
}

/// What may help where it is not known what.
pub(super) const ANY_REDIS: &str = "it must be reached from here, and do what it is asked: look at its log";

fn distrusted(distrust: Distrust) -> &'static str {
    match distrust {
        Distrust::UnknownIssuer => {
            "name the file of the authority that its certificate is from in SCANLOGIN_REDIS_CA_FILE"
        }
        Distrust::OtherName => "name it as its certificate does",
        Distrust::OtherTime | Distrust::Otherwise => {
            "its certificate is not one that can be trusted: give it one for its name, in date, signed by an authority of \
             SCANLOGIN_REDIS_CA_FILE (one that signed itself will not do)"
        }
    }
}

/// What to do so that a server takes writes again, by what it answered to one.
#[must_use]
pub fn remedy_of_writes(why: &str) -> Option<&'static str> {
    let known = [
        (
            "OOM",
            "it is full: raise maxmemory, or find out what fills it; it is to refuse then, and not to throw logins away",
        ),
        (
            "NOREPLICAS",
            "fewer replicas keep up than its min-replicas-to-write says: start them, look in their logs why they do not follow, or lower it",
        ),
        (
            "MISCONF",
            "it could not write to its disk: look at the disk and at its log; it takes writes again once it could",
        ),
        ("READONLY", REPLICA),
        ("WAIT cannot be used with replica", REPLICA),
        (
            "CLUSTERDOWN",
            "the Cluster has stopped: slots have no owner, or too few primaries reach each other; redis-cli --cluster check says which",
        ),
        (
            "MASTERDOWN",
            "it is a replica that has lost its primary: start that, or name another one",
        ),
        ("LOADING", "it is still reading what it had: wait until it has"),
        ("BUSY", "a script runs in it that does not end: SCRIPT KILL ends it"),
    ];
    let found = known.iter().find(|(words, _)| why.contains(words));
    found.map(|(_, remedy)| *remedy)
}

const REPLICA: &str = "it is a replica, which takes no writes: name its primary, or its sentinels";

/// What of an error no further try can change: credentials, rights, and a server of another kind than the URL says.
pub(super) fn refusal(error: &Error) -> Option<FatalError> {
    let fatal = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config) || is_refusal(error.details());
    fatal.then(|| FatalError::Refused(error.details().to_owned()))
}

/// The same of what the cluster's nodes, or the sentinels, say.
pub(super) fn refusal_of(silence: &str) -> Option<FatalError> {
    is_refusal(silence).then(|| FatalError::Refused(silence.to_owned()))
}

/// The same of a certificate. One that has ended may be renewed, and a clock be put right.
pub(super) fn untrusted(why: &str) -> Option<FatalError> {
    match Distrust::of(why)? {
        Distrust::UnknownIssuer | Distrust::OtherName | Distrust::Otherwise => {
            Some(FatalError::Untrusted(why.to_owned()))
        }
        Distrust::OtherTime => None,
    }
}

fn is_refusal(answer: &str) -> bool {
    // As Redis says it, directly or from within a script.
    let refusals = [
        "WRONGPASS",
        "NOAUTH",
        "NOPERM",
        "ERR DB index",
        "cluster support disabled",
        "The user executing the script",
    ];
    refusals.iter().any(|text| answer.contains(text))
}
