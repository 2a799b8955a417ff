//! How a token is found or fetched, so that all replicas together ask WeChat once.
//!
//! A replica asks only while it holds the lease named like the AppID. The lease is for thrift: that an old answer never replaces
//! a newer one is the store's promise ([`TokenStore::put_token`]). Leases that nobody gives back count what all replicas
//! did: `<appid>:pause` after a failure, `<appid>:fetch…` for each token fetched, `<appid>:force` for one that was forced.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AccessToken, TokenMode};
use crate::entropy::{between, os_rng};
use crate::limits::{Limits, Rule};
use crate::scene::WriteId;
use crate::store::{Generation, StoreError, TokenStore};
use crate::wechat::MiniProgram;
use crate::wechat::client::{Client, Error, Granted};
use crate::wechat::errcode::Class;
use crate::wechat::seal::Sealer;

/// How long the lease lasts if its holder falls silent; others wait as long for the holder.
const LEASE: Duration = Duration::from_secs(10);

/// For how long it is tried to give a lease back whose holder does not know whether it has it.
const GIVE_BACK_MAX: Duration = Duration::from_secs(30);

/// A call to WeChat ends this long before the lease does, by the clock from before the lease was asked for.
const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// The shortest lease there can be.
const MOMENT: Duration = Duration::from_millis(1);

/// However many tokens WeChat refuses, all replicas together fetch one in this time, and so many more in ten minutes.
const FETCHES_APART: Duration = Duration::from_secs(40);
const MORE_FETCHES_MAX: usize = 3;
const MORE_FETCHES_WITHIN: Duration = Duration::from_mins(10);

/// A token is forced at most once in this time, however many a day may be ([`Rule::ForceRefreshes`]).
const FORCES_APART: Duration = Duration::from_hours(1);

/// While the store is away a replica asks WeChat at most once in this time.
const ALONE_APART: Duration = Duration::from_mins(1);

/// The longest pause after failures: then one call tries whether WeChat is back.
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Fetcher {
    mini_program: MiniProgram,
    mode: TokenMode,
    client: Client,
    store: Arc<dyn TokenStore>,
    limits: Limits,
    sealer: Sealer,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// When this replica last asked WeChat without the store.
    alone_at: Mutex<Option<Instant>>,
}

/// What this process knows when it begins to fetch.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The token in use, which may still serve.
    pub(super) current: Option<AccessToken>,
    /// The token that WeChat refused last.
    pub(super) refused: Option<AccessToken>,
    /// What went wrong last.
    pub(super) trouble: Option<Error>,
    /// How often, in a row.
    pub(super) failures: u32,
}

/// Why there is no token, and for how long nobody need ask again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) pause: Duration,
}

/// What the store has.
enum Found {
    /// One that will do.
    Fresh(AccessToken),
    /// One that serves, and is to be refreshed.
    Due(AccessToken),
    /// One that WeChat refused, or that is sealed for another AppSecret.
    Unusable(Generation),
    Absent,
}

/// Why a fetch through the store failed.
enum Setback {
    Store(StoreError),
    WeChat(Error),
    /// The replicas have asked WeChat enough for now.
    Denied,
}

impl From<StoreError> for Setback {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fetcher {
    pub(super) fn new(
        mini_program: MiniProgram,
        mode: TokenMode,
        client: Client,
        store: Arc<dyn TokenStore>,
        limits: Limits,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            sealer: Sealer::new(&mini_program.appid, &mini_program.secret),
            mini_program,
            mode,
            client,
            store,
            limits,
            tasks,
            shutdown,
            alone_at: Mutex::new(None),
        }
    }

    pub(super) fn appid(&self) -> &str {
        &self.mini_program.appid
    }

    /// The store's token if it will do, else a new one from WeChat; bounded by four lease lengths: waiting
    /// for one, the call in it, sharing what it gave, and alone should the store fail.
    pub(super) async fn fetch(&self, known: &Known) -> Result<AccessToken, Failure> {
        let owner = WriteId::random(&mut os_rng());
        match self.fetch_shared(known, owner).await {
            Ok(token) => Ok(token),
            Err(Setback::Store(error)) => {
                self.give_back(owner);
                self.fetch_alone(known, error).await
            }
            Err(Setback::WeChat(error)) => Err(failed(error, known)),
            Err(Setback::Denied) => Err(Failure {
                error: known.trouble.clone().unwrap_or_else(|| {
                    Error::Unavailable("an access_token was asked for in vain a moment ago".to_owned())
                }),
                pause: between(Duration::from_secs(1), Duration::from_secs(2)),
            }),
        }
    }

