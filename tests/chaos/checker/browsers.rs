//! What browsers saw: I1, I5, I6.

use std::collections::{BTreeMap, BTreeSet};

use scanlogin::scene::StateName;

use super::{Index, Invariant, SceneHistory, Violation, final_of, shown_until};
use crate::history::{Ends, Entry, Opened, View, What};

/// A stream that stands for so long without its first event has missed it.
const SNAPSHOT_MS: u64 = 2_000;

/// I1, *right browser*: a code that appears in browser X's history was confirmed for X's scene; no code in two browsers'
/// histories; whoever scanned the picture that browser X showed logs in X and nobody else.
pub(super) fn right_browser(index: &Index<'_>) -> Vec<Violation> {
    let found =
        |scene: &str, entry: &Entry, words: &str| Violation::of_scene(Invariant::I1, scene, words).by(entry.client);
    let mut violations = Vec::new();
    for entry in index.entries {
        let Some(scene) = entry.what.scene() else { continue };
        if let What::Picture { outcome, .. } = &entry.what
            && outcome
                .done()
                .is_some_and(|read| read.as_ref().is_some_and(|shown| shown != scene))
        {
            violations.push(found(scene, entry, "the picture shows another scene"));
        }
        // A stream may be there for nothing but the word that it can't be.
        if let What::StreamOpened { outcome, .. } = &entry.what
            && outcome.done() == Some(&Opened::Over)
            && !index.is_own(entry)
        {
            violations.push(found(scene, entry, "a stranger was told that it is over"));
        }
        let Some(view) = entry.what.view() else { continue };
        match index.scenes.get(scene) {
            Some(history) if history.browser == entry.client => {
                violations.extend(unconfirmed(history, entry, view).map(|words| found(scene, entry, words)));
            }
            _ => violations.push(found(
                scene,
                entry,
                "a browser was told of a scene that it did not start",
            )),
        }
    }
    for told in index.codes.values() {
        let (browser, scene) = told[0];
        if let Some((other, _)) = told.iter().find(|(other, _)| *other != browser) {
            let words = format!("{browser} and {other} were told the same code");
            violations.push(Violation::of_scene(Invariant::I1, scene, words).by(*other));
        } else if told.iter().any(|(_, other)| *other != scene) {
            violations.push(Violation::of_scene(Invariant::I1, scene, "one code for two scenes").by(browser));
        }
    }
    violations
}

