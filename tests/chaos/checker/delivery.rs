//! What becomes of a scene: its browser is told how it ended, in time, and its code can be redeemed. I10 again.

use std::collections::BTreeMap;

use super::{Index, Invariant, QUIET_SLACK_MS, SceneHistory, Violation, final_of};
use crate::history::{Entry, Fault, Loss, Opened, What};

/// Publishing, reading, and the bound of a subscription that was lost without a fault.
pub(super) const TOLD_WITHIN_MS: u64 = 2_000;
/// The longest that a client waits before it comes again.
const COMES_AGAIN_MS: u64 = 6_000;

/// A browser that listens is told how its scene ended at once, or, where a fault is in the way, once that is over. Else it was
/// deaf, and only the slow re-read has helped, if anything.
pub(super) fn told_in_time(index: &Index<'_>, slack_ms: u64) -> Vec<Violation> {
    let run_end = index.entries.iter().filter_map(|entry| entry.got_ms).max().unwrap_or(0);
    let deaf = |scene: &SceneHistory<'_>| {
        let listened = listened(scene, run_end);
        let words = ends(index, scene, slack_ms).into_iter().find_map(|end| {
            let heard = listened
                .iter()
                .find_map(|listening| end.heard_late(index, listening, slack_ms))?;
            Some(format!(
                "{} {} ms after {} at {} ms",
                heard.words, heard.after_ms, end.words, end.at
            ))
        });
        let words = words.or_else(|| given_up(index, scene, slack_ms))?;
        Some(Violation::of_scene(Invariant::I10, scene.id, words).by(scene.browser))
    };
    index.scenes.values().filter_map(deaf).collect()
}

/// Something that the browser must be told an end for.
struct End {
    words: &'static str,
    at: u64,
    /// From then to when somebody is told who listens.
    within_ms: u64,
}

/// A stream, or a long-poll.
struct Listening {
    since: u64,
    until: u64,
    told: Option<u64>,
}

struct Late {
    words: &'static str,
    after_ms: u64,
}

impl End {
    /// When whoever listens since then must have been told, whatever was in the way; with what the machine may add.
    fn due(&self, index: &Index<'_>, since: u64, slack_ms: u64) -> u64 {
        let began = self.at.max(since);
        let due = (self.at + self.within_ms).max(began + TOLD_WITHIN_MS);
        due_after_faults(index, began, due, slack_ms)
    }

    fn heard_late(&self, index: &Index<'_>, listening: &Listening, slack_ms: u64) -> Option<Late> {
        let last = listening.told.unwrap_or(listening.until);
        let words = match listening.told {
            Some(_) => "told its end",
            None => "not yet told its end",
        };
        let after_ms = last.saturating_sub(self.at);
        (last >= self.at && last > self.due(index, listening.since, slack_ms)).then_some(Late { words, after_ms })
    }
}

/// What is due then is due later if faults keep news back: the first before it is due, the next before it is due because of that one.
fn due_after_faults(index: &Index<'_>, began: u64, due: u64, slack_ms: u64) -> u64 {
    let quiet = due + slack_ms.min(QUIET_SLACK_MS);
    index
        .faults
        .iter()
        .fold(quiet, |due_so_far, fault| match fault.news_over() {
            Some(over) if over >= began && fault.from_ms <= due_so_far => {
                due_so_far.max(due + slack_ms).max(over + TOLD_WITHIN_MS + slack_ms)
            }
            _ => due_so_far,
        })
}

/// How a scene ended, each way that is certain: what somebody did and was told was done, a loss of everything, and its time.
fn ends(index: &Index<'_>, scene: &SceneHistory<'_>, slack_ms: u64) -> Vec<End> {
    let done = |entry: &&Entry| match &entry.what {
        What::Confirm { outcome, .. } | What::Decline { outcome, .. } => outcome.done().is_some(),
        What::Cancel { outcome, .. } => outcome.done().is_some(),
        _ => false,
    };
    let done = scene
        .entries
        .iter()
        .copied()
        .filter(done)
        .min_by_key(|entry| entry.got());
    let done = done.and_then(|entry| {
        let words = match &entry.what {
            What::Confirm { .. } => "its confirm",
            What::Decline { .. } => "its decline",
            _ => "its cancelling",
        };
        let end = End {
            words,
            at: entry.got(),
            within_ms: TOLD_WITHIN_MS,
        };
        // A confirm that was answered is lost with everything, or not at all; and what came after is not among everything.
        let undoes = |fault: &Fault| match fault.loses {
            Loss::Nothing => false,
            Loss::Unreplicated => !matches!(entry.what, What::Confirm { .. }),
            Loss::Everything => fault.to_ms >= entry.sent_ms,
        };
        let due = end.due(index, end.at, slack_ms);
        (!index.has_fault(entry.sent_ms, due, undoes)).then_some(end)
    });
    let expiry = End {
        words: "its time was up",
        at: latest_expiry(scene),
        within_ms: TOLD_WITHIN_MS,
    };
    let losses = index.faults.iter().filter(|fault| {
        fault.loses == Loss::Everything && (scene.started.got()..scene.earliest_expiry()).contains(&fault.from_ms)
    });
    let losses = losses.map(|fault| End {
        words: "Redis had lost it",
        at: fault.to_ms,
        within_ms: fault.recovery_bound_ms.max(fault.hides_loss_ms),
    });
    losses.chain(done).chain([expiry]).collect()
}

