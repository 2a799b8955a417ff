//! The stores that the promises are tried on, each as two replicas of the service over one truth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scanlogin::entropy::os_rng;
use scanlogin::scene::{
    Action, Authorization, AuthorizationCode, BrowserDescription, BrowserSecret, Caution, ConfirmToken, EventId, Life,
    Person, Profile, Redemption, Scene, SceneId, State, WriteId,
};
use scanlogin::store::memory::MemoryStore;
use scanlogin::store::redis::{RedisSettings, RedisStore, Wait};
use scanlogin::store::{
    Applied, ApplyError, Durability, Grant, News, Notice, Replaced, Store, StoreError, Stored, Write, apply, find_one,
};
use scanlogin::telemetry::Metrics;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::shared::Shared;
use crate::support::shape::{Security, Topology};

/// How many scenes the store in memory takes.
const SCENES_MAX: usize = 1_000;

/// Two replicas over one truth.
pub(crate) struct Backend {
    pub(crate) here: Arc<dyn Store>,
    pub(crate) there: Arc<dyn Store>,
    /// What `here` tells.
    news: Mutex<mpsc::Receiver<News>>,
    truth: Truth,
    _end: DropGuard,
}

enum Truth {
    Memory,
    Redis(Shared),
}

impl Backend {
    #[expect(clippy::unused_async, reason = "made like the other")]
    pub(crate) async fn memory() -> Self {
        let end = CancellationToken::new();
        let (tx, news) = mpsc::channel(1_024);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::start(SCENES_MAX, tx, &TaskTracker::new(), &end));
        Self::new(Arc::clone(&store), store, news, Truth::Memory, end)
    }

    /// With a prefix of its own, so that promises tried on the same servers don't meet.
    pub(crate) async fn redis(topology: Topology, security: Security) -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let shared = Shared::get(topology, security).await;
        let prefix = format!("scanlogin:{}", LAST.fetch_add(1, Ordering::Relaxed));
        let settings = shared.shape().settings(&prefix);
        Self::over(&settings, Truth::Redis(shared)).await
    }

    async fn over(settings: &RedisSettings, truth: Truth) -> Self {
        let end = CancellationToken::new();
        let (here, news) = replica(settings, &end);
        let (there, _) = replica(settings, &end);
        here.started().await.unwrap();
        there.started().await.unwrap();
        Self::new(here, there, news, truth, end)
    }

    fn new(
        here: Arc<dyn Store>,
        there: Arc<dyn Store>,
        news: mpsc::Receiver<News>,
        truth: Truth,
        end: CancellationToken,
    ) -> Self {
        Self {
            here,
            there,
            news: Mutex::new(news),
            truth,
            _end: end.drop_guard(),
        }
    }

    /// The next news, within five seconds.
    pub(crate) async fn news(&self) -> News {
        let mut news = self.news.lock().await;
        let next = tokio::time::timeout(Duration::from_secs(5), news.recv()).await;
        next.expect("no news within five seconds").expect("the store lives")
    }

    /// Into how many parts, by hash tag, it divides what one site may have waiting.
    pub(crate) fn shares_of_what_waits(&self) -> usize {
        match &self.truth {
            Truth::Memory => 1,
            Truth::Redis(_) => 256,
        }
    }

    /// Lets the store run out of room, once nobody else uses it.
    pub(crate) async fn fill(&self) {
        match &self.truth {
            Truth::Memory => while self.here.create(&Login::new().scene, Life::of_new(TTL)).await.is_ok() {},
            Truth::Redis(shared) => shared.fill().await,
        }
    }
}

fn replica(settings: &RedisSettings, end: &CancellationToken) -> (Arc<RedisStore>, mpsc::Receiver<News>) {
    let (tx, news) = mpsc::channel(1_024);
    let store = RedisStore::start(settings, tx, Metrics::new().unwrap(), &TaskTracker::new(), end).unwrap();
    (Arc::new(store), news)
}

pub(crate) fn settings(url: &str) -> RedisSettings {
    RedisSettings {
        url: url.into(),
        prefix: "scanlogin".to_owned(),
        wait: Wait::Auto,
        ca_file: None,
        sentinel_password: None,
    }
}

pub(crate) const TTL: Duration = Duration::from_mins(2);

/// A scene with all secrets that belong to it.
pub(crate) struct Login {
    pub(crate) scene: Scene,
    pub(crate) browser: BrowserSecret,
    pub(crate) token: ConfirmToken,
}

