//! A hub at work over a store that can be away, slow, deaf, or have lost what it knew.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::super::*;
use crate::scene::{
    Authorization, BrowserDescription, Caution, ConfirmToken, EventId, Life, Person, Scan, Scene, State, StateName,
    WriteId,
};
use crate::store::memory::MemoryStore;
use crate::store::{Created, Found, Grant, News, Replaced, SceneStore, Stored, Write};

pub(super) const TTL: Duration = Duration::from_mins(2);
pub(super) const SLOW_REREAD: Duration = Duration::from_secs(15);
pub(super) const ROOMY: StreamLimits = StreamLimits {
    total: 20_000,
    per_address: 20_000,
    per_scene: 3,
};

/// The hub, its store, and whoever writes to it.
pub(super) struct Place {
    pub(super) store: Arc<FaultyStore>,
    pub(super) hub: Hub,
    pub(super) news: mpsc::Sender<News>,
    rng: StdRng,
    _stop: DropGuard,
}

/// A scene, and what only its browser knows.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) scene: Scene,
    pub(super) secret: BrowserSecret,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::with(ROOMY, SLOW_REREAD)
    }

    pub(super) fn with(limits: StreamLimits, slow_reread: Duration) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (tell, mut told) = mpsc::channel(4_096);
        let (news, heard) = mpsc::channel(4_096);
        let store = Arc::new(FaultyStore::new(MemoryStore::start(20_000, tell, &tasks, &stop)));
        let (line, forward) = (Arc::clone(&store), news.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Some(one) = told.recv().await {
                if !line.deaf.load(SeqCst) {
                    forward.send(one).await.unwrap();
                }
            }
        }));
        let hub = Hub::new(
            Arc::<FaultyStore>::clone(&store),
            Metrics::new().unwrap(),
            Audit::default(),
            limits,
            slow_reread,
        );
        let (running, ended) = (hub.clone(), stop.clone());
        tasks.spawn(async move { running.run(heard, ended).await });
        Self {
            store,
            hub,
            news,
            rng: StdRng::seed_from_u64(1),
            _stop: stop.drop_guard(),
        }
    }

    /// A scene that waits.
    pub(super) async fn start(&mut self) -> Login {
        let rng = &mut self.rng;
        let secret = BrowserSecret::random(rng);
        let scene = Scene {
            id: SceneId::random(rng),
            write_id: WriteId::random(rng),
            version: 1,
            event_id: EventId::random(rng),
            client_id: "blog".to_owned(),
            created_at: 0,
            expires_at: 120,
            browser_secret: secret.digest(),
            code: secret.code().digest(),
            authorization: Authorization::default(),
            browser: BrowserDescription::default(),
            state: State::Waiting,
            caution: Caution::default(),
            doubt: None,
            short_code: None,
            env_version: None,
            scanned_life_ms: None,
            traceparent: None,
            unknown: BTreeMap::new(),
        };
        self.store.inner.create(&scene, Life::of_new(TTL)).await.unwrap();
        Login { scene, secret }
    }

    pub(super) async fn start_many(&mut self, count: usize) -> Vec<Login> {
        let mut logins = Vec::with_capacity(count);
        for _ in 0..count {
            logins.push(self.start().await);
        }
        logins
    }

    /// Moves a scene on, as another replica would.
    pub(super) async fn write(&mut self, login: &mut Login, state: State) {
        let seen = find_one(&self.store.inner, &login.scene.id).await.unwrap().unwrap();
        let next = self.changed(&login.scene, state);
        let write = Write {
            next: &next,
            durable: false,
            grant: Grant::Keep,
            notice: None,
        };
        assert_eq!(self.store.inner.replace(&seen, write).await.unwrap(), Replaced::Written);
        login.scene = next;
    }

    pub(super) async fn scan(&mut self, login: &mut Login) {
        let scan = self.scanned();
        self.write(login, State::Scanned(scan)).await;
    }

    /// What a scene would be one visible transition later.
    pub(super) fn changed(&mut self, scene: &Scene, state: State) -> Scene {
        Scene {
            write_id: WriteId::random(&mut self.rng),
            event_id: EventId::random(&mut self.rng),
            version: scene.version + 1,
            state,
            ..scene.clone()
        }
    }

    pub(super) fn scanned(&mut self) -> Scan {
        let person = Person {
            appid: "wx0123456789abcdef".to_owned(),
            openid: "somebody".to_owned(),
            unionid: None,
        };
        Scan {
            person,
            confirm_token: ConfirmToken::random(&mut self.rng).digest(),
            avatar: None,
        }
    }

    pub(super) async fn open(&self, login: &Login) -> Result<Subscription, OpenError> {
        let secret = &login.secret;
        self.hub
            .subscribe(login.scene.id, secret, Ipv4Addr::LOCALHOST.into())
            .await
    }

    pub(super) async fn open_all(&self, logins: &[Login]) -> Vec<Subscription> {
        let mut open = Vec::with_capacity(logins.len());
        for login in logins {
            open.push(self.open(login).await.unwrap());
        }
        open
    }

    pub(super) async fn tell(&self, news: News) {
        self.news.send(news).await.unwrap();
    }

    pub(super) async fn tell_lost(&self, logins: &[Login]) {
        self.tell(News::Lost(logins.iter().map(|login| login.scene.id).collect()))
            .await;
    }

    pub(super) fn rereads(&self, cause: &str, found: &str) -> u64 {
        self.hub
            .shared
            .metrics
            .rereads_total
            .with_label_values(&[cause, found])
            .get()
    }
}

/// A hint of this very state.
pub(super) fn hint(scene: &Scene) -> News {
    let public = scene.public_state(Life::of_new(TTL));
    News::Changed(scene.id, public)
}

