//! One use of an authorization code, which goes to its end whatever becomes of its caller: what gave nothing is taken back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::Instrument;
use zeroize::Zeroizing;

use super::{ACCESS_TOKEN_LIFE, AccessGrant, Login, RedeemError, Site};
use crate::audit::Event;
use crate::entropy::os_rng;
use crate::scene::{
    Access, Action, AuthorizationCode, Avatar, CODE_LIFE, Digest, GrantFault, Redemption, Refused, Scene, SceneId,
    State, WriteId,
};
use crate::store::{
    Applied, ApplyError, Durability, Grant, Replaced, Store, StoreError, Stored, Write, apply, find_one,
};
use crate::telemetry::trace;

/// How soon what the store could not do is tried again at first, and how long a caller is kept waiting for it.
const SOON: Duration = Duration::from_millis(400);

/// The longest pause between two tries, but for some jitter.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How many uses of codes may be tried to be undone again and again at the same time. Nobody waits for them, so nothing else
/// bounds how many there are; of further ones the first try is the last.
pub(in crate::login) const UNDOING_MAX: usize = 512;

/// Looks at a scene whose grant is to be deleted while others write it.
const REVOCATIONS: usize = 8;

/// One use of a code.
pub(super) struct Attempt<P> {
    pub(super) login: Login,
    pub(super) code: AuthorizationCode,
    pub(super) site: Arc<Site>,
    pub(super) redirect_uri: Option<String>,
    pub(super) code_verifier: Option<Zeroizing<String>>,
    pub(super) access_token: Digest<Access>,
    pub(super) picture_url: P,
    pub(super) now: i64,
}

impl<P: Fn(&SceneId, &Avatar) -> String + Send + Sync> Attempt<P> {
    pub(super) async fn run(self, tell: oneshot::Sender<Result<Applied, RedeemError>>) {
        match self.apply().await {
            Ok(applied) => {
                // Where nobody waits any more nothing was given.
                if let Err(Ok(applied)) = tell.send(Ok(applied)) {
                    self.take_back(applied).await;
                }
            }
            Err(ApplyError::Unreplicated(applied)) => {
                // Before the answer, so that the retry it asks for finds the code as it was.
                tell_after(tell, RedeemError::Unreplicated, self.take_back(*applied)).await;
            }
            Err(ApplyError::Unknown(applied, error)) => {
                let _ = tell.send(Err(error.into()));
                self.take_back(*applied).await;
            }
            Err(ApplyError::Refused(Refused::InvalidGrant(GrantFault::Used))) => {
                let used = RedeemError::InvalidGrant(Some(GrantFault::Used));
                tell_after(tell, used, self.revoke()).await;
            }
            Err(ApplyError::Refused(Refused::InvalidGrant(fault))) => {
                let _ = tell.send(Err(RedeemError::InvalidGrant(Some(fault))));
            }
            Err(ApplyError::NotFound | ApplyError::Refused(_) | ApplyError::Mistaken(..)) => {
                let _ = tell.send(Err(RedeemError::InvalidGrant(None)));
            }
            Err(ApplyError::Store(error)) => {
                let _ = tell.send(Err(error.into()));
            }
        }
    }

