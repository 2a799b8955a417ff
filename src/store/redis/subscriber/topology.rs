//! Asks the cluster's nodes or the sentinels, again and again, who owns what. Hides the conversations kept open for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::owners::{Owners, View, majority};
use super::tenure::{Round, Verdict};
use super::wire::{Dialer, Wire, WireError};
use crate::store::redis::route::Moving;
use crate::store::redis::servers::{Address, Servers};

/// How often to ask without a reason.
const PERIOD: Duration = Duration::from_millis(200);

/// How soon to ask again for a reason.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one that does not answer holds up the others.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// How long instead while nobody has answered: time to connect over a slow network.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_millis(1_400);

/// Whom to tell what.
#[derive(Debug)]
pub(super) struct Findings {
    /// Who owns what, when that changed.
    pub(super) owners: watch::Sender<Owners>,
    /// What sentinels said, each time.
    pub(super) rounds: watch::Sender<Round>,
    /// Which slots of a Cluster are on their way, when that changed.
    pub(super) moving: watch::Sender<Moving>,
}

/// Keeps asking, when `look` says so and five times a second. Ends when nobody wants to know the owners any more.
pub(super) async fn observe(servers: Servers, dialer: Dialer, findings: Findings, look: Arc<Notify>) {
    let Findings { owners, rounds, moving } = findings;
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
        if let Some(found) = found.moving {
            moving.send_if_modified(|known| replace(known, found));
        }
        if let Some(round) = found.round {
            rounds.send_replace(round);
        }
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
    moving: Option<Moving>,
    round: Option<Round>,
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
        self.judge(began, answers)
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
                    moving: None,
                }
            }
            Question::Nodes if views.is_empty() => Found::default(),
            Question::Nodes => {
                self.know(&views);
                Found {
                    owners: Some(Owners::of_cluster(&views)),
                    moving: Some(views.iter().flat_map(View::moving).collect()),
                    round: None,
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
            let reply = wire.ask(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service]).await?;
            let primary = master(&reply).ok_or(WireError::Invalid("the sentinel knows no such service"))?;
            // Whoever must not ask this much knows the primary all the same.
            let reply = match wire.ask(["SENTINEL", "MASTER", service]).await {
                Err(WireError::Refused(_)) => None,
                reply => Some(reply?),
            };
            let told = |name| reply.as_ref().and_then(|reply| field(reply, name));
            let others = told("num-other-sentinels").and_then(|count| count.parse::<usize>().ok());
            Answer::Master(Verdict {
                primary,
                // Whatever else is flagged, down or a fail-over, speaks against it.
                is_content: told("flags") == Some("master"),
                sentinels: others.unwrap_or_default() + 1,
            })
        }
    };
    Ok((wire, answer))
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
