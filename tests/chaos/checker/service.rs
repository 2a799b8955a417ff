//! What the service is as a whole: I9, I10, I11, I12.

use std::collections::BTreeMap;

use super::tally::troubles_after;
use super::{Index, Invariant, QUIET_SLACK_MS, REQUEST_SLACK_MS, SceneHistory, Text, Violation};
use crate::history::{Entry, Fault, Phase, Usage, What};
use crate::support::canaries::Secrets;

/// I9, *truthful errors*: every non-2xx has `code`, no 500; every 503/429 has Retry-After; every request ends at most so long
/// after its deadline, unless a replica stood still.
pub(super) fn truthful_errors(index: &Index<'_>, slack_ms: u64) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in index.entries {
        let mut found = |words: String| {
            let scene = entry.what.scene().map(str::to_owned);
            violations.push(Violation {
                scene,
                ..Violation::of_run(Invariant::I9, words).by(entry.client)
            });
        };
        if let Some(refusal) = entry.what.refusal() {
            if refusal.code.as_deref().unwrap_or_default().is_empty() {
                found(format!("a {} without a code", refusal.status));
            }
            if refusal.status == 500 {
                found("a 500".to_owned());
            }
            if matches!(refusal.status, 429 | 503) && refusal.retry_after.is_none() {
                found(format!("a {} without Retry-After", refusal.status));
            }
        }
        if let (What::Started { .. } | What::StreamOpened { .. }, Some(refusal)) = (&entry.what, entry.what.refusal())
            && matches!(refusal.status, 401 | 403)
            && index.is_own(entry)
        {
            found(format!("a {} to whom it was not meant", refusal.status));
        }
        let (Some(deadline), Some(got)) = (deadline_ms(&entry.what), entry.got_ms) else {
            continue;
        };
        let paused = index
            .faults
            .iter()
            .any(|fault| fault.pauses && fault.from_ms <= got && fault.to_ms >= entry.sent_ms);
        let (deadline, slack_ms) = if index.has_fault(entry.sent_ms, got, |_| true) {
            (deadline + retried_ms(&entry.what), slack_ms.min(REQUEST_SLACK_MS))
        } else {
            (deadline, slack_ms.min(QUIET_SLACK_MS))
        };
        if got > entry.sent_ms + deadline + slack_ms && !paused {
            found(format!("a request took {} ms", got - entry.sent_ms));
        }
    }
    violations
}

fn deadline_ms(what: &What) -> Option<u64> {
    match what {
        What::Picture { .. } => Some(20_000),
        What::Scan { .. } => Some(6_000),
        What::Polled { wait_ms, .. } => Some(wait_ms + 3_000),
        What::Started { .. }
        | What::StreamOpened { .. }
        | What::Confirm { .. }
        | What::Decline { .. }
        | What::Cancel { .. }
        | What::Redeem { .. }
        | What::Userinfo { .. } => Some(3_000),
        _ => None,
    }
}

/// When a replica dies with it, the proxy asks another.
fn retried_ms(what: &What) -> u64 {
    match what {
        What::Polled { wait_ms, .. } => *wait_ms,
        _ => 0,
    }
}

/// I10, *liveness*: each fault has no effects longer than it may, a graceful one lets no request fail, and the last so
/// many logins of the run succeed.
pub(super) fn liveness(index: &Index<'_>, tail_logins: usize, slack_ms: u64) -> Vec<Violation> {
    let late = troubles_after(index).into_iter().filter_map(|(fault, troubles)| {
        let late = |entry: &&Entry| entry.sent_ms > fault.over_for(is_durable(index, entry)) + slack_ms;
        let last = troubles.into_iter().filter(late).max_by_key(|entry| entry.sent_ms)?;
        let (kind, from_ms, to_ms) = (&fault.kind, fault.from_ms, fault.to_ms);
        let (trouble, bound) = (last.sent_ms - to_ms, fault.over_for(is_durable(index, last)) - to_ms);
        let words = format!("{kind} at {from_ms} ms had effects for {trouble} ms after it was healed, not {bound}");
        Some(Violation::of_run(Invariant::I10, words))
    });
    let unexplained = index.entries.iter().filter(|entry| {
        let explains = |fault: &Fault| {
            let over = fault.over_for(is_durable(index, entry)) + slack_ms;
            let is_by_then = (fault.from_ms..=over).contains(&entry.sent_ms)
                || (entry.sent_ms..=entry.got()).contains(&fault.from_ms);
            is_by_then && fault.reaches(&entry.what, is_durable(index, entry))
        };
        entry.got_ms.is_some() && entry.what.is_trouble() && !index.faults.iter().any(|fault| explains(fault))
    });
    let unexplained = unexplained.map(|entry| {
        let words = format!("a request failed at {} ms, and no fault explains that", entry.sent_ms);
        Violation::of_run(Invariant::I10, words).by(entry.client)
    });
    let graceful = index.faults.iter().filter(|fault| fault.is_graceful);
    let abrupt = graceful.filter_map(|fault| {
        let next = index.faults.iter().map(|fault| fault.from_ms).find(|from| *from > fault.to_ms);
        let during = |entry: &&Entry| {
            entry.sent_ms <= fault.to_ms && (fault.from_ms..next.unwrap_or(u64::MAX)).contains(&entry.got())
        };
        // A stream that is refused comes back as one that is ended does.
        let is_ended = |what: &What| matches!(what, What::StreamOpened { outcome, .. } if outcome.refusal().is_some_and(|refusal| refusal.code.as_deref() == Some("shutting_down")));
        let failed = |entry: &&Entry| entry.what.is_trouble() && !is_ended(&entry.what);
        let (kind, from_ms) = (&fault.kind, fault.from_ms);
        let count = index.entries.iter().filter(during).filter(failed).count();
        (count > 0).then(|| {
            let words = format!("{kind} at {from_ms} ms made {count} requests fail");
            Violation::of_run(Invariant::I10, words)
        })
    });
    // One that was begun before, under a fault, may be begun again among the last.
    let mut first = BTreeMap::new();
    for entry in index.entries {
        if matches!(entry.what, What::Started { .. }) {
            let first = first.entry(entry.client).or_insert(entry);
            *first = std::cmp::min_by_key(first, entry, |entry| entry.sent_ms);
        }
    }
    let mut fresh: Vec<_> = first.into_values().collect();
    fresh.sort_by_key(|entry| std::cmp::Reverse(entry.sent_ms));
    let succeeded = |entry: &&&Entry| {
        let scene = entry.what.scene().and_then(|scene| index.scenes.get(scene));
        let done = |wanted: fn(&What) -> bool| {
            scene.is_some_and(|scene| scene.entries.iter().any(|entry| wanted(&entry.what)))
        };
        done(|what| matches!(what, What::Redeem { outcome, .. } if outcome.done().is_some()))
            && done(|what| matches!(what, What::Userinfo { outcome, .. } if outcome.done().is_some()))
    };
    let in_a_row = fresh.iter().take(tail_logins).filter(succeeded).count();
    let words = || format!("{in_a_row} of the last {tail_logins} logins succeeded");
    let tail = (in_a_row < tail_logins).then(|| Violation::of_run(Invariant::I10, words()));
    late.chain(unexplained).chain(abrupt).chain(tail).collect()
}

