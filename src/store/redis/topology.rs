//! Who has what, as the cluster's nodes or the sentinels say, asked again and again. Hides the conversations kept open for that.
//!
//! Commands and subscriptions both go by it, so that who has heard of a change reads where that was made.

mod contacts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod owners;
mod tenure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::contacts::Contacts;
pub(super) use self::owners::Owners;
use self::owners::{View, majority};
pub(super) use self::tenure::{Consent, Round, Tenure};
use self::tenure::{Opinion, Replica, Verdict};
use super::keys::tags;
use super::servers::{Access, Address, Servers};
use super::wire::{Dialer, Wire, WireError};

/// How often to ask without a reason.
const PERIOD: Duration = Duration::from_millis(200);

/// How soon to ask again for a reason.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one that does not answer holds up the others.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// How long instead while nobody has answered: time to connect over a slow network.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_millis(1_400);

/// What a sentinel says that watches others.
pub(super) const NO_SUCH_SERVICE: &str = "the sentinel knows no such service";

/// What is found out, from the beginning of asking on.
#[derive(Debug, Clone)]
pub struct Topology {
    pub(super) owners: watch::Receiver<Owners>,
    /// Asks for a new look.
    pub(super) look: Arc<Notify>,
    /// Why nobody says anything, if that is so.
    pub(super) silence: watch::Receiver<Option<String>>,
    pub(super) tenure: Option<Tenure>,
    /// Primaries of a Cluster that will stop, as they hear too few of the others.
    pub(super) cut_off: watch::Receiver<BTreeSet<Address>>,
}

/// Whom to tell what.
#[derive(Debug)]
struct Findings {
    /// Who owns what, when that changed.
    owners: watch::Sender<Owners>,
    /// What sentinels said, each time.
    rounds: watch::Sender<Round>,
    cut_off: watch::Sender<BTreeSet<Address>>,
    silence: watch::Sender<Option<String>>,
}

impl Topology {
    /// Begins to ask, when somebody says so and five times a second. Ends with its token, or when nobody wants to know any more.
    #[must_use]
    pub fn observe(access: &Access, tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let (owners_found, owners) = watch::channel(Owners::default());
        let (asked, rounds) = watch::channel(Round::none());
        let (isolated, cut_off) = watch::channel(BTreeSet::new());
        let (silent, silence) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let is_sentinel = matches!(access.servers, Servers::Sentinel { .. });
        let findings = Findings {
            owners: owners_found,
            rounds: asked,
            cut_off: isolated,
            silence: silent,
        };
        let observing = observe(
            access.servers.clone(),
            access.dialer("scanlogin-topology"),
            findings,
            Arc::clone(&look),
        );
        tracker.spawn(stop.clone().run_until_cancelled_owned(observing));
        Self {
            owners,
            silence,
            tenure: is_sentinel.then(|| Tenure::new(rounds, Arc::clone(&look))),
            cut_off,
            look,
        }
    }
}

async fn observe(servers: Servers, dialer: Dialer, findings: Findings, look: Arc<Notify>) {
    let Findings {
        owners,
        rounds,
        cut_off,
        silence,
    } = findings;
    let mut observer = match servers {
        Servers::Standalone(address) => {
            owners.send_replace(Owners::single(&address));
            return owners.closed().await;
        }
        Servers::Cluster(seeds) => Observer::new(Question::Nodes, seeds, dialer),
        Servers::Sentinel {
            sentinels,
            service,
            username,
            password,
        } => {
            let dialer = Dialer {
                username,
                password,
                ..dialer
            };
            Observer::new(Question::Master(service), sentinels, dialer)
        }
    };
    while !owners.is_closed() {
        let found = observer.ask().await;
        if let Some(found) = found.owners {
            owners.send_if_modified(|known| replace(known, found));
        }
        if let Some(round) = found.round {
            rounds.send_replace(round);
        }
        if let Some(found) = found.cut_off {
            cut_off.send_if_modified(|known| {
                for primary in found.difference(known) {
                    warn!(%primary, "this primary hears most others of the Cluster no more, and will stop: durable writes to it need a replica");
                }
                replace(known, found)
            });
        }
        silence.send_if_modified(|known| replace(known, found.silence));
        sleep(PAUSE).await;
        // Running out is the normal case.
        let _ = timeout(PERIOD, look.notified()).await;
    }
}

/// Whether it is another one.
fn replace<T: PartialEq>(known: &mut T, found: T) -> bool {
    let changed = *known != found;
    *known = found;
    changed
}

/// What one time of asking found out; nothing, where there is no answer to believe.
#[derive(Default)]
struct Found {
    owners: Option<Owners>,
    round: Option<Round>,
    cut_off: Option<BTreeSet<Address>>,
    /// Why there was no answer at all.
    silence: Option<String>,
}

