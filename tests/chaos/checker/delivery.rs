//! What becomes of a confirm: its code comes in time, and can be redeemed. I10 again.

use super::{Index, Invariant, QUIET_SLACK_MS, SceneHistory, Violation};
use crate::history::{Fault, Opened, What};

/// Publishing, reading, and the bound of a subscription that was lost without a fault.
const TOLD_WITHIN_MS: u64 = 2_000;

/// A browser that watches is told of a confirm at once, or, where a fault is in the way, once that is over. Else it was deaf, and
/// only the slow re-read has helped.
pub(super) fn told_in_time(index: &Index<'_>, slack_ms: u64) -> Vec<Violation> {
    let late = |scene: &SceneHistory<'_>| {
        let (told, _) = scene.code()?;
        let confirmed = scene.confirmed_at()?;
        let watches_since = scene.entries.iter().filter(|entry| match &entry.what {
            What::StreamOpened { outcome, .. } => outcome.done() == Some(&Opened::Stream),
            What::Polled { outcome, .. } => outcome.done().is_some(),
            _ => false,
        });
        let watches_since = watches_since
            .map(|entry| entry.sent_ms)
            .filter(|sent| *sent <= told.got());
        let due = confirmed.max(watches_since.max()?);
        let over = |fault: &Fault| fault.to_ms + fault.recovery_bound_ms.max(fault.hides_news_ms);
        let faults = index.faults.iter().filter(|fault| fault.from_ms <= told.got());
        let due = faults.map(|fault| over(fault)).fold(due, u64::max) + TOLD_WITHIN_MS;
        let is_quiet = !index.has_fault(confirmed, told.got(), |_| true);
        let due = due
            + if is_quiet {
                slack_ms.min(QUIET_SLACK_MS)
            } else {
                slack_ms
            };
        let words = || format!("its code came {} ms after its confirm", told.got() - confirmed);
        (told.got() > due).then(|| Violation::of_scene(Invariant::I10, scene.id, words()).by(scene.browser))
    };
    index.scenes.values().filter_map(late).collect()
}

/// A code that is presented while nothing is wrong, and whose every answer arrived, is redeemed.
pub(super) fn redeemable(index: &Index<'_>) -> Vec<Violation> {
    let refused = |scene: &SceneHistory<'_>| {
        let (first, last) = (scene.redeems().next()?.0.sent_ms, scene.redeems().last()?.0.got());
        let told = scene.code()?.0.got();
        let is_explained = index.has_fault(told.min(first), last, |_| true);
        (scene.is_in_vain() && !is_explained)
            .then(|| Violation::of_scene(Invariant::I10, scene.id, "its code could not be redeemed").by(scene.browser))
    };
    index.scenes.values().filter_map(refused).collect()
}
