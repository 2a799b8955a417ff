//! The subscriber.

use fred::clients::Client;
use fred::types::config::Config;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::scene::SceneId;
use crate::store::{News, StoreError};
use crate::telemetry::Metrics;

/// Stands where the listener will be.
#[derive(Debug)]
pub struct Subscriber {
    _news: mpsc::Sender<News>,
}

impl Subscriber {
    /// Hears nothing.
    #[must_use]
    pub fn start(
        _config: &Config,
        _prefix: &str,
        news: mpsc::Sender<News>,
        _commands: Vec<Client>,
        _metrics: Metrics,
        _tasks: &TaskTracker,
        _shutdown: CancellationToken,
    ) -> Self {
        Self { _news: news }
    }

    /// Nobody listens.
    pub async fn watch(&self, _id: &SceneId) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("nobody listens".to_owned()))
    }

    /// Nothing to end.
    pub async fn unwatch(&self, _id: &SceneId) {}
}