/// What is asked.
enum Question {
    /// Every node of a cluster.
    Nodes,
    /// Every sentinel, for the master of this service.
    Master(String),
}

/// What is answered.
enum Answer {
    View(View),
    Master(Verdict),
}

struct Observer {
    question: Question,
    seeds: Vec<Address>,
    dialer: Dialer,
    /// Everybody to ask, with the conversation where one is open.
    known: BTreeMap<Address, Option<Wire>>,
    contacts: Contacts,
    silent: bool,
}

impl Observer {
    fn new(question: Question, seeds: Vec<Address>, dialer: Dialer) -> Self {
        let known = seeds.iter().map(|seed| (seed.clone(), None)).collect();
        Self {
            question,
            seeds,
            dialer,
            known,
            contacts: Contacts::default(),
            silent: false,
        }
    }

    /// Asks everybody at once.
    async fn ask(&mut self) -> Found {
        let began = Instant::now();
        let (question, dialer) = (&self.question, &self.dialer);
        let limit = if self.silent { FIRST_ANSWER_LIMIT } else { ANSWER_LIMIT };
        let asked = std::mem::take(&mut self.known)
            .into_iter()
            .map(|(address, wire)| async move {
                let answer = timeout(limit, ask_one(question, dialer, &address, wire)).await;
                (address, answer.unwrap_or(Err(WireError::Timeout)))
            });
        let mut answers = Vec::new();
        let mut failure = None;
        for (address, outcome) in join_all(asked).await {
            let wire = match outcome {
                Ok((wire, answer)) => {
                    answers.push(answer);
                    Some(wire)
                }
                Err(error) => {
                    failure = Some((address.clone(), error));
                    None
                }
            };
            self.known.insert(address, wire);
        }
        self.log(answers.is_empty(), failure.as_ref());
        let silence = failure.filter(|_| answers.is_empty());
        Found {
            silence: silence.map(|(address, error)| format!("{address}: {error}")),
            ..self.judge(began, answers)
        }
    }

    fn judge(&mut self, began: Instant, answers: Vec<Answer>) -> Found {
        let mut views = Vec::new();
        let mut verdicts = Vec::new();
        for answer in answers {
            match answer {
                Answer::View(view) => views.push(view),
                Answer::Master(verdict) => verdicts.push(verdict),
            }
        }
        match self.question {
            Question::Master(_) => {
                let round = Round::of(began, self.known.len(), &verdicts);
                let named: Vec<_> = verdicts.into_iter().map(|verdict| verdict.primary).collect();
                Found {
                    owners: majority(&named).map(Owners::single),
                    round: Some(round),
                    ..Found::default()
                }
            }
            Question::Nodes if views.is_empty() => Found::default(),
            Question::Nodes => {
                self.know(&views);
                Found {
                    owners: Some(Owners::of_cluster(&views)),
                    cut_off: Some(self.contacts.cut_off(&views)),
                    ..Found::default()
                }
            }
        }
    }

    /// From now on asks the seeds and whoever the cluster consists of.
    fn know(&mut self, views: &[View]) {
        let nodes = views.iter().flat_map(|view| view.nodes.values()).chain(&self.seeds);
        let nodes = nodes.cloned().collect::<BTreeSet<_>>();
        self.known.retain(|address, _| nodes.contains(address));
        for node in nodes {
            self.known.entry(node).or_default();
        }
    }

    fn log(&mut self, silent: bool, failure: Option<&(Address, WireError)>) {
        if silent == self.silent {
            return;
        }
        self.silent = silent;
        match failure {
            Some((address, error)) if silent => {
                warn!(%address, %error, "nobody says where the Redis masters are: none of those asked answers");
            }
            _ => info!("somebody says again where the Redis masters are"),
        }
    }
}

async fn ask_one(
    question: &Question,
    dialer: &Dialer,
    address: &Address,
    wire: Option<Wire>,
) -> Result<(Wire, Answer), WireError> {
    let mut wire = match wire {
        Some(wire) => wire,
        None => dialer.dial(address).await?.0,
    };
    let answer = match question {
        Question::Nodes => {
            let reply = wire.ask(["CLUSTER", "NODES"]).await?;
            let text = reply
                .as_str()
                .ok_or(WireError::Invalid("CLUSTER NODES is not a text"))?;
            Answer::View(View::parse(text, address, dialer.tls.is_some()))
        }
        Question::Master(service) => {
            let asked = Instant::now();
            let [primary, replicas, reply] = wire
                .ask_each([
                    &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service],
                    &["SENTINEL", "REPLICAS", service],
                    &["SENTINEL", "MASTER", service],
                ])
                .await?;
            let primary = master(&primary?).ok_or(WireError::Invalid(NO_SUCH_SERVICE))?;
            Answer::Master(match (replicas, reply) {
                (Ok(replicas), Ok(reply)) => verdict(primary, replicas_of(&replicas)?, &reply, asked),
                // Whoever must not ask this much knows the primary all the same.
                (Err(WireError::Refused(why)), _) | (_, Err(WireError::Refused(why))) => {
                    Verdict::withheld(primary, why)
                }
                (Err(error), _) | (_, Err(error)) => return Err(error),
            })
        }
    };
    Ok((wire, answer))
}

