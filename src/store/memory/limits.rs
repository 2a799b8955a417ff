//! Who took how much of what is limited.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::expiring::{Expiring, Weight};
use crate::rate::{Rate, Taken};
use crate::store::{LimitKey, LimitStore, StoreError};

/// How many are remembered of each rule. Beyond it those are forgotten first who have the least debt.
const REMEMBERED: usize = 50_000;

/// Counts in this process alone: for the embedded store, and where the shared one does not answer. Each rule for itself, so that a
/// crowd of addresses makes nobody forget what WeChat was asked.
#[derive(Debug, Default)]
pub struct MemoryLimits(Mutex<HashMap<&'static str, Expiring<LimitKey, Owed>>>);

/// Its end is when the debt is paid.
#[derive(Debug)]
struct Owed;

impl Weight for Owed {
    fn bytes(&self) -> usize {
        1
    }
}

impl MemoryLimits {
    /// As [`LimitStore::take`], which never fails here.
    pub fn take_now(&self, key: LimitKey, rate: Rate) -> Taken {
        let now = Instant::now();
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = rules.entry(key.rule).or_default();
        owed.sweep(now);
        let taken = rate.take(owed.get(&key, now).map_or(Duration::ZERO, |(_, debt)| debt));
        if let Taken::Yes(debt) = taken {
            owed.insert(key, Owed, now + debt);
            owed.shrink(REMEMBERED, &key);
        }
        taken
    }

    /// As [`LimitStore::give_back`], which never fails here.
    pub fn give_back_now(&self, key: LimitKey, rate: Rate) {
        let now = Instant::now();
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = rules.entry(key.rule).or_default();
        if let Some((_, debt)) = owed.get(&key, now) {
            owed.insert(key, Owed, now + rate.given_back(debt));
        }
    }
}

#[async_trait]
impl LimitStore for MemoryLimits {
    async fn take(&self, key: LimitKey, rate: Rate) -> Result<Taken, StoreError> {
        Ok(self.take_now(key, rate))
    }

    async fn give_back(&self, key: LimitKey, rate: Rate) -> Result<(), StoreError> {
        self.give_back_now(key, rate);
        Ok(())
    }
}
