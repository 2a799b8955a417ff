//! What every client sent and got, with times: JSON lines, each with the client's name.

use std::net::Ipv4Addr;
use std::path::Path;
use std::{fmt, fs, io};

use scanlogin::scene::StateName;
use serde::{Deserialize, Serialize};

/// Who wrote an entry; `browser-17` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum ClientName {
    Browser(u32),
    Phone(u32),
    Site(u32),
    /// WeChat's side of every call.
    Simulator,
    /// Who injects the faults and takes the samples.
    Harness,
}

impl ClientName {
    /// Where it calls from, as a proxy before ours says: each of its own, as limits are.
    pub(crate) fn address(self) -> Ipv4Addr {
        let (kind, n) = match self {
            Self::Browser(n) => (1, n),
            Self::Phone(n) => (2, n),
            Self::Site(n) => (3, n),
            Self::Simulator | Self::Harness => (0, 0),
        };
        let [_, high, middle, low] = n.to_be_bytes();
        Ipv4Addr::new(10, kind * 16 + high % 16, middle, low)
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Browser(n) => write!(f, "browser-{n}"),
            Self::Phone(n) => write!(f, "phone-{n}"),
            Self::Site(n) => write!(f, "site-{n}"),
            Self::Simulator => f.write_str("simulator"),
            Self::Harness => f.write_str("harness"),
        }
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for ClientName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let numbered = || {
            let (role, number) = name.split_once('-')?;
            let number = number.parse().ok()?;
            match role {
                "browser" => Some(Self::Browser(number)),
                "phone" => Some(Self::Phone(number)),
                "site" => Some(Self::Site(number)),
                _ => None,
            }
        };
        match name.as_str() {
            "simulator" => Ok(Self::Simulator),
            "harness" => Ok(Self::Harness),
            _ => numbered().ok_or_else(|| format!("no client is called {name}")),
        }
    }
}

/// One line. All times are of one clock, in milliseconds since the run began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) client: ClientName,
    pub(crate) sent_ms: u64,
    /// When the reply was read whole, or the client stopped waiting for it; none when the run ended first.
    pub(crate) got_ms: Option<u64>,
    #[serde(flatten)]
    pub(crate) what: What,
}

impl Entry {
    /// The end of its time; without one, it may still happen.
    pub(crate) fn got(&self) -> u64 {
        self.got_ms.unwrap_or(u64::MAX)
    }
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome<T> {
    Done(T),
    Refused(Refusal),
    /// No reply of the service: cut, timed out, or a proxy's own. It may or may not have happened.
    Unknown,
    /// The client hung up before a reply could come. It may or may not have happened.
    Abandoned,
}

impl<T> Outcome<T> {
    pub(crate) fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Refused(_) | Self::Unknown | Self::Abandoned => None,
        }
    }

    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Done(_) | Self::Unknown | Self::Abandoned => None,
        }
    }

    /// Whether the service knew no such scene.
    pub(crate) fn is_unknown_scene(&self) -> bool {
        self.refusal().is_some_and(Refusal::is_unknown_scene)
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(change(value)),
            Self::Refused(refusal) => Outcome::Refused(refusal),
            Self::Unknown => Outcome::Unknown,
            Self::Abandoned => Outcome::Abandoned,
        }
    }

    /// Whether it may have happened although nobody said so. A 5xx may follow a write whose reply was lost.
    pub(crate) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Done(_) => false,
            Self::Refused(refusal) => refusal.status >= 500,
            Self::Unknown | Self::Abandoned => true,
        }
    }
}

/// The service's own answer that is no 2xx, or the `unavailable` event of a stream (status 503).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The problem's `code`, or OAuth's `error`.
    pub(crate) code: Option<String>,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
    /// The problem's `state`.
    pub(crate) state: Option<StateName>,
}

impl Refusal {
    pub(crate) fn is_unknown_scene(&self) -> bool {
        self.code.as_deref() == Some("unknown_scene")
    }
}

/// The data of an event or of a status reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) state: StateName,
    pub(crate) id: String,
    pub(crate) version: u64,
    pub(crate) code: Option<String>,
    pub(crate) nickname: Option<String>,
    /// With `expired`: `time` or `lost`.
    pub(crate) reason: Option<String>,
    pub(crate) ends: Option<Ends>,
}

/// When a scene's time is up, as a replica tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ends {
    pub(crate) in_seconds: u64,
    pub(crate) at: String,
}

impl View {
    pub(crate) fn is_lost(&self) -> bool {
        self.state == StateName::Expired && self.reason.as_deref() == Some("lost")
    }
}

/// How `GET /events` began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Opened {
    Stream,
    /// 204: the browser has the final event.
    Over,
}

/// Whom the relying party was told. `sub` is the openid: the sites of a run have public subjects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) sub: String,
    pub(crate) nickname: Option<String>,
}

/// An access token that the simulator gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lifetime {
    pub(crate) expires_in_ms: u64,
}

