//! The life of one scene: its states and the only rules that move it.
//!
//! Pure: no clock, no randomness of its own, no IO. `(scene, action, life left) -> next scene | refusal`; a store then writes
//! the outcome if nobody else wrote meanwhile, and asks again if somebody did. So the rules stand here once, for every store.
//!
//! To add a state: a variant of [`State`] and of [`StateName`]; the compiler names every place that must decide.

pub mod id;
mod number;
pub mod secret;
pub mod short_code;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::traceparent::{self, Traceparent};

pub use id::{AvatarId, EventId, NotASceneId, SceneId, WriteId};
pub use number::{MatchNumber, NumberStep};
pub use secret::{Access, BrowserSecret, Code, Confirm, ConfirmToken, Digest, Secret};
pub use short_code::{SHORT_CODE_LIFE, Salt, ShortCode, ShortCodeTag, ShownCode};

/// How long a record outlives its deadline: the authorization code of a confirm in the last second lives its full
/// [`CODE_LIFE`], and `expired` is answered truthfully for at least a minute, waits included.
pub const GRACE: Duration = Duration::from_secs(90);

/// How long an authorization code can be redeemed after the confirm.
pub const CODE_LIFE: Duration = Duration::from_mins(1);

/// How long a record still lives, as its store told together with the record. A scene has no other clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(pub Duration);

impl Life {
    /// The life of a new record whose scene may be used for `ttl`.
    #[must_use]
    pub fn of_new(ttl: Duration) -> Self {
        Self(ttl + GRACE)
    }

    /// What is left until the scene expires; zero afterwards.
    #[must_use]
    pub fn until_deadline(self) -> Duration {
        self.0.saturating_sub(GRACE)
    }

    /// The same record's life `time` later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    fn is_past_deadline(self) -> bool {
        self.until_deadline().is_zero()
    }

    fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// One scene, as a store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Its id; the store's key carries it.
    pub id: SceneId,
    /// New with every write. Kept beside the record, where the store compares it.
    #[serde(skip, default = "unwritten")]
    pub write_id: WriteId,
    /// From 1, one more with each visible transition.
    pub version: u64,
    /// New with each visible transition; names that very event.
    pub event_id: EventId,
    /// The client (site) that asks for the login.
    pub client_id: String,
    /// When it was started, in seconds since the Unix epoch. Only tells; no rule looks at it.
    pub created_at: i64,
    /// When it expires by the clock of the replica that started it, in seconds since the Unix epoch. Only tells.
    pub expires_at: i64,
    /// What the browser secret must hash to.
    pub browser_secret: Digest<secret::Browser>,
    /// What the secret part of the authorization code must hash to.
    pub code: Digest<Code>,
    /// What the site asked for.
    pub authorization: Authorization,
    /// What the confirm screen says about the browser.
    pub browser: BrowserDescription,
    /// Where it stands.
    pub state: State,
    /// What the first scan was held to: it stands, however the same person scans again.
    #[serde(default, skip_serializing_if = "Caution::is_none")]
    pub caution: Caution,
    /// What about that scan they are warned of, where it is not WeChat's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// The code that can be typed in place of a scan, where the browser asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_code: Option<ShownCode>,
    /// The edition of the Mini Program that the code opens, in WeChat's word, where the site asked for another than the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_version: Option<String>,
    /// The record's life when it was first scanned, in milliseconds. Only tells; no rule looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_life_ms: Option<u64>,
    /// The span of the start: later steps, on whatever replica, are told as part of the same trace. Only tells.
    #[serde(
        default,
        deserialize_with = "traceparent::if_any",
        skip_serializing_if = "Option::is_none"
    )]
    pub traceparent: Option<Traceparent>,
    /// Fields that another version of this program wrote: kept as they are, so that versions can run side by side. Every new field
    /// belongs beside the others, since what stands within one of them is kept only if it is known.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What the site asked for when it started the scene.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// PKCE `S256` challenge (RFC 7636 §4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_challenge: Option<String>,
    /// Repeated in the id_token (OpenID Connect Core §3.1.2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Must be repeated at redemption when the scene was started with one (RFC 6749 §4.1.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// Repeated when the browser is sent back to the site (RFC 6749 §4.1.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Granted where any were asked for; all that there are where a page started the scene itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
}

