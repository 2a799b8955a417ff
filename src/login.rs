//! The use cases of a login: start, show the code, scan, confirm, decline, cancel, redeem. No word of HTTP, none of Redis.

pub mod clients;
pub mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod nickname;
mod notices;
mod phone;
mod redeem;
mod short_code;
mod subject;

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::audit::{Audit, Event};
use crate::entropy::os_rng;
use crate::limits::{Limited, Limits, Rule, octets};
use crate::scene::{
    Action, Authorization, AvatarId, BrowserDescription, BrowserSecret, Caution, EventId, Life, Refused, Scene,
    SceneId, State, StateName, WriteId,
};
use crate::store::{Applied, ApplyError, Created, Durability, Store, StoreError, Stored, apply, find_one, settled};
use crate::telemetry::{Metrics, trace};
use crate::traceparent::Traceparent;
use crate::wechat::access_token::AccessTokens;
use crate::wechat::client as wechat;
use crate::wechat::code_pool::{CodePool, PictureError};
use crate::wechat::link;
use crate::wechat::picture::CodePicture;
use crate::wechat::{EnvVersion, MiniProgram};

pub use clients::{Client, NoSuchProgram, Site, Sites};
pub(crate) use nickname::may_stand;
pub use notices::{WebhookSettings, Webhooks};
pub use phone::{ScanOf, Scanned, UploadedAvatar, media_type_of_avatar};
pub use redeem::{ACCESS_TOKEN_LIFE, Claims, ClientCredentials, Presented, RedeemError, Redeemed, UserinfoError};
pub use short_code::Shown;
pub use subject::{Pairwise, Subject};

/// A picture stays as long as a scene may wait, and a little.
const PICTURE_SLACK: Duration = Duration::from_secs(10);

/// The use cases, and what they stand on.
#[derive(Clone)]
pub struct Login {
    store: Arc<dyn Store>,
    sites: Arc<ArcSwap<Sites>>,
    limits: Limits,
    metrics: Metrics,
    scene_ttl: Duration,
    simulated: bool,
    webhooks: Webhooks,
    audit: Audit,
    /// For what is done to its end even when the caller does not wait for it.
    tasks: TaskTracker,
    /// Places for those uses of codes that are tried to be undone again and again.
    undoing: Arc<Semaphore>,
}

/// One Mini Program at work.
#[derive(Debug)]
pub struct Program {
    /// What it is called and how it proves itself.
    pub mini_program: MiniProgram,
    /// Calls WeChat for it.
    pub client: wechat::Client,
    /// Holds its access_token.
    pub tokens: AccessTokens,
    /// Makes its codes.
    pub codes: CodePool,
    /// Ends what works for it behind requests, when the last of these has ended.
    pub working: DropGuard,
}

