//! What the site's backend does: redeem an authorization code, once, and ask who the person is.

pub(super) mod attempt;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use self::attempt::Attempt;
use super::{Login, Site, Subject, going_away};
use crate::audit::Event;
use crate::entropy::os_rng;
use crate::scene::{
    Access, AuthorizationCode, Avatar, Confirmation, Digest, GrantFault, Life, Profile, Scene, SceneId, Scopes, Secret,
};
use crate::store::{Applied, StoreError};
use crate::telemetry::trace;

/// How long an access token opens `/userinfo`.
pub const ACCESS_TOKEN_LIFE: Duration = Duration::from_mins(10);

/// How a client proves itself at `/token`.
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
    InvalidClient(#[source] ClientFault),
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

/// What was wrong with a client's proof: for the log only, the caller hears `invalid_client`. A name that is no client's is not repeated: it
/// may be a secret in the wrong place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    /// No client has this name.
    #[error("no client of the settings has this client_id")]
    Unknown,
    /// A confidential client sent no secret.
    #[error("client {0} has a secret, and sent none")]
    NoSecret(String),
    /// Not its own.
    #[error("client {0} has another secret")]
    WrongSecret(String),
    /// A public client sent one.
    #[error("client {0} has no secret in the settings, and sent one")]
    UnwantedSecret(String),
}

/// None of what proves anything is shown.
impl fmt::Debug for ClientCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, client_id) = match self {
            Self::Secret { client_id, .. } => ("Secret", client_id),
            Self::None { client_id } => ("None", client_id),
        };
        f.debug_struct(kind)
            .field("client_id", client_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("redirect_uri", &self.redirect_uri)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Redeemed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeemed").finish_non_exhaustive()
    }
}

impl From<StoreError> for RedeemError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

/// What a site's backend presents, once it is authenticated.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The authorization code.
    pub code: &'a str,
    /// Repeated where the scene was started with one.
    pub redirect_uri: Option<&'a str>,
    /// PKCE (RFC 7636 §4.5).
    pub code_verifier: Option<&'a str>,
}

/// What a redeemed code gives.
pub struct Redeemed {
    /// Which login it was.
    pub scene: SceneId,
    /// Opens `/userinfo`: `scene "." random`.
    pub access_token: Zeroizing<String>,
    /// Who logged in.
    pub claims: Claims,
    /// As the site sent it at the start.
    pub nonce: Option<String>,
    /// What it may know, in the words of the standard (RFC 6749 §3.3).
    pub scope: &'static str,
}

/// Who logged in, as far as the site may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Claims {
    /// The person towards this site.
    pub sub: String,
    /// When they confirmed, in seconds since the Unix epoch.
    pub auth_time: i64,
    /// How (RFC 8176 style words of our own): `wechat`, and `simulated` when it was not the real one.
    pub amr: Vec<String>,
    /// The person under the Mini Program. As the two below, only of a site whose `sub` is the same at others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wechat_openid: Option<String>,
    /// The person across a subject's apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wechat_unionid: Option<String>,
    /// The Mini Program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wechat_appid: Option<String>,
    /// Their own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub nickname: Option<String>,
    /// A picture they chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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
    pub fn authenticate(&self, credentials: &ClientCredentials<'_>) -> Result<Arc<Site>, RedeemError> {
        let (ClientCredentials::Secret { client_id, .. } | ClientCredentials::None { client_id }) = credentials;
        let site = self.site(client_id);
        let site = site.map_err(|_| RedeemError::InvalidClient(ClientFault::Unknown))?;
        let is_public = site.client.is_public();
        let fault = match credentials {
            ClientCredentials::Secret { client_secret, .. } if site.client.accepts(client_secret) => return Ok(site),
            ClientCredentials::None { .. } if is_public => return Ok(site),
            ClientCredentials::Secret { .. } if is_public => ClientFault::UnwantedSecret,
            ClientCredentials::Secret { .. } => ClientFault::WrongSecret,
            ClientCredentials::None { .. } => ClientFault::NoSecret,
        };
        Err(RedeemError::InvalidClient(fault(site.client.client_id.clone())))
    }

    /// Redeems an authorization code for `site`, once. `picture_url` makes an uploaded avatar an address; `now` is in Unix seconds.
    ///
    /// A second use with everything right revokes what the first gave (RFC 6749 §4.1.2).
    ///
    /// # Errors
    /// [`RedeemError`]
    pub async fn redeem(
        &self,
        site: Arc<Site>,
        presented: Presented<'_>,
        picture_url: impl Fn(&SceneId, &Avatar) -> String + Send + Sync + 'static,
        now: i64,
    ) -> Result<Redeemed, RedeemError> {
        let code = AuthorizationCode::parse(presented.code).ok_or(RedeemError::InvalidGrant(None))?;
        let access_token = Secret::<Access>::random(&mut os_rng());
        let attempt = Attempt {
            login: self.clone(),
            code,
            site,
            redirect_uri: presented.redirect_uri.map(ToOwned::to_owned),
            code_verifier: presented.code_verifier.map(|text| Zeroizing::new(text.to_owned())),
            access_token: access_token.digest(),
            picture_url,
            now,
        };
        let (tell, told) = oneshot::channel();
        // Goes to its end even when the caller is gone: given up half-way, it would leave a code spent for nothing.
        self.tasks.spawn(trace::carried(attempt.run(tell)));
        let redeemed = told.await.unwrap_or_else(|_| Err(going_away().into()));
        let applied = redeemed?;
        self.step_after(&applied, Event::Redeemed, None);
        let Applied { scene, granted, .. } = applied;
        let AccessGrant { claims, .. } = read_grant(&granted)?;
        self.metrics.login_seconds.observe(seconds(now - scene.created_at));
        Ok(Redeemed {
            scene: scene.id,
            access_token: Zeroizing::new(format!("{}.{}", scene.id, *access_token.expose())),
            claims,
            scope: match scene.authorization.scopes {
                Some(Scopes { profile: true }) => "openid profile",
                Some(Scopes { profile: false }) | None => "openid",
            },
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
        site: &Site,
        scene: &Scene,
        confirmation: &Confirmation,
        life: Life,
        picture_url: impl Fn(&Avatar) -> String,
        now: i64,
    ) -> Claims {
        let profile = Some(&confirmation.profile).filter(|_| scene.authorization.grants_profile());
        let Profile { nickname, avatar } = profile.cloned().unwrap_or_default();
        let person = confirmation.scan.person.clone();
        let age = confirmation.age(life);
        let (sub, person) = match &site.client.subject {
            Subject::Public => (person.openid.clone(), Some(person)),
            Subject::Pairwise(pairwise) => (pairwise.name(&person.openid), None),
        };
        let (wechat_openid, wechat_unionid, wechat_appid) = person.map_or((None, None, None), |person| {
            (Some(person.openid), person.unionid, Some(person.appid))
        });
        Claims {
            sub,
            auth_time: now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(0)),
            amr: self.amr(),
            wechat_openid,
            wechat_unionid,
            wechat_appid,
            nickname,
            picture: avatar.as_ref().map(picture_url),
        }
    }
}

fn read_grant(bytes: &[u8]) -> Result<AccessGrant, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("a grant: {:?}", error.classify())))
}

#[expect(clippy::cast_precision_loss, reason = "a login takes seconds to minutes")]
fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
