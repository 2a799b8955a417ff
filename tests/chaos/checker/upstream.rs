//! What WeChat was asked: I7, I8.

use std::collections::BTreeSet;

use super::{Index, Invariant, Violation, shown_until};
use crate::history::{Api, Entry, Fault, Loss, What};

const HOUR_MS: u64 = 3_600_000;
/// Each replica looks after its token at least so often.
const NOTICED_MS: u64 = 15_000;

/// I7, *token thrift*: token calls at most 1 per lifetime + 1 per injected invalidation + 1 per lease-holder killed
/// mid-call; `force_refresh` at most 1 per hour; never two overlapping calls unless a holder was paused beyond its lease.
///
/// The record of a token is data: a loss counts as an invalidation, and with everything it is forgotten when the last one was forced. A call that gave no token is no fetch, and a killed
/// holder's call overlaps nobody's.
pub(super) fn token_thrift(index: &Index<'_>, margin_ms: u64) -> Vec<Violation> {
    let mut calls: Vec<&Entry> = index
        .entries
        .iter()
        .filter(|entry| is_token_call(&entry.what))
        .collect();
    calls.sort_by_key(|call| call.sent_ms);
    let mut words = Vec::new();
    words.extend(needless(index, &calls, margin_ms));
    let forced: Vec<_> = calls
        .iter()
        .filter(|call| matches!(call.what, What::UpstreamCall { force: true, .. }))
        .collect();
    let is_forgotten = |from, to| index.has_fault(from, to, |fault| fault.loses == Loss::Everything);
    if forced.windows(2).any(|pair| {
        let (before, again) = (pair[0].sent_ms, pair[1].sent_ms);
        again < before + HOUR_MS && !is_forgotten(before, again)
    }) {
        words.push("force_refresh twice within one hour");
    }
    for (n, call) in calls.iter().enumerate() {
        let overlapped = calls[..n].iter().any(|before| before.got() > call.sent_ms);
        let excuse = |fault: &Fault| {
            (fault.pauses || fault.kills_lease_holder)
                && fault.from_ms <= call.sent_ms
                && shown_until(fault) >= call.sent_ms
        };
        if overlapped && !index.faults.iter().copied().any(excuse) {
            words.push("two token calls at once");
        }
    }
    let violations = words.into_iter().map(|words| Violation::of_run(Invariant::I7, words));
    violations.collect()
}

fn is_token_call(what: &What) -> bool {
    matches!(
        what,
        What::UpstreamCall {
            api: Api::StableToken,
            ..
        }
    )
}

/// Fetches that neither a token's end nor a fault explains; each fault explains one, while it has effects or soon after. What lost
/// everything explains the next one whenever it is: who has a token goes on with it, and who starts finds none.
fn needless<'w>(index: &Index<'_>, calls: &[&Entry], margin_ms: u64) -> Vec<&'w str> {
    let count =
        |fault: &Fault| fault.invalidations + usize::from(fault.kills_lease_holder || fault.loses != Loss::Nothing);
    let each = index
        .faults
        .iter()
        .flat_map(|fault| std::iter::repeat_n(*fault, count(fault)));
    let mut excuses: Vec<&Fault> = each.collect();
    let mut due = 0;
    let mut words = Vec::new();
    for call in calls {
        let What::UpstreamCall { outcome, .. } = &call.what else {
            continue;
        };
        let Some(Some(token)) = outcome.done() else { continue };
        if call.sent_ms < due {
            let is_lost = |fault: &Fault| fault.loses == Loss::Everything && fault.from_ms <= call.sent_ms;
            let explains = |fault: &&Fault| {
                is_lost(fault) || (fault.from_ms..=shown_until(fault) + NOTICED_MS).contains(&call.sent_ms)
            };
            match excuses.iter().position(explains) {
                Some(excuse) if is_lost(excuses[excuse]) => excuses.retain(|fault| !is_lost(fault)),
                Some(excuse) => drop(excuses.remove(excuse)),
                None => words.push("a token was fetched while the last one was good"),
            }
        }
        due = call.got().saturating_add(token.expires_in_ms).saturating_sub(margin_ms);
    }
    words
}

/// I8, *wx code once*: no js_code reaches the upstream twice.
pub(super) fn wx_code_once(index: &Index<'_>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let codes = index.entries.iter().filter_map(|entry| match &entry.what {
        What::UpstreamCall { js_code, .. } => js_code.as_deref(),
        _ => None,
    });
    let again = codes.filter(|code| !seen.insert(*code));
    again
        .map(|_| Violation::of_run(Invariant::I8, "a js_code reached WeChat twice"))
        .collect()
}