    async fn fetch_shared(&self, known: &Known, owner: WriteId) -> Result<AccessToken, Setback> {
        let wait_until = Instant::now() + LEASE;
        loop {
            let due = match self.find(known).await? {
                Found::Fresh(token) => return Ok(token),
                Found::Due(token) => Some(token),
                Found::Unusable(_) | Found::Absent => None,
            };
            let asked_at = Instant::now();
            if self.store.acquire_lease(self.appid(), owner, LEASE).await? {
                let fetched = self.fetch_leased(owner, asked_at + LEASE - LEASE_MARGIN, known).await;
                // If it can't be given back it ends by itself.
                let _ = self.store.release_lease(self.appid(), owner).await;
                return match (fetched, due) {
                    (Err(Setback::WeChat(error)), Some(due)) => {
                        tracing::warn!(appid = self.appid(), %error, "the access_token is not refreshed, the old one serves");
                        Ok(due)
                    }
                    (Err(_), Some(due)) => Ok(due),
                    (fetched, _) => fetched,
                };
            }
            if let Some(due) = due {
                return Ok(due);
            }
            if Instant::now() >= wait_until {
                return Err(Setback::Denied);
            }
            sleep(between(Duration::from_millis(50), Duration::from_millis(150))).await;
        }
    }

    async fn fetch_leased(&self, owner: WriteId, call_until: Instant, known: &Known) -> Result<AccessToken, Setback> {
        // Somebody may have put a token between our look and our lease.
        let found = match self.find(known).await? {
            Found::Fresh(token) => return Ok(token),
            found @ (Found::Due(_) | Found::Unusable(_) | Found::Absent) => found,
        };
        let pause = self.lease("pause");
        // It ends before the lease does, or it would deny WeChat to whoever takes over from a holder that fell silent.
        let until_call_ends = call_until.saturating_duration_since(Instant::now()).max(MOMENT);
        if !self.store.acquire_lease(&pause, owner, until_call_ends).await? {
            return Err(Setback::Denied);
        }
        let count = self.count_fetch(owner).await?;
        let called_at = Instant::now();
        let (answer, until_next) = match &count {
            Some(_) if called_at < call_until => timeout_at(call_until, self.ask(known, owner))
                .await
                .unwrap_or((Err(Error::Timeout), Duration::ZERO)),
            Some(_) | None => {
                self.store.release_lease(&pause, owner).await?;
                return Err(Setback::Denied);
            }
        };
        // From here on the store's troubles cost thrift only, so they must not hide the answer.
        let _ = self.store.release_lease(&pause, owner).await;
        if !until_next.is_zero() {
            tracing::warn!(
                appid = self.appid(),
                wait = ?until_next,
                "the day's token calls are used up: WeChat is asked for none for a while"
            );
            let _ = self.store.acquire_lease(&pause, owner, until_next).await;
        }
        match answer {
            Ok(granted) => Ok(self.keep(granted, called_at, owner, found).await),
            Err(error) => {
                let length = pause_after(&error, known.failures);
                let _ = self.store.acquire_lease(&pause, owner, length).await;
                if let Some(count) = count {
                    let _ = self.store.release_lease(&count, owner).await;
                }
                Err(Setback::WeChat(error))
            }
        }
    }

    /// Asks WeChat; by force only when it gave the very token that it refused. After how long the day's budget has another call.
    async fn ask(&self, known: &Known, owner: WriteId) -> (Result<Granted, Error>, Duration) {
        let answer = match self.mode {
            TokenMode::Classic => self.client.token(&self.mini_program).await,
            TokenMode::Stable => self.client.stable_token(&self.mini_program, false).await,
        };
        let until_next = self.count_answer(&answer).await;
        let is_refused = |granted: &Granted| {
            let refused = known.refused.as_ref();
            refused.is_some_and(|refused| refused.reads(granted.token.expose_secret()))
        };
        let may_go_on = self.mode == TokenMode::Stable && until_next.is_zero();
        if !may_go_on || !answer.as_ref().is_ok_and(is_refused) || !self.may_force(owner).await.unwrap_or(false) {
            return (answer, until_next);
        }
        tracing::warn!(
            appid = self.appid(),
            "WeChat gives an access_token that it refuses: a new one is forced"
        );
        let forced = self.client.stable_token(&self.mini_program, true).await;
        let until_next = self.count_answer(&forced).await;
        (forced.or(answer), until_next)
    }