/// What is told next, within a minute.
pub(super) async fn next(stream: &mut Subscription) -> Told {
    let change = timeout(Duration::from_mins(1), stream.changed()).await;
    assert!(matches!(change, Ok(Change::Told)), "not told: {change:?}");
    stream.current().clone()
}

/// Nothing is told for so long.
pub(super) async fn silence(stream: &mut Subscription, length: Duration) {
    let change = timeout(length, stream.changed()).await;
    assert!(change.is_err(), "{change:?}: {:?}", stream.current());
}

pub(super) fn as_told(told: &Told) -> (StateName, u64, EventId) {
    (told.state(), told.version(), told.event_id())
}

pub(super) fn as_written(login: &Login) -> (StateName, u64, EventId) {
    let state = login.scene.public_state(Life::of_new(TTL));
    (state.state, state.version, state.event_id)
}

/// The embedded store, and what may be wrong with it.
#[derive(Debug)]
pub(super) struct FaultyStore {
    pub(super) inner: MemoryStore,
    /// `find` and `watch` fail.
    pub(super) away: AtomicBool,
    /// News do not arrive.
    pub(super) deaf: AtomicBool,
    /// What a read answers instead, where the store lost data.
    pub(super) instead: Mutex<HashMap<SceneId, Option<Scene>>>,
    /// What can't be read, and why.
    pub(super) unread: Mutex<HashMap<SceneId, StoreError>>,
    /// How long an answer to `find` is under way, after the store looked.
    pub(super) find_takes: Mutex<Duration>,
    pub(super) unwatch_takes: Mutex<Duration>,
    pub(super) log: Mutex<Vec<Call>>,
    finding: AtomicUsize,
    /// The most reads that were ever under way at once.
    pub(super) finding_most: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Find(Instant, Vec<SceneId>),
    Watch(SceneId),
    Unwatched(SceneId),
}

impl FaultyStore {
    fn new(inner: MemoryStore) -> Self {
        Self {
            inner,
            away: AtomicBool::default(),
            deaf: AtomicBool::default(),
            instead: Mutex::default(),
            unread: Mutex::default(),
            find_takes: Mutex::default(),
            unwatch_takes: Mutex::default(),
            log: Mutex::default(),
            finding: AtomicUsize::default(),
            finding_most: AtomicUsize::default(),
        }
    }

    /// Every read since the log was emptied: when, and of what.
    pub(super) fn finds(&self) -> Vec<(Instant, Vec<SceneId>)> {
        let log = self.log.lock().unwrap();
        let find = |call: &Call| match call {
            Call::Find(at, ids) => Some((*at, ids.clone())),
            Call::Watch(_) | Call::Unwatched(_) => None,
        };
        log.iter().filter_map(find).collect()
    }

    /// Everything but the reads.
    pub(super) fn watches(&self) -> Vec<Call> {
        let log = self.log.lock().unwrap();
        let calls = log.iter().filter(|call| !matches!(call, Call::Find(..)));
        calls.cloned().collect()
    }

    pub(super) fn forget_calls(&self) {
        self.log.lock().unwrap().clear();
        self.finding_most.store(0, SeqCst);
    }

    fn note(&self, call: Call) {
        self.log.lock().unwrap().push(call);
    }

    fn here(&self) -> Result<(), StoreError> {
        if self.away.load(SeqCst) {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl SceneStore for FaultyStore {
    async fn create(&self, scene: &Scene, life: Life) -> Result<Created, StoreError> {
        self.inner.create(scene, life).await
    }

    async fn find(&self, ids: &[SceneId]) -> Vec<Found> {
        self.note(Call::Find(Instant::now(), ids.to_vec()));
        let mut found = self.inner.find(ids).await;
        {
            let (instead, unread) = (self.instead.lock().unwrap(), self.unread.lock().unwrap());
            for (id, found) in ids.iter().zip(&mut found) {
                if let Some(scene) = instead.get(id) {
                    let life = found.as_ref().unwrap().as_ref().map(Stored::life);
                    *found = Ok(scene.clone().zip(life).map(|(scene, life)| Stored::now(scene, life)));
                }
                if let Some(error) = self.here().err().or_else(|| unread.get(id).cloned()) {
                    *found = Err(error);
                }
            }
        }
        if self.away.load(SeqCst) {
            return found;
        }
        let takes = *self.find_takes.lock().unwrap();
        let at_once = self.finding.fetch_add(1, SeqCst) + 1;
        self.finding_most.fetch_max(at_once, SeqCst);
        if !takes.is_zero() {
            sleep(takes).await;
        }
        self.finding.fetch_sub(1, SeqCst);
        found
    }

    async fn replace(&self, seen: &Stored, write: Write<'_>) -> Result<Replaced, StoreError> {
        self.inner.replace(seen, write).await
    }

    async fn grant(&self, id: &SceneId) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.grant(id).await
    }

    async fn watch(&self, id: &SceneId) -> Result<(), StoreError> {
        self.note(Call::Watch(*id));
        self.here()?;
        self.inner.watch(id).await
    }

    async fn unwatch(&self, id: &SceneId) {
        let takes = *self.unwatch_takes.lock().unwrap();
        if !takes.is_zero() {
            sleep(takes).await;
        }
        self.inner.unwatch(id).await;
        self.note(Call::Unwatched(*id));
    }

    async fn settle(&self, seen: &Stored) -> Result<Replaced, StoreError> {
        self.inner.settle(seen).await
    }

    async fn refresh(&self, seen: Stored) -> Found {
        self.inner.refresh(seen).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.here()
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}
