//! Decides from the clients' histories whether the service kept its promises. Words name scenes and clients, never secrets.

mod browsers;
mod delivery;
mod scene;
mod service;
mod sites;
mod tally;
mod upstream;

use std::collections::BTreeMap;

use scanlogin::scene::StateName;

use crate::history::{ClientName, Entry, Fault, History, Identity, Loss, Outcome, Usage, View, What};
use crate::support::canaries::Secrets;
pub(crate) use tally::Tally;

/// What every run must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Invariant {
    /// Right browser.
    I1,
    /// One redemption.
    I2,
    /// Right person.
    I3,
    /// Sequential scene.
    I4,
    /// Streams only go forward.
    I5,
    /// No resurrection.
    I6,
    /// Token thrift.
    I7,
    /// wx code once.
    I8,
    /// Truthful errors.
    I9,
    /// Liveness.
    I10,
    /// No secret anywhere.
    I11,
    /// Bounded.
    I12,
}

/// One promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) scene: Option<String>,
    pub(crate) client: Option<ClientName>,
    pub(crate) words: String,
}

impl Violation {
    fn of_run(invariant: Invariant, words: impl Into<String>) -> Self {
        Self {
            invariant,
            scene: None,
            client: None,
            words: words.into(),
        }
    }

    fn of_scene(invariant: Invariant, scene: &str, words: impl Into<String>) -> Self {
        Self {
            scene: Some(scene.to_owned()),
            ..Self::of_run(invariant, words)
        }
    }

    fn by(self, client: ClientName) -> Self {
        Self {
            client: Some(client),
            ..self
        }
    }
}

/// A log, a reply of `/metrics`, a dump of Redis.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// What a run was like, beside its histories.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// No sample may show more.
    pub(crate) bounds: Usage,
    /// How many fresh logins in a row must succeed after the last fault.
    pub(crate) tail_logins: usize,
    /// By how much the machine itself may delay a reply or a recovery.
    pub(crate) slack_ms: u64,
    /// How long before its end an access token may be replaced.
    pub(crate) token_margin_ms: u64,
    pub(crate) texts: Vec<Text>,
    /// Keys that Redis would keep for ever.
    pub(crate) endless_keys: Vec<String>,
    pub(crate) secrets: Secrets,
}

/// A confirmed login whose browser learned nothing true in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) scene: String,
    pub(crate) browser: ClientName,
}

/// What the histories say.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) tally: Tally,
    pub(crate) lost: Vec<Lost>,
    /// By kind of fault: how long each had effects once it was healed, in milliseconds.
    pub(crate) recovery: BTreeMap<String, Vec<u64>>,
}

/// Checks every invariant.
pub(crate) fn check(history: &History, run: &Run) -> Report {
    let index = Index::new(history);
    let mut violations = Vec::new();
    violations.extend(browsers::right_browser(&index));
    violations.extend(sites::one_redemption(&index));
    violations.extend(sites::right_person(&index));
    violations.extend(browsers::streams_go_forward(&index));
    let resurrections = browsers::no_resurrection(&index);
    // Two ends of one scene have no order either; the reader is told the narrower finding alone.
    let told_already = |scene: &str| resurrections.iter().any(|found| found.scene.as_deref() == Some(scene));
    violations.extend(scene::sequential_scene(&index, told_already));
    violations.extend(resurrections);
    violations.extend(upstream::token_thrift(&index, run.token_margin_ms));
    violations.extend(upstream::wx_code_once(&index));
    violations.extend(service::truthful_errors(&index, run.slack_ms));
    violations.extend(service::liveness(&index, run.tail_logins, run.slack_ms));
    violations.extend(delivery::told_in_time(&index, run.slack_ms));
    violations.extend(delivery::redeemable(&index));
    violations.extend(delivery::streams_stay_open(&index));
    violations.extend(service::no_secret_anywhere(&run.texts, &run.secrets));
    violations.extend(service::no_panic(&run.texts));
    violations.extend(service::bounded(&index, run.bounds));
    violations.extend(service::nothing_for_ever(&run.endless_keys));
    let lost = tally::lost(&index);
    Report {
        tally: tally::tally(&index, &lost, &violations),
        recovery: tally::recovery(&index),
        violations,
        lost,
    }
}

/// A scene that was started for certain, with all that anybody did to it, by the time it was sent.
struct SceneHistory<'a> {
    id: &'a str,
    browser: ClientName,
    client_id: &'a str,
    started: &'a Entry,
    life_ms: u64,
    entries: Vec<&'a Entry>,
}

impl<'a> SceneHistory<'a> {
    /// What its own browser was told.
    fn views(&self) -> impl Iterator<Item = (&'a Entry, &'a View)> {
        let own = self.entries.iter().filter(|entry| entry.client == self.browser);
        own.filter_map(|entry| Some((*entry, entry.what.view()?)))
    }

    /// Nobody can have seen it expired before.
    fn earliest_expiry(&self) -> u64 {
        self.started.sent_ms + self.life_ms
    }

    fn code(&self) -> Option<(&'a Entry, &'a str)> {
        self.views()
            .find_map(|(entry, view)| Some((entry, view.code.as_deref()?)))
    }

