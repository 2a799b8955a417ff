//! I4: an exhaustive search for an order of one scene's operations in which each answer is right.

use std::collections::HashSet;

use scanlogin::scene::StateName;

use super::{Index, Invariant, SceneHistory, Violation, shown_until};
use crate::history::{Entry, Fault, Loss, Refusal, View, What};

/// Replicas tell whole seconds.
const TOLERANCE_MS: u64 = 1_000;
/// How long `expired` is answered at least, and how long a code lives.
const MINUTE_MS: u64 = 60_000;
/// The default of SCANLOGIN_LIMIT_SCANS_PER_SCENE.
const SCANS_PER_SCENE: usize = 10;
/// How often the copy that answers may change in one loss.
const TURNS: usize = 4;
/// As many operations as the set of those done holds.
const MOST_OPERATIONS: usize = 128;
const MOST_STEPS: usize = 1_000_000;

/// I4, *sequential scene*: each scene's history is linearizable against the model (`waiting → scanned → confirmed →
/// redeemed …`), ambiguous replies may or may not have happened; under data loss one step back per injected loss is allowed.
///
/// A step back leads to any earlier state or to no record at all. Until the loss is over there may be two copies, the one
/// that will last and the one that won't, and each may answer a few times. Events and long-polls may be old news; their order
/// is I5's.
pub(super) fn sequential_scene(index: &Index<'_>, told_already: impl Fn(&str) -> bool) -> Vec<Violation> {
    let scenes = index.scenes.values().filter(|scene| !told_already(scene.id));
    let words = scenes.filter_map(|scene| Some((scene.id, Search::new(index, scene).run()?)));
    words
        .map(|(scene, words)| Violation::of_scene(Invariant::I4, scene, words))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State<'a> {
    Waiting,
    Scanned(&'a str),
    Confirmed(&'a str),
    Declined(&'a str),
    Cancelled,
    Expired,
    /// No record.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Model<'a> {
    state: State<'a>,
    version: u64,
    redeemed: bool,
    rolled_back: bool,
}

enum Kind<'a> {
    Call(&'a What),
    Loss,
}

struct Operation<'a> {
    kind: Kind<'a>,
    sent: u64,
    got: u64,
    optional: bool,
    /// It may have happened although it was refused.
    contested: bool,
}

struct Search<'a> {
    scene: &'a SceneHistory<'a>,
    operations: Vec<Operation<'a>>,
    seen: HashSet<(u128, Vec<Model<'a>>)>,
}

impl<'a> Search<'a> {
    fn new(index: &Index<'_>, scene: &'a SceneHistory<'a>) -> Self {
        let calls = scene
            .entries
            .iter()
            .filter(|entry| is_about_state(&entry.what))
            .map(|entry| {
                let ambiguous = is_ambiguous(&entry.what);
                let old_news = matches!(entry.what, What::Told { .. } | What::Polled { wait_ms: 1.., .. });
                Operation {
                    kind: Kind::Call(&entry.what),
                    sent: if old_news { scene.started.sent_ms } else { entry.sent_ms },
                    got: if ambiguous { u64::MAX } else { entry.got() },
                    optional: ambiguous,
                    contested: is_contested(index, scene, entry),
                }
            });
        let mut operations: Vec<_> = calls.collect();
        let end = scene.entries.iter().map(|entry| entry.got()).max().unwrap_or(0);
        let losses = index.faults.iter().filter(|fault| {
            fault.loses != Loss::Nothing && fault.from_ms <= end && shown_until(fault) >= scene.started.sent_ms
        });
        operations.extend(losses.flat_map(|fault| {
            (0..TURNS).map(|_| Operation {
                kind: Kind::Loss,
                sent: fault.from_ms,
                got: shown_until(fault),
                optional: true,
                contested: false,
            })
        }));
        Self {
            scene,
            operations,
            seen: HashSet::new(),
        }
    }

    /// What is wrong, if no order is right.
    fn run(mut self) -> Option<&'static str> {
        if self.operations.len() > MOST_OPERATIONS {
            return Some("too many operations to search");
        }
        let model = Model {
            state: State::Waiting,
            version: 1,
            redeemed: false,
            rolled_back: false,
        };
        let found = self.extend(0, &[model]);
        if found {
            None
        } else if self.seen.len() >= MOST_STEPS {
            Some("too many orders to search")
        } else {
            Some("no order of its operations explains every answer")
        }
    }

    /// Whether the rest can follow; `trail` ends with the present and begins with the start.
    fn extend(&mut self, done: u128, trail: &[Model<'a>]) -> bool {
        let remaining = |n: &usize| done & (1 << n) == 0;
        let all = 0..self.operations.len();
        let required = all.clone().filter(remaining).filter(|n| !self.operations[*n].optional);
        let Some(first_got) = required.map(|n| self.operations[n].got).min() else {
            return true;
        };
        if self.seen.len() >= MOST_STEPS || !self.seen.insert((done, trail.to_vec())) {
            return false;
        }
        let clock = all
            .clone()
            .filter(|n| !remaining(n))
            .map(|n| self.operations[n].sent)
            .max()
            .unwrap_or(0);
        for n in all.filter(remaining) {
            let operation = &self.operations[n];
            if operation.sent > first_got || operation.got < clock {
                continue;
            }
            for next in self.after(operation, trail) {
                if self.extend(done | (1 << n), &next) {
                    return true;
                }
            }
        }
        false
    }

    fn after(&self, operation: &Operation<'a>, trail: &[Model<'a>]) -> Vec<Vec<Model<'a>>> {
        let now = trail[trail.len() - 1];
        let what = match operation.kind {
            Kind::Call(what) => what,
            Kind::Loss => {
                let absent = [[
                    trail,
                    &[Model {
                        state: State::Absent,
                        rolled_back: true,
                        ..now
                    }],
                ]
                .concat()];
                let back = (1..trail.len()).map(|len| {
                    let mut earlier = trail[..len].to_vec();
                    earlier[len - 1].rolled_back = true;
                    earlier
                });
                return absent.into_iter().chain(back).collect();
            }
        };
        let open = matches!(now.state, State::Waiting | State::Scanned(_));
        let mut starts = Vec::new();
        let latest = self
            .scene
            .started
            .got()
            .saturating_add(self.scene.life_ms)
            .saturating_add(TOLERANCE_MS);
        if !open || operation.sent <= latest {
            starts.push(now);
        }
        if open && operation.got.saturating_add(TOLERANCE_MS) >= self.scene.earliest_expiry() {
            starts.push(Model {
                state: State::Expired,
                ..now
            });
        }
        let ends = starts.into_iter().flat_map(|model| {
            let contested = operation.contested.then(|| effect(what, model)).flatten();
            self.answered(what, operation, model).into_iter().chain(contested)
        });
        ends.map(|next| {
            if next == now {
                trail.to_vec()
            } else {
                [trail, &[next]].concat()
            }
        })
        .collect()
    }

    /// The model after this operation, if its answer is right in this model.
    fn answered(&self, what: &'a What, operation: &Operation<'_>, model: Model<'a>) -> Option<Model<'a>> {
        if operation.optional {
            return effect(what, model);
        }
        if let Some(refusal) = what.refusal() {
            return self.may_refuse(what, refusal, operation.got, &model).then_some(model);
        }
        if let Some(view) = what.view() {
            return shows(view, &model).then_some(model);
        }
        let next = effect(what, model)?;
        let version = match what {
            What::Confirm { outcome, .. } | What::Decline { outcome, .. } => outcome.done(),
            _ => None,
        };
        version.is_none_or(|version| *version == next.version).then_some(next)
    }

    fn may_refuse(&self, what: &What, refusal: &Refusal, got: u64, model: &Model<'_>) -> bool {
        let confirmed = || {
            self.scene
                .confirms()
                .map(|(entry, ..)| entry.sent_ms)
                .min()
                .unwrap_or(0)
        };
        match (refusal.code.as_deref().unwrap_or_default(), what, model.state) {
            ("unknown_scene", _, state) => {
                state == State::Absent || got.saturating_add(TOLERANCE_MS) >= self.scene.earliest_expiry() + MINUTE_MS
            }
            ("expired", _, state) => state == State::Expired,
            ("not_waiting", _, state) => !matches!(state, State::Waiting | State::Absent),
            ("scanned_by_another", What::Scan { openid, .. }, State::Scanned(by)) => openid != by,
            ("scanned_by_another", ..) => false,
            ("already_finished", What::Scan { .. }, state) => {
                matches!(state, State::Confirmed(_) | State::Declined(_) | State::Cancelled)
            }
            ("already_finished", What::Confirm { .. }, state) => matches!(state, State::Declined(_) | State::Cancelled),
            ("already_finished", What::Decline { .. }, state) => {
                matches!(state, State::Confirmed(_) | State::Cancelled)
            }
            ("already_finished", _, state) => matches!(state, State::Confirmed(_) | State::Declined(_)),
            ("invalid_grant", What::Redeem { client_id, .. }, state) => {
                let usable = matches!(state, State::Confirmed(_)) && !model.redeemed && !model.rolled_back;
                !usable || client_id != self.scene.client_id || got >= confirmed() + MINUTE_MS
            }
            ("confirm_token_required", What::Confirm { openid, .. } | What::Decline { openid, .. }, state) => {
                let scans = self.scene.entries.iter();
                let scans = scans.filter(|entry| matches!(&entry.what, What::Scan { openid: by, .. } if by == openid));
                // A second scan takes the first one's token away.
                let (State::Scanned(by) | State::Confirmed(by) | State::Declined(by)) = state else {
                    return true;
                };
                by != openid || model.rolled_back || scans.count() > 1
            }
            // A limit counts what was tried, not what came of it.
            ("rate_limited", What::Scan { .. }, _) => {
                let scans = self.scene.entries.iter();
                let tried = scans.filter(|entry| matches!(entry.what, What::Scan { .. }) && entry.sent_ms <= got);
                tried.count() > SCANS_PER_SCENE
            }
            ("wechat_quota", What::Scan { .. } | What::Picture { .. }, _)
            | ("invalid_wx_code" | "wechat_blocked_user", What::Scan { .. }, _) => true,
            // It could not be done, whatever the state.
            _ => refusal.status >= 500,
        }
    }
}

/// What it does where it is allowed.
fn effect<'a>(what: &'a What, model: Model<'a>) -> Option<Model<'a>> {
    let visible = |state| Model {
        state,
        version: model.version + 1,
        ..model
    };
    Some(match (what, model.state) {
        (What::Scan { openid, .. }, State::Waiting) => visible(State::Scanned(openid)),
        (What::Scan { openid, .. }, State::Scanned(by)) if openid == by => model,
        (What::Confirm { openid, .. }, State::Scanned(by)) if openid == by => visible(State::Confirmed(openid)),
        (What::Confirm { openid, .. }, State::Confirmed(by)) if openid == by => model,
        (What::Decline { openid, .. }, State::Scanned(by)) if openid == by => visible(State::Declined(openid)),
        (What::Decline { openid, .. }, State::Declined(by)) if openid == by => model,
        (What::Cancel { .. }, State::Waiting | State::Scanned(_)) => visible(State::Cancelled),
        (What::Picture { .. }, State::Waiting) | (What::Cancel { .. }, State::Cancelled | State::Expired) => model,
        // That it was redeemed before is I2's finding.
        (What::Redeem { .. }, State::Confirmed(_)) => Model {
            redeemed: true,
            ..model
        },
        _ => return None,
    })
}

fn shows(view: &View, model: &Model<'_>) -> bool {
    if view.is_lost() {
        return model.state == State::Absent;
    }
    let name = match model.state {
        State::Waiting => StateName::Waiting,
        State::Scanned(_) => StateName::Scanned,
        State::Confirmed(_) => StateName::Confirmed,
        State::Declined(_) => StateName::Declined,
        State::Cancelled => StateName::Cancelled,
        State::Expired => StateName::Expired,
        State::Absent => return false,
    };
    name == view.state && model.version == view.version
}

fn is_about_state(what: &What) -> bool {
    match what {
        What::Picture { outcome, .. } => !outcome.is_ambiguous(),
        What::Polled { outcome, .. } => !outcome.is_ambiguous(),
        What::StreamOpened { outcome, .. } => outcome.is_unknown_scene(),
        What::Told { .. }
        | What::Scan { .. }
        | What::Confirm { .. }
        | What::Decline { .. }
        | What::Cancel { .. }
        | What::Redeem { .. } => true,
        _ => false,
    }
}

/// Of redemptions at once the first may lose its reply to a fault, and be revoked by the next before it asks again: then all
/// are refused. And what was written just before Redis lost it is told, when it is tried again, that there is no such scene; or
/// where a reply was lost and somebody ended the scene before that, that it is finished.
fn is_contested(index: &Index<'_>, scene: &SceneHistory<'_>, entry: &Entry) -> bool {
    let is_redeem = |entry: &Entry| matches!(entry.what, What::Redeem { .. });
    let overlaps = |from: u64, to: u64| from <= entry.got() && to >= entry.sent_ms;
    let mut others = scene.entries.iter().filter(|other| !std::ptr::eq(**other, entry));
    if is_redeem(entry) {
        return others.any(|other| is_redeem(other) && overlaps(other.sent_ms, other.got()))
            && index.has_fault(entry.sent_ms, entry.got(), Fault::may_spoil_redemptions);
    }
    let ends = |other: &Entry| {
        matches!(
            other.what,
            What::Cancel { .. } | What::Confirm { .. } | What::Decline { .. }
        )
    };
    let is_late = entry
        .what
        .refusal()
        .is_some_and(|refusal| refusal.code.as_deref() == Some("already_finished"));
    if is_late {
        return others.any(|other| ends(other) && overlaps(other.sent_ms, other.got()))
            && index.has_fault(entry.sent_ms, entry.got(), Fault::may_spoil_redemptions);
    }
    entry.what.refusal().is_some_and(Refusal::is_unknown_scene) && index.may_have_lost_data(entry.sent_ms, entry.got())
}

fn is_ambiguous(what: &What) -> bool {
    match what {
        What::Scan { outcome, .. } | What::Cancel { outcome, .. } => outcome.is_ambiguous(),
        What::Confirm { outcome, .. } | What::Decline { outcome, .. } => outcome.is_ambiguous(),
        What::Redeem { outcome, .. } => outcome.is_ambiguous(),
        _ => false,
    }
}