    async fn apply(&self) -> Result<Applied, ApplyError> {
        let store = &*self.login.store;
        let seen = find_one(store, &self.code.scene).await?.ok_or(ApplyError::NotFound)?;
        let redeem = || {
            Action::Redeem(Redemption {
                code: &self.code,
                client_id: &self.site.client.client_id,
                redirect_uri: self.redirect_uri.as_deref(),
                code_verifier: self.code_verifier.as_ref().map(|text| text.as_str()),
            })
        };
        // Of the scene that is written, which need not be the one that was read first.
        let make_grant = |scene: &Scene, life| {
            let State::Confirmed(confirmation) = &scene.state else {
                return Err(StoreError::Corrupt("redeemed without a confirm".to_owned()));
            };
            let picture_url = |avatar: &Avatar| (self.picture_url)(&scene.id, avatar);
            let grant = AccessGrant {
                token: self.access_token,
                claims: self
                    .login
                    .claims(&self.site, scene, confirmation, life, picture_url, self.now),
            };
            serde_json::to_vec(&grant).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        let durability = Durability::WithGrant(&make_grant, ACCESS_TOKEN_LIFE);
        let step = trace::step("redeem", &seen.scene.id.shortened(), seen.scene.traceparent);
        apply(store, seen, durability, &mut os_rng(), redeem)
            .instrument(step)
            .await
    }

    /// Nothing was handed out, so the code may be redeemed again. If even this fails it is spent, and the person scans again.
    async fn take_back(&self, applied: Applied) {
        let written = Stored::now(applied.scene, applied.before.life());
        let next = rewritten(applied.before.scene);
        let write = Write {
            next: &next,
            durable: false,
            grant: Grant::Delete,
            notice: None,
        };
        let scene = &next.id;
        match self.insist(|| self.login.store.replace(&written, write)).await {
            Ok(Replaced::Written | Replaced::Unreplicated) => {
                tracing::info!(?scene, "a redemption that gave nothing was taken back");
            }
            // It was never written, or somebody else has written since.
            Ok(Replaced::Stale | Replaced::Late | Replaced::Absent) => {}
            Err(error) => {
                tracing::warn!(?scene, %error, "a redemption that gave nothing could not be taken back");
            }
        }
    }

    /// Whoever presents a used code with everything right is either the client itself or its thief: what it gave ends.
    async fn revoke(&self) {
        let scene = &self.code.scene;
        match self.insist(|| revoke(&*self.login.store, scene)).await {
            Ok(Some(revoked)) => self.login.audit.tell(Event::Revoked, None, &revoked),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(?scene, %error, "a code was used twice, and its access token could not be revoked");
            }
        }
    }

    /// Tries until the store answers, for as long as a code may live, if there are not too many who do.
    async fn insist<T, F>(&self, act: impl Fn() -> F + Send + Sync) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
        T: Send,
    {
        let until = Instant::now() + CODE_LIFE;
        let delays = ExponentialBuilder::default()
            .with_min_delay(SOON)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .with_jitter();
        let mut place = None;
        act.retry(delays)
            .when(|error| {
                place = place.take().or_else(|| self.login.undoing.try_acquire().ok());
                let may_help = error.is_passing() && Instant::now() < until && !self.login.tasks.is_closed();
                place.is_some() && may_help
            })
            .await
    }
}

/// Does what belongs before an answer, and gives the answer in time all the same.
async fn tell_after(
    tell: oneshot::Sender<Result<Applied, RedeemError>>,
    error: RedeemError,
    first: impl Future<Output = ()>,
) {
    let mut first = pin!(first);
    let is_done = timeout(SOON, first.as_mut()).await.is_ok();
    let _ = tell.send(Err(error));
    if !is_done {
        first.await;
    }
}

/// `None` where there is nothing any more.
async fn revoke(store: &dyn Store, id: &SceneId) -> Result<Option<Scene>, StoreError> {
    // The use before may be so near that its write overtakes ours; a second look settles it.
    for _ in 0..REVOCATIONS {
        let Some(seen) = find_one(store, id).await? else {
            return Ok(None);
        };
        let next = rewritten(seen.scene.clone());
        let write = Write {
            next: &next,
            durable: false,
            grant: Grant::Delete,
            notice: None,
        };
        match store.replace(&seen, write).await? {
            Replaced::Stale => {}
            Replaced::Written | Replaced::Unreplicated => return Ok(Some(next)),
            Replaced::Late | Replaced::Absent => return Ok(None),
        }
    }
    Err(StoreError::Unavailable(
        "the scene is being written by too many at once".to_owned(),
    ))
}

/// The same scene, as another write.
fn rewritten(scene: Scene) -> Scene {
    let write_id = WriteId::random(&mut os_rng());
    Scene { write_id, ..scene }
}