/// Something done to the service. What several flags say, it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Its name in the table of recoveries.
    pub(crate) kind: String,
    pub(crate) reach: Reach,
    pub(crate) from_ms: u64,
    /// When it was healed.
    pub(crate) to_ms: u64,
    /// Which writes that Redis had answered may be gone.
    pub(crate) loses: Loss,
    /// For how long after it news may be missed that nobody can know of, until everything is read again; none where it keeps no
    /// news back at all.
    pub(crate) hides_news_ms: Option<u64>,
    /// The same for what is lost, and only for that.
    #[serde(default)]
    pub(crate) hides_loss_ms: u64,
    /// The replica that was fetching an access token died.
    pub(crate) kills_lease_holder: bool,
    /// A replica stood still.
    pub(crate) pauses: bool,
    /// How often WeChat takes an access token no more that it gave.
    pub(crate) invalidations: usize,
    /// Every request gets an answer all the same.
    pub(crate) is_graceful: bool,
    /// From healing until nothing fails any more because of it.
    pub(crate) recovery_bound_ms: u64,
    /// The same for confirms and redemptions, which need a second copy of Redis's data, where that is longer.
    #[serde(default)]
    pub(crate) durable_bound_ms: u64,
}

impl Fault {
    /// Whether such a request may fail because of it; `is_durable` as in [`Self::over_for`].
    pub(crate) fn reaches(&self, what: &What, is_durable: bool) -> bool {
        let needs_wechat = matches!(what, What::Picture { .. } | What::Scan { .. });
        let watches = matches!(what, What::StreamOpened { .. } | What::Polled { .. });
        match self.reach {
            Reach::All => true,
            Reach::Connections => needs_wechat || what.is_unanswered(),
            Reach::Watching => watches,
            Reach::Upstream => needs_wechat,
            Reach::Beginnings => needs_wechat || watches || matches!(what, What::Started { .. }),
            Reach::Copies => is_durable,
            Reach::Nothing => false,
        }
    }

    /// From when on it is no reason any more for a request to fail; `is_durable` where what it does, or tells of, may not be lost.
    pub(crate) fn over_for(&self, is_durable: bool) -> u64 {
        let durable_ms = if is_durable { self.durable_bound_ms } else { 0 };
        self.to_ms + self.recovery_bound_ms.max(durable_ms)
    }

    /// When nobody is told anything late any more because of it.
    pub(crate) fn news_over(&self) -> Option<u64> {
        let hides_news_ms = self.hides_news_ms?;
        Some(self.to_ms + hides_news_ms.max(self.recovery_bound_ms))
    }

    /// Whether streams that are open may break off: they don't, whatever happens to Redis or to WeChat.
    pub(crate) fn cuts_streams(&self) -> bool {
        self.reach == Reach::Connections || self.is_graceful
    }

    /// Whether a redemption may be written and yet not kept, or kept and not answered.
    pub(crate) fn may_spoil_redemptions(&self) -> bool {
        self.hides_news_ms.is_some() || self.durable_bound_ms > 0 || self.loses != Loss::Nothing
    }
}

/// Which requests a fault may make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    All,
    /// Those that are cut off before they are answered, and those that need connections to WeChat.
    Connections,
    Watching,
    /// Those that need WeChat.
    Upstream,
    /// Those that begin a login, or watch one, not those that end it.
    Beginnings,
    /// Those that need a second copy of Redis's data.
    Copies,
    Nothing,
}

/// What a fault may cost Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Loss {
    #[default]
    Nothing,
    /// What no replica had. A confirm that was answered is not among it.
    Unreplicated,
    Everything,
}

/// What the service and Redis hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) rss_kb: u64,
    pub(crate) fds: u64,
    pub(crate) redis_bytes: u64,
    pub(crate) redis_keys: u64,
    /// Streams, watched scenes and requests under way, as all replicas together tell.
    #[serde(default)]
    pub(crate) held: u64,
}

impl Usage {
    /// Connections that are just being replaced.
    pub(crate) const LATE_FDS: u64 = 4;

    /// Whether so many descriptors are as few as there were.
    pub(crate) fn has_so_few_fds(&self, fds: u64) -> bool {
        fds <= self.fds + self.fds / 20 + Self::LATE_FDS
    }
}

/// When a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Warm, with no login yet: the base.
    Before,
    During,
    /// When all should have gone back to the base.
    After,
}

