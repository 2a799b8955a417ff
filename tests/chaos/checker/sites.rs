//! What relying parties were told: I2, I3.

use std::collections::BTreeMap;

use super::{Index, Invariant, SceneHistory, Violation};
use crate::history::{Entry, Identity, What};

/// I2, *one redemption*: each code has at most one successful `/token` reply.
pub(super) fn one_redemption(index: &Index<'_>) -> Vec<Violation> {
    let mut redeemed = BTreeMap::<&str, Vec<&Entry>>::new();
    for entry in index.entries {
        if let What::Redeem { code, outcome, .. } = &entry.what
            && outcome.done().is_some()
        {
            redeemed.entry(code).or_default().push(entry);
        }
    }
    let doubled = redeemed.into_iter().filter(|(_, entries)| entries.len() > 1);
    let violation = |(code, entries): (&str, Vec<&Entry>)| {
        let words = format!("one code was redeemed {} times", entries.len());
        let scene = index
            .codes
            .get(code)
            .and_then(|told| told.first())
            .map(|(_, scene)| (*scene).to_owned());
        Violation {
            scene,
            ..Violation::of_run(Invariant::I2, words)
        }
        .by(entries[1].client)
    };
    doubled.map(violation).collect()
}

/// I3, *right person*: the id_token's `sub` belongs to the phone whose confirm answered 200 (or whose confirm is ambiguous),
/// never to another one; the profile shown last before the code is the same person's.
pub(super) fn right_person(index: &Index<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in index.entries {
        let (What::Redeem { code, outcome, .. } | What::Userinfo { code, outcome }) = &entry.what else {
            continue;
        };
        let Some(identity) = outcome.done() else { continue };
        let told = index.codes.get(code.as_str()).and_then(|told| told.first());
        let scene = told.and_then(|(_, scene)| index.scenes.get(scene));
        let words = match scene {
            Some(scene) => wrong_person(scene, entry, code, identity),
            None => Some("a code was redeemed that no browser was told"),
        };
        violations.extend(words.map(|words| Violation {
            scene: scene.map(|scene| scene.id.to_owned()),
            ..Violation::of_run(Invariant::I3, words).by(entry.client)
        }));
    }
    violations
}

fn wrong_person(scene: &SceneHistory<'_>, entry: &Entry, code: &str, identity: &Identity) -> Option<&'static str> {
    let theirs: Vec<_> = scene
        .confirms()
        .filter(|(confirm, openid, _)| *openid == identity.sub && confirm.sent_ms <= entry.got())
        .map(|(_, _, nickname)| nickname)
        .collect();
    if theirs.is_empty() {
        return Some("the sub is of somebody who did not confirm this scene");
    }
    let is_theirs = |nickname: &Option<String>| theirs.contains(&nickname.as_deref());
    if identity.nickname.is_some() && !is_theirs(&identity.nickname) {
        return Some("the nickname is not of the person of the sub");
    }
    let mut shown = scene.views().filter(|(_, view)| view.code.as_deref() == Some(code));
    let shown = shown.find_map(|(_, view)| view.nickname.clone());
    (shown.is_some() && !is_theirs(&shown))
        .then_some("the profile that went with the code is not of the person of the sub")
}