/// Where the browser goes when its login is over, if the site sent it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// One that the site listed.
    pub redirect_uri: String,
    /// The site's own, repeated.
    pub state: Option<String>,
}

impl Authorization {
    /// Where its browser goes.
    #[must_use]
    pub fn returns(&self) -> Option<Return> {
        Some(Return {
            redirect_uri: self.redirect_uri.clone()?,
            state: self.state.clone(),
        })
    }

    /// Whether the site may know nickname and picture.
    #[must_use]
    pub fn grants_profile(&self) -> bool {
        self.scopes.is_none_or(|scopes| scopes.profile)
    }
}

/// What a site may know of its people beyond who they are (OpenID Connect Core §5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Nickname and picture.
    pub profile: bool,
}

/// What a person can compare with the screen before them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserDescription {
    /// Such as `Firefox 140`.
    pub name: String,
    /// Such as `Windows 10`.
    pub os: String,
    /// The browser's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Where that address is, when an offline database says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A place, in the languages that phones are answered in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Such as `中国 杭州`.
    pub zh: String,
    /// Such as `Hangzhou, China`.
    pub en: String,
}

/// Who scanned, as `jscode2session` said; never as the phone said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The Mini Program under which `openid` is known.
    pub appid: String,
    /// The person under this Mini Program.
    pub openid: String,
    /// The person across a subject's apps, where WeChat gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unionid: Option<String>,
}

impl Person {
    /// Whether it is the same one. Not by unionid, which WeChat may begin to tell at any time.
    fn is_same(&self, other: &Self) -> bool {
        (&self.appid, &self.openid) == (&other.appid, &other.openid)
    }
}

/// The phone that scanned first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Whose phone it is.
    pub person: Person,
    /// What its confirm token must hash to; replaced when the same person scans again.
    pub confirm_token: Digest<Confirm>,
    /// The avatar it uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<AvatarId>,
}

/// What a person is held to before they may say yes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caution {
    /// How they came to the code, by WeChat's number, as their phone said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_scene: Option<i64>,
    /// Whether they are warned of it.
    #[serde(default)]
    pub warned: bool,
    /// The number that they must pick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<NumberStep>,
}

/// Why a scan may be of a code that somebody passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// Nobody scanned: the short code was typed, which can be told by telephone.
    Typed,
    /// The scan was long ago, or before there was this scene.
    Late,
}

impl Caution {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The person's own words about themselves: shown, never believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// At most 64 code points, without control, format and bidi characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    /// A picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Avatar>,
}

impl Profile {
    /// Whether the person gave nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nickname.is_none() && self.avatar.is_none()
    }
}

/// Where a person's picture is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Avatar {
    /// Uploaded to us for this scene.
    Uploaded(AvatarId),
    /// At an address of an allowed host.
    Url(String),
}

/// Where a scene stands. That its time is over is computed ([`Scene::state_name`]), never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has scanned.
    Waiting,
    /// Somebody has scanned and is asked.
    Scanned(Scan),
    /// They said yes.
    Confirmed(Confirmation),
    /// They said no.
    Declined(Scan),
    /// The browser gave up; the phone that had scanned, if any, is told so.
    Cancelled(Option<Scan>),
}

/// A yes, and what became of its authorization code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Who said it.
    pub scan: Scan,
    /// What they told of themselves.
    #[serde(default)]
    pub profile: Profile,
    /// The record's life, in milliseconds, when they said it, or when that came to count: the code's age is the difference to the life
    /// now.
    pub life_ms: u64,
    /// Whether the code was redeemed.
    #[serde(default)]
    pub redeemed: bool,
    /// Whether it is known to count: no fail-over can undo it any more.
    #[serde(default)]
    pub settled: bool,
}

