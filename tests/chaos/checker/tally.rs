//! Logins by outcome, the lost ones, and how long the service took to recover.

use std::collections::BTreeMap;

use scanlogin::scene::StateName;
use serde::{Deserialize, Serialize};

use super::delivery::TOLD_WITHIN_MS;
use super::service::is_durable;
use super::{Index, Invariant, Lost, SceneHistory, Violation};
use crate::history::{Entry, Fault, Loss, Refusal, What};

/// Each `POST /scenes` counts under exactly one of `completed` … `unavailable`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// 201s.
    pub(crate) started: usize,
    /// The browser got its code.
    pub(crate) completed: usize,
    /// It did, and its site was refused whenever it tried to redeem that.
    #[serde(default)]
    pub(crate) in_vain: usize,
    pub(crate) declined: usize,
    pub(crate) cancelled: usize,
    pub(crate) expired: usize,
    /// The browser was truthfully told that the record is lost.
    pub(crate) fallbacks: usize,
    pub(crate) lost: usize,
    /// Not started, or left without an end by somebody who stopped.
    pub(crate) unavailable: usize,
    /// Violations of I1 and I3.
    pub(crate) misdelivered: usize,
    /// Violations of I2.
    pub(crate) doubled: usize,
}

/// A login counts as confirmed when its scene had so long to live.
const LEFT_MS: u64 = 5_000;
const GRACE_MS: u64 = 10_000;

pub(super) fn completed_at(scene: &SceneHistory<'_>) -> Option<u64> {
    scene.code().map(|(entry, _)| entry.got())
}

fn is_fallback(index: &Index<'_>, scene: &SceneHistory<'_>) -> bool {
    let own = scene.entries.iter().filter(|entry| entry.client == scene.browser);
    let mut told_lost = own.filter(|entry| {
        let gone = entry.what.refusal().is_some_and(Refusal::is_unknown_scene);
        gone || entry.what.view().is_some_and(crate::history::View::is_lost)
    });
    told_lost.any(|entry| may_be_lost(index, scene, entry.got()))
}

/// Whether a loss of data explains what this scene's browser was told at that time. A confirm that was answered is lost with
/// everything, or not at all.
fn may_be_lost(index: &Index<'_>, scene: &SceneHistory<'_>, told: u64) -> bool {
    let is_kept = scene.confirmed_at().is_some_and(|confirmed| confirmed <= told);
    index.has_fault(scene.started.sent_ms, told, |fault| match fault.loses {
        Loss::Nothing => false,
        Loss::Unreplicated => !is_kept,
        Loss::Everything => true,
    })
}

/// A login starts when `POST /scenes` answered 201 and the phone's confirm answered 200 while the scene had at least five
/// seconds left and the browser kept trying. It is lost if within ten seconds after the last injected fault healed (or by
/// scene expiry, if sooner, when whoever was told nothing is told what is true) the browser neither received the code
/// nor a truthful final state. What keeps news back that nobody can know of is healed when all has been read again.
pub(super) fn lost(index: &Index<'_>) -> Vec<Lost> {
    let healed = |fault: &&Fault| fault.to_ms + fault.hides_news_ms.unwrap_or(0);
    let healed = index.faults.iter().map(healed).max().unwrap_or(0);
    let is_lost = |scene: &&SceneHistory<'_>| {
        let Some(confirmed) = scene
            .confirmed_at()
            .filter(|got| got + LEFT_MS <= scene.earliest_expiry())
        else {
            return false;
        };
        let deadline = (healed.max(confirmed) + GRACE_MS).min(scene.earliest_expiry() + TOLD_WITHIN_MS);
        let stopped = scene.entries.iter().any(|entry| {
            let stops = match &entry.what {
                What::GaveUp { .. } => true,
                What::Cancel { outcome, .. } => outcome.done().is_some() || outcome.is_ambiguous(),
                _ => false,
            };
            stops && entry.sent_ms < deadline
        });
        let excused = scene.views().any(|(entry, view)| {
            view.state.is_final()
                && view.state != StateName::Confirmed
                && entry.got() <= deadline
                && may_be_lost(index, scene, entry.got())
        });
        let in_time = completed_at(scene).is_some_and(|got| got <= deadline);
        !stopped && !in_time && !excused && !is_fallback(index, scene)
    };
    let lost = index.scenes.values().filter(is_lost);
    lost.map(|scene| Lost {
        scene: scene.id.to_owned(),
        browser: scene.browser,
    })
    .collect()
}

pub(super) fn tally(index: &Index<'_>, lost: &[Lost], violations: &[Violation]) -> Tally {
    let of = |invariant| violations.iter().filter(|found| found.invariant == invariant).count();
    let attempts = index
        .entries
        .iter()
        .filter(|entry| matches!(entry.what, What::Started { .. }))
        .count();
    let mut tally = Tally {
        started: index.scenes.len(),
        unavailable: attempts - index.scenes.len(),
        misdelivered: of(Invariant::I1) + of(Invariant::I3),
        doubled: of(Invariant::I2),
        ..Tally::default()
    };
    for scene in index.scenes.values() {
        let end = scene
            .views()
            .map(|(_, view)| view.state)
            .filter(|state| state.is_final())
            .last();
        let cancelled = scene
            .entries
            .iter()
            .any(|entry| matches!(&entry.what, What::Cancel { outcome, .. } if outcome.done().is_some()));
        let count = if lost.iter().any(|lost| lost.scene == scene.id) {
            &mut tally.lost
        } else if scene.is_in_vain() {
            &mut tally.in_vain
        } else if completed_at(scene).is_some() {
            &mut tally.completed
        } else if is_fallback(index, scene) {
            &mut tally.fallbacks
        } else {
            match end {
                Some(StateName::Declined) => &mut tally.declined,
                Some(StateName::Cancelled) => &mut tally.cancelled,
                Some(StateName::Expired) => &mut tally.expired,
                _ if cancelled => &mut tally.cancelled,
                _ => &mut tally.unavailable,
            }
        };
        *count += 1;
    }
    tally
}

/// For each fault, by kind: how long after it was healed, and before the next, something was last sent that came to nothing, in
/// milliseconds.
pub(super) fn recovery(index: &Index<'_>) -> BTreeMap<String, Vec<u64>> {
    let mut times = BTreeMap::<String, Vec<u64>>::new();
    for (fault, troubles) in troubles_after(index) {
        let last = troubles.iter().map(|entry| entry.sent_ms - fault.to_ms).max();
        times.entry(fault.kind.clone()).or_default().push(last.unwrap_or(0));
    }
    times
}

/// What came to nothing once a fault was healed, and before the next began, which has troubles of its own.
pub(super) fn troubles_after<'a>(index: &Index<'a>) -> Vec<(&'a Fault, Vec<&'a Entry>)> {
    let troubles: Vec<_> = index.entries.iter().filter(|entry| entry.what.is_trouble()).collect();
    let ends = index.faults.iter().skip(1).map(|fault| fault.from_ms).chain([u64::MAX]);
    let its = |fault: &Fault, end: u64| {
        let its = troubles
            .iter()
            .filter(|entry| fault.reaches(&entry.what, is_durable(index, entry)) && entry.sent_ms >= fault.to_ms)
            .filter(|entry| entry.got() < end || end == u64::MAX);
        its.copied().collect()
    };
    index
        .faults
        .iter()
        .zip(ends)
        .map(|(fault, end)| (*fault, its(fault, end)))
        .collect()
}
