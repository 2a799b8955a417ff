//! The four calls to WeChat: what is asked, how long it may take, and what counts as an answer.
//!
//! How they travel (retries, bounds) is `transport`'s secret, which host is asked is `hosts`', when it counts as dead is `circuit`'s,
//! and how an answer is read is `reply`'s.

mod circuit;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hosts;
mod reply;
mod transport;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

pub use reqwest::Url;

pub use self::transport::MayRepeat;
use self::transport::{Request, Transport};
use super::access_token::AccessToken;
use super::errcode::{Class, Errcode};
use super::picture::CodePicture;
use super::{EnvVersion, MiniProgram};
use crate::limits::Limited;
use crate::scene::{Person, SceneId};
use crate::telemetry::Metrics;

/// WeChat's nearest host.
pub const API_BASE: &str = "https://api.weixin.qq.com";

/// WeChat's host for disaster recovery, for when the nearest can't be reached.
pub const FAIL_OVER_BASE: &str = "https://api2.weixin.qq.com";

/// Why a call failed. Holds no address, secret, code or token, so it may be logged and shown to the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// WeChat said no.
    #[error("WeChat answered {errcode}: {errmsg}")]
    Errcode {
        /// Which no.
        errcode: Errcode,
        /// WeChat's words, with the `rid` by which it can be looked up.
        errmsg: String,
    },
    /// WeChat said no to the `access_token` of a call: another one may do.
    #[error("WeChat answered {errcode}: {errmsg}")]
    TokenRefused {
        /// Which no.
        errcode: Errcode,
        /// WeChat's words, as above.
        errmsg: String,
    },
    /// No answer in time. A single-use code may be spent.
    #[error("WeChat did not answer in time")]
    Timeout,
    /// WeChat can't be reached, broke off or is out of order.
    #[error("WeChat is unavailable: {0}")]
    Unavailable(String),
    /// It was so for the last calls, so this one was not sent.
    #[error("WeChat failed again and again and is not asked just now")]
    CircuitOpen {
        /// When a call may find out whether it is back.
        until: Instant,
    },
    /// As many were made as WeChat allows, so this one was not sent.
    #[error("WeChat is not asked: {0}")]
    Limited(Limited),
    /// A picture without its end.
    #[error("WeChat's answer was cut short")]
    CutShort,
    /// An answer, but not one that this call can have.
    #[error("WeChat's answer is not understood: {0}")]
    Invalid(String),
}

impl Error {
    /// The error code, where WeChat gave one.
    #[must_use]
    pub fn errcode(&self) -> Option<Errcode> {
        match self {
            Self::Errcode { errcode, .. } | Self::TokenRefused { errcode, .. } => Some(*errcode),
            Self::Timeout
            | Self::Unavailable(_)
            | Self::CircuitOpen { .. }
            | Self::Limited(_)
            | Self::CutShort
            | Self::Invalid(_) => None,
        }
    }

    /// What the error code asks for, where WeChat gave one.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        self.errcode().map(Errcode::class)
    }
}

/// An `access_token` as WeChat grants it.
#[derive(Debug)]
pub struct Granted {
    /// The token.
    pub token: SecretString,
    /// How long it lives from the moment it was asked for, at most [`TOKEN_LIFE_MAX`].
    pub life: Duration,
}

/// The longest life that WeChat documents for an `access_token`; what says more is taken for this.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_hours(2);

/// How a code looks and what it opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeSettings {
    /// The page that a scan opens, without a leading `/`.
    pub page: String,
    /// Whether that page must exist in the released version.
    pub check_path: bool,
    /// The edition that a scan opens.
    pub env_version: EnvVersion,
    /// In pixels, 280–1280.
    pub width: u16,
    /// The colour of the lines; black unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_color: Option<Rgb>,
    /// Whether the background is transparent, which makes it a PNG.
    pub is_hyaline: bool,
}

impl CodeSettings {
    /// A black code of 430 pixels. Only in the released edition must the page exist: the others are for what is not released.
    #[must_use]
    pub fn new(page: &str, env_version: EnvVersion) -> Self {
        Self {
            page: page.to_owned(),
            check_path: env_version == EnvVersion::Release,
            env_version,
            width: 430,
            line_color: None,
            is_hyaline: false,
        }
    }

    /// The same look for another edition; its page need not be released there.
    #[must_use]
    pub fn of_edition(&self, env_version: EnvVersion) -> Self {
        if env_version == self.env_version {
            return self.clone();
        }
        Self {
            env_version,
            check_path: env_version == EnvVersion::Release,
            ..self.clone()
        }
    }
}

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rgb {
    /// Red.
    pub r: u8,
    /// Green.
    pub g: u8,
    /// Blue.
    pub b: u8,
}

/// Calls WeChat. Cheap to clone; all clones share connections and bounds.
#[derive(Debug, Clone)]
pub struct Client(Arc<Transport>);