impl Confirmation {
    /// How long ago they said it.
    #[must_use]
    pub fn age(&self, life: Life) -> Duration {
        Duration::from_millis(self.life_ms).saturating_sub(life.0)
    }

    /// How long the code can still be redeemed; zero once it was.
    #[must_use]
    pub fn code_left(&self, life: Life) -> Duration {
        if self.redeemed {
            Duration::ZERO
        } else {
            CODE_LIFE.saturating_sub(self.age(life))
        }
    }
}

/// A state's name, on the wire, in logs and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Shown, not scanned.
    Waiting,
    /// Scanned, not answered.
    Scanned,
    /// Yes.
    Confirmed,
    /// No.
    Declined,
    /// Given up by the browser.
    Cancelled,
    /// Out of time.
    Expired,
}

impl StateName {
    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Scanned => false,
            Self::Confirmed | Self::Declined | Self::Cancelled | Self::Expired => true,
        }
    }

    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Scanned => "scanned",
            Self::Confirmed => "confirmed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// What everybody who may watch a scene may know of it. Also what is published, so it holds nothing worth stealing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicState {
    /// See [`Scene::version`].
    #[serde(rename = "v")]
    pub version: u64,
    /// See [`Scene::event_id`].
    #[serde(rename = "e")]
    pub event_id: EventId,
    /// Never `expired` when published: that is each reader's own finding.
    #[serde(rename = "s")]
    pub state: StateName,
    /// With `confirmed`.
    #[serde(rename = "p", default, skip_serializing_if = "Profile::is_empty")]
    pub profile: Profile,
    /// With `scanned`, where the person must pick it on the phone.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub match_number: Option<MatchNumber>,
    /// With `declined`: whether two wrong numbers did it, and not the person.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub wrong_numbers: bool,
    /// With `confirmed`: how long the authorization code can still be redeemed, in milliseconds.
    #[serde(rename = "c", default, skip_serializing_if = "is_zero")]
    pub code_left_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An authorization code, `scene "." event_id "." secret`: it counts only for the very confirm it was made for.
#[derive(Debug, Clone)]
pub struct AuthorizationCode {
    /// The scene it belongs to.
    pub scene: SceneId,
    /// The confirm it belongs to.
    pub event_id: EventId,
    /// What makes it unguessable.
    pub secret: Secret<Code>,
}

impl AuthorizationCode {
    /// The code that the browser holding `secret` gets for the confirm named `event_id`.
    #[must_use]
    pub fn derive(scene: SceneId, event_id: EventId, secret: &BrowserSecret) -> Self {
        Self {
            scene,
            event_id,
            secret: secret.code(),
        }
    }

    /// Reads what a relying party presents; `None` when it has not the form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let code = Self {
            scene: parts.next()?.parse().ok()?,
            event_id: EventId::parse(parts.next()?)?,
            secret: Secret::parse(parts.next()?)?,
        };
        parts.next().is_none().then_some(code)
    }

    /// The text to hand to the browser.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let secret = self.secret.expose();
        Zeroizing::new(format!("{}.{}.{}", self.scene, self.event_id, *secret))
    }
}

