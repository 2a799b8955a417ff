//! A code that its site presents is redeemed.

use super::super::{confirm, flagged, is_of_site_1, login, redeem, refused, without};
use super::harmless;
use crate::checker::Invariant::{I4, I10};
use crate::history::{Entry, Fault, Loss, What};

/// Login 1's code, presented at these times, and so refused.
fn refused_at(tries: &[(u64, u16, &str)]) -> Vec<Entry> {
    let mut entries = without(is_of_site_1);
    for (at, status, code) in tries {
        let mut entry = redeem(1, *at, 1);
        if let What::Redeem { outcome, .. } = &mut entry.what {
            *outcome = refused(*status, code);
        }
        entries.push(entry);
    }
    entries
}

fn during(change: impl FnOnce(&mut Fault)) -> Entry {
    harmless(|fault| {
        (fault.from_ms, fault.to_ms) = (1_350, 1_600);
        change(fault);
    })
}

/// What is wrong when this happens meanwhile, and another login comes after.
fn with(entries: Vec<Entry>, fault: Entry) -> Vec<crate::checker::Invariant> {
    flagged([entries, vec![fault], login(3, 5_000)].concat())
}

fn once() -> Vec<Entry> {
    refused_at(&[(1_500, 400, "invalid_grant")])
}

#[test]
fn a_code_whose_confirm_was_answered_is_in_vain_only_with_everything() {
    assert_eq!(with(once(), during(|fault| fault.loses = Loss::Everything)), []);
    let before = |fault: &mut Fault| (fault.loses, fault.from_ms, fault.to_ms) = (Loss::Everything, 1_000, 1_050);
    assert_eq!(with(once(), during(before)), [I10]);
    let fail_over = during(|fault| (fault.loses, fault.durable_bound_ms) = (Loss::Unreplicated, 1_000));
    assert_eq!(with(once(), fail_over), [I10]);
    assert_eq!(with(once(), during(|_| {})), [I4, I10]);
    assert_eq!(with(once(), during(|fault| fault.hides_news_ms = None)), [I4, I10]);
}

#[test]
fn a_code_that_the_page_was_told_counts_although_the_phone_was_not_answered() {
    let is_confirm = |entry: &Entry| matches!(&entry.what, What::Confirm { scene, .. } if scene == "scene-1");
    let answered = once().into_iter().filter(|entry| !is_confirm(entry));
    let unanswered: Vec<_> = answered
        .chain([confirm(1, 1_400, refused(503, "store_unavailable"))])
        .collect();
    let fail_over = during(|fault| (fault.loses, fault.durable_bound_ms) = (Loss::Unreplicated, 1_000));
    assert_eq!(with(unanswered.clone(), fail_over), [I10]);
    assert_eq!(with(unanswered.clone(), during(|_| {})), [I4, I10]);
    assert_eq!(with(unanswered, during(|fault| fault.loses = Loss::Everything)), []);
}

#[test]
fn a_redemption_without_an_answer_may_have_spent_the_code() {
    let stalled = || during(|fault| fault.durable_bound_ms = 1_000);
    let tries = [(1_500, 503, "temporarily_unavailable"), (1_800, 400, "invalid_grant")];
    assert_eq!(with(refused_at(&tries), stalled()), []);
    assert_eq!(with(once(), stalled()), [I4, I10]);
}

#[test]
fn rivals_may_revoke_each_other_where_a_fault_keeps_them_from_being_redeemed() {
    let rivals = || refused_at(&[(1_500, 400, "invalid_grant"), (1_505, 400, "invalid_grant")]);
    let in_turn = || refused_at(&[(1_500, 400, "invalid_grant"), (1_520, 400, "invalid_grant")]);
    let without_replica = || during(|fault| (fault.hides_news_ms, fault.durable_bound_ms) = (None, 1_000));
    assert_eq!(with(rivals(), without_replica()), []);
    assert_eq!(with(in_turn(), without_replica()), [I4, I10]);
    assert_eq!(with(rivals(), during(|fault| fault.hides_news_ms = None)), [I4, I10]);
}
