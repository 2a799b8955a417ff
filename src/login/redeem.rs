//! What the site's backend does: redeem an authorization code, once, and ask who the person is.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{Client, Login};
use crate::entropy::os_rng;
use crate::scene::{
    Access, Action, AuthorizationCode, Avatar, Confirmation, Digest, GrantFault, Life, Profile, Redemption, Refused,
    Scene, SceneId, Secret, State, WriteId,
};
use crate::store::{
    Applied, ApplyError, Durability, Grant, Replaced, Store, StoreError, Stored, Write, apply, find_one,
};

/// How long an access token opens `/userinfo`.
pub const ACCESS_TOKEN_LIFE: Duration = Duration::from_mins(10);

/// Looks at a scene whose grant is to be deleted while others write it.
const REVOCATIONS: usize = 8;

/// How a client proves itself at `/token`.
#[derive(Debug)]
pub enum ClientCredentials<'a> {
    /// By its secret, in the `Authorization` header or in the form (RFC 6749 §2.3.1).
    Secret {
        /// Which client.
        client_id: &'a str,
        /// Its secret.
        client_secret: &'a str,
    },
    /// Not at all; PKCE proves that it is the one that asked.
    None {
        /// Which client.
        client_id: &'a str,
    },
}

/// Why `/token` gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// The client is unknown, or did not prove itself.
    #[error("the client is unknown or did not prove itself")]
    InvalidClient,
    /// The code gives nothing to this client. Which part was wrong is for the log only.
    #[error("the grant is invalid")]
    InvalidGrant(#[source] Option<GrantFault>),
    /// Nothing was given; trying again may help.
    #[error("the store failed")]
    Unavailable(#[source] StoreError),
    /// Nothing was given: no replica of the store confirmed the redemption, and it was taken back.
    #[error("no replica of the store confirmed the redemption in time")]
    Unreplicated,
}

impl From<StoreError> for RedeemError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

/// What a redeemed code gives.
#[derive(Debug)]
pub struct Redeemed<'a> {
    /// Opens `/userinfo`: `scene "." random`.
    pub access_token: String,
    /// To whom it was given.
    pub client: &'a Client,
    /// Who logged in.
    pub claims: Claims,
    /// As the site sent it at the start.
    pub nonce: Option<String>,
}

/// Who logged in, as far as the site may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The person towards this site.
    pub sub: String,
    /// When they confirmed, in seconds since the Unix epoch.
    pub auth_time: i64,
    /// How (RFC 8176 style words of our own): `wechat`, and `simulated` when it was not the real one.
    pub amr: Vec<String>,
    /// The person under the Mini Program.
    pub wechat_openid: String,
    /// The person across a subject's apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wechat_unionid: Option<String>,
    /// The Mini Program.
    pub wechat_appid: String,
    /// Their own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    /// A picture they chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

/// What is kept beside the scene for the bearer of an access token.
#[derive(Debug, Serialize, Deserialize)]
struct AccessGrant {
    token: Digest<Access>,
    claims: Claims,
}

/// Why `/userinfo` tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum UserinfoError {
    /// The access token is unknown, too old or revoked.
    #[error("the access token is unknown, too old or revoked")]
    InvalidToken,
    /// The store failed.
    #[error("the store failed")]
    Unavailable(#[from] StoreError),
}

impl Login {
    /// The client that these credentials prove.
    ///
    /// # Errors
    /// [`RedeemError::InvalidClient`], also for a confidential client without its secret.
    pub fn authenticate(&self, credentials: &ClientCredentials<'_>) -> Result<&Client, RedeemError> {
        let client = match credentials {
            ClientCredentials::Secret {
                client_id,
                client_secret,
            } => self
                .clients
                .get(client_id)
                .filter(|client| client.accepts(client_secret)),
            ClientCredentials::None { client_id } => self.clients.get(client_id).filter(|client| client.is_public()),
        };
        client.ok_or(RedeemError::InvalidClient)
    }