/// What was done, with its arguments and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum What {
    /// `POST /scenes`, which answers the scene's id.
    Started {
        client_id: String,
        life_ms: u64,
        outcome: Outcome<String>,
    },
    /// The code's picture, and the scene that was decoded out of it, if somebody did.
    Picture {
        scene: String,
        outcome: Outcome<Option<String>>,
    },
    /// `GET /events`; `stream` is the browser's own number for it.
    StreamOpened {
        scene: String,
        stream: u32,
        last_event_id: Option<String>,
        outcome: Outcome<Opened>,
    },
    /// An event of a stream.
    Told {
        scene: String,
        stream: u32,
        view: View,
    },
    StreamEnded {
        scene: String,
        stream: u32,
        /// Not by its browser, and without a last word.
        #[serde(default)]
        is_broken: bool,
    },
    /// `GET /scenes/{scene}`, with `wait_ms` a long-poll.
    Polled {
        scene: String,
        wait_ms: u64,
        outcome: Outcome<View>,
    },
    /// The browser stopped trying to learn more.
    GaveUp {
        scene: String,
    },
    Scan {
        scene: String,
        openid: String,
        outcome: Outcome<()>,
    },
    /// `nickname` is a canary that only this phone uses; answered with the version.
    Confirm {
        scene: String,
        openid: String,
        nickname: Option<String>,
        outcome: Outcome<u64>,
    },
    Decline {
        scene: String,
        openid: String,
        outcome: Outcome<u64>,
    },
    Cancel {
        scene: String,
        outcome: Outcome<()>,
    },
    /// `POST /token`
    Redeem {
        code: String,
        client_id: String,
        outcome: Outcome<Identity>,
    },
    /// `GET /userinfo` with the access token that `code` gave.
    Userinfo {
        code: String,
        outcome: Outcome<Identity>,
    },
    /// As WeChat saw it; `Unknown` when it cut its own reply short.
    UpstreamCall {
        api: Api,
        js_code: Option<String>,
        force: bool,
        outcome: Outcome<Option<Lifetime>>,
    },
    Fault(Fault),
    Sample {
        phase: Phase,
        usage: Usage,
    },
}

/// WeChat's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Api {
    StableToken,
    Jscode2session,
    Getwxacodeunlimit,
}

impl What {
    /// The scene it is about, where it says so itself.
    pub(crate) fn scene(&self) -> Option<&str> {
        match self {
            Self::Started { outcome, .. } => outcome.done().map(String::as_str),
            Self::Picture { scene, .. }
            | Self::StreamOpened { scene, .. }
            | Self::Told { scene, .. }
            | Self::StreamEnded { scene, .. }
            | Self::Polled { scene, .. }
            | Self::GaveUp { scene }
            | Self::Scan { scene, .. }
            | Self::Confirm { scene, .. }
            | Self::Decline { scene, .. }
            | Self::Cancel { scene, .. } => Some(scene),
            Self::Redeem { .. }
            | Self::Userinfo { .. }
            | Self::UpstreamCall { .. }
            | Self::Fault(_)
            | Self::Sample { .. } => None,
        }
    }

    /// What a browser was told of its scene.
    pub(crate) fn view(&self) -> Option<&View> {
        match self {
            Self::Told { view, .. } => Some(view),
            Self::Polled { outcome, .. } => outcome.done(),
            _ => None,
        }
    }

    /// Whether a client of the service came away with nothing but the advice to try again, if that. A scene that was scanned too often
    /// stays refused, which is I4's to judge.
    pub(crate) fn is_trouble(&self) -> bool {
        let is_limited = |refusal: &Refusal| refusal.code.as_deref() == Some("rate_limited");
        if matches!(self, Self::Scan { .. }) && self.refusal().is_some_and(is_limited) {
            return false;
        }
        let is_passing = |refusal: &Refusal| refusal.status >= 500 || refusal.status == 429;
        self.is_unanswered() || self.refusal().is_some_and(is_passing)
    }

    /// Whether the service did not answer a client who waited.
    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            Self::Started { outcome, .. } => *outcome == Outcome::Unknown,
            Self::Picture { outcome, .. } => *outcome == Outcome::Unknown,
            Self::StreamOpened { outcome, .. } => *outcome == Outcome::Unknown,
            Self::Polled { outcome, .. } => *outcome == Outcome::Unknown,
            Self::Scan { outcome, .. } | Self::Cancel { outcome, .. } => *outcome == Outcome::Unknown,
            Self::Confirm { outcome, .. } | Self::Decline { outcome, .. } => *outcome == Outcome::Unknown,
            Self::Redeem { outcome, .. } | Self::Userinfo { outcome, .. } => *outcome == Outcome::Unknown,
            _ => false,
        }
    }

    /// The service's refusal, if it was one.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Started { outcome, .. } => outcome.refusal(),
            Self::Picture { outcome, .. } => outcome.refusal(),
            Self::StreamOpened { outcome, .. } => outcome.refusal(),
            Self::Polled { outcome, .. } => outcome.refusal(),
            Self::Scan { outcome, .. } | Self::Cancel { outcome, .. } => outcome.refusal(),
            Self::Confirm { outcome, .. } | Self::Decline { outcome, .. } => outcome.refusal(),
            Self::Redeem { outcome, .. } | Self::Userinfo { outcome, .. } => outcome.refusal(),
            // What WeChat answers is not the service's answer.
            Self::UpstreamCall { .. }
            | Self::Told { .. }
            | Self::StreamEnded { .. }
            | Self::GaveUp { .. }
            | Self::Fault(_)
            | Self::Sample { .. } => None,
        }
    }
}

/// Every client's entries.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
}

impl History {
    /// Reads every `*.jsonl` of a directory.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut entries = Vec::new();
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                for line in fs::read_to_string(&path)?.lines() {
                    entries.push(serde_json::from_str(line)?);
                }
            }
        }
        entries.sort_by_key(|entry: &Entry| (entry.sent_ms, entry.got()));
        Ok(Self { entries })
    }
}
