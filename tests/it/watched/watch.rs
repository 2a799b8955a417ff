//! One replica's streams, another replica's writes, and whether the ones tell of the others.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use scanlogin::audit::Audit;
use scanlogin::hub::{Hub, OpenError, StreamLimits, Subscription};
use scanlogin::scene::{EventId, Life, SceneId, StateName};
use scanlogin::store::redis::{RedisSettings, RedisStore};
use scanlogin::store::{ApplyError, News, SceneStore};
use scanlogin::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, unconstrained};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{TOLD, scenes};
use crate::conformance::backend::Login;

/// How many requests of the other replica are under way at once.
const AT_ONCE: usize = 64;
/// How many streams are being opened at once.
const SUBSCRIBING: usize = 256;
/// Longer than any of these tests.
const NEVER: Duration = Duration::from_hours(1);

/// One replica of the service with its streams, and another one's hand on the same Redis.
pub(super) struct Watch {
    settings: RedisSettings,
    there: Arc<RedisStore>,
    pub(super) logins: Arc<Vec<Login>>,
    streams: Vec<Subscription>,
    tasks: TaskTracker,
    _ends: [DropGuard; 2],
}

/// What the other replica was answered, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) at: Instant,
    event: Event,
}

/// Which state it is, and by which event.
type Event = (u64, EventId);

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Scan,
    Cancel,
}

impl Watch {
    pub(super) async fn start(settings: &RedisSettings) -> Self {
        let tasks = TaskTracker::new();
        let (here, news, metrics, here_ends) = replica(settings, &tasks).await;
        let (there, ignored, _, there_ends) = replica(settings, &tasks).await;
        tasks.spawn(drain(ignored));
        let limits = StreamLimits {
            total: scenes(),
            per_address: scenes(),
            per_scene: 1,
        };
        let hub = Hub::new(here, metrics, Audit::default(), limits, NEVER);
        let (running, stop) = (hub.clone(), here_ends.clone());
        tasks.spawn(async move { running.run(news, stop).await });

        let began = Instant::now();
        let logins: Vec<Login> = stream::iter(0..scenes())
            .map(|_| created(&there))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let streams = stream::iter(&logins)
            .map(|login| subscribed(&hub, login, peer))
            .buffered(SUBSCRIBING)
            .collect()
            .await;
        println!("{} scenes watched after {:?}", scenes(), began.elapsed());
        Self {
            settings: settings.clone(),
            there,
            logins: Arc::new(logins),
            streams,
            tasks,
            _ends: [here_ends.drop_guard(), there_ends.drop_guard()],
        }
    }

    /// The other replica does this to so many of the scenes, each as often as it takes, one after the other over a time. What there
    /// is of all then.
    pub(super) fn begin(&self, step: Step, count: usize, over: Duration) -> JoinHandle<Vec<Written>> {
        let (store, logins) = (Arc::clone(&self.there), Arc::clone(&self.logins));
        self.tasks.spawn(async move {
            let (began, apart) = (Instant::now(), over / u32::try_from(count).unwrap());
            let written = stream::iter(0..count).map(|index| {
                let (store, logins) = (Arc::clone(&store), Arc::clone(&logins));
                let due = began + apart * u32::try_from(index).unwrap();
                async move {
                    sleep_until(due).await;
                    insist(&logins[index], &store, step).await
                }
            });
            written.buffered(AT_ONCE).collect().await
        })
    }

    /// What is written last of a scene, as far as anybody was told.
    fn expected(&self, written: &[Written]) -> Vec<Event> {
        let written = written.iter().map(|written| written.event);
        let untouched = self.logins.iter().skip(written.len());
        let untouched = untouched.map(|login| (login.scene.version, login.scene.event_id));
        written.chain(untouched).collect()
    }

