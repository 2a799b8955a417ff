//! Pictures of codes: made ahead where possible, made once wherever asked for, within the budget that WeChat grants.
//!
//! The ids of codes made ahead are kept in this process's own memory and are given out once: a list in the store could be rolled
//! back by a fail-over and hand one id to two browsers, and whoever kept an old picture would scan a stranger's login.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::access_token::AccessTokens;
use super::client::{self, Client};
use super::picture::CodePicture;
use super::{EnvVersion, MiniProgram};
use crate::entropy::{between, os_rng};
use crate::limits::{Limited, Limits, Rule};
use crate::scene::SceneId;
use crate::store::{BlobStore, Picture, StoreError};
use crate::telemetry::Metrics;

/// How long a picture made ahead is kept, and how old its code may be when it is given out: a scene lives 15 minutes at most,
/// but who takes the code also says how long the picture is still needed ([`BlobStore::keep_picture`]).
const AHEAD_LIFE: Duration = Duration::from_hours(1);
const AHEAD_AGE_MAX: Duration = Duration::from_mins(50);

/// How many codes are made ahead at once.
const AHEAD_AT_ONCE: usize = 4;

/// The longest pause after making ahead failed.
const DELAY_MAX: Duration = Duration::from_mins(1);

/// How long nothing is made ahead once the share of the budget for that is spent.
const SPENT_PAUSE: Duration = Duration::from_secs(1);

/// For how long one maker of a picture has the task alone.
const CLAIM: Duration = Duration::from_secs(20);

/// How long making one may take: it ends, and says so in the store, while the claim still stands.
const MAKING_MAX: Duration = Duration::from_secs(18);

/// How long [`CodePool::picture`] takes at most, store requests under way not counted.
const WAIT_MAX: Duration = Duration::from_secs(19);

/// Why there is no picture.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PictureError {
    /// WeChat did not make one.
    #[error(transparent)]
    WeChat(#[from] client::Error),
    /// Whoever makes it is not done in time.
    #[error("the picture was not made in time")]
    Timeout,
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// This process ends.
    #[error("this process is shutting down")]
    ShuttingDown,
}

impl From<StoreError> for PictureError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// The codes of one Mini Program. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct CodePool(Arc<Inner>);

struct Inner {
    mini_program: MiniProgram,
    size: usize,
    client: Client,
    tokens: AccessTokens,
    store: Arc<dyn BlobStore>,
    limits: Limits,
    ready: Mutex<VecDeque<Ready>>,
    taken: Notify,
    metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// By whom a picture is.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// By a page that waits.
    Now,
    /// By nobody yet.
    Ahead,
}

/// A code made ahead.
struct Ready {
    id: SceneId,
    made_at: Instant,
}

impl CodePool {
    /// A pool that keeps `size` codes ready once [`Self::refill`] runs; 0 makes none ahead.
    ///
    /// What is made for a waiting page runs as a task of `tasks` until `shutdown`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "its parts, each once, wired in one place")]
    pub fn new(
        mini_program: MiniProgram,
        size: usize,
        client: Client,
        tokens: AccessTokens,
        store: Arc<dyn BlobStore>,
        limits: Limits,
        metrics: Metrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            mini_program,
            size,
            client,
            tokens,
            store,
            limits,
            ready: Mutex::default(),
            taken: Notify::new(),
            metrics,
            tasks,
            shutdown,
        }))
    }

    /// A code of the Mini Program's own `env_version` that was made ahead, if there is one. Never the same twice.
    ///
    /// Its picture is in the store for ten more minutes or longer.
    #[must_use]
    pub fn take(&self) -> Option<SceneId> {
        let taken = self.0.ready(|codes| codes.pop_front().map(|ready| ready.id));
        self.0.taken.notify_one();
        taken
    }

    /// The picture of a scene's code: the one in the store, or else one made now and kept for `life`.
    ///
    /// However many ask, on however many replicas, one makes it. Making goes on when the caller does not wait for it.
    ///
    /// # Errors
    /// [`PictureError`], at the latest after 19 s.
    pub async fn picture(
        &self,
        id: SceneId,
        env_version: EnvVersion,
        life: Duration,
    ) -> Result<CodePicture, PictureError> {
        let wait_until = Instant::now() + WAIT_MAX;
        loop {
            let claimed_at = Instant::now();
            match self.0.store.picture(&id, CLAIM).await? {
                Picture::Ready(bytes) => {
                    return CodePicture::parse(bytes)
                        .map_err(|_| StoreError::Corrupt("a picture that is none".to_owned()).into());
                }
                Picture::Yours => {
                    let inner = Arc::clone(&self.0);
                    let making = async move { inner.make_claimed(id, env_version, life, claimed_at).await };
                    let task = self.0.tasks.spawn(making.in_current_span());
                    return match timeout_at(wait_until, task).await {
                        Ok(Ok(result)) => result,
                        Ok(Err(_)) => Err(PictureError::ShuttingDown),
                        Err(_) => Err(PictureError::Timeout),
                    };
                }
                Picture::Making => {}
            }
            let pause = between(Duration::from_millis(100), Duration::from_millis(250));
            if Instant::now() + pause >= wait_until {
                return Err(PictureError::Timeout);
            }
            if self.0.shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return Err(PictureError::ShuttingDown);
            }
        }
    }

    /// Makes codes ahead, a few at once, ever slower while that fails. For a task.
    pub async fn refill(self) {
        if self.0.size > 0 {
            self.0.shutdown.run_until_cancelled(self.0.keep_filled()).await;
        }
    }
}

