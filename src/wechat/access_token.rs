//! The `access_token`: hides that there is one per Mini Program for all replicas, and how few calls to WeChat that takes.
//!
//! Callers say [`AccessTokens::with_token`]. The token comes from this process's copy while that is fresh, from the store while
//! that has one, and from WeChat only then, by one replica at a time (`fetch`).

mod fetch;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::fetch::{Failure, Fetcher, Known};
use super::MiniProgram;
use super::client::{Client, Error, Granted};
use super::seal::Sealer;
use crate::entropy::between;
use crate::limits::Limits;
use crate::store::{Generation, TokenStore};
use crate::telemetry::Metrics;

/// Which of WeChat's two kinds of `access_token` is used. They know nothing of each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenMode {
    /// Asking again gives the same one until its last five minutes; old and new then both live.
    #[default]
    Stable,
    /// Asking again makes a new one and ends the previous five minutes later. Two programs that do so for one AppID, or
    /// replicas that lost their common store, end each other's.
    Classic,
}

impl TokenMode {
    /// How long before a token's end the next one is fetched: when WeChat gives one, or a tenth of its usual two hours.
    fn window(self) -> Duration {
        match self {
            Self::Stable => Duration::from_mins(5),
            Self::Classic => Duration::from_mins(12),
        }
    }
}

/// The least time between two refreshes while a token still serves.
const REFRESHES_APART: Duration = Duration::from_secs(30);

/// How long a refused token rests before it is tried again, where there is no other.
const TRIES_APART: Duration = Duration::from_secs(2);

/// Hands out the `access_token` of one Mini Program. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct AccessTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Fetcher,
    metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    local: Mutex<Local>,
}

/// What this process knows.
#[derive(Debug, Default)]
struct Local {
    current: Option<AccessToken>,
    /// The token that WeChat refused last, and in which words, until another one is found.
    refusal: Option<Refusal>,
    pause: Option<Pause>,
    /// Failures in a row.
    failures: u32,
    /// The fetching that is under way: whoever comes joins it.
    flight: Option<Flight>,
}

type Flight = Shared<BoxFuture<'static, Result<AccessToken, Error>>>;

#[derive(Debug, Clone)]
struct Refusal {
    token: AccessToken,
    error: Error,
    /// When it was refused or handed out last.
    at: Instant,
}

/// Until when nothing is fetched, and why.
#[derive(Debug)]
struct Pause {
    until: Instant,
    error: Error,
}