    /// Every stream has what was written, or what Redis made of it, at the latest by then.
    pub(super) async fn is_told(&mut self, what: &str, written: &[Written], by: Instant) {
        let expected = self.expected(written);
        let last = written.iter().map(|written| written.at).max().unwrap();
        let told = loop {
            let told = self.told();
            if told == expected {
                println!("{what}: all told {:?} after the last write", last.elapsed());
                return;
            }
            if Instant::now() > by {
                break told;
            }
            sleep(Duration::from_millis(20)).await;
        };
        let records: Vec<_> = self.records().await.into_iter().map(|(event, _)| event).collect();
        let differing = |others: &[Event]| others.iter().zip(&records).filter(|(one, other)| one != other).count();
        assert_eq!(
            differing(&told),
            0,
            "{what}: so many of {} were not told in time",
            scenes()
        );
    }

    /// How many of the writes a replica that starts now does not find.
    pub(super) async fn lost(&self, written: &[Written]) -> usize {
        let records = self.records().await;
        let pairs = written.iter().zip(&records);
        let lost = pairs.filter(|(written, (found, _))| written.event != *found).count();
        println!("{lost} of {} acknowledged writes are lost", written.len());
        lost
    }

    /// The last event of each stream.
    fn told(&mut self) -> Vec<Event> {
        let tell = |stream: &mut Subscription| {
            // However many there are: the runtime would otherwise call all unready after the first 128.
            while unconstrained(stream.changed()).now_or_never().is_some() {}
            (stream.current().version(), stream.current().event_id())
        };
        self.streams.iter_mut().map(tell).collect()
    }

    /// What a replica that starts now finds.
    async fn records(&self) -> Vec<(Event, StateName)> {
        let (store, ..) = replica(&self.settings, &self.tasks).await;
        let ids: Vec<SceneId> = self.logins.iter().map(|login| *login.id()).collect();
        let found = store.find(&ids).await.into_iter().map(|found| {
            let stored = found.unwrap().expect("the scene");
            let state = stored.scene.state_name(stored.life());
            ((stored.scene.version, stored.scene.event_id), state)
        });
        found.collect()
    }

    /// Afterwards nobody is deaf, and nothing is written where it gets lost.
    pub(super) async fn goes_on(&mut self) {
        let written = self.begin(Step::Cancel, scenes(), Duration::ZERO).await.unwrap();
        let by = Instant::now() + TOLD;
        self.is_told("afterwards", &written, by).await;
        let records = self.records().await;
        let kept = records.iter().filter(|(_, state)| *state == StateName::Cancelled);
        assert_eq!(kept.count(), scenes(), "all were answered");
    }
}

async fn replica(
    settings: &RedisSettings,
    tasks: &TaskTracker,
) -> (Arc<RedisStore>, mpsc::Receiver<News>, Metrics, CancellationToken) {
    let (tx, news) = mpsc::channel(1_024);
    let (metrics, ends) = (Metrics::new().unwrap(), CancellationToken::new());
    let store = RedisStore::start(settings, tx, metrics.clone(), tasks, &ends).unwrap();
    store.started().await.unwrap();
    (Arc::new(store), news, metrics, ends)
}

async fn created(store: &RedisStore) -> Login {
    let login = Login::new();
    while store.create(&login.scene, Life::of_new(NEVER)).await.is_err() {}
    login
}

/// As often as a browser would try: on a machine that is too busy, once is not always enough.
async fn subscribed(hub: &Hub, login: &Login, peer: IpAddr) -> Subscription {
    loop {
        match hub.subscribe(*login.id(), &login.browser, peer).await {
            Ok(subscription) => return subscription,
            Err(OpenError::Store(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

async fn drain(mut news: mpsc::Receiver<News>) {
    while news.recv().await.is_some() {}
}

async fn insist(login: &Login, store: &RedisStore, step: Step) -> Written {
    loop {
        let applied = match step {
            Step::Scan => login.scan(store).await,
            Step::Cancel => login.cancel(store).await,
        };
        match applied {
            Ok(applied) => {
                return Written {
                    at: Instant::now(),
                    event: (applied.scene.version, applied.scene.event_id),
                };
            }
            Err(ApplyError::Store(_) | ApplyError::Unknown(..)) => sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{step:?}: {other}"),
        }
    }
}