/// Whether a request does what may not be lost, or asks for a state that may be a confirm which does not count yet.
pub(super) fn is_durable(index: &Index<'_>, entry: &Entry) -> bool {
    match &entry.what {
        What::Confirm { .. } | What::Redeem { .. } => true,
        What::StreamOpened { scene, .. }
        | What::Polled { scene, .. }
        | What::Picture { scene, .. }
        | What::Scan { scene, .. }
        | What::Cancel { scene, .. }
        | What::Decline { scene, .. } => {
            let may_be_unsettled = |scene: &SceneHistory<'_>| {
                let is_begun = scene.confirms().any(|(confirm, ..)| confirm.sent_ms <= entry.got());
                is_begun && scene.confirmed_at().is_none_or(|confirmed| confirmed > entry.sent_ms)
            };
            index.scenes.get(scene.as_str()).is_some_and(may_be_unsettled)
        }
        _ => false,
    }
}

/// I11, *no secret anywhere*: none stands in a log, a metric or a dump.
pub(super) fn no_secret_anywhere(texts: &[Text], secrets: &Secrets) -> Vec<Violation> {
    let found = texts.iter().filter_map(|text| {
        let (what, _) = secrets.find(&text.bytes)?;
        Some(Violation::of_run(Invariant::I11, format!("{} holds {what}", text.name)))
    });
    found.collect()
}

/// I9 again: nothing breaks, also not where no request would tell of it.
pub(super) fn no_panic(texts: &[Text]) -> Vec<Violation> {
    let broken = texts
        .iter()
        .filter(|text| String::from_utf8_lossy(&text.bytes).contains("panicked at"));
    broken
        .map(|text| Violation::of_run(Invariant::I9, format!("{} tells of a panic", text.name)))
        .collect()
}

/// I12 again: whatever is kept in Redis has a time to live, so that a login that nobody ends leaves nothing behind.
pub(super) fn nothing_for_ever(endless_keys: &[String]) -> Vec<Violation> {
    let violation = |key| Violation::of_run(Invariant::I12, format!("{key} is kept for ever"));
    endless_keys.iter().map(violation).collect()
}

/// What an allocator keeps of what it once gave.
const ALLOCATOR_KB: u64 = 32 * 1024;

/// I12, *bounded*: resident memory, descriptors, Redis memory and live keys within bounds at all samples; after the run
/// descriptors, streams, watched scenes and requests are back at most 5 % above the base, and memory but for what the allocator keeps. (What Redis holds goes with
/// its time to live, which for an access token is longer than a run.)
pub(super) fn bounded(index: &Index<'_>, bounds: Usage) -> Vec<Violation> {
    let named = |usage: Usage| {
        let Usage {
            rss_kb,
            fds,
            redis_bytes,
            redis_keys,
            held,
        } = usage;
        [
            ("rss_kb", rss_kb),
            ("fds", fds),
            ("redis_bytes", redis_bytes),
            ("redis_keys", redis_keys),
            ("held", held),
        ]
    };
    let samples = index.entries.iter().filter_map(|entry| match entry.what {
        What::Sample { phase, usage } => Some((phase, named(usage))),
        _ => None,
    });
    let samples: Vec<_> = samples.collect();
    let last_of = |wanted| samples.iter().rev().find(|(phase, _)| *phase == wanted);
    let mut violations = Vec::new();
    for (n, (name, bound)) in named(bounds).into_iter().enumerate() {
        let most = samples.iter().map(|(_, usage)| usage[n].1).max().unwrap_or(0);
        if most > bound {
            violations.push(Violation::of_run(
                Invariant::I12,
                format!("{name} was {most}, above {bound}"),
            ));
        }
        let slack = [Some(ALLOCATOR_KB), Some(Usage::LATE_FDS), None, None, Some(0)][n];
        if let (Some((_, base)), Some((_, after)), Some(slack)) = (last_of(Phase::Before), last_of(Phase::After), slack)
        {
            let (base, after) = (base[n].1, after[n].1);
            if after > base + base / 20 + slack {
                violations.push(Violation::of_run(
                    Invariant::I12,
                    format!("{name} stays at {after}, from {base}"),
                ));
            }
        }
    }
    violations
}