impl AccessTokens {
    /// Fetches nothing yet; what it will fetch runs as a task of `tasks` until `shutdown`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "its parts, each once, wired in one place")]
    pub fn new(
        mini_program: MiniProgram,
        mode: TokenMode,
        client: Client,
        store: Arc<dyn TokenStore>,
        limits: Limits,
        metrics: Metrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            fetcher: Fetcher::new(
                mini_program,
                mode,
                client,
                store,
                limits,
                tasks.clone(),
                shutdown.clone(),
            ),
            metrics,
            tasks,
            shutdown,
            local: Mutex::default(),
        }))
    }

    /// Makes a call that needs the token, and makes it once more with another token if WeChat refuses this one.
    ///
    /// # Errors
    /// The call's, or why there is no token.
    pub async fn with_token<T: Send, Fut>(&self, call: impl Fn(AccessToken) -> Fut + Send + Sync) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        match self.with_this_token(&call).await? {
            Err(Error::TokenRefused { .. }) => self.with_this_token(&call).await?,
            result => result,
        }
    }

    /// One call, and what it says of the token; outside, why there is none.
    async fn with_this_token<T: Send, Fut>(
        &self,
        call: &(impl Fn(AccessToken) -> Fut + Sync),
    ) -> Result<Result<T, Error>, Error>
    where
        Fut: Future<Output = Result<T, Error>> + Send,
    {
        let token = match self.get().await {
            Ok(token) => token,
            Err(error) => self.0.lock().last_resort().ok_or(error)?,
        };
        let result = call(token.clone()).await;
        match &result {
            Ok(_) => self.0.lock().accept(&token),
            Err(error @ Error::TokenRefused { .. }) => self.0.lock().reject(&token, error),
            // Nothing is known of the token: WeChat has not seen it, or has not said.
            Err(_) => {}
        }
        Ok(result)
    }

    /// Keeps the token fresh while nobody asks for it, so that trouble with it shows before a login needs it. For a task.
    pub async fn keep_fresh(self) {
        let mut told = None;
        let ticks = async {
            loop {
                let error = self.get().await.err();
                if let Some(error) = &error
                    && told.as_ref() != Some(error)
                    // Then it is wanted no more.
                    && !self.0.shutdown.is_cancelled()
                {
                    let advice = error
                        .errcode()
                        .map_or_else(|| unreached(error), |code| Some(code.advice()));
                    tracing::warn!(appid = self.0.fetcher.appid(), %error, advice, "there is no access_token");
                }
                told = error;
                self.0.tell_left();
                sleep(between(Duration::from_secs(5), Duration::from_secs(10))).await;
            }
        };
        self.0.shutdown.run_until_cancelled(ticks).await;
    }

    /// Why there is no token just now, if there is none and the last try to get one failed.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        let local = self.0.lock();
        let serves = local
            .current
            .as_ref()
            .is_some_and(|token| Instant::now() < token.0.expires_at);
        local
            .pause
            .as_ref()
            .filter(|_| !serves)
            .map(|pause| pause.error.clone())
    }

    /// The token, from wherever it is. Fetching that has begun goes on when the caller does not wait for it.
    async fn get(&self) -> Result<AccessToken, Error> {
        let flight = {
            let mut local = self.0.lock();
            let now = Instant::now();
            let pause = local.pause.as_ref().filter(|pause| now < pause.until);
            match (&local.current, pause) {
                (Some(token), _) if now < token.0.refresh_at => return Ok(token.clone()),
                (Some(token), Some(_)) if now < token.0.expires_at => return Ok(token.clone()),
                (Some(token), None) if now < token.0.expires_at => {
                    let token = token.clone();
                    // Nobody waits: the task refreshes it while this one serves.
                    drop(self.join_flight(&mut local));
                    return Ok(token);
                }
                (_, Some(pause)) => return Err(pause.error.clone()),
                (_, None) => self.join_flight(&mut local),
            }
        };
        flight.await
    }

    fn join_flight(&self, local: &mut Local) -> Flight {
        // One whose task panicked has not cleared itself away.
        if let Some(flight) = local.flight.as_ref().filter(|flight| flight.peek().is_none()) {
            return flight.clone();
        }
        let inner = Arc::clone(&self.0);
        // It outlives the request that begins it, and its log lines are of that request all the same.
        let fetch = async move { inner.fetch().await }.in_current_span();
        let task = self.0.tasks.spawn(fetch);
        let flight = async move { task.await.unwrap_or_else(|_| Err(shutting_down())) }
            .boxed()
            .shared();
        local.flight = Some(flight.clone());
        flight
    }
}

/// Whoever has taken the Mini Program out is not told of its token any more. One with other settings and the same AppID tells its own
/// within seconds.
impl Drop for Inner {
    fn drop(&mut self) {
        // There is none if it never had a token.
        let _ = self
            .metrics
            .access_token_left_seconds
            .remove_label_values(&[self.fetcher.appid()]);
    }
}

impl Inner {
    /// Fetches, and learns from the outcome. One at a time.
    async fn fetch(&self) -> Result<AccessToken, Error> {
        let known = self.lock().known();
        let began = Instant::now();
        let outcome = self.shutdown.run_until_cancelled(self.fetcher.fetch(&known)).await;
        if let Some(outcome) = &outcome {
            let outcome = if outcome.is_ok() { "ok" } else { "failed" };
            let labels = [self.fetcher.appid(), outcome];
            let seconds = self.metrics.access_token_fetch_seconds.with_label_values(&labels);
            seconds.observe(began.elapsed().as_secs_f64());
        }
        let result = {
            let mut local = self.lock();
            local.flight = None;
            match outcome {
                None => Err(shutting_down()),
                Some(Ok(token)) => local.found(token),
                Some(Err(failure)) => Err(local.do_without(failure)),
            }
        };
        self.tell_left();
        result
    }

    fn tell_left(&self) {
        let left = self.lock().current.as_ref().map_or(Duration::ZERO, AccessToken::left);
        self.metrics
            .access_token_left_seconds
            .with_label_values(&[self.fetcher.appid()])
            .set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
    }

