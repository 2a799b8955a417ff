//! What the tests stand on: real processes, links that add time, and conditions to wait for.

pub(crate) mod canaries;
pub mod cli;
pub(crate) mod clock;
pub mod cluster;
pub(crate) mod collector;
pub(crate) mod control_group;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod process;
pub mod proxy;
pub mod redis;
pub(crate) mod remains;
pub(crate) mod reply;
pub(crate) mod roles;
pub mod sentinel;
pub(crate) mod service;
pub(crate) mod shape;
pub(crate) mod stopwatch;

use std::future::Future;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longer than a lease on the access_token lasts.
const PATIENCE: Duration = Duration::from_secs(30);

/// In memory where the system allows it: a server that waits for a busy disk counts as dead to the others.
pub(crate) fn temporary_directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

/// Waits until `condition` gives something, and fails with `what` after 30 seconds: on a busy machine much is late, and whoever
/// promises to be quicker has its time measured.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(pause).await;
        // What takes long is asked less often: some conditions start a process each time.
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}