    /// Gives back, behind everybody's back, what the store may have granted to `owner` after nobody waited for its answer any
    /// more: until such a lease ended, no replica would ask WeChat.
    fn give_back(&self, owner: WriteId) {
        let (store, shutdown) = (Arc::clone(&self.store), self.shutdown.clone());
        let leases = [self.appid().to_owned(), self.lease("pause")];
        let giving = async move {
            let until = Instant::now() + GIVE_BACK_MAX;
            let delays = ConstantBuilder::default()
                .with_delay(Duration::from_millis(500))
                .with_jitter()
                .without_max_times();
            for lease in &leases {
                let release = || store.release_lease(lease, owner);
                // If it can't be given back it ends by itself.
                let _ = release.retry(delays).when(|_| Instant::now() < until).await;
            }
        };
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(giving).await;
        });
    }

    /// What WeChat has answered counts against the day's budget, and nothing else: while it is away many try in vain. After the last
    /// one nobody asks until there is one again.
    async fn count_answer(&self, answer: &Result<Granted, Error>) -> Duration {
        let is_answered = answer.as_ref().map_or_else(|error| error.errcode().is_some(), |_| true);
        if !is_answered {
            return Duration::ZERO;
        }
        self.limits.took(Rule::TokenCalls, self.appid().as_bytes()).await
    }

    async fn count_fetch(&self, owner: WriteId) -> Result<Option<String>, StoreError> {
        let lease = self.lease("fetch");
        if self.store.acquire_lease(&lease, owner, FETCHES_APART).await? {
            return Ok(Some(lease));
        }
        self.count("fetch", MORE_FETCHES_MAX, MORE_FETCHES_WITHIN, owner).await
    }

    async fn may_force(&self, owner: WriteId) -> Result<bool, StoreError> {
        let is_apart = self
            .store
            .acquire_lease(&self.lease("force"), owner, FORCES_APART)
            .await?;
        Ok(is_apart
            && self
                .limits
                .take(Rule::ForceRefreshes, self.appid().as_bytes())
                .await
                .is_ok())
    }

    /// Counts one more of at most `max` within `within`, by a lease that ends by itself; `None` when there were so many.
    async fn count(
        &self,
        what: &str,
        max: usize,
        within: Duration,
        owner: WriteId,
    ) -> Result<Option<String>, StoreError> {
        for n in 0..max {
            let lease = self.lease(&format!("{what}:{n}"));
            if self.store.acquire_lease(&lease, owner, within).await? {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    fn lease(&self, purpose: &str) -> String {
        format!("{}:{purpose}", self.appid())
    }

    /// Puts what WeChat granted into the store, in the place of what was found there. The store's word is then what counts: if this replica slept through its lease,
    /// another one's token is there.
    async fn keep(&self, granted: Granted, called_at: Instant, owner: WriteId, found: Found) -> AccessToken {
        let seen = match found {
            Found::Fresh(token) | Found::Due(token) => token.0.generation,
            Found::Unusable(generation) => {
                // It might live longer than the new one, which would then not be kept.
                let _ = self.store.drop_token(self.appid(), generation).await;
                None
            }
            Found::Absent => None,
        };
        let token = self.adopt(granted.token, None, called_at + granted.life);
        let Some(sealed) = self.sealer.seal(token.expose()) else {
            return token;
        };
        match self.share(owner, seen, &sealed, &token).await {
            Ok(shared) => {
                let is_kept = shared.reads(token.expose());
                tracing::info!(appid = self.appid(), is_kept, left = ?token.left(), "fetched an access_token");
                shared
            }
            Err(error) => {
                tracing::warn!(appid = self.appid(), %error, "fetched an access_token for this replica only");
                token
            }
        }
    }

    /// Puts the token, and answers the one that all replicas use from then on. A lease that was lost while nobody put a token is
    /// taken once more: else this replica would use one alone, and the next to ask would fetch another. If somebody has it by
    /// now, theirs is the newer token.
    async fn share(
        &self,
        owner: WriteId,
        seen: Option<Generation>,
        sealed: &[u8],
        token: &AccessToken,
    ) -> Result<AccessToken, StoreError> {
        let wait_until = Instant::now() + LEASE;
        loop {
            let put = self.store.put_token(self.appid(), owner, seen, sealed, token.left());
            let put = put.await;
            // The store's word is what counts, also where its answer to the put was lost.
            if let Found::Fresh(stored) | Found::Due(stored) = self.find(&Known::default()).await? {
                return Ok(stored);
            }
            if put? || Instant::now() >= wait_until {
                return Ok(token.clone());
            }
            if !self.store.acquire_lease(self.appid(), owner, LEASE).await? {
                sleep(between(Duration::from_millis(50), Duration::from_millis(150))).await;
            }
        }
    }

    async fn find(&self, known: &Known) -> Result<Found, StoreError> {
        let read_at = Instant::now();
        let Some(stored) = self.store.token(self.appid()).await? else {
            return Ok(Found::Absent);
        };
        let is_refused = |text: &SecretString| {
            known
                .refused
                .as_ref()
                .is_some_and(|refused| refused.reads(text.expose_secret()))
        };
        let Some(text) = self.sealer.open(&stored.sealed).filter(|text| !is_refused(text)) else {
            return Ok(Found::Unusable(stored.generation));
        };
        let is_news = known
            .current
            .as_ref()
            .is_some_and(|current| current.0.generation < Some(stored.generation));
        let token = self.adopt(text, Some(stored.generation), read_at + stored.left);
        if is_news || stored.left > self.mode.window() {
            Ok(Found::Fresh(token))
        } else {
            Ok(Found::Due(token))
        }
    }

    fn adopt(&self, text: SecretString, generation: Option<Generation>, expires_at: Instant) -> AccessToken {
        let window = match (self.mode, generation) {
            // Whoever else asked has another one, and only the newest lives on: soon all are to have one together.
            (TokenMode::Classic, None) => None,
            (TokenMode::Stable, _) | (TokenMode::Classic, Some(_)) => Some(self.mode.window()),
        };
        AccessToken::new(text, generation, expires_at, window)
    }

    /// Without the store there is no lease, so each replica keeps to what it has, and else asks seldom and never by force.
    async fn fetch_alone(&self, known: &Known, trouble: StoreError) -> Result<AccessToken, Failure> {
        let serves = known.current.as_ref().is_some_and(|current| !current.left().is_zero());
        if serves || !self.may_ask_alone() {
            return Err(Failure {
                error: known
                    .trouble
                    .clone()
                    .unwrap_or_else(|| Error::Unavailable(format!("there is no access_token, and {trouble}"))),
                pause: between(Duration::from_secs(1), Duration::from_secs(2)),
            });
        }
        let called_at = Instant::now();
        let granted = match self.mode {
            TokenMode::Stable => self.client.stable_token(&self.mini_program, false).await,
            TokenMode::Classic => self.client.token(&self.mini_program).await,
        };
        granted
            .map(|granted| self.adopt(granted.token, None, called_at + granted.life))
            .map_err(|error| failed(error, known))
    }

    fn may_ask_alone(&self) -> bool {
        let now = Instant::now();
        let mut alone_at = self.alone_at.lock().unwrap_or_else(PoisonError::into_inner);
        if alone_at.is_some_and(|at| now < at + ALONE_APART) {
            return false;
        }
        *alone_at = Some(now);
        true
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("mini_program", &self.mini_program)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn failed(error: Error, known: &Known) -> Failure {
    Failure {
        pause: pause_after(&error, known.failures),
        error,
    }
}

/// Grows with the failures in a row; a plain no will still be one in a second.
fn pause_after(error: &Error, failures: u32) -> Duration {
    let is_plain_no = error.class().is_some_and(|class| class != Class::Busy);
    let least = if is_plain_no {
        PAUSE_MAX
    } else {
        PAUSE_MAX.min(Duration::from_secs(1 << failures.min(5)))
    };
    between(least, least + least / 10)
}
