//! What the site's backend does: redeem an authorization code, once, and ask who the person is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Client, Login};
use crate::entropy::os_rng;
use crate::scene::{
    Access, Action, AuthorizationCode, Avatar, CODE_LIFE, Digest, GrantFault, Profile, Redemption, Refused, Scene,
    SceneId, Secret, State, WriteId,
};
use crate::store::{Applied, ApplyError, Durability, Grant, Replaced, StoreError, Stored, Write, apply, find_one};

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
        let claims = self
            .claims(&seen, picture_url, now)
            .ok_or(RedeemError::InvalidGrant(None))?;
        let grant = AccessGrant {
            token: secret.digest(),
            claims,
        };
        let grant_bytes = serde_json::to_vec(&grant).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let make_grant = |_: &Scene| grant_bytes.clone();
        let durability = Durability::WithGrant(&make_grant, ACCESS_TOKEN_LIFE);

        let Applied { scene, .. } = match apply(&*self.store, seen, durability, &mut os_rng(), redeem).await {
            Ok(applied) => applied,
            Err(ApplyError::Refused(Refused::InvalidGrant(GrantFault::Used))) => {
                self.revoke(&code.scene).await;
                return Err(RedeemError::InvalidGrant(Some(GrantFault::Used)));
            }
            Err(ApplyError::Refused(Refused::InvalidGrant(fault))) => {
                return Err(RedeemError::InvalidGrant(Some(fault)));
            }
            Err(ApplyError::NotFound | ApplyError::Refused(_)) => return Err(RedeemError::InvalidGrant(None)),
            Err(ApplyError::Unreplicated(applied)) => {
                self.take_back(*applied).await;
                return Err(RedeemError::Unreplicated);
            }
            Err(ApplyError::Store(error)) => return Err(error.into()),
        };
        self.step("redeemed");
        self.metrics.login_seconds.observe(seconds(now - scene.created_at));
        Ok(Redeemed {
            access_token: format!("{}.{}", scene.id, *secret.expose()),
            client,
            claims: grant.claims,
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
        let grant: AccessGrant =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        if grant.token.matches(&secret) {
            Ok(grant.claims)
        } else {
            Err(UserinfoError::InvalidToken)
        }
    }

    fn claims(
        &self,
        stored: &Stored,
        picture_url: &(dyn Fn(&SceneId, &Avatar) -> String + Sync),
        now: i64,
    ) -> Option<Claims> {
        let State::Confirmed(confirmation) = &stored.scene.state else {
            return None;
        };
        let Profile { nickname, avatar } = confirmation.profile.clone();
        let person = confirmation.scan.person.clone();
        let age = CODE_LIFE.saturating_sub(confirmation.code_left(stored.life()));
        let mut amr = vec!["wechat".to_owned()];
        if self.simulated {
            amr.push("simulated".to_owned());
        }
        Some(Claims {
            sub: person.openid.clone(),
            auth_time: now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(0)),
            amr,
            wechat_openid: person.openid,
            wechat_unionid: person.unionid,
            wechat_appid: person.appid,
            nickname,
            picture: avatar.map(|avatar| picture_url(&stored.scene.id, &avatar)),
        })
    }

    /// Whoever presents a used code with everything right is either the client itself or its thief: what it gave ends.
    async fn revoke(&self, id: &SceneId) {
        // The use before may be so near that its write overtakes ours; a second look settles it.
        for _ in 0..REVOCATIONS {
            let Ok(Some(seen)) = find_one(&*self.store, id).await else {
                break;
            };
            let next = Scene {
                write_id: WriteId::random(&mut os_rng()),
                ..seen.scene.clone()
            };
            let write = Write {
                next: &next,
                durable: false,
                grant: Grant::Delete,
            };
            match self.store.replace(&seen, write).await {
                Ok(Replaced::Stale) => {}
                Ok(Replaced::Written | Replaced::Unreplicated | Replaced::Late | Replaced::Absent) => return,
                Err(_) => break,
            }
        }
        tracing::warn!(scene = ?id, "a code was used twice, and its access token could not be revoked");
    }

    /// Nothing was handed out, so the code may be redeemed again. If even this fails it is spent, and the person scans again.
    async fn take_back(&self, applied: Applied) {
        let written = Stored::now(applied.scene, applied.before.life());
        let next = Scene {
            write_id: WriteId::random(&mut os_rng()),
            ..applied.before.scene
        };
        let write = Write {
            next: &next,
            durable: false,
            grant: Grant::Delete,
        };
        if let Err(error) = self.store.replace(&written, write).await {
            tracing::warn!(scene = ?next.id, %error, "a redemption that no replica confirmed could not be taken back");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a login takes seconds to minutes")]
fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
