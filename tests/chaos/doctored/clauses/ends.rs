//! Whoever listens is told how its scene ended.

use scanlogin::scene::StateName;

use super::super::{LIFE_MS, confirm, entry, fault, flagged, login, refused, scene, told, view};
use super::{cancel, decline, expired, harmless, scanned_then};
use crate::checker::Invariant::I10;
use crate::history::{ClientName, Entry, Fault, Loss, Outcome, View, What};

const EXPIRY: u64 = 1_000 + LIFE_MS;

fn stream_ended(at: u64) -> Entry {
    let what = What::StreamEnded {
        scene: scene(1),
        stream: 1,
        is_broken: false,
    };
    entry(ClientName::Browser(1), at, what)
}

fn gave_up(at: u64) -> Entry {
    entry(ClientName::Browser(1), at, What::GaveUp { scene: scene(1) })
}

/// Answered when it began to wait, or, by what it waited for, at once.
fn polled(sent_ms: u64, got_ms: u64, view: View) -> Entry {
    let what = What::Polled {
        scene: scene(1),
        wait_ms: 10_000,
        outcome: Outcome::Done(view),
    };
    Entry {
        got_ms: Some(got_ms),
        ..entry(ClientName::Browser(1), sent_ms, what)
    }
}

/// A fault that a browser may notice.
fn disturbed(from_ms: u64, to_ms: u64) -> Entry {
    harmless(|fault| (fault.from_ms, fault.to_ms) = (from_ms, to_ms))
}

/// One that has nothing to do with who is told what.
fn elsewhere(from_ms: u64, to_ms: u64) -> Entry {
    harmless(|fault| (fault.hides_news_ms, fault.from_ms, fault.to_ms) = (None, from_ms, to_ms))
}

fn flushed(change: impl FnOnce(&mut Fault)) -> Entry {
    harmless(|fault| {
        (fault.from_ms, fault.to_ms, fault.loses) = (1_330, 1_340, Loss::Everything);
        change(fault);
    })
}

/// Login 1 confirmed, and told of it so late.
fn told_at(at: u64) -> Vec<Entry> {
    scanned_then([
        confirm(1, 1_400, Outcome::Done(3)),
        told(1, at, view(StateName::Confirmed, 3, 1)),
        stream_ended(at + 15),
    ])
}

/// Login 1 watched by polls instead.
fn polls(then: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let streams = |entry: &Entry| match &entry.what {
        What::StreamOpened { scene, .. } | What::Told { scene, .. } => scene == "scene-1",
        _ => false,
    };
    scanned_then(then).into_iter().filter(|entry| !streams(entry)).collect()
}

#[test]
fn only_a_fault_that_may_delay_news_and_began_in_time_explains_that_they_are_late() {
    let with = |faults: &[Entry]| flagged([told_at(9_000), faults.to_vec()].concat());
    assert_eq!(with(&[disturbed(1_350, 6_200)]), []);
    assert_eq!(with(&[disturbed(1_350, 2_000), disturbed(4_000, 6_200)]), []);
    // It was late already.
    assert_eq!(with(&[disturbed(8_000, 8_500)]), [I10]);
    assert_eq!(with(&[disturbed(1_350, 2_000), disturbed(6_000, 6_200)]), [I10]);
    assert_eq!(with(&[elsewhere(1_350, 6_200)]), [I10]);
    assert_eq!(with(&[elsewhere(1_350, 6_200), disturbed(8_000, 8_500)]), [I10]);
}

#[test]
fn a_poll_that_waited_while_its_scene_was_confirmed_was_deaf() {
    let scanned = || view(StateName::Scanned, 2, 1);
    let confirmed = || view(StateName::Confirmed, 3, 1);
    let confirm = || confirm(1, 1_400, Outcome::Done(3));
    let deaf = polls([
        confirm(),
        polled(1_350, 11_350, scanned()),
        polled(11_360, 11_370, confirmed()),
    ]);
    assert_eq!(flagged(deaf), [I10]);
    let deaf = polls([confirm(), polled(1_350, 9_000, confirmed())]);
    assert_eq!(flagged(deaf), [I10]);
    assert_eq!(flagged(polls([confirm(), polled(1_350, 1_420, confirmed())])), []);
    // Nobody waited when it was confirmed.
    let late = polls([
        confirm(),
        polled(1_350, 1_380, scanned()),
        polled(9_000, 9_010, confirmed()),
    ]);
    assert_eq!(flagged(late), []);
}