    /// Nothing is left half done by a panic under this lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    fn known(&self) -> Known {
        let refusal = self.refusal.as_ref();
        Known {
            current: self.current.clone(),
            refused: refusal.map(|refusal| refusal.token.clone()),
            trouble: (self.pause.as_ref().map(|pause| &pause.error))
                .or(refusal.map(|refusal| &refusal.error))
                .cloned(),
            failures: self.failures,
        }
    }

    /// Takes a token into use, unless it was refused while this fetch was under way.
    fn found(&mut self, token: AccessToken) -> Result<AccessToken, Error> {
        if let Some(refusal) = self.refusal.as_ref().filter(|refusal| refusal.token.is(&token)) {
            return Err(refusal.error.clone());
        }
        self.refusal = None;
        self.pause = None;
        self.failures = 0;
        self.current = Some(token.clone());
        Ok(token)
    }

    /// Pauses after a failure.
    fn do_without(&mut self, failure: Failure) -> Error {
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(Pause {
            until: Instant::now() + failure.pause,
            error: failure.error.clone(),
        });
        failure.error
    }

    /// The token that WeChat refused, to one caller once in a while: what refuses a token that it has just given may take it again
    /// before the budget allows another, and whoever comes before that one knows need not ask as well.
    fn last_resort(&mut self) -> Option<AccessToken> {
        let now = Instant::now();
        let refusal = self.refusal.as_mut()?;
        let is_worth_a_try = now >= refusal.at + TRIES_APART && !refusal.token.left().is_zero();
        is_worth_a_try.then(|| {
            refusal.at = now;
            refusal.token.clone()
        })
    }

    /// WeChat refused this token. It is given up if it still is the current one. The store keeps it: whoever finds it there knows
    /// it for the refused one, or tries it and learns the same.
    fn reject(&mut self, token: &AccessToken, error: &Error) {
        let at = Instant::now();
        if self.current.as_ref().is_some_and(|current| current.is(token)) {
            self.current = None;
            self.refusal = Some(Refusal {
                token: token.clone(),
                error: error.clone(),
                at,
            });
        } else if let Some(refusal) = self.refusal.as_mut().filter(|refusal| refusal.token.is(token)) {
            refusal.at = at;
        }
    }

    /// WeChat took this token. It is the current one again, if it was given up.
    fn accept(&mut self, token: &AccessToken) {
        if self.current.is_none() && self.refusal.as_ref().is_some_and(|refusal| refusal.token.is(token)) {
            self.refusal = None;
            self.pause = None;
            self.failures = 0;
            self.current = Some(token.clone());
        }
    }
}

fn shutting_down() -> Error {
    Error::Unavailable("this process is shutting down".to_owned())
}

/// An `access_token` as it is used: by whoever got it, for the calls made at once.
#[derive(Clone)]
pub struct AccessToken(Arc<Held>);

struct Held {
    text: SecretString,
    /// What the store counts it as; `None` where the store does not have it.
    generation: Option<Generation>,
    expires_at: Instant,
    refresh_at: Instant,
}

impl AccessToken {
    /// A token that lives until `expires_at`, and is to be refreshed `window` before that, or soon if that is past or there is none.
    fn new(text: SecretString, generation: Option<Generation>, expires_at: Instant, window: Option<Duration>) -> Self {
        let soon = Instant::now() + between(REFRESHES_APART, REFRESHES_APART * 4 / 3);
        let in_window = window.and_then(|window| expires_at.checked_sub(between(window * 4 / 5, window)));
        Self(Arc::new(Held {
            text,
            generation,
            expires_at,
            refresh_at: in_window.unwrap_or(soon).max(soon),
        }))
    }

    /// As it is kept, for a call at once; `None` if another AppSecret sealed it.
    #[must_use]
    pub fn open(mini_program: &MiniProgram, sealed: &[u8]) -> Option<Self> {
        let text = Sealer::new(&mini_program.appid, &mini_program.secret).open(sealed)?;
        Some(Self::new(text, None, Instant::now(), None))
    }

    /// The token itself, to be sent to WeChat and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.text.expose_secret()
    }

    /// Whether this is its text.
    fn reads(&self, text: &str) -> bool {
        self.expose().as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Whether both are the same find: a token that WeChat gave again after it was refused is another.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.generation.is_some() && self.0.generation == other.0.generation)
    }

    fn left(&self) -> Duration {
        self.0.expires_at.saturating_duration_since(Instant::now())
    }
}

/// For a call at once.
impl From<Granted> for AccessToken {
    fn from(granted: Granted) -> Self {
        Self::new(granted.token, None, Instant::now() + granted.life, None)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("generation", &self.0.generation)
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

/// What to do where no answer comes at all.
fn unreached(error: &Error) -> Option<&'static str> {
    let Error::Unavailable(why) = error else { return None };
    why.contains("UnknownIssuer").then_some(
        "No authority that this machine trusts vouches for that server: install ca-certificates, and see what answers at \
         SCANLOGIN_WECHAT_API_BASE",
    )
}
