//! One replica's store on a Redis of the test's own, and what is asked of it.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use scanlogin::scene::{AvatarId, Life};
use scanlogin::store::redis::{RedisSettings, RedisStore};
use scanlogin::store::{
    BlobStore, Generation, News, NoticeStore, SceneStore, StoreError, Stored, TokenStore, find_one,
};
use scanlogin::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::backend::{Login, TTL, put, rewritten, tell};
use super::{CLAIM, LEASE, owner};
use crate::support::stopwatch::Stopwatch;

/// No request may take longer, whatever Redis does.
pub(super) const EVERY_REQUEST: Duration = Duration::from_secs(3);

/// One replica's store, and what it counts. Ends with the test.
pub(super) struct Client {
    pub(super) store: Arc<RedisStore>,
    metrics: Metrics,
    _news: mpsc::Receiver<News>,
    _end: DropGuard,
}

impl Client {
    pub(super) fn new(settings: &RedisSettings) -> Self {
        let (end, (tx, news)) = (CancellationToken::new(), mpsc::channel(16));
        let metrics = Metrics::new().unwrap();
        let store = RedisStore::start(settings, tx, metrics.clone(), &TaskTracker::new(), &end).unwrap();
        Self {
            store: Arc::new(store),
            metrics,
            _news: news,
            _end: end.drop_guard(),
        }
    }

    pub(super) async fn started(settings: &RedisSettings) -> Self {
        let client = Self::new(settings);
        client.store.started().await.unwrap();
        client
    }

    /// How many durable writes ended so.
    pub(super) fn waits(&self, outcome: &str) -> u64 {
        self.metrics.store_waits_total.with_label_values(&[outcome]).get()
    }
}

impl Deref for Client {
    type Target = RedisStore;

    fn deref(&self) -> &RedisStore {
        &self.store
    }
}

pub(super) async fn in_time<T>(request: impl Future<Output = T>) -> T {
    let asked = Stopwatch::start();
    let answer = request.await;
    asked.took_less_than(EVERY_REQUEST);
    answer
}

pub(super) type Request<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// One request of each kind; what they write belongs to `seen`.
pub(super) fn every_request<'a>(store: &'a RedisStore, seen: &'a Stored) -> Vec<Request<'a>> {
    let id = &seen.scene.id;
    let image = || Bytes::from_static(b"\xff\xd8\xff");
    vec![
        Box::pin(async move { store.create(&Login::new().scene, Life::of_new(TTL)).await.map(drop) }),
        Box::pin(async move { find_one(store, id).await.map(drop) }),
        Box::pin(async move { put(store, seen, &rewritten(&seen.scene), false).await.map(drop) }),
        Box::pin(async move { put(store, seen, &rewritten(&seen.scene), true).await.map(drop) }),
        Box::pin(async move { store.grant(id).await.map(drop) }),
        Box::pin(async move { store.ready().await }),
        Box::pin(async move { store.picture(id, CLAIM).await.map(drop) }),
        Box::pin(async move { store.put_picture(id, image(), TTL).await }),
        Box::pin(async move { store.release_picture(id).await }),
        Box::pin(async move { store.keep_picture(id, TTL).await }),
        Box::pin(async move { store.put_avatar(id, AvatarId::NONE, image(), TTL).await }),
        Box::pin(async move { store.avatar(id, AvatarId::NONE).await.map(drop) }),
        Box::pin(async move { store.token("wx1").await.map(drop) }),
        Box::pin(async move { store.acquire_lease("wx2", owner(), LEASE).await.map(drop) }),
        Box::pin(async move { store.release_lease("wx2", owner()).await }),
        Box::pin(async move { store.put_token("wx1", owner(), None, b"sealed", TTL).await.map(drop) }),
        Box::pin(async move { store.drop_token("wx1", Generation(1)).await }),
        Box::pin(async move { tell(store, seen).await.map(drop) }),
        Box::pin(async move { store.claim_notices(owner(), LEASE, 1, 1).await.map(drop) }),
        Box::pin(async move { store.put_off_notice(id, owner(), b"later", LEASE).await.map(drop) }),
        Box::pin(async move { store.drop_notice(id, owner()).await.map(drop) }),
    ]
}
