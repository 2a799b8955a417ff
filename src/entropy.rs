//! Where randomness comes from, and how waits are spread.

use std::time::Duration;

use rand::RngExt;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

/// The operating system's generator: for every id and secret. Tests pass a seeded one instead.
#[must_use]
pub fn os_rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// A duration between `least` and `most`, so that many waits do not end together.
#[must_use]
pub fn between(least: Duration, most: Duration) -> Duration {
    rand::rng().random_range(least..=most.max(least))
}
