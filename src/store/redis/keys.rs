//! The names of everything kept in Redis.
//!
//! What is in braces is all that Redis Cluster hashes: a scene's keys and its channel live in one slot, and there are 256 of
//! those slots, so that many scenes can share a batch.

use std::sync::Arc;

use crate::scene::{SceneId, ShortCodeTag, WriteId};
use crate::store::LimitKey;

/// Names keys under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The record; also the channel on which its changes are announced.
    pub(super) fn scene(&self, id: &SceneId) -> String {
        format!("{}:{{{}}}:{id}", self.prefix, id.hash_tag())
    }

    /// The scene that a channel is of; `None` for what is no channel of ours.
    pub(super) fn scene_of(&self, channel: &str) -> Option<SceneId> {
        let (tag, id) = channel
            .strip_prefix(&*self.prefix)?
            .strip_prefix(":{")?
            .split_once("}:")?;
        id.parse().ok().filter(|id: &SceneId| id.hash_tag() == tag)
    }

    /// What [`crate::store::Grant::Put`] keeps.
    pub(super) fn grant(&self, id: &SceneId) -> String {
        self.scene(id) + ":token"
    }

    pub(super) fn picture(&self, id: &SceneId) -> String {
        self.scene(id) + ":picture"
    }

    /// Of the last one that the phone uploaded, whichever that was.
    pub(super) fn avatar(&self, id: &SceneId) -> String {
        self.scene(id) + ":avatar"
    }

    /// Of the scene that a short code's hash leads to. It is looked for by the hash alone, so it lives in a slot of its own.
    pub(super) fn short_code(&self, tag: ShortCodeTag) -> String {
        format!("{}:short_code:{tag}", self.prefix)
    }

    /// When each notice of the scenes of this hash tag is due.
    pub(super) fn notices_due(&self, tag: &str) -> String {
        format!("{}:{{{tag}}}:notices:due", self.prefix)
    }

    /// These notices by scene, and how many of them each site has.
    pub(super) fn notices(&self, tag: &str) -> String {
        format!("{}:{{{tag}}}:notices", self.prefix)
    }

    pub(super) fn access_token(&self, appid: &str) -> String {
        format!("{}:{{wx:{appid}}}:access_token", self.prefix)
    }

    pub(super) fn lease(&self, appid: &str) -> String {
        format!("{}:{{wx:{appid}}}:lease", self.prefix)
    }

    pub(super) fn limit(&self, key: &LimitKey) -> String {
        let subject = u128::from_be_bytes(key.subject);
        format!("{}:limit:{}:{subject:032x}", self.prefix, key.rule)
    }

    /// Where the rights are tried out at the start.
    pub(super) fn trial(&self) -> String {
        format!("{}:{{00}}:trial", self.prefix)
    }

    /// What is never there, and tried in vain by whoever only looks.
    pub(super) fn doctor(&self, tag: &str, unlike_any: &WriteId) -> String {
        format!("{}:{{{tag}}}:doctor:{unlike_any}", self.prefix)
    }
}

/// The Cluster slot of a key.
pub(super) fn slot(key: &str) -> u16 {
    fred::util::redis_keyslot(key.as_bytes())
}

/// How many slots a Cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// Every hash tag that scenes have, with its slot.
pub(super) fn tags() -> impl Iterator<Item = (String, u16)> {
    (0..=u8::MAX).map(|byte| format!("{byte:02x}")).map(|tag| {
        let slot = slot(&tag);
        (tag, slot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn all_that_belongs_to_a_scene_lives_in_one_slot() {
        let keys = Keys::new("scanlogin");
        let id: SceneId = "3f9c0000000040008000000000000000".parse().unwrap();
        assert_eq!(keys.scene(&id), "scanlogin:{3f}:3f9c0000000040008000000000000000");
        let slots: HashSet<u16> = [keys.scene(&id), keys.grant(&id), keys.picture(&id), keys.avatar(&id)]
            .iter()
            .map(|key| slot(key))
            .collect();
        assert_eq!(slots.len(), 1);
        assert!(tags().any(|(_, slot)| slots.contains(&slot)));
        let tag = id.hash_tag();
        assert_eq!(
            slots,
            [keys.notices(&tag), keys.notices_due(&tag)]
                .map(|key| slot(&key))
                .into()
        );
        assert_eq!(slot(&keys.access_token("wx1")), slot(&keys.lease("wx1")));
    }

    #[test]
    fn a_scene_and_its_channel_name_each_other() {
        let keys = Keys::new("scanlogin");
        let id: SceneId = "3f23456789abcdef0123456789abcdef".parse().unwrap();
        assert_eq!(keys.scene(&id), "scanlogin:{3f}:3f23456789abcdef0123456789abcdef");
        assert_eq!(keys.scene_of(&keys.scene(&id)), Some(id));
        for other in [
            "other:{3f}:3f23456789abcdef0123456789abcdef",
            "scanlogin:{3f}:3f23",
            "scanlogin:{40}:3f23456789abcdef0123456789abcdef",
        ] {
            assert_eq!(keys.scene_of(other), None, "{other}");
        }
    }
}