impl Login {
    pub(crate) fn new() -> Self {
        let rng = &mut os_rng();
        let browser = BrowserSecret::random(rng);
        let scene = Scene {
            id: SceneId::random(rng),
            write_id: WriteId::random(rng),
            version: 1,
            event_id: EventId::random(rng),
            client_id: "blog".to_owned(),
            created_at: 1_000,
            expires_at: 1_120,
            browser_secret: browser.digest(),
            code: browser.code().digest(),
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
        let token = ConfirmToken::random(rng);
        Self { scene, browser, token }
    }

    /// Created at `store`, to live for `life`.
    pub(crate) async fn created(store: &dyn Store, life: Life) -> Self {
        let login = Self::new();
        store.create(&login.scene, life).await.unwrap();
        login
    }

    /// Created and scanned.
    pub(crate) async fn scanned(store: &dyn Store, life: Life) -> Self {
        let login = Self::created(store, life).await;
        login.scan(store).await.unwrap();
        login
    }

    /// Created, scanned and confirmed.
    pub(crate) async fn confirmed(store: &dyn Store, life: Life) -> Self {
        let login = Self::scanned(store, life).await;
        login.confirm(store).await.unwrap();
        login
    }

    pub(crate) fn id(&self) -> &SceneId {
        &self.scene.id
    }

    pub(crate) async fn stored(&self, store: &dyn Store) -> Stored {
        find_one(store, self.id()).await.unwrap().expect("the scene")
    }

    pub(crate) async fn scan(&self, store: &dyn Store) -> Result<Applied, ApplyError> {
        self.act(store, Durability::Ordinary, || Action::Scan {
            person: Person {
                appid: "wx1".to_owned(),
                openid: "alice".to_owned(),
                unionid: None,
            },
            confirm_token: self.token.digest(),
            entry_scene: Some(1047),
            refused: false,
            warned: false,
            late: false,
            typed: None,
            asks_number: false,
        })
        .await
    }

    pub(crate) async fn confirm(&self, store: &dyn Store) -> Result<Applied, ApplyError> {
        self.act(store, Durability::Durable, || Action::Confirm {
            token: &self.token,
            profile: Profile::default(),
            match_number: None,
        })
        .await
    }

    pub(crate) async fn cancel(&self, store: &dyn Store) -> Result<Applied, ApplyError> {
        self.act(store, Durability::Ordinary, || Action::Cancel {
            browser_secret: &self.browser,
        })
        .await
    }

    pub(crate) async fn redeem(&self, store: &dyn Store) -> Result<Applied, ApplyError> {
        self.redeem_as(store, Durability::Durable).await
    }

    /// With an access token beside the scene, for so long.
    pub(crate) async fn redeem_for(
        &self,
        store: &dyn Store,
        grant: &[u8],
        life: Duration,
    ) -> Result<Applied, ApplyError> {
        self.redeem_as(store, Durability::WithGrant(&|_, _| Ok(grant.to_vec()), life))
            .await
    }

    async fn redeem_as(&self, store: &dyn Store, durability: Durability<'_>) -> Result<Applied, ApplyError> {
        let event_id = self.stored(store).await.scene.event_id;
        let code = AuthorizationCode::derive(*self.id(), event_id, &self.browser);
        self.act(store, durability, || {
            Action::Redeem(Redemption {
                code: &code,
                client_id: "blog",
                redirect_uri: None,
                code_verifier: None,
            })
        })
        .await
    }

    async fn act<'a>(
        &self,
        store: &dyn Store,
        durability: Durability<'_>,
        action: impl Fn() -> Action<'a>,
    ) -> Result<Applied, ApplyError> {
        let seen = find_one(store, self.id()).await?.ok_or(ApplyError::NotFound)?;
        apply(store, seen, durability, &mut os_rng(), action).await
    }
}

/// Writes `next` over `seen`.
pub(crate) async fn put(store: &dyn Store, seen: &Stored, next: &Scene, durable: bool) -> Result<Replaced, StoreError> {
    let write = Write {
        next,
        durable,
        grant: Grant::Keep,
        notice: None,
    };
    store.replace(seen, write).await
}

/// One more visible change, of which its site is to be told.
pub(crate) async fn tell(store: &dyn Store, seen: &Stored) -> Result<Replaced, StoreError> {
    tell_with(store, seen, Duration::ZERO, 1_000).await
}

/// The same, claimed for so long, by a site that may have so many waiting.
pub(crate) async fn tell_with(
    store: &dyn Store,
    seen: &Stored,
    lease: Duration,
    most: usize,
) -> Result<Replaced, StoreError> {
    let next = changed(&seen.scene);
    let notice = Notice {
        client_id: seen.scene.client_id.clone(),
        text: notice_text(&next.id),
        lease,
        most,
    };
    let write = Write {
        next: &next,
        durable: true,
        grant: Grant::Keep,
        notice: Some(&notice),
    };
    store.replace(seen, write).await
}

/// What the site is told of a scene.
pub(crate) fn notice_text(id: &SceneId) -> Vec<u8> {
    format!("of {id}\nand a second line\0\u{ff}").into_bytes()
}

/// The scene as it would be after one more visible change.
pub(crate) fn changed(scene: &Scene) -> Scene {
    Scene {
        version: scene.version + 1,
        event_id: EventId::random(&mut os_rng()),
        ..rewritten(scene)
    }
}

/// The scene as it would be after one more write that nobody sees.
pub(crate) fn rewritten(scene: &Scene) -> Scene {
    Scene {
        write_id: WriteId::random(&mut os_rng()),
        ..scene.clone()
    }
}