/// What is wrong with a code, or with the profile that goes with it, for the browser that got it.
fn unconfirmed(scene: &SceneHistory<'_>, entry: &Entry, view: &View) -> Option<&'static str> {
    view.code.as_ref()?;
    let confirms: Vec<_> = scene
        .confirms()
        .filter(|(confirm, ..)| confirm.sent_ms <= entry.got())
        .collect();
    if confirms.is_empty() {
        return Some("a code came that nobody had confirmed");
    }
    let scanned = |openid: &str| {
        let mut scans = scene.entries.iter();
        scans.any(|scan| {
            matches!(&scan.what, What::Scan { openid: by, .. } if by == openid) && scan.sent_ms <= entry.got()
        })
    };
    if !confirms.iter().any(|(_, openid, _)| scanned(openid)) {
        return Some("nobody who confirmed had scanned this browser's picture");
    }
    let is_theirs = |nickname: &String| confirms.iter().any(|(_, _, theirs)| *theirs == Some(nickname));
    let foreign = view.nickname.as_ref().is_some_and(|nickname| !is_theirs(nickname));
    foreign.then_some("the profile is of somebody who did not confirm here")
}

/// I5, *streams only go forward*: the version never falls and no event comes twice but after an injected loss of data; final
/// event last; snapshot first (unless the browser said that it has it).
pub(super) fn streams_go_forward(index: &Index<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for scene in index.scenes.values() {
        let mut streams = BTreeMap::<u32, Vec<&Entry>>::new();
        for entry in scene.entries.iter().filter(|entry| entry.client == scene.browser) {
            if let What::StreamOpened { stream, .. } | What::Told { stream, .. } | What::StreamEnded { stream, .. } =
                &entry.what
            {
                streams.entry(*stream).or_default().push(entry);
            }
        }
        let words = streams.values().flat_map(|stream| of_stream(index, stream));
        let words = words
            .chain(fallen_versions(index, &streams))
            .chain(wrong_time(index, scene));
        violations.extend(words.map(|words| Violation::of_scene(Invariant::I5, scene.id, words).by(scene.browser)));
    }
    violations
}

fn of_stream(index: &Index<'_>, stream: &[&Entry]) -> Vec<&'static str> {
    let mut words = Vec::new();
    let mut seen = BTreeSet::new();
    let mut last: Option<(u64, &View)> = None;
    let mut opened = None;
    for entry in stream {
        match &entry.what {
            What::StreamOpened {
                last_event_id, outcome, ..
            } if outcome.done() == Some(&Opened::Stream) => {
                opened = Some((*entry, last_event_id.is_none()));
                seen.extend(last_event_id.as_deref());
            }
            What::Told { view, .. } => {
                if opened.is_none() {
                    words.push("an event came on a stream that was not open");
                }
                // What a loss of data undid is told as it was before.
                let since = last.map_or(0, |(got, _)| got);
                if !seen.insert(view.id.as_str()) && !index.may_have_lost_data(since, entry.got()) {
                    words.push("an event came twice");
                }
                if last.is_some_and(|(_, last)| last.state.is_final()) {
                    words.push("an event came after the final one");
                }
                last = Some((entry.got(), view));
            }
            _ => {}
        }
    }
    if let Some((opened, true)) = opened
        && misses_snapshot(index, opened, stream)
    {
        words.push("no snapshot came first");
    }
    words
}

/// Only where neither a break nor a fault can be why.
fn misses_snapshot(index: &Index<'_>, opened: &Entry, stream: &[&Entry]) -> bool {
    let due = opened.got().saturating_add(SNAPSHOT_MS);
    let next = stream
        .iter()
        .find(|entry| !matches!(entry.what, What::StreamOpened { .. }));
    let is_late = next.is_some_and(|next| next.sent_ms > due);
    is_late
        && !index
            .faults
            .iter()
            .any(|fault| fault.from_ms <= due && shown_until(fault) >= opened.sent_ms)
}

/// Over all of a browser's streams: one that is opened once another told something knows at least as much. Of streams that
/// are open side by side, one may tell later.
fn fallen_versions(index: &Index<'_>, streams: &BTreeMap<u32, Vec<&Entry>>) -> Vec<&'static str> {
    let tells = |stream: &[&Entry]| -> Vec<(u64, u64)> {
        let told = stream
            .iter()
            .filter_map(|entry| Some((entry.got(), entry.what.view()?.version)));
        told.collect()
    };
    let all: Vec<_> = streams.values().flat_map(|stream| tells(stream)).collect();
    let mut words = Vec::new();
    for stream in streams.values() {
        let own = tells(stream);
        let opened = stream.first().map_or(0, |entry| entry.sent_ms);
        let before = all.iter().filter(|(got, _)| *got < opened).max_by_key(|(got, _)| *got);
        let told: Vec<_> = before.into_iter().chain(&own).collect();
        let fell = told
            .windows(2)
            .any(|pair| pair[1].1 < pair[0].1 && !index.may_have_lost_data(pair[0].0, pair[1].0));
        if fell {
            words.push("a version fell");
        }
    }
    words
}

/// Replicas tell whole seconds.
const TIME_TOLERANCE_MS: u64 = 2_000;

/// All replicas tell the same end of a scene, however wrong their clocks are.
fn wrong_time(index: &Index<'_>, scene: &SceneHistory<'_>) -> Option<&'static str> {
    let open = scene.views().filter(|(_, view)| view.state != StateName::Expired);
    let told: Vec<_> = open
        .filter_map(|(entry, view)| Some((entry, view.ends.as_ref()?)))
        .collect();
    if told.windows(2).any(|pair| pair[0].1.at != pair[1].1.at) {
        return Some("replicas tell different ends of it");
    }
    let is_wrong = |(entry, ends): &(&Entry, &Ends)| {
        let told = entry.got() + ends.in_seconds * 1_000;
        let (earliest, latest) = (scene.earliest_expiry(), scene.started.got() + scene.life_ms);
        // It may have been on its way for long.
        let may_be_late = index.has_fault(entry.sent_ms, entry.got(), |_| true);
        told + TIME_TOLERANCE_MS < earliest || told > latest + TIME_TOLERANCE_MS && !may_be_late
    };
    told.iter().any(is_wrong).then_some("the time left is told wrong")
}

/// I6, *no resurrection*: after a browser or phone was told a final state, no other final state is told to anyone for that
/// scene, but after an injected loss of data.
pub(super) fn no_resurrection(index: &Index<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for scene in index.scenes.values() {
        let mut told: Vec<_> = scene
            .entries
            .iter()
            .filter_map(|entry| Some((*entry, final_of(&entry.what)?)))
            .collect();
        told.sort_by_key(|(entry, _)| entry.got());
        let pair = told.windows(2).find(|pair| {
            let ((first, one), (second, other)) = (pair[0], pair[1]);
            one != other && !index.may_have_lost_data(first.sent_ms.min(second.sent_ms), second.got())
        });
        if let Some(&[(_, one), (second, other)]) = pair {
            let words = format!("told {} after {}", other.as_str(), one.as_str());
            violations.push(Violation::of_scene(Invariant::I6, scene.id, words).by(second.client));
        }
    }
    violations
}