#[test]
fn a_stream_is_told_each_end_whatever_another_one_is() {
    let done = [
        (decline(1_400, Outcome::Done(3)), StateName::Declined),
        (cancel(1_400, Outcome::Done(())), StateName::Cancelled),
        (confirm(1, 1_400, Outcome::Done(3)), StateName::Confirmed),
    ];
    for (done, state) in done {
        let deaf = scanned_then([done.clone(), stream_ended(60_000)]);
        assert_eq!(flagged(deaf), [I10], "{state:?} never told");
        let asked = polled(1_420, 1_430, view(state, 3, 1));
        let deaf = scanned_then([done.clone(), asked.clone(), stream_ended(60_000)]);
        assert_eq!(flagged(deaf), [I10], "{state:?} told elsewhere");
        // One that breaks off learns the rest when it comes again.
        let broken = scanned_then([done, stream_ended(1_405), asked]);
        assert_eq!(flagged(broken), [], "{state:?}");
    }
}

#[test]
fn a_browser_that_stays_to_the_end_is_told_that_its_time_was_up() {
    let deaf = scanned_then([stream_ended(EXPIRY + 12_000), gave_up(EXPIRY + 12_000)]);
    assert_eq!(flagged(deaf.clone()), [I10]);
    let late = scanned_then([told(1, EXPIRY + 9_000, expired("time")), stream_ended(EXPIRY + 9_020)]);
    assert_eq!(flagged(late), [I10]);
    let in_time = scanned_then([told(1, EXPIRY + 1_000, expired("time")), stream_ended(EXPIRY + 1_020)]);
    assert_eq!(flagged(in_time), []);
    let away = [disturbed(EXPIRY - 100, EXPIRY + 11_000)];
    let tail = login(3, EXPIRY + 20_000);
    assert_eq!(flagged([deaf, away.to_vec(), tail].concat()), []);
}

#[test]
fn a_browser_gives_up_only_while_a_fault_lasts() {
    let given_up = scanned_then([stream_ended(2_000), gave_up(EXPIRY + 12_000)]);
    assert_eq!(flagged(given_up.clone()), [I10]);
    let with = |fault: Entry| flagged([given_up.clone(), vec![fault], login(3, EXPIRY + 30_000)].concat());
    assert_eq!(with(disturbed(EXPIRY + 1_000, EXPIRY + 11_000)), []);
    assert_eq!(with(disturbed(2_000, 12_000)), [I10]);
    assert_eq!(with(elsewhere(EXPIRY + 1_000, EXPIRY + 11_000)), [I10]);
}

#[test]
fn whoever_watches_what_redis_lost_is_told_so_in_time() {
    let with = |fault: Entry, entries: Vec<Entry>| flagged([entries, vec![fault], login(3, 200_000)].concat());
    let told_at = |at| scanned_then([told(1, at, expired("lost")), stream_ended(at + 15)]);
    let restarted = || flushed(|_| {});
    let flushed = || flushed(|fault| (fault.hides_loss_ms, fault.hides_news_ms) = (18_000, None));
    assert_eq!(with(restarted(), told_at(2_300)), []);
    assert_eq!(with(restarted(), told_at(12_000)), [I10]);
    assert_eq!(with(flushed(), told_at(17_000)), []);
    assert_eq!(with(flushed(), told_at(22_000)), [I10]);
    let never = scanned_then([stream_ended(EXPIRY - 1_000)]);
    assert_eq!(with(flushed(), never.clone()), [I10]);
    // What began afterwards was not lost, and is held to what it is.
    let before = || harmless(|fault| (fault.from_ms, fault.to_ms, fault.loses) = (500, 900, Loss::Everything));
    let deaf = scanned_then([confirm(1, 1_400, Outcome::Done(3)), stream_ended(60_000)]);
    assert_eq!(with(before(), deaf), [I10]);
    assert_eq!(with(before(), never), []);
    // Who comes again finds nothing.
    let reopened = What::StreamOpened {
        scene: scene(1),
        stream: 2,
        last_event_id: None,
        outcome: refused(404, "unknown_scene"),
    };
    let reopened = entry(ClientName::Browser(1), 3_000, reopened);
    assert_eq!(with(restarted(), scanned_then([stream_ended(1_500), reopened])), []);
}

#[test]
fn what_a_fail_over_undid_need_not_be_told() {
    let undone = || scanned_then([decline(1_400, Outcome::Done(3)), stream_ended(60_000)]);
    let fail_over = || harmless(|fault| (fault.loses, fault.from_ms, fault.to_ms) = (Loss::Unreplicated, 1_350, 2_000));
    assert_eq!(flagged([undone(), vec![fail_over()]].concat()), []);
    assert_eq!(flagged([undone(), vec![fault(1_350, Loss::Nothing)]].concat()), [I10]);
    // But a confirm that was answered is kept.
    let kept = scanned_then([confirm(1, 1_400, Outcome::Done(3)), stream_ended(60_000)]);
    assert_eq!(flagged([kept, vec![fail_over()]].concat()), [I10]);
}