impl Client {
    /// A client of the server at `primary`, and of the one at `fail_over` once `primary` can't be connected to or does not answer.
    ///
    /// # Errors
    /// When the system's root certificates can't be read.
    pub fn new(primary: Url, fail_over: Option<Url>, metrics: Metrics) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Transport::new(primary, fail_over, metrics)?)))
    }

    /// What keeps scans or codes from being asked for just now, as far as is known without asking.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        let until = self.0.hosts().fails_until()?;
        Some(Error::CircuitOpen { until })
    }

    /// Asks for the Mini Program's stable `access_token`: the same one again until its last five minutes.
    ///
    /// `force_refresh` ends the previous one at once; WeChat allows it 20 times a day.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn stable_token(&self, mini_program: &MiniProgram, force_refresh: bool) -> Result<Granted, Error> {
        let secret = mini_program.secret.expose_secret();
        let body = json!({
            "grant_type": "client_credential",
            "appid": mini_program.appid,
            "secret": secret,
            "force_refresh": force_refresh,
        });
        let request = Request {
            call: Call::StableToken,
            query: &[],
            body: Some(&body),
            secrets: &[secret],
        };
        self.0.call(request, ALWAYS, reply::granted).await
    }

    /// Asks for an `access_token` of the older kind: every call makes a new one, and the previous lives five more minutes.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn token(&self, mini_program: &MiniProgram) -> Result<Granted, Error> {
        let secret = mini_program.secret.expose_secret();
        let query = [
            ("grant_type", "client_credential"),
            ("appid", &mini_program.appid),
            ("secret", secret),
        ];
        let request = Request {
            call: Call::Token,
            query: &query,
            body: None,
            secrets: &[secret],
        };
        self.0.call(request, ALWAYS, reply::granted).await
    }

    /// Asks for the code of a scene, and once or twice more if the answer was cut short or WeChat is busy, each time if `may_repeat`
    /// says so.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn getwxacodeunlimit(
        &self,
        token: &AccessToken,
        scene: &SceneId,
        settings: &CodeSettings,
        may_repeat: MayRepeat<'_>,
    ) -> Result<CodePicture, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            scene: String,
            #[serde(flatten)]
            settings: &'a CodeSettings,
        }
        let scene = scene.to_string();
        let body =
            serde_json::to_value(Body { scene, settings }).map_err(|_| Error::Invalid("the settings".to_owned()))?;
        let request = Request {
            call: Call::GetWxaCodeUnlimit,
            query: &[("access_token", token.expose())],
            body: Some(&body),
            secrets: &[token.expose()],
        };
        self.0.call(request, may_repeat, reply::picture).await
    }

    /// Asks who called `wx.login`. The code is spent by this, whatever the answer, so it is never sent twice.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn jscode2session(&self, mini_program: &MiniProgram, js_code: &str) -> Result<Person, Error> {
        let secret = mini_program.secret.expose_secret();
        let query = [
            ("appid", mini_program.appid.as_str()),
            ("secret", secret),
            ("js_code", js_code),
            ("grant_type", "authorization_code"),
        ];
        let request = Request {
            call: Call::Jscode2session,
            query: &query,
            body: None,
            secrets: &[secret, js_code],
        };
        let session = self.0.call(request, ALWAYS, reply::session).await?;
        Ok(Person {
            appid: mini_program.appid.clone(),
            openid: session.openid,
            unionid: session.unionid,
        })
    }
}

/// Of calls that nothing counts.
const ALWAYS: MayRepeat<'static> = &|| ready(true).boxed();

/// The calls, and what each may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    StableToken,
    Token,
    GetWxaCodeUnlimit,
    Jscode2session,
}

impl Call {
    /// Its name, in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::StableToken => "stable_token",
            Self::Token => "token",
            Self::GetWxaCodeUnlimit => "getwxacodeunlimit",
            Self::Jscode2session => "jscode2session",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::StableToken => "/cgi-bin/stable_token",
            Self::Token => "/cgi-bin/token",
            Self::GetWxaCodeUnlimit => "/wxa/getwxacodeunlimit",
            Self::Jscode2session => "/sns/jscode2session",
        }
    }

    /// How long it may take, tries and waits between them included. A picture truly takes up to 14 s at times.
    fn deadline(self) -> Duration {
        match self {
            Self::StableToken | Self::Token | Self::Jscode2session => Duration::from_secs(5),
            Self::GetWxaCodeUnlimit => Duration::from_secs(15),
        }
    }

    /// How long its answer may be, in bytes.
    fn answer_max(self) -> usize {
        match self {
            Self::StableToken | Self::Token | Self::Jscode2session => 64 * 1024,
            // Some times what the widest code should take. The store keeps each as long as its scene.
            Self::GetWxaCodeUnlimit => 1024 * 1024,
        }
    }

    /// Whether its caller asks ever more seldom while it fails, one of all replicas at a time, so that no circuit need hold it back.
    fn is_paced(self) -> bool {
        match self {
            Self::StableToken | Self::Token => true,
            Self::GetWxaCodeUnlimit | Self::Jscode2session => false,
        }
    }

    /// Whether the same request may reach WeChat twice.
    fn is_repeatable(self) -> bool {
        match self {
            Self::StableToken | Self::Token | Self::GetWxaCodeUnlimit => true,
            Self::Jscode2session => false,
        }
    }
}