impl Inner {
    async fn keep_filled(&self) {
        let mut making = FuturesUnordered::new();
        let mut delays = delays();
        let mut pause_until = Instant::now();
        loop {
            let wanted = self.size.saturating_sub(self.ready(|codes| codes.len()) + making.len());
            let room = AHEAD_AT_ONCE.saturating_sub(making.len());
            if Instant::now() >= pause_until {
                making.extend((0..wanted.min(room)).map(|_| self.make_ahead()));
            }
            let look_again_at = if wanted > 0 && Instant::now() < pause_until {
                pause_until
            } else {
                Instant::now() + Duration::from_secs(30)
            };
            tokio::select! {
                Some(made) = making.next() => match made {
                    Ok(()) => delays = self::delays(),
                    // Those under way when the first one failed tell nothing new.
                    Err(_) if Instant::now() < pause_until => {}
                    Err(PictureError::WeChat(client::Error::Limited(_))) => pause_until = Instant::now() + SPENT_PAUSE,
                    Err(error) => {
                        let delay = delays.next().unwrap_or(DELAY_MAX);
                        pause_until = Instant::now() + delay;
                        tracing::warn!(%error, ?delay, "no code is made ahead");
                    }
                },
                () = self.taken.notified() => {}
                () = sleep_until(look_again_at) => {}
            }
        }
    }

    async fn make_ahead(&self) -> Result<(), PictureError> {
        let id = SceneId::random(&mut os_rng());
        let picture = self
            .make(&id, self.mini_program.code.env_version, Wanted::Ahead)
            .await?;
        let made_at = Instant::now();
        self.store.put_picture(&id, picture.bytes().clone(), AHEAD_LIFE).await?;
        self.ready(|codes| codes.push_back(Ready { id, made_at }));
        Ok(())
    }

    /// Makes the picture whose task this replica has claimed, and gives the task back if it can't.
    async fn make_claimed(
        &self,
        id: SceneId,
        env_version: EnvVersion,
        life: Duration,
        claimed_at: Instant,
    ) -> Result<CodePicture, PictureError> {
        let making = timeout_at(claimed_at + MAKING_MAX, self.make(&id, env_version, Wanted::Now));
        let made = match self.shutdown.run_until_cancelled(making).await {
            Some(Ok(made)) => made,
            Some(Err(_)) => Err(PictureError::WeChat(client::Error::Timeout)),
            None => Err(PictureError::ShuttingDown),
        };
        let told = match &made {
            Ok(picture) => self.store.put_picture(&id, picture.bytes().clone(), life).await,
            Err(_) => self.store.release_picture(&id).await,
        };
        if let Err(error) = told {
            // The claim ends by itself, and this page has its picture or its error all the same.
            tracing::debug!(scene = ?id, %error, "the store is not told of a picture");
        }
        made
    }

    async fn make(&self, id: &SceneId, env_version: EnvVersion, wanted: Wanted) -> Result<CodePicture, PictureError> {
        let settings = &self.mini_program.code.of_edition(env_version);
        let may_repeat = &|| self.spend(wanted).map(|spent| spent.is_ok()).boxed();
        let picture = self.tokens.with_token(|token| async move {
            // Not before there is a token: while WeChat gives none, no code is asked for, however many wait for one.
            self.spend(wanted).await.map_err(client::Error::Limited)?;
            self.client.getwxacodeunlimit(&token, id, settings, may_repeat).await
        });
        Ok(picture.await?)
    }

    async fn spend(&self, wanted: Wanted) -> Result<(), Limited> {
        let appid = self.mini_program.appid.as_bytes();
        match wanted {
            Wanted::Now => self.limits.take(Rule::Pictures, appid).await,
            Wanted::Ahead => self.limits.take_spare(Rule::Pictures, appid).await,
        }
    }

    /// The codes that are ready now; none of them too old.
    fn ready<T>(&self, see: impl FnOnce(&mut VecDeque<Ready>) -> T) -> T {
        let mut codes = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let before = codes.len();
        codes.retain(|ready| ready.made_at.elapsed() < AHEAD_AGE_MAX);
        let seen = see(&mut codes);
        // Several Mini Programs' pools share the gauge.
        self.metrics.code_pool_ready.add(signed(codes.len()) - signed(before));
        seen
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(DELAY_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodePool")
            .field("mini_program", &self.mini_program)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
