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
use crate::store::redis::servers::{Address, Servers};

/// How often to ask without a reason.
const PERIOD: Duration = Duration::from_millis(200);

/// How soon to ask again for a reason.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one that does not answer holds up the others.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// How long instead while nobody has answered: time to connect over a slow network.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_millis(1_400);

/// Keeps asking, when `look` says so and five times a second, and tells `owners` what changed, and `rounds` of each time that
/// sentinels were asked. Ends with the receivers of `owners`.
pub(super) async fn observe(
    servers: Servers,
    dialer: Dialer,
    owners: watch::Sender<Owners>,
    rounds: watch::Sender<Round>,
    look: Arc<Notify>,
) {
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
        let (found, round) = observer.ask().await;
        rounds.send_replace(round);
        if let Some(found) = found {
            owners.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
        }
        sleep(PAUSE).await;
        // Running out is the normal case.
        let _ = timeout(PERIOD, look.notified()).await;
    }
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

    /// Asks everybody at once. `None` when there is no answer to believe.
    async fn ask(&mut self) -> (Option<Owners>, Round) {
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

    fn judge(&mut self, began: Instant, answers: Vec<Answer>) -> (Option<Owners>, Round) {
        let mut views = Vec::new();
        let mut verdicts = Vec::new();
        for answer in answers {
            match answer {
                Answer::View(view) => views.push(view),
                Answer::Master(verdict) => verdicts.push(verdict),
            }
        }
        let round = Round::of(began, self.seeds.len(), &verdicts);
        let named: Vec<_> = verdicts.into_iter().map(|verdict| verdict.primary).collect();
        let owners = match self.question {
            Question::Master(_) => majority(&named).map(Owners::single),
            Question::Nodes if views.is_empty() => None,
            Question::Nodes => {
                self.know(&views);
                Some(Owners::of_cluster(&views))
            }
        };
        (owners, round)
    }

    /// From now on asks the seeds and whoever the cluster consists of.
    fn know(&mut self, views: &[View]) {
        let nodes = views.iter().flat_map(|view| &view.nodes).chain(&self.seeds);
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
            let reply = wire.ask(["SENTINEL", "MASTER", service]).await?;
            // Whatever else is flagged, down or a fail-over, speaks against it.
            let is_content = field(&reply, "flags") == Some("master");
            Answer::Master(Verdict { primary, is_content })
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
