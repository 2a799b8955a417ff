//! A map whose entries end by themselves.
//!
//! What has ended is gone for every reader at once; its memory is given back a little with each use, so that no caller ever
//! pays for many.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How many ended entries one use gives back. More than one, so that the map shrinks while it is used.
const SWEEP: usize = 32;

/// What an entry counts against a bound in bytes.
pub(super) trait Weight {
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, (V, End)>,
    /// The same keys, soonest end first.
    ends: BTreeMap<End, K>,
    bytes: usize,
    inserted: u64,
}

/// When an entry ends; the number makes it the only one of its moment.
type End = (Instant, u64);

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            ends: BTreeMap::new(),
            bytes: 0,
            inserted: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, V: Weight> Expiring<K, V> {
    /// The value, and what is left of its life.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<(&V, Duration)> {
        let (value, (ends, _)) = self.entries.get(key)?;
        let left = ends.saturating_duration_since(now);
        (!left.is_zero()).then_some((value, left))
    }

    /// Keeps a value, in the place of another if there is one.
    pub(super) fn insert(&mut self, key: K, value: V, ends: Instant) {
        self.remove(&key);
        self.bytes += value.bytes();
        self.inserted += 1;
        let end = (ends, self.inserted);
        self.ends.insert(end, key);
        self.entries.insert(key, (value, end));
    }

    /// Puts another value in the place of one that is there; its end stays.
    pub(super) fn replace(&mut self, key: &K, value: V) {
        if let Some((stored, _)) = self.entries.get_mut(key) {
            self.bytes = self.bytes + value.bytes() - stored.bytes();
            *stored = value;
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((value, end)) = self.entries.remove(key) {
            self.bytes -= value.bytes();
            self.ends.remove(&end);
        }
    }

    /// Gives back some of what has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            match self.ends.first_key_value() {
                Some(((ends, _), key)) if *ends <= now => {
                    let key = *key;
                    self.remove(&key);
                }
                _ => return,
            }
        }
    }

    /// Drops what ends soonest, but not `but`, until no more than `bytes` are left.
    pub(super) fn shrink(&mut self, bytes: usize, but: &K) {
        while self.bytes > bytes {
            let Some(key) = self.ends.values().find(|key| *key != but).copied() else {
                return;
            };
            self.remove(&key);
        }
    }

    /// How many are kept. Since every use sweeps, what has ended counts only when there is more of it than one use sweeps.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
