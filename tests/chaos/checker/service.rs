//! What the service is as a whole: I9, I10, I11, I12.

use super::tally::completed_at;
use super::{Canary, Index, Invariant, Text, Violation};
use crate::history::{Entry, Phase, Usage, What};

const SLACK_MS: u64 = 500;

/// I9, *truthful errors*: every non-2xx has `code`, no 500; every 503/429 has Retry-After; every request ends at most half a
/// second after its deadline, unless a replica stood still.
pub(super) fn truthful_errors(index: &Index<'_>) -> Vec<Violation> {
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
        let (Some(deadline), Some(got)) = (deadline_ms(&entry.what), entry.got_ms) else {
            continue;
        };
        let paused = index
            .faults
            .iter()
            .any(|fault| fault.pauses && fault.from_ms <= got && fault.to_ms >= entry.sent_ms);
        if got > entry.sent_ms + deadline + SLACK_MS && !paused {
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

/// I10, *liveness*: once the last fault is healed and its time to recover is over, so many fresh logins in a row succeed.
pub(super) fn liveness(index: &Index<'_>, tail_logins: usize) -> Vec<Violation> {
    let healed = index.faults.iter().map(|fault| super::shown_until(fault)).max();
    let Some(healed) = healed else { return Vec::new() };
    let is_fresh = |entry: &&Entry| matches!(entry.what, What::Started { .. }) && entry.sent_ms >= healed;
    let mut fresh: Vec<_> = index.entries.iter().filter(is_fresh).collect();
    fresh.sort_by_key(|entry| entry.sent_ms);
    let succeeded = |entry: &&&Entry| {
        let scene = entry.what.scene().and_then(|scene| index.scenes.get(scene));
        scene.is_some_and(|scene| completed_at(scene).is_some())
    };
    let in_a_row = fresh.iter().take(tail_logins).filter(succeeded).count();
    let words = || format!("{in_a_row} of {tail_logins} fresh logins succeeded after the last fault");
    (in_a_row < tail_logins)
        .then(|| Violation::of_run(Invariant::I10, words()))
        .into_iter()
        .collect()
}

/// I11, *no secret anywhere*: no canary stands in a log, a metric or a dump.
pub(super) fn no_secret_anywhere(texts: &[Text], canaries: &[Canary]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for text in texts {
        for canary in canaries.iter().filter(|canary| !canary.secret.is_empty()) {
            let secret = canary.secret.as_bytes();
            if text.bytes.windows(secret.len()).any(|part| part == secret) {
                let words = format!("{} holds {}", text.name, canary.name);
                violations.push(Violation::of_run(Invariant::I11, words));
            }
        }
    }
    violations
}

/// I12, *bounded*: resident memory, descriptors, Redis memory and live keys within bounds at all samples; after the run all
/// are back at most 5 % above the base.
pub(super) fn bounded(index: &Index<'_>, bounds: Usage) -> Vec<Violation> {
    let named = |usage: Usage| {
        let Usage {
            rss_kb,
            fds,
            redis_bytes,
            redis_keys,
        } = usage;
        [
            ("rss_kb", rss_kb),
            ("fds", fds),
            ("redis_bytes", redis_bytes),
            ("redis_keys", redis_keys),
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
        if let (Some((_, base)), Some((_, after))) = (last_of(Phase::Before), last_of(Phase::After)) {
            let (base, after) = (base[n].1, after[n].1);
            if after > base + base / 20 {
                violations.push(Violation::of_run(
                    Invariant::I12,
                    format!("{name} stays at {after}, from {base}"),
                ));
            }
        }
    }
    violations
}