    /// Its code's redemptions.
    fn redeems(&self) -> impl Iterator<Item = (&'a Entry, &'a Outcome<Identity>)> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Redeem { outcome, .. } => Some((*entry, outcome)),
            _ => None,
        })
    }

    /// Whether its code was presented, and refused each time.
    fn is_in_vain(&self) -> bool {
        let mut redeems = self.redeems().peekable();
        redeems.peek().is_some() && redeems.all(|(_, outcome)| matches!(outcome, Outcome::Refused(_)))
    }

    /// When the first confirm was answered with 200.
    fn confirmed_at(&self) -> Option<u64> {
        let confirmed = self.entries.iter().filter(|entry| match &entry.what {
            What::Confirm { outcome, .. } => outcome.done().is_some(),
            _ => false,
        });
        confirmed.map(|entry| entry.got()).min()
    }

    /// The confirms that happened or may have: openid, nickname. One that is told that there is no such scene may have been
    /// made on a copy of Redis's data that was then lost.
    fn confirms(&self) -> impl Iterator<Item = (&'a Entry, &'a str, Option<&'a str>)> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Confirm {
                openid,
                nickname,
                outcome,
                ..
            } if outcome.done().is_some() || outcome.is_ambiguous() || outcome.is_unknown_scene() => {
                Some((*entry, openid.as_str(), nickname.as_deref()))
            }
            _ => None,
        })
    }
}

/// The histories, joined.
struct Index<'a> {
    entries: &'a [Entry],
    scenes: BTreeMap<&'a str, SceneHistory<'a>>,
    /// Each code that a browser was told: by which browsers, of which scene.
    codes: BTreeMap<&'a str, Vec<(ClientName, &'a str)>>,
    faults: Vec<&'a Fault>,
}

impl<'a> Index<'a> {
    fn new(history: &'a History) -> Self {
        let entries = &history.entries;
        let mut scenes = BTreeMap::new();
        let mut codes = BTreeMap::<&str, Vec<(ClientName, &str)>>::new();
        for entry in entries {
            if let (What::Started { client_id, life_ms, .. }, Some(id)) = (&entry.what, entry.what.scene()) {
                let (browser, life_ms) = (entry.client, *life_ms);
                let scene = SceneHistory {
                    id,
                    browser,
                    client_id,
                    started: entry,
                    life_ms,
                    entries: Vec::new(),
                };
                scenes.insert(id, scene);
            }
            if let (Some(view), Some(scene)) = (entry.what.view(), entry.what.scene())
                && let Some(code) = &view.code
            {
                codes.entry(code).or_default().push((entry.client, scene));
            }
        }
        for entry in entries {
            let scene = match &entry.what {
                What::Redeem { code, .. } | What::Userinfo { code, .. } => codes
                    .get(code.as_str())
                    .and_then(|told| told.first())
                    .map(|(_, scene)| *scene),
                what => what.scene(),
            };
            if let Some(scene) = scene.and_then(|scene| scenes.get_mut(scene)) {
                scene.entries.push(entry);
            }
        }
        for scene in scenes.values_mut() {
            scene.entries.sort_by_key(|entry| (entry.sent_ms, entry.got()));
        }
        let faults = entries.iter().filter_map(|entry| match &entry.what {
            What::Fault(fault) => Some(fault),
            _ => None,
        });
        let mut faults: Vec<_> = faults.collect();
        faults.sort_by_key(|fault| fault.from_ms);
        Self {
            entries,
            scenes,
            codes,
            faults,
        }
    }

    /// Whether it is not about another browser's scene.
    fn is_own(&self, entry: &Entry) -> bool {
        let scene = entry.what.scene().and_then(|scene| self.scenes.get(scene));
        scene.is_none_or(|scene| scene.browser == entry.client)
    }

    /// Whether data may have been lost in this time. A loss may show until recovery, with the fail-over itself.
    fn may_have_lost_data(&self, from: u64, to: u64) -> bool {
        self.has_fault(from, to, |fault| fault.loses != Loss::Nothing)
    }

    /// Whether such a fault, or an effect of it, was in this time.
    fn has_fault(&self, from: u64, to: u64, such: impl Fn(&Fault) -> bool) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|fault| such(fault) && fault.from_ms <= to && shown_until(fault) >= from)
    }
}

/// By how much the machine may delay what happens while nothing is wrong.
const QUIET_SLACK_MS: u64 = 2_000;
/// And a single request in any case: the longest that was seen of a busy machine is two thirds of it.
const REQUEST_SLACK_MS: u64 = 3_000;

/// Until when an effect of a fault can first show.
fn shown_until(fault: &Fault) -> u64 {
    fault.to_ms + fault.recovery_bound_ms.max(fault.durable_bound_ms)
}

/// A final state that somebody was told.
fn final_of(what: &What) -> Option<StateName> {
    let told = what.view().map(|view| view.state).or_else(|| match what {
        What::Confirm { outcome, .. } => outcome.done().map(|_| StateName::Confirmed),
        What::Decline { outcome, .. } => outcome.done().map(|_| StateName::Declined),
        _ => None,
    });
    let refused = || what.refusal().and_then(|refusal| refusal.state);
    told.or_else(refused).filter(|state| state.is_final())
}
