//! Whether the store answers: asked each second on behalf of all who wait, and only while somebody does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::store::{SceneStore, StoreError};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Health(watch::Sender<Option<StoreError>>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Health {
    /// Returns why, once the store is away.
    pub(super) async fn away(&self) -> StoreError {
        let mut seen = self.0.subscribe();
        loop {
            // The sender lives as long as this borrow of it.
            if seen.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(error) = seen.borrow_and_update().clone() {
                return error;
            }
        }
    }

    /// Looks for as long as it is polled.
    pub(super) async fn look(&self, store: &dyn SceneStore) {
        loop {
            sleep(PAUSE).await;
            if self.0.receiver_count() > 0 {
                self.0.send_replace(store.ready().await.err());
            }
        }
    }
}