/// What somebody wants to do with a scene, with what proves that they may.
#[derive(Debug, Clone)]
pub enum Action<'a> {
    /// A phone whose person WeChat named.
    Scan {
        /// Who, by `jscode2session`.
        person: Person,
        /// The digest of the confirm token drawn for this scan.
        confirm_token: Digest<Confirm>,
        /// How they came to the code, as their phone says.
        entry_scene: Option<i64>,
        /// Whether the site takes nobody who came so, if they are the first.
        refused: bool,
        /// Whether they are warned, if they are the first.
        warned: bool,
        /// Whether they must pick a number, if they are the first.
        asks_number: bool,
        /// Whether they scanned too long ago.
        late: bool,
        /// What the short code hashes to that they typed, if they did not scan.
        typed: Option<ShortCodeTag>,
    },
    /// The browser shows a short code.
    ShowShortCode {
        /// What the browser presents.
        browser_secret: &'a BrowserSecret,
        /// What is kept of the code, if none is shown that still counts.
        shown: ShownCode,
        /// What the one hashes to that was shown and leads nowhere any more, if there is one.
        dead: Option<ShortCodeTag>,
    },
    /// The phone uploaded a picture.
    KeepAvatar {
        /// What the phone presents.
        token: &'a ConfirmToken,
        /// Where it is kept.
        avatar: AvatarId,
    },
    /// The person says yes.
    Confirm {
        /// What the phone presents.
        token: &'a ConfirmToken,
        /// What they tell of themselves; an uploaded avatar is added to it.
        profile: Profile,
        /// The number that they picked, where they must.
        match_number: Option<MatchNumber>,
    },
    /// The person says no.
    Decline {
        /// What the phone presents.
        token: &'a ConfirmToken,
    },
    /// The browser gives up.
    Cancel {
        /// What the browser presents.
        browser_secret: &'a BrowserSecret,
    },
    /// The site's backend redeems the authorization code.
    Redeem(Redemption<'a>),
}

/// What a relying party presents at `/token`; the client has been authenticated.
#[derive(Clone)]
pub struct Redemption<'a> {
    /// The code.
    pub code: &'a AuthorizationCode,
    /// The authenticated client.
    pub client_id: &'a str,
    /// As repeated by the client.
    pub redirect_uri: Option<&'a str>,
    /// PKCE (RFC 7636 §4.3).
    pub code_verifier: Option<&'a str>,
}

/// What proves that it may is not shown.
impl fmt::Debug for Redemption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redemption")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// What an allowed action makes of a scene.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// To be written, and told to everyone who watches.
    Visible(Scene),
    /// To be written; nobody who watches would see a difference.
    Hidden(Scene),
    /// The same party has done just this before: nothing changes.
    Repeated,
    /// To be written, and told if the version rose; and refused.
    Mistaken(Scene, Refused),
}

/// Why an action is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The secret presented is not the one this takes, or none could be.
    #[error("the secret does not fit")]
    WrongSecret,
    /// Another person scanned first.
    #[error("another person scanned first")]
    ScannedByAnother,
    /// Only possible while the scene stands elsewhere.
    #[error("the scene is {}", .0.as_str())]
    AlreadyFinished(StateName),
    /// The deadline is past.
    #[error("the scene has expired")]
    Expired,
    /// The site takes nobody who came to the code so.
    #[error("the site takes no scan that came so")]
    EntryScene,
    /// The short code is not this scene's, or not any more, or somebody else's.
    #[error("the short code does not count here")]
    ShortCode,
    /// A number must be picked, and none was.
    #[error("no number was picked")]
    NumberMissing,
    /// The number is not the one on the browser's screen.
    #[error("the wrong number was picked")]
    WrongNumber,
    /// The authorization code opens nothing here.
    #[error("the grant is invalid: {0}")]
    InvalidGrant(#[from] GrantFault),
}

/// What exactly was wrong with a redemption: for the log only, the caller hears `invalid_grant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    /// Not confirmed, or by another event than the code was made for.
    #[error("no such confirm")]
    NoSuchConfirm,
    /// The secret part is wrong.
    #[error("wrong code")]
    WrongCode,
    /// The code belongs to another client.
    #[error("another client's code")]
    OtherClient,
    /// `redirect_uri` is not the one the scene was started with.
    #[error("redirect_uri differs")]
    RedirectUri,
    /// The verifier does not fit the challenge, or only one of them was given.
    #[error("code_verifier does not fit")]
    Verifier,
    /// Older than [`CODE_LIFE`].
    #[error("the code is too old")]
    TooOld,
    /// Everything right, but used before: what the first use gave is to be revoked (RFC 6749 §4.1.2).
    #[error("the code was used before")]
    Used,
}

