//! A subscriber under test, who publishes to it, and what stops a process.

use std::collections::HashSet;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::types::Builder;
use fred::types::config::{ClusterDiscoveryPolicy, Config, ReconnectPolicy, ServerConfig};
use futures_util::future::join_all;
use scanlogin::entropy::os_rng;
use scanlogin::scene::{EventId, Profile, PublicState, SceneId, StateName};
use scanlogin::store::News;
use scanlogin::store::redis::servers::Access;
use scanlogin::store::redis::subscriber::Subscriber;
use scanlogin::store::redis::topology::Topology;
use scanlogin::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::eventually;

/// A subscriber and what it tells.
pub(super) struct Listener {
    pub(super) subscriber: Subscriber,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
    metrics: Metrics,
}

impl Listener {
    pub(super) fn start(url: &str) -> Self {
        Self::start_with(&access(url), 8_192)
    }

    pub(super) fn start_with(access: &Access, capacity: usize) -> Self {
        let (sender, news) = mpsc::channel(capacity);
        let (metrics, tracker, stop) = (Metrics::new().unwrap(), TaskTracker::new(), CancellationToken::new());
        let topology = Topology::observe(access, &tracker, &stop);
        let subscriber = Subscriber::start(
            access,
            "scanlogin",
            topology,
            sender,
            metrics.clone(),
            &tracker,
            stop.clone(),
        );
        Self {
            subscriber,
            news,
            tracker,
            stop,
            metrics,
        }
    }

    pub(super) async fn watch_all(&self, ids: &[SceneId]) {
        // A cluster that has only just formed, on a busy machine, may need more than one try's two seconds.
        eventually("all are watched", || async {
            let outcomes = join_all(ids.iter().map(|id| self.subscriber.watch(id))).await;
            outcomes.iter().all(Result::is_ok).then_some(())
        })
        .await;
    }

    /// Waits until a change of each was told; says how many were told of any.
    pub(super) async fn changed(&mut self, ids: &[SceneId]) -> usize {
        let mut awaited = ids.iter().copied().collect::<HashSet<_>>();
        let mut told = 0;
        while !awaited.is_empty() {
            if let News::Changed(id, _) = self.next(&format!("{} of {} deaf", awaited.len(), ids.len())).await {
                awaited.remove(&id);
                told += 1;
            }
        }
        told
    }

    /// Waits until the loss of each was told; says how long that took.
    pub(super) async fn lost(&mut self, ids: &[SceneId]) -> Duration {
        let began = Instant::now();
        let mut awaited = ids.iter().copied().collect::<HashSet<_>>();
        while !awaited.is_empty() {
            if let News::Lost(lost) = self
                .next(&format!("{} of {} not told as lost", awaited.len(), ids.len()))
                .await
            {
                awaited = &awaited - &lost.into_iter().collect();
            }
        }
        began.elapsed()
    }

    async fn next(&mut self, missing: &str) -> News {
        match timeout(Duration::from_secs(10), self.news.recv()).await {
            Ok(news) => news.expect("it goes on"),
            Err(elapsed) => panic!("no news ({elapsed}): {missing}; losses: {:?}", self.all_losses()),
        }
    }

    pub(super) fn losses(&self, cause: &str) -> u64 {
        self.metrics.store_lost_total.with_label_values(&[cause]).get()
    }

    /// How many watched scenes are not heard of now.
    pub(super) fn unheard(&self) -> usize {
        usize::try_from(self.metrics.scenes_unheard.get()).unwrap()
    }

    pub(super) fn no_losses(&self) -> bool {
        self.all_losses().is_empty()
    }

    fn all_losses(&self) -> Vec<String> {
        let metrics = self.metrics.render().unwrap();
        let losses = metrics.lines().filter(|line| line.contains("store_lost_total{"));
        losses.map(str::to_owned).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn access(url: &str) -> Access {
    Access::new(&Config::from_url(url).unwrap())
}

pub(super) fn scene() -> SceneId {
    SceneId::random(&mut os_rng())
}

pub(super) fn scenes(count: usize) -> Vec<SceneId> {
    std::iter::repeat_with(scene).take(count).collect()
}

pub(super) fn channel(id: &SceneId) -> String {
    format!("scanlogin:{{{}}}:{id}", id.hash_tag())
}

pub(super) fn state_of_version(version: u64) -> PublicState {
    PublicState {
        version,
        event_id: EventId::NONE,
        state: StateName::Scanned,
        match_number: None,
        wrong_numbers: false,
        profile: Profile::default(),
        code_left_ms: 0,
    }
}

pub(super) async fn client(url: &str) -> Client {
    let mut config = Config::from_url(url).unwrap();
    if let ServerConfig::Clustered { policy, .. } = &mut config.server {
        *policy = ClusterDiscoveryPolicy::UseCache;
    }
    let client = Builder::from_config(config)
        .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(1))
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(1);
            connection.internal_command_timeout = Duration::from_secs(1);
        })
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    client.init().await.unwrap();
    client
}

/// Publishes as the store does; through the seconds in which a client looks for its server.
pub(super) async fn publish(client: &Client, id: &SceneId) {
    let payload = serde_json::to_string(&state_of_version(2)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let script = "return redis.call('SPUBLISH', KEYS[1], ARGV[1])";
        match client.eval::<i64, _, _, _>(script, channel(id), payload.as_str()).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "not published: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn publish_all(client: &Client, ids: &[SceneId]) {
    join_all(ids.iter().map(|id| publish(client, id))).await;
}