/// Why a step of a login was not taken. The HTTP layer gives each its reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked can't be: the text says what to change.
    #[error("{0}")]
    InvalidRequest(String),
    /// No client of this name.
    #[error("no client of this name")]
    UnknownClient,
    /// No such scene, or none any more.
    #[error("no such scene")]
    UnknownScene,
    /// The site has no short codes.
    #[error("the site has no short codes")]
    ShortCodeRefused,
    /// No such short code, or none that counts any more, or not for this person.
    #[error("no such short code")]
    UnknownShortCode,
    /// The code is shown only while the scene waits.
    #[error("the scene is {}", .0.as_str())]
    NotWaiting(StateName),
    /// The browser secret is missing or wrong.
    #[error("the browser secret is missing or wrong")]
    BrowserSecret,
    /// The confirm token is missing, wrong or replaced.
    #[error("the confirm token is missing, wrong or replaced")]
    ConfirmToken,
    /// The phone came to the code in a way that this site does not take.
    #[error("the site takes no scan that came so")]
    EntrySceneRefused,
    /// The number is not the one on the browser's screen.
    #[error("the wrong number was picked")]
    WrongNumber,
    /// It is the second that is not, which declined the scene.
    #[error("a second wrong number was picked")]
    SecondWrongNumber,
    /// Another person scanned first.
    #[error("another person scanned first")]
    ScannedByAnother,
    /// The scene has ended so.
    #[error("the scene is {}", .0.as_str())]
    AlreadyFinished(StateName),
    /// The scene's time is over.
    #[error("the scene has expired")]
    Expired,
    /// WeChat does not know the `wx.login` code, or not any more.
    #[error("WeChat refused the wx.login code")]
    InvalidWxCode(#[source] Option<wechat::Error>),
    /// WeChat holds this person's account for a risk.
    #[error("WeChat blocked this person's login")]
    BlockedUser(#[source] wechat::Error),
    /// The picture has not the form of one.
    #[error("the avatar is neither JPEG nor PNG nor WebP")]
    NotAnImage,
    /// The picture can't be kept; the login goes on without it.
    #[error("the store has no room for the avatar")]
    NoRoomForAvatar,
    /// WeChat failed.
    #[error("WeChat failed")]
    WeChat(#[source] wechat::Error),
    /// The link is too long for a QR code. None is that the settings take.
    #[error("the link is too long for a QR code")]
    Undrawable,
    /// There is no picture of the code.
    #[error("there is no picture of the code")]
    Picture(#[source] PictureError),
    /// Too many of these.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// The store failed, or its replica did not answer.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// Written, but not yet safe against a fail-over.
    #[error("no replica of the store confirmed the write in time")]
    Unreplicated,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::NotFound => Self::UnknownScene,
            ApplyError::Unreplicated(_) => Self::Unreplicated,
            ApplyError::Unknown(_, error) | ApplyError::Store(error) => Self::Store(error),
            ApplyError::Mistaken(applied, Refused::WrongNumber)
                if matches!(applied.scene.state, State::Declined(_)) =>
            {
                Self::SecondWrongNumber
            }
            ApplyError::Refused(refused) | ApplyError::Mistaken(_, refused) => match refused {
                Refused::WrongSecret => Self::ConfirmToken,
                Refused::ScannedByAnother => Self::ScannedByAnother,
                Refused::AlreadyFinished(state) => Self::AlreadyFinished(state),
                Refused::Expired => Self::Expired,
                Refused::EntryScene => Self::EntrySceneRefused,
                Refused::ShortCode => Self::UnknownShortCode,
                Refused::NumberMissing => {
                    Self::InvalidRequest("match_number is missing: the number on the browser's screen.".to_owned())
                }
                Refused::WrongNumber => Self::WrongNumber,
                Refused::InvalidGrant(fault) => Self::InvalidRequest(fault.to_string()),
            },
        }
    }
}

/// What a site's page asks for.
#[derive(Debug)]
pub struct Start<'a> {
    /// Which site.
    pub site: &'a Site,
    /// What it asked for.
    pub authorization: Authorization,
    /// The edition of the Mini Program, if another than the usual.
    pub env_version: Option<EnvVersion>,
    /// What the confirm screen will say about the browser.
    pub browser: BrowserDescription,
    /// Where the browser is.
    pub address: IpAddr,
    /// Its request's place in a trace, if it has one.
    pub traceparent: Option<Traceparent>,
    /// The wall clock, in seconds since the Unix epoch.
    pub now: i64,
}

/// A scene just started.
#[derive(Debug)]
pub struct Started {
    /// As kept.
    pub scene: Scene,
    /// For the browser that started it, and nobody else.
    pub browser_secret: BrowserSecret,
    /// How long it may be scanned and confirmed.
    pub ttl: Duration,
}