/// What one sentinel says, asked once.
#[derive(Debug)]
pub struct SentinelView {
    /// Whom it calls the primary.
    pub primary: Address,
    /// Who follows that, reached or not.
    pub replicas: Vec<Address>,
    /// How many sentinels it knows, itself included.
    pub sentinels: usize,
    /// What else it must not be asked, in its words.
    pub withheld: Option<String>,
}

impl SentinelView {
    pub(super) fn servers(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

pub(super) async fn sentinel_view(
    dialer: &Dialer,
    address: &Address,
    service: &str,
) -> Result<SentinelView, WireError> {
    let question = Question::Master(service.to_owned());
    let (_, answer) = ask_one(&question, dialer, address, None).await?;
    let Answer::Master(verdict) = answer else {
        return Err(WireError::Invalid("no answer of a sentinel"));
    };
    let names = verdict.replicas.iter().map(|replica| Address::parse(&replica.name));
    Ok(SentinelView {
        primary: verdict.primary,
        replicas: names.flatten().collect(),
        sentinels: verdict.sentinels,
        withheld: verdict.withheld,
    })
}

/// What one node of a Cluster says, asked once.
#[derive(Debug)]
pub struct ClusterView(View);

impl ClusterView {
    /// What a node would say in this answer to `CLUSTER NODES`.
    #[cfg(test)]
    pub(crate) fn of(text: &str, asked: &Address) -> Self {
        Self(View::parse(text, asked, false))
    }

    /// How many of the slots in which scenes live have no owner.
    #[must_use]
    pub fn unowned(&self) -> usize {
        tags().count() - Owners::of_cluster(std::slice::from_ref(&self.0)).of_tags().count()
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Address> {
        self.0.nodes.values()
    }

    /// Every hash tag of scenes that has an owner, with it.
    pub(super) fn owned(&self) -> Vec<(String, Address)> {
        let owners = Owners::of_cluster(std::slice::from_ref(&self.0));
        owners.of_tags().map(|(tag, owner)| (tag, owner.clone())).collect()
    }
}

pub(super) async fn cluster_view(dialer: &Dialer, address: &Address) -> Result<ClusterView, WireError> {
    match ask_one(&Question::Nodes, dialer, address, None).await? {
        (_, Answer::View(view)) => Ok(ClusterView(view)),
        (_, Answer::Master(_)) => Err(WireError::Invalid("no answer of a cluster's node")),
    }
}

/// What a sentinel that was asked at a moment says of a primary.
fn verdict(primary: Address, replicas: Vec<Replica>, reply: &BytesFrame, asked: Instant) -> Verdict {
    let told = |name| field(reply, name);
    let number = |name| told(name).and_then(|number| number.parse::<usize>().ok());
    // In milliseconds; what is not known counts as never.
    let ago = |name| told(name).and_then(|ago| ago.parse().ok()).map(Duration::from_millis);
    let heard = heard(ago("last-ok-ping-reply"), ago("last-ping-sent")).and_then(|ago| asked.checked_sub(ago));
    Verdict {
        primary,
        epoch: told("config-epoch")
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or_default(),
        opinion: opinion(told("flags").unwrap_or_default()),
        heard,
        replicas,
        sentinels: number("num-other-sentinels").unwrap_or_default() + 1,
        quorum: number("quorum").unwrap_or(1),
        withheld: None,
    }
}

/// The replicas that a sentinel has heard of. What is not understood is no answer: it might be one that is promoted.
fn replicas_of(reply: &BytesFrame) -> Result<Vec<Replica>, WireError> {
    let BytesFrame::Array { data, .. } = reply else {
        return Err(WireError::Invalid("SENTINEL REPLICAS is not a list"));
    };
    let replica = |told: &BytesFrame| {
        let (ip, port, flags) = (field(told, "ip")?, field(told, "port")?, field(told, "flags")?);
        let is_away = |flag| matches!(flag, "s_down" | "o_down" | "disconnected");
        Some(Replica {
            name: format!("{ip}:{port}"),
            is_reached: !flags.split(',').any(is_away),
        })
    };
    let replicas: Option<Vec<_>> = data.iter().map(replica).collect();
    replicas.ok_or(WireError::Invalid(
        "a replica in SENTINEL REPLICAS has no name or flags",
    ))
}

/// What the flags of a primary say, which is `master` where nothing is wrong. Whatever is not known speaks against it.
fn opinion(flags: &str) -> Opinion {
    let mut flags_but_that = flags.split(',').filter(|flag| *flag != "master").peekable();
    if flags_but_that.peek().is_none() {
        Opinion::Content
    } else if flags_but_that.all(|flag| matches!(flag, "s_down" | "disconnected")) {
        Opinion::Uneasy
    } else {
        Opinion::Replaces
    }
}

/// How long ago a sentinel heard from the primary, of what it says of its last answered ping and of the one that is not answered.
///
/// One that has just begun with this primary, or was reset, says of both that they were then, as if it had been answered. To one that
/// was, nothing is unanswered, which is told as zero, or what was sent later.
fn heard(answered: Option<Duration>, unanswered: Option<Duration>) -> Option<Duration> {
    // It reads the clock for each of them.
    const BETWEEN: Duration = Duration::from_millis(10);
    let unanswered = unanswered?;
    answered.filter(|answered| unanswered.is_zero() || unanswered + BETWEEN < *answered)
}

fn master(reply: &BytesFrame) -> Option<Address> {
    let BytesFrame::Array { data, .. } = reply else {
        return None;
    };
    let [host, port] = data.as_slice() else {
        return None;
    };
    Some(Address {
        host: host.as_str()?.to_owned(),
        port: port.as_str()?.parse().ok()?,
    })
}

/// The value of a field in a map of texts.
fn field<'a>(reply: &'a BytesFrame, name: &str) -> Option<&'a str> {
    let BytesFrame::Map { data, .. } = reply else {
        return None;
    };
    let (_, value) = data.iter().find(|(key, _)| key.as_str() == Some(name))?;
    value.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_replaces_a_primary_only_once_others_find_it_down_too() {
        assert_eq!(opinion("master"), Opinion::Content);
        assert_eq!(opinion("s_down,master"), Opinion::Uneasy);
        assert_eq!(opinion("s_down,master,disconnected"), Opinion::Uneasy);
        for flags in [
            "s_down,o_down,master",
            "master,failover_in_progress",
            "master,force_failover",
            "",
        ] {
            assert_eq!(opinion(flags), Opinion::Replaces, "{flags}");
        }
    }

    fn replica(fields: &[(&str, &str)]) -> BytesFrame {
        let text = |text: &str| BytesFrame::BlobString {
            data: text.to_owned().into(),
            attributes: None,
        };
        BytesFrame::Map {
            data: fields.iter().map(|(name, value)| (text(name), text(value))).collect(),
            attributes: None,
        }
    }

    fn replicas_in(data: Vec<BytesFrame>) -> Result<Vec<Replica>, WireError> {
        replicas_of(&BytesFrame::Array { data, attributes: None })
    }

    #[test]
    fn a_replica_may_be_promoted_unless_its_sentinel_says_that_it_is_away() {
        for (flags, is_reached) in [
            ("slave", true),
            ("slave,master_down", true),
            ("s_down,slave", false),
            ("slave,disconnected", false),
            ("s_down,slave,disconnected", false),
        ] {
            let told = replica(&[("name", "a"), ("ip", "::1"), ("port", "2"), ("flags", flags)]);
            let name = "::1:2".to_owned();
            assert_eq!(
                replicas_in(vec![told]).unwrap(),
                [Replica { name, is_reached }],
                "{flags}"
            );
        }
    }

    #[test]
    fn what_a_sentinel_says_of_replicas_is_understood_whole_or_not_at_all() {
        assert_eq!(replicas_in(vec![]).unwrap(), []);
        let whole = || replica(&[("ip", "::1"), ("port", "2"), ("flags", "slave")]);
        for less in [
            replica(&[("port", "2"), ("flags", "slave")]),
            replica(&[("ip", "::1"), ("port", "2")]),
            BytesFrame::Null,
        ] {
            replicas_in(vec![whole(), less]).unwrap_err();
        }
        replicas_of(&whole()).unwrap_err();
    }

    #[test]
    fn a_sentinel_that_was_never_answered_has_not_heard_from_the_primary() {
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(heard(ms(890), ms(0)), ms(890), "nothing is unanswered");
        assert_eq!(heard(ms(1_894), ms(847)), ms(1_894), "what was sent later is");
        assert_eq!(heard(ms(311), ms(311)), None, "it has just begun");
        assert_eq!(heard(ms(312), ms(311)), None, "as its clock went on meanwhile");
        assert_eq!(heard(None, ms(0)), None);
        assert_eq!(heard(ms(1), None), None);
    }
}