/// Everybody agrees by then that its time is up.
fn latest_expiry(scene: &SceneHistory<'_>) -> u64 {
    scene.started.got().saturating_add(scene.life_ms)
}

/// When its browser listened; one whose stream was not ended did until the run was.
fn listened(scene: &SceneHistory<'_>, run_end: u64) -> Vec<Listening> {
    let mut streams = BTreeMap::<u32, Listening>::new();
    let mut listened = Vec::new();
    for entry in scene.entries.iter().filter(|entry| entry.client == scene.browser) {
        match &entry.what {
            What::StreamOpened { stream, outcome, .. } if outcome.done() == Some(&Opened::Stream) => {
                let listening = Listening {
                    since: entry.got(),
                    until: run_end,
                    told: None,
                };
                streams.insert(*stream, listening);
            }
            What::StreamEnded { stream, .. } => {
                if let Some(listening) = streams.get_mut(stream) {
                    listening.until = entry.sent_ms;
                }
            }
            What::Told { stream, .. } if final_of(&entry.what).is_some() => {
                if let Some(listening) = streams.get_mut(stream) {
                    listening.told.get_or_insert(entry.got());
                }
            }
            What::Polled { outcome, .. } if outcome.done().is_some() => listened.push(Listening {
                since: entry.sent_ms,
                until: entry.got(),
                told: final_of(&entry.what).map(|_| entry.got()),
            }),
            _ => {}
        }
    }
    listened.extend(streams.into_values());
    listened
}

/// A stream that is open stays so until its scene is over, whatever happens behind the service.
pub(super) fn streams_stay_open(index: &Index<'_>) -> Vec<Violation> {
    let broken = |scene: &SceneHistory<'_>| {
        let broken = scene.entries.iter().find(|entry| {
            let is_broken = matches!(entry.what, What::StreamEnded { is_broken: true, .. });
            is_broken && !index.has_fault(entry.sent_ms, entry.sent_ms, Fault::cuts_streams)
        })?;
        let words = format!(
            "its stream broke off at {} ms, and nothing that may cut it was wrong",
            broken.sent_ms
        );
        Some(Violation::of_scene(Invariant::I10, scene.id, words).by(broken.client))
    };
    index.scenes.values().filter_map(broken).collect()
}

/// Who comes again and again learns at least that its time is up. Whoever stopped before had no reason but a fault.
fn given_up(index: &Index<'_>, scene: &SceneHistory<'_>, slack_ms: u64) -> Option<String> {
    let gave_up = scene
        .entries
        .iter()
        .find(|entry| matches!(entry.what, What::GaveUp { .. }))?;
    let expiry = latest_expiry(scene);
    let due = due_after_faults(index, expiry, expiry + TOLD_WITHIN_MS + COMES_AGAIN_MS, slack_ms);
    (gave_up.sent_ms > due).then(|| {
        format!(
            "its browser gave up {} ms after its time was up",
            gave_up.sent_ms - expiry
        )
    })
}

/// A code that is presented is redeemed, unless something explains that it is not.
pub(super) fn redeemable(index: &Index<'_>) -> Vec<Violation> {
    let refused = |scene: &SceneHistory<'_>| {
        (scene.is_in_vain() && !is_vain_with_reason(index, scene))
            .then(|| Violation::of_scene(Invariant::I10, scene.id, "its code could not be redeemed").by(scene.browser))
    };
    index.scenes.values().filter_map(refused).collect()
}

fn is_vain_with_reason(index: &Index<'_>, scene: &SceneHistory<'_>) -> bool {
    let redeems: Vec<_> = scene.redeems().collect();
    let (Some((first, _)), Some((told, _))) = (redeems.first(), scene.code()) else {
        return false;
    };
    let last = redeems.iter().map(|(entry, _)| entry.got()).max().unwrap_or(0);
    let since = told.got().min(first.sent_ms);
    let confirmed = scene.confirms().next().map_or(since, |(confirm, ..)| confirm.sent_ms);
    // It may be spent all the same.
    let is_ambiguous = redeems.iter().any(|(_, outcome)| outcome.is_ambiguous());
    // Nobody is told of a confirm that a fail-over could still undo.
    let is_lost = index.has_fault(since, last, |fault| {
        fault.loses == Loss::Everything && fault.to_ms >= confirmed
    });
    // Each may be the second use that revokes the other.
    let is_rival = |(one, other): (&Entry, &Entry)| other.sent_ms <= one.got();
    let had_rivals = redeems.windows(2).any(|pair| is_rival((pair[0].0, pair[1].0)));
    is_ambiguous || is_lost || (had_rivals && index.has_fault(since, last, Fault::may_spoil_redemptions))
}