    /// Redeems an authorization code for `client`, once. `picture_url` makes an uploaded avatar an address; `now` is in Unix seconds.
    ///
    /// A second use with everything right revokes what the first gave (RFC 6749 §4.1.2).
    ///
    /// # Errors
    /// [`RedeemError`]
    pub async fn redeem<'a>(
        &self,
        client: &'a Client,
        code: &str,
        redirect_uri: Option<&str>,
        code_verifier: Option<&str>,
        picture_url: &(dyn Fn(&SceneId, &Avatar) -> String + Sync),
        now: i64,
    ) -> Result<Redeemed<'a>, RedeemError> {
        let code = AuthorizationCode::parse(code).ok_or(RedeemError::InvalidGrant(None))?;
        let seen = find_one(&*self.store, &code.scene)
            .await?
            .ok_or(RedeemError::InvalidGrant(None))?;
        let redemption = Redemption {
            code: &code,
            client_id: &client.client_id,
            redirect_uri,
            code_verifier,
        };
        let redeem = || Action::Redeem(redemption.clone());

        let secret = Secret::<Access>::random(&mut os_rng());
        // Of the scene that is written, which need not be the one that was read first.
        let make_grant = |scene: &Scene, life| {
            let State::Confirmed(confirmation) = &scene.state else {
                return Err(StoreError::Corrupt("redeemed without a confirm".to_owned()));
            };
            let grant = AccessGrant {
                token: secret.digest(),
                claims: self.claims(&scene.id, confirmation, life, picture_url, now),
            };
            serde_json::to_vec(&grant).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        let durability = Durability::WithGrant(&make_grant, ACCESS_TOKEN_LIFE);

        let Applied { scene, granted, .. } = match apply(&*self.store, seen, durability, &mut os_rng(), redeem).await {
            Ok(applied) => applied,
            Err(ApplyError::Refused(Refused::InvalidGrant(GrantFault::Used))) => {
                let revoked = self.tasks.spawn(revoke(Arc::clone(&self.store), code.scene));
                // Tried to its end even when the caller is gone.
                let _ = revoked.await;
                return Err(RedeemError::InvalidGrant(Some(GrantFault::Used)));
            }
            Err(ApplyError::Refused(Refused::InvalidGrant(fault))) => {
                return Err(RedeemError::InvalidGrant(Some(fault)));
            }
            Err(ApplyError::NotFound | ApplyError::Refused(_)) => return Err(RedeemError::InvalidGrant(None)),
            Err(ApplyError::Unreplicated(applied)) => {
                // Before the answer, so that the retry it asks for finds the code as it was.
                let _ = self.take_back(*applied).await;
                return Err(RedeemError::Unreplicated);
            }
            Err(ApplyError::Unknown(applied, error)) => {
                self.take_back(*applied);
                return Err(error.into());
            }
            Err(ApplyError::Store(error)) => return Err(error.into()),
        };
        let AccessGrant { claims, .. } = read_grant(&granted)?;
        self.step("redeemed");
        self.metrics.login_seconds.observe(seconds(now - scene.created_at));
        Ok(Redeemed {
            access_token: format!("{}.{}", scene.id, *secret.expose()),
            client,
            claims,
            nonce: scene.authorization.nonce,
        })
    }

    /// Who the bearer of this access token may know of.
    ///
    /// # Errors
    /// [`UserinfoError`]
    pub async fn userinfo(&self, access_token: &str) -> Result<Claims, UserinfoError> {
        let (scene, secret) = access_token.split_once('.').ok_or(UserinfoError::InvalidToken)?;
        let scene: SceneId = scene.parse().map_err(|_| UserinfoError::InvalidToken)?;
        let secret = Secret::<Access>::parse(secret).ok_or(UserinfoError::InvalidToken)?;
        let bytes = self.store.grant(&scene).await?.ok_or(UserinfoError::InvalidToken)?;
        let grant = read_grant(&bytes)?;
        if grant.token.matches(&secret) {
            Ok(grant.claims)
        } else {
            Err(UserinfoError::InvalidToken)
        }
    }

    fn claims(
        &self,
        id: &SceneId,
        confirmation: &Confirmation,
        life: Life,
        picture_url: &(dyn Fn(&SceneId, &Avatar) -> String + Sync),
        now: i64,
    ) -> Claims {
        let Profile { nickname, avatar } = confirmation.profile.clone();
        let person = confirmation.scan.person.clone();
        let age = confirmation.age(life);
        let mut amr = vec!["wechat".to_owned()];
        if self.simulated {
            amr.push("simulated".to_owned());
        }
        Claims {
            sub: person.openid.clone(),
            auth_time: now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(0)),
            amr,
            wechat_openid: person.openid,
            wechat_unionid: person.unionid,
            wechat_appid: person.appid,
            nickname,
            picture: avatar.map(|avatar| picture_url(id, &avatar)),
        }
    }

    /// Tried to its end even when the caller does not wait for it.
    fn take_back(&self, applied: Applied) -> JoinHandle<()> {
        self.tasks.spawn(take_back(Arc::clone(&self.store), applied))
    }
}

/// Whoever presents a used code with everything right is either the client itself or its thief: what it gave ends.
async fn revoke(store: Arc<dyn Store>, id: SceneId) {
    // The use before may be so near that its write overtakes ours; a second look settles it.
    for _ in 0..REVOCATIONS {
        let Ok(Some(seen)) = find_one(&*store, &id).await else {
            break;
        };
        let next = rewritten(seen.scene.clone());
        let write = Write {
            next: &next,
            durable: false,
            grant: Grant::Delete,
        };
        match store.replace(&seen, write).await {
            Ok(Replaced::Stale) => {}
            Ok(Replaced::Written | Replaced::Unreplicated | Replaced::Late | Replaced::Absent) => return,
            Err(_) => break,
        }
    }
    tracing::warn!(scene = ?id, "a code was used twice, and its access token could not be revoked");
}

/// Nothing was handed out, so the code may be redeemed again. If even this fails it is spent, and the person scans again.
async fn take_back(store: Arc<dyn Store>, applied: Applied) {
    let written = Stored::now(applied.scene, applied.before.life());
    let next = rewritten(applied.before.scene);
    let write = Write {
        next: &next,
        durable: false,
        grant: Grant::Delete,
    };
    match store.replace(&written, write).await {
        Ok(Replaced::Written | Replaced::Unreplicated) => {
            tracing::info!(scene = ?next.id, "a redemption that gave nothing was taken back");
        }
        // It was never written, or somebody else has written since.
        Ok(Replaced::Stale | Replaced::Late | Replaced::Absent) => {}
        Err(error) => {
            tracing::warn!(scene = ?next.id, %error, "a redemption that gave nothing could not be taken back");
        }
    }
}

/// The same scene, as another write.
fn rewritten(scene: Scene) -> Scene {
    let write_id = WriteId::random(&mut os_rng());
    Scene { write_id, ..scene }
}

fn read_grant(bytes: &[u8]) -> Result<AccessGrant, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("a grant: {:?}", error.classify())))
}

#[expect(clippy::cast_precision_loss, reason = "a login takes seconds to minutes")]
fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