impl Scene {
    /// What the scene's state is called when the record still lives for `life`.
    #[must_use]
    pub fn state_name(&self, life: Life) -> StateName {
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => StateName::Expired,
            State::Waiting => StateName::Waiting,
            State::Scanned(_) => StateName::Scanned,
            State::Confirmed(_) => StateName::Confirmed,
            State::Declined(_) => StateName::Declined,
            State::Cancelled(_) => StateName::Cancelled,
        }
    }

    /// What everybody who may watch may know.
    #[must_use]
    pub fn public_state(&self, life: Life) -> PublicState {
        let (profile, code_left) = match &self.state {
            State::Confirmed(confirmation) => (confirmation.profile.clone(), confirmation.code_left(life)),
            State::Waiting | State::Scanned(_) | State::Declined(_) | State::Cancelled(_) => Default::default(),
        };
        let is_asked = matches!(self.state, State::Scanned(_));
        let number = self.caution.number.as_ref();
        PublicState {
            version: self.version,
            event_id: self.event_id,
            state: self.state_name(life),
            match_number: number.filter(|_| is_asked).map(NumberStep::right),
            wrong_numbers: number.is_some_and(NumberStep::has_failed),
            profile,
            code_left_ms: u64::try_from(code_left.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whether the deadline ends it: then nothing may be written over it afterwards. What is final no deadline can end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting | State::Scanned(_))
    }

    /// Whether it is confirmed, and a fail-over may still undo that.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        matches!(&self.state, State::Confirmed(confirmation) if !confirmation.redeemed && !confirmation.settled)
    }

    /// The same, with a confirm that counts from now on: only now is anybody told, so its code's time begins.
    #[must_use]
    pub fn settled(&self, life: Life) -> Self {
        let mut scene = self.clone();
        if let State::Confirmed(confirmation) = &mut scene.state
            && !confirmation.settled
        {
            confirmation.settled = true;
            confirmation.life_ms = life.as_millis();
        }
        scene
    }

    /// Whether `token` is the confirm token of the phone that scanned.
    #[must_use]
    pub fn answers_to(&self, token: &ConfirmToken) -> bool {
        self.scan_of(token).is_ok()
    }

    /// The person who scanned, if anybody has.
    #[must_use]
    pub fn person(&self) -> Option<&Person> {
        self.scan().map(|scan| &scan.person)
    }

    /// The avatar that the phone uploaded, if it has.
    #[must_use]
    pub fn avatar(&self) -> Option<AvatarId> {
        self.scan().and_then(|scan| scan.avatar)
    }

    /// Decides what `action` makes of this scene while its record lives for `life`.
    ///
    /// # Errors
    /// [`Refused`], and then nothing may be written.
    pub fn apply(&self, action: Action<'_>, life: Life, rng: &mut impl CryptoRng) -> Result<Outcome, Refused> {
        match action {
            Action::Scan {
                person,
                confirm_token,
                entry_scene,
                refused,
                warned,
                asks_number,
                late,
                typed,
            } => {
                if let Some(tag) = typed
                    && !self.is_typed_as(tag, &person, life)
                {
                    return Err(Refused::ShortCode);
                }
                let doubt = typed.map(|_| Doubt::Typed).or(late.then_some(Doubt::Late));
                let caution = |rng: &mut _| {
                    let caution = Caution {
                        entry_scene,
                        warned,
                        number: asks_number.then(|| NumberStep::draw(rng)),
                    };
                    if refused { Err(Refused::EntryScene) } else { Ok(caution) }
                };
                self.scanned(person, confirm_token, caution, doubt, life, rng)
            }
            Action::ShowShortCode {
                browser_secret,
                shown,
                dead,
            } => self.shows(browser_secret, shown, dead, life, rng),
            Action::KeepAvatar { token, avatar } => self.avatar_kept(token, avatar, life, rng),
            Action::Confirm {
                token,
                profile,
                match_number,
            } => self.confirmed(token, profile, match_number, life, rng),
            Action::Decline { token } => self.declined(token, life, rng),
            Action::Cancel { browser_secret } => self.cancelled(browser_secret, life, rng),
            Action::Redeem(redemption) => self.redeemed(&redemption, life, rng),
        }
    }

    fn scanned<R: CryptoRng>(
        &self,
        person: Person,
        confirm_token: Digest<Confirm>,
        caution: impl FnOnce(&mut R) -> Result<Caution, Refused>,
        doubt: Option<Doubt>,
        life: Life,
        rng: &mut R,
    ) -> Result<Outcome, Refused> {
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Err(Refused::Expired),
            State::Waiting => {
                let held = Self {
                    caution: caution(rng)?,
                    doubt,
                    scanned_life_ms: Some(life.as_millis()),
                    ..self.clone()
                };
                let scan = Scan {
                    person,
                    confirm_token,
                    avatar: None,
                };
                Ok(Outcome::Visible(held.visibly(State::Scanned(scan), rng)))
            }
            State::Scanned(scan) if scan.person.is_same(&person) => {
                let scan = Scan {
                    person,
                    confirm_token,
                    ..scan.clone()
                };
                Ok(self.hidden(State::Scanned(scan), rng))
            }
            State::Scanned(_) => Err(Refused::ScannedByAnother),
            State::Confirmed(_) | State::Declined(_) | State::Cancelled(_) => Err(self.already_finished(life)),
        }
    }

    /// Whether a short code of this hash lets `person` in: anybody while it waits, and from then on whom it let in, whose reply may
    /// have been lost.
    fn is_typed_as(&self, tag: ShortCodeTag, person: &Person, life: Life) -> bool {
        let Some(shown) = self.short_code.as_ref().filter(|shown| shown.tag == tag) else {
            return false;
        };
        match self.state {
            State::Waiting => !shown.left(life).is_zero(),
            State::Scanned(_) | State::Confirmed(_) | State::Declined(_) | State::Cancelled(_) => {
                self.doubt == Some(Doubt::Typed) && self.person().is_some_and(|first| first.is_same(person))
            }
        }
    }

    /// The code that was shown first goes on counting to its end, unless it is `dead`.
    fn shows(
        &self,
        secret: &BrowserSecret,
        shown: ShownCode,
        dead: Option<ShortCodeTag>,
        life: Life,
        rng: &mut impl CryptoRng,
    ) -> Result<Outcome, Refused> {
        if !self.browser_secret.matches(secret) {
            return Err(Refused::WrongSecret);
        }
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Err(Refused::Expired),
            State::Waiting
                if self
                    .short_code
                    .as_ref()
                    .is_some_and(|first| !first.left(life).is_zero() && dead != Some(first.tag)) =>
            {
                Ok(Outcome::Repeated)
            }
            State::Waiting => {
                let showing = Self {
                    short_code: Some(shown),
                    ..self.clone()
                };
                Ok(showing.hidden(State::Waiting, rng))
            }
            State::Scanned(_) | State::Confirmed(_) | State::Declined(_) | State::Cancelled(_) => {
                Err(self.already_finished(life))
            }
        }
    }

    fn avatar_kept(
        &self,
        token: &ConfirmToken,
        avatar: AvatarId,
        life: Life,
        rng: &mut impl CryptoRng,
    ) -> Result<Outcome, Refused> {
        let scan = self.scan_of(token)?;
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Err(Refused::Expired),
            State::Waiting | State::Scanned(_) => {
                let scan = Scan {
                    avatar: Some(avatar),
                    ..scan.clone()
                };
                Ok(self.hidden(State::Scanned(scan), rng))
            }
            State::Confirmed(_) | State::Declined(_) | State::Cancelled(_) => Err(self.already_finished(life)),
        }
    }

    fn confirmed(
        &self,
        token: &ConfirmToken,
        mut profile: Profile,
        match_number: Option<MatchNumber>,
        life: Life,
        rng: &mut impl CryptoRng,
    ) -> Result<Outcome, Refused> {
        let scan = self.scan_of(token)?;
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Err(Refused::Expired),
            State::Waiting | State::Scanned(_) => {
                if let Some(step) = &self.caution.number {
                    let picked = match_number.ok_or(Refused::NumberMissing)?;
                    if let Some(mistaken) = self.mistaken(step, picked, scan, rng) {
                        return mistaken;
                    }
                }
                profile.avatar = scan.avatar.map(Avatar::Uploaded).or(profile.avatar);
                let confirmation = Confirmation {
                    scan: scan.clone(),
                    profile,
                    life_ms: life.as_millis(),
                    redeemed: false,
                    settled: false,
                };
                Ok(Outcome::Visible(self.visibly(State::Confirmed(confirmation), rng)))
            }
            State::Confirmed(_) => Ok(Outcome::Repeated),
            State::Declined(_) | State::Cancelled(_) => Err(self.already_finished(life)),
        }
    }

    /// What a number makes of it that is not the one on the browser's screen. The same one again, perhaps of a retry, costs no try.
    fn mistaken(
        &self,
        step: &NumberStep,
        picked: MatchNumber,
        scan: &Scan,
        rng: &mut impl CryptoRng,
    ) -> Option<Result<Outcome, Refused>> {
        if step.is_right(picked) {
            return None;
        }
        if step.was_wrong(picked) {
            return Some(Err(Refused::WrongNumber));
        }
        let step = step.after_wrong(picked);
        let failed = step.has_failed();
        let held = Self {
            caution: Caution {
                number: Some(step),
                ..self.caution.clone()
            },
            ..self.clone()
        };
        let next = if failed {
            held.visibly(State::Declined(scan.clone()), rng)
        } else {
            held.with(self.state.clone(), rng)
        };
        Some(Ok(Outcome::Mistaken(next, Refused::WrongNumber)))
    }

    fn declined(&self, token: &ConfirmToken, life: Life, rng: &mut impl CryptoRng) -> Result<Outcome, Refused> {
        let scan = self.scan_of(token)?;
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Err(Refused::Expired),
            State::Waiting | State::Scanned(_) => {
                Ok(Outcome::Visible(self.visibly(State::Declined(scan.clone()), rng)))
            }
            State::Declined(_) => Ok(Outcome::Repeated),
            State::Confirmed(_) | State::Cancelled(_) => Err(self.already_finished(life)),
        }
    }

    fn cancelled(&self, secret: &BrowserSecret, life: Life, rng: &mut impl CryptoRng) -> Result<Outcome, Refused> {
        if !self.browser_secret.matches(secret) {
            return Err(Refused::WrongSecret);
        }
        match &self.state {
            State::Waiting | State::Scanned(_) if life.is_past_deadline() => Ok(Outcome::Repeated),
            State::Waiting => Ok(Outcome::Visible(self.visibly(State::Cancelled(None), rng))),
            State::Scanned(scan) => Ok(Outcome::Visible(
                self.visibly(State::Cancelled(Some(scan.clone())), rng),
            )),
            State::Cancelled(_) => Ok(Outcome::Repeated),
            State::Confirmed(_) | State::Declined(_) => Err(self.already_finished(life)),
        }
    }

    fn redeemed(&self, with: &Redemption<'_>, life: Life, rng: &mut impl CryptoRng) -> Result<Outcome, Refused> {
        let State::Confirmed(confirmation) = &self.state else {
            return Err(GrantFault::NoSuchConfirm.into());
        };
        if with.code.event_id != self.event_id {
            return Err(GrantFault::NoSuchConfirm.into());
        }
        if !self.code.matches(&with.code.secret) {
            return Err(GrantFault::WrongCode.into());
        }
        if with.client_id != self.client_id {
            return Err(GrantFault::OtherClient.into());
        }
        if let Some(asked) = &self.authorization.redirect_uri
            && with.redirect_uri != Some(asked)
        {
            return Err(GrantFault::RedirectUri.into());
        }
        if !verifier_fits(self.authorization.code_challenge.as_deref(), with.code_verifier) {
            return Err(GrantFault::Verifier.into());
        }
        if confirmation.redeemed {
            return Err(GrantFault::Used.into());
        }
        if confirmation.code_left(life).is_zero() {
            return Err(GrantFault::TooOld.into());
        }
        Ok(self.hidden(
            State::Confirmed(Confirmation {
                redeemed: true,
                ..confirmation.clone()
            }),
            rng,
        ))
    }

    /// How long it may be used from its start. A record that says nothing that can be says no time.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        let seconds = self.expires_at.saturating_sub(self.created_at);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// How long ago the last step of a person was: that it was started, scanned or confirmed. `None` of a login that is over, and of
    /// one that an earlier version saw scanned.
    #[must_use]
    pub fn since_last_step(&self, life: Life) -> Option<Duration> {
        let life_then = match &self.state {
            State::Waiting => Life::of_new(self.ttl()).0,
            State::Scanned(_) => Duration::from_millis(self.scanned_life_ms?),
            State::Confirmed(confirmation) => return Some(confirmation.age(life)),
            State::Declined(_) | State::Cancelled(_) => return None,
        };
        Some(life_then.saturating_sub(life.0))
    }

    fn scan(&self) -> Option<&Scan> {
        match &self.state {
            State::Waiting | State::Cancelled(None) => None,
            State::Scanned(scan) | State::Declined(scan) | State::Cancelled(Some(scan)) => Some(scan),
            State::Confirmed(confirmation) => Some(&confirmation.scan),
        }
    }

    /// The scan that `token` was given for.
    fn scan_of(&self, token: &ConfirmToken) -> Result<&Scan, Refused> {
        self.scan()
            .filter(|scan| scan.confirm_token.matches(token))
            .ok_or(Refused::WrongSecret)
    }

    fn already_finished(&self, life: Life) -> Refused {
        Refused::AlreadyFinished(self.state_name(life))
    }

    fn visibly(&self, state: State, rng: &mut impl CryptoRng) -> Scene {
        let mut next = self.with(state, rng);
        next.version += 1;
        next.event_id = EventId::random(rng);
        next
    }

    fn hidden(&self, state: State, rng: &mut impl CryptoRng) -> Outcome {
        Outcome::Hidden(self.with(state, rng))
    }

    fn with(&self, state: State, rng: &mut impl CryptoRng) -> Scene {
        Scene {
            state,
            write_id: WriteId::random(rng),
            ..self.clone()
        }
    }
}

/// RFC 7636 §4.6, and no downgrade either way: a challenge wants its verifier, a verifier wants its challenge.
fn verifier_fits(challenge: Option<&str>, verifier: Option<&str>) -> bool {
    match (challenge, verifier) {
        (None, None) => true,
        (Some(challenge), Some(verifier)) => {
            use subtle::ConstantTimeEq;
            s256(verifier).as_bytes().ct_eq(challenge.as_bytes()).into()
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The PKCE `S256` challenge of a verifier: `BASE64URL(SHA-256(verifier))` (RFC 7636 §4.2).
#[must_use]
pub fn s256(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes()))
}

fn unwritten() -> WriteId {
    WriteId::NONE
}

#[cfg(test)]
mod tests;