impl Login {
    /// The use cases over this store, for these sites. What outlives its request runs in `tasks`.
    #[expect(clippy::too_many_arguments, reason = "its parts, each once, wired in one place")]
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        sites: Sites,
        limits: Limits,
        metrics: Metrics,
        scene_ttl: Duration,
        simulated: bool,
        webhooks: Webhooks,
        audit: Audit,
        tasks: TaskTracker,
    ) -> Self {
        expect(&sites, &metrics);
        Self {
            store,
            sites: Arc::new(ArcSwap::from_pointee(sites)),
            limits,
            metrics,
            scene_ttl,
            simulated,
            webhooks,
            audit,
            tasks,
            undoing: Arc::new(Semaphore::new(redeem::attempt::UNDOING_MAX)),
        }
    }

    /// The sites, as they are now.
    #[must_use]
    pub fn sites(&self) -> Arc<Sites> {
        self.sites.load_full()
    }

    /// Puts others in their place. What is under way goes on with those it began with.
    pub fn set_sites(&self, sites: Sites) {
        expect(&sites, &self.metrics);
        self.sites.store(Arc::new(sites));
    }

    /// What keeps us from calling WeChat, if anything does: of which Mini Program, and why.
    #[must_use]
    pub fn wechat_trouble(&self) -> Option<(String, wechat::Error)> {
        self.sites().programs().iter().find_map(|(appid, program)| {
            let trouble = program.tokens.trouble().or_else(|| program.client.trouble());
            Some((appid.clone(), trouble?))
        })
    }

    /// Whether WeChat is a simulator here.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Starts a scene.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::Limited`], [`Error::Store`]
    pub async fn start(&self, mut start: Start<'_>) -> Result<Started, Error> {
        let step = trace::begun("start", None);
        start.traceparent = trace::traceparent(&step).or(start.traceparent);
        let started = self.begin(start).instrument(step.clone()).await?;
        trace::about(&step, &started.scene.id.shortened());
        Ok(started)
    }

    async fn begin(&self, start: Start<'_>) -> Result<Started, Error> {
        let Site { client, program, .. } = start.site;
        if client.is_public() && start.authorization.code_challenge.is_none() {
            return Err(Error::InvalidRequest(
                "This client has no secret, so it must send code_challenge (PKCE, S256).".to_owned(),
            ));
        }
        self.limits.take(Rule::ScenesPerAddress, &octets(start.address)).await?;
        // Only then: whoever comes too often from one address shall use up nothing that all addresses share.
        self.limits
            .take(Rule::ScenesPerClient, client.client_id.as_bytes())
            .await?;
        let browser_secret = BrowserSecret::random(&mut os_rng());
        loop {
            // Those made ahead open the usual edition.
            let made_ahead = start.env_version.is_none().then(|| program.codes.take()).flatten();
            let id = made_ahead.unwrap_or_else(|| SceneId::random(&mut os_rng()));
            let scene = self.new_scene(id, &browser_secret, &start);
            // An id made ahead that exists all the same was taken before: never used twice.
            if self.store.create(&scene, Life::of_new(self.scene_ttl)).await? == Created::New {
                if made_ahead.is_some() {
                    self.keep_picture(id);
                }
                self.metrics.scenes_created_total.inc();
                return Ok(Started {
                    scene,
                    browser_secret,
                    ttl: self.scene_ttl,
                });
            }
        }
    }

    /// Does this to its end, even when the caller is gone: a step that was taken is counted and written down.
    async fn see_through<T, E>(&self, doing: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let done = self.tasks.spawn(trace::carried(doing)).await;
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Err(going_away().into()),
        })
    }

    /// Lets a picture made ahead live as long as its scene, behind the back of whoever starts it: it lives for minutes anyway, and
    /// a start that waited for this could be given up with the scene there and the code used up.
    fn keep_picture(&self, id: SceneId) {
        let (store, life) = (Arc::clone(&self.store), self.scene_ttl + PICTURE_SLACK);
        let keep = async move {
            if let Err(error) = store.keep_picture(&id, life).await {
                // If it ends before its scene does, it is made again.
                tracing::warn!(scene = ?id, %error, "a picture made ahead may end early");
            }
        };
        self.tasks.spawn(keep.in_current_span());
    }

    /// The mini-program code of a waiting scene, made now if it was not made ahead.
    ///
    /// # Errors
    /// [`Error::UnknownScene`], [`Error::NotWaiting`], [`Error::Picture`], [`Error::Store`]
    pub async fn code_image(&self, id: &SceneId) -> Result<CodePicture, Error> {
        let stored = self.find_settled(id).await?;
        let state = stored.scene.state_name(stored.life());
        if state != StateName::Waiting {
            return Err(Error::NotWaiting(state));
        }
        let site = self.site(&stored.scene.client_id)?;
        let life = stored.life().until_deadline() + PICTURE_SLACK;
        let Program {
            codes, mini_program, ..
        } = &*site.program;
        let step = trace::step("code", &id.shortened(), stored.scene.traceparent);
        let picture = if let Some(prefix) = &mini_program.link_prefix {
            link::draw(&format!("{prefix}{id}"), mini_program.code.width).ok_or(Error::Undrawable)
        } else {
            let asked = stored.scene.env_version.as_deref().and_then(EnvVersion::of_word);
            let env_version = asked.unwrap_or(mini_program.code.env_version);
            let picture = codes.picture(*id, env_version, life).instrument(step);
            picture.await.map_err(Error::Picture)
        };
        picture.inspect(|_| self.step("shown"))
    }

    /// The scene of the browser that holds `secret`.
    ///
    /// # Errors
    /// [`Error::UnknownScene`], [`Error::BrowserSecret`], [`Error::Store`]
    pub async fn of_browser(&self, id: &SceneId, secret: Option<&BrowserSecret>) -> Result<Stored, Error> {
        let stored = self.find(id).await?;
        match secret {
            Some(secret) if stored.scene.browser_secret.matches(secret) => Ok(stored),
            Some(_) | None => Err(Error::BrowserSecret),
        }
    }

    /// What the browser that holds `secret` may be told.
    ///
    /// # Errors
    /// As [`Self::of_browser`].
    pub async fn told_to_browser(&self, id: &SceneId, secret: Option<&BrowserSecret>) -> Result<Stored, Error> {
        let stored = self.of_browser(id, secret).await?;
        settled(&*self.store, stored).await?.ok_or(Error::UnknownScene)
    }

    /// The browser gives up.
    ///
    /// # Errors
    /// [`Error::UnknownScene`], [`Error::BrowserSecret`], [`Error::AlreadyFinished`], [`Error::Store`]
    pub async fn cancel(&self, id: &SceneId, secret: Option<&BrowserSecret>) -> Result<(), Error> {
        let seen = self.of_browser(id, secret).await?;
        let browser_secret = secret.ok_or(Error::BrowserSecret)?.clone();
        let step = trace::step("cancel", &id.shortened(), seen.scene.traceparent);
        let login = self.clone();
        let cancelling = async move {
            let cancel = || Action::Cancel {
                browser_secret: &browser_secret,
            };
            let cancelled = apply(&*login.store, seen, Durability::Ordinary, &mut os_rng(), cancel)
                .instrument(step)
                .await;
            if let Some(applied) = done(&cancelled) {
                login.step_after(applied, Event::Cancelled, None);
                login.retire_short_code(&applied.before, &applied.scene);
            }
            cancelled
        };
        match self.see_through(cancelling).await {
            // A scene that expired meanwhile has no need to be cancelled, as one that had expired before.
            Ok(_) | Err(ApplyError::Refused(Refused::Expired)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// An uploaded avatar, for ten minutes.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub async fn avatar(&self, id: &SceneId, avatar: AvatarId) -> Result<Option<Bytes>, Error> {
        Ok(self.store.avatar(id, avatar).await?)
    }

    fn new_scene(&self, id: SceneId, secret: &BrowserSecret, start: &Start<'_>) -> Scene {
        let ttl = i64::try_from(self.scene_ttl.as_secs()).unwrap_or(i64::MAX);
        Scene {
            id,
            write_id: WriteId::random(&mut os_rng()),
            version: 1,
            event_id: EventId::random(&mut os_rng()),
            client_id: start.site.client.client_id.clone(),
            created_at: start.now,
            expires_at: start.now.saturating_add(ttl),
            browser_secret: secret.digest(),
            code: secret.code().digest(),
            authorization: start.authorization.clone(),
            browser: start.browser.clone(),
            state: State::Waiting,
            caution: Caution::default(),
            doubt: None,
            short_code: None,
            env_version: start.env_version.map(|edition| edition.as_str().to_owned()),
            scanned_life_ms: None,
            traceparent: start.traceparent,
            unknown: std::collections::BTreeMap::new(),
        }
    }

    /// The site of a scene or of a request.
    ///
    /// # Errors
    /// [`Error::UnknownClient`]
    pub fn site(&self, client_id: &str) -> Result<Arc<Site>, Error> {
        self.sites.load().get(client_id).ok_or(Error::UnknownClient)
    }

    async fn find(&self, id: &SceneId) -> Result<Stored, Error> {
        find_one(&*self.store, id).await?.ok_or(Error::UnknownScene)
    }

    /// As anybody may be told of it.
    async fn find_settled(&self, id: &SceneId) -> Result<Stored, Error> {
        settled(&*self.store, self.find(id).await?)
            .await?
            .ok_or(Error::UnknownScene)
    }

    /// The sites' and people's limits, for what the use cases do not see.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How people prove who they are (RFC 8176 style words of our own).
    fn amr(&self) -> Vec<String> {
        let mut amr = vec!["wechat".to_owned()];
        if self.simulated {
            amr.push("simulated".to_owned());
        }
        amr
    }

    fn step(&self, step: &str) {
        self.metrics.login_steps_total.with_label_values(&[step]).inc();
    }

    /// A person's step, which has its time, and is written down. `reason` is that of a decline.
    fn step_after(&self, Applied { before, scene, .. }: &Applied, event: Event, reason: Option<&str>) {
        let step = event.as_str();
        self.step(step);
        self.audit.tell(event, reason, scene);
        if let Some(time) = before.scene.since_last_step(before.life()) {
            let seconds = self.metrics.login_step_seconds.with_label_values(&[step]);
            seconds.observe(time.as_secs_f64());
        }
    }
}

fn expect(sites: &Sites, metrics: &Metrics) {
    for client in sites.clients() {
        metrics.expect_site(&client.client_id, client.webhook.is_some());
    }
}

/// What was done, as far as anybody knows: what the store did not say that it has written may be written all the same, and a retry then
/// changes nothing.
fn done(result: &Result<Applied, ApplyError>) -> Option<&Applied> {
    let applied = match result {
        Ok(applied) => applied,
        Err(ApplyError::Mistaken(applied, _) | ApplyError::Unreplicated(applied) | ApplyError::Unknown(applied, _)) => {
            applied
        }
        Err(ApplyError::NotFound | ApplyError::Refused(_) | ApplyError::Store(_)) => return None,
    };
    applied.changed.then_some(applied)
}

/// To whoever waits for what runs in `tasks`.
fn going_away() -> StoreError {
    StoreError::Unavailable("this process is going away".to_owned())
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("sites", &self.sites)
            .finish_non_exhaustive()
    }
}
