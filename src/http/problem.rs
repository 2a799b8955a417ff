//! Every error a caller can meet: its status, its stable code, and a sentence on what to do (RFC 9457).

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa::openapi::schema::ObjectBuilder;

use super::assets;
use super::load::{Overloaded, Undone};
use super::openapi::words;
use super::scenes::whole_seconds;
use crate::hub::OpenError;
use crate::limits::{Limited, Rule};
use crate::login::Error;
use crate::scene::StateName;
use crate::store::StoreError;
use crate::telemetry::chain;
use crate::wechat::client as wechat;
use crate::wechat::code_pool::PictureError;
use crate::wechat::errcode::{Class, Errcode};

/// Around what each code means.
const PAGE: &str = include_str!("../../assets/problems/index.html");

/// When to come again to a store that is full.
const FULL: Duration = Duration::from_secs(10);

/// When to come again to a replica that keeps as many streams of this address as it may.
const ADDRESS_FULL: Duration = Duration::from_secs(10);

/// A machine-readable error, and the words that go with it.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    code: Code,
    detail: String,
    errcode: Option<i64>,
    state: Option<StateName>,
    retry_after: Option<Duration>,
    quota: Option<Box<Quota>>,
    /// What only the log is told.
    cause: Option<String>,
}

macro_rules! codes {
    ($($variant:ident $word:literal $status:ident $title:literal: $meaning:literal $remedy:literal,)*) => {
        /// The stable machine words of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(clippy::enum_variant_names, reason = "they are the contract's words")]
        pub(super) enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// All of them, for the document.
            fn words() -> ObjectBuilder { words(Self::ALL) }

            /// The word on the wire.
            pub(super) fn as_str(self) -> &'static str { match self { $(Self::$variant => $word,)* } }
            /// The status that goes with it.
            pub(super) fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$status,)* } }
            /// What it is called.
            pub(super) fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
            /// When it is met: a sentence.
            fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
            /// What to do about it: a sentence.
            fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)* } }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST "The request can't be understood":
        "A parameter, a header or the body is missing, malformed or contradicts another."
        "Correct what detail names; the same request will fail again.",
    UnknownClient "unknown_client" FORBIDDEN "No site of this client_id":
        "No client of the settings has this client_id, or has it any more: a site that is taken out of the settings takes its logins along."
        "Compare the client_id with the [[client]] tables of the service's settings.",
    OriginNotAllowed "origin_not_allowed" FORBIDDEN "This site may not call":
        "The page that called has an origin that the client does not list."
        "Add the page's scheme, host and port to the client's origins.",
    UnknownScene "unknown_scene" NOT_FOUND "No such scene":
        "The scene never was, or its record is gone for good."
        "Start a new scene.",
    ShortCodeRefused "short_code_refused" FORBIDDEN "This site has no short codes":
        "A code to type was asked for at a client whose people may only scan."
        "Set short_codes = true for the client, or show the code to scan.",
    UnknownShortCode "unknown_short_code" NOT_FOUND "No such short code":
        "What was typed is wrong, was used already, or is too old."
        "Compare it with the screen once more, or show a new one there.",
    NotWaiting "not_waiting" GONE "The code is not shown any more":
        "The scene was scanned, or has ended, so its code is worth nothing any more."
        "Ask for the scene's status; to show a code again, start a new scene.",
    BrowserSecretRequired "browser_secret_required" UNAUTHORIZED "Only the browser that started the scene may do this":
        "The request has neither the cookie that starting the scene set, nor the right browser secret."
        "Send the cookie along, or browser_secret as Authorization: Bearer.",
    ConfirmTokenRequired "confirm_token_required" UNAUTHORIZED "Only the phone that scanned may do this":
        "The request lacks the confirm_token, or has one of an earlier scan."
        "Send the one of the last scan as Authorization: Bearer, or scan again.",
    InvalidWxCode "invalid_wx_code" BAD_REQUEST "The wx.login code is not valid":
        "WeChat does not know the code that wx.login gave, or it was used already, or it is of another Mini Program than the site's."
        "Call wx.login again and send the fresh code at once; each works once. If fresh ones are refused too, compare the AppID of the \
         Mini Program's project.config.json with the one that the service has for the site.",
    ScannedByAnother "scanned_by_another" CONFLICT "Another person scanned first":
        "The code was scanned on somebody else's phone before."
        "Get a new code on the browser's page and scan that.",
    AlreadyFinished "already_finished" CONFLICT "The scene has ended":
        "The scene was confirmed, declined or cancelled before, and an end is the end."
        "Take the state in the problem as the outcome, or start a new scene.",
    Expired "expired" GONE "The scene's time is over":
        "Nobody confirmed while the scene lived."
        "Start a new scene and scan its code.",
    EntrySceneRefused "entry_scene_refused" FORBIDDEN "This site takes no scan that came so":
        "The phone came to the code in a way, such as a card in a chat, that the client refuses."
        "Scan with the camera, from the screen that shows the code; the site chooses by entry_scenes.",
    WrongMatchNumber "wrong_match_number" FORBIDDEN "Not the number on the screen":
        "The number picked on the phone is not the one that the browser shows."
        "Look at the browser's screen once more; a second wrong number declines the login.",
    WechatBlockedUser "wechat_blocked_user" FORBIDDEN "WeChat blocked this login":
        "WeChat holds this account for a risk and says nothing of who it is."
        "Nobody here can change it: the person can ask WeChat's support.",
    WechatQuota "wechat_quota" TOO_MANY_REQUESTS "WeChat's quota is used up for now":
        "As many calls were made as WeChat, or the service for its sake, allows the Mini Program for now."
        "Try again when Retry-After says; if it stays so, look at the quota in WeChat's console.",
    WechatUnavailable "wechat_unavailable" SERVICE_UNAVAILABLE "WeChat can't be reached":
        "The service reached no WeChat that could answer, or one that was busy."
        "Try again when Retry-After says.",
    WechatTimeout "wechat_timeout" GATEWAY_TIMEOUT "WeChat does not answer":
        "WeChat took longer than the service waits."
        "Try again when Retry-After says; for a picture the work goes on meanwhile.",
    WechatError "wechat_error" BAD_GATEWAY "WeChat refused":
        "WeChat refused the call, most often because of how the Mini Program is set up."
        "Let whoever runs the service look up errcode and follow detail.",
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many at once":
        "A limit of the service was met, of what comes in a time or of what is open at once."
        "Try again when Retry-After says; RateLimit-Policy names the limit.",
    StoreUnavailable "store_unavailable" SERVICE_UNAVAILABLE "The service can't do this just now":
        "The service lacks its store, or room, to do it."
        "Try again when Retry-After says: nothing was changed that the same request would spoil.",
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large":
        "The body has more bytes than this address takes."
        "Send a smaller one, such as a smaller picture.",
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body has another type than this takes":
        "The Content-Type, or what the body is in truth, is not what this address takes."
        "Send the type that the contract names.",
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "This address takes other methods":
        "The address exists, and the method does not go with it."
        "Use one of those in the reply's Allow.",
    NotFound "not_found" NOT_FOUND "Nothing is here":
        "The address belongs to nothing of the service."
        "Compare it with the contract.",
    RequestTimeout "request_timeout" REQUEST_TIMEOUT "The request came too slowly":
        "The body did not arrive in the time that the service gives it."
        "Send it again, on a better connection.",
    ShuttingDown "shutting_down" SERVICE_UNAVAILABLE "This replica is going away":
        "The replica that was asked ends, as at every deploy."
        "Send the same request again: another replica answers.",
    Internal "internal" INTERNAL_SERVER_ERROR "Something is broken on our side":
        "A defect of the service, which it could not name."
        "Try again, and give request_id to whoever runs the service: its log knows more.",
}

/// What went wrong (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// Where the code is explained.
    #[serde(rename = "type")]
    #[schema(format = "uri")]
    kind: String,
    /// The code in words.
    title: &'static str,
    /// That of the reply.
    status: u16,
    /// What to do.
    detail: &'a str,
    /// What went wrong, for a program.
    #[schema(schema_with = Code::words)]
    code: &'static str,
    /// The reply's X-Request-Id, by which the service's log knows it.
    request_id: &'a str,
    /// WeChat's own number for it, where it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    errcode: Option<i64>,
    /// The state that the scene is in, where that is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    state: Option<StateName>,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errcode: None,
            state: None,
            retry_after: None,
            quota: None,
            cause: None,
        }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// A defect of ours: `cause` is for the log.
    pub(super) fn broken(cause: &str) -> Self {
        Self {
            cause: Some(cause.to_owned()),
            ..Self::new(
                Code::Internal,
                "Something is broken on our side. The log knows more under this request_id.",
            )
        }
    }

    pub(super) fn unknown_scene() -> Self {
        Self::new(
            Code::UnknownScene,
            "This scene never was, or is over for good. Start a new one.",
        )
    }

    fn no_room_for_avatar() -> Self {
        Self::new(
            Code::StoreUnavailable,
            "There is no room for the picture just now. Confirm without it, or try again shortly.",
        )
        .after(FULL)
        .caused_by(&Error::NoRoomForAvatar)
    }

    pub(super) fn shutting_down() -> Self {
        Self::new(Code::ShuttingDown, "Try again: another replica answers.").after(Duration::from_secs(1))
    }

    fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    fn of_quota(mut self, quota: Quota) -> Self {
        self.quota = Some(Box::new(quota));
        self
    }

    fn in_state(mut self, state: StateName) -> Self {
        self.state = Some(state);
        self
    }

    fn caused_by(mut self, cause: &dyn std::error::Error) -> Self {
        self.cause = Some(chain(cause));
        self
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    pub(super) fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Whether a stream that meets this should simply come again.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self.code,
            Code::StoreUnavailable | Code::RateLimited | Code::ShuttingDown
        )
    }

    /// How long whoever met a limit has to wait.
    pub(super) fn limited_for(&self) -> Option<Duration> {
        self.quota.as_ref().map(|quota| quota.wait)
    }

    /// Which limit was met, if one was, as [`Quota::tell`] says it.
    pub(super) fn tell_limit(&self, headers: &mut HeaderMap) {
        if let Some(quota) = &self.quota {
            quota.tell(headers);
        }
    }

    pub(super) fn body<'a>(&'a self, public_url: &str, request_id: &'a str) -> Body<'a> {
        Body {
            kind: format!("{public_url}/problems#{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            errcode: self.errcode,
            state: self.state,
        }
    }
}

/// The words are written by the outermost layer, which knows the request's id; see [`super::layers`].
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if let Some(wait) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
        }
        self.tell_limit(response.headers_mut());
        if self.code.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidRequest(detail) => Self::invalid(detail),
            Error::UnknownClient => Self::new(Code::UnknownClient, "No site of this client_id is configured here."),
            Error::UnknownScene => Self::unknown_scene(),
            Error::ShortCodeRefused => Self::new(
                Code::ShortCodeRefused,
                "Set short_codes = true for this client, where its people may type a code instead of scanning one.",
            ),
            Error::UnknownShortCode => Self::new(
                Code::UnknownShortCode,
                "This code is wrong, used or too old. Look at the screen once more; a new one can be shown there.",
            ),
            Error::NotWaiting(state) => Self::new(
                Code::NotWaiting,
                format!(
                    "The scene is {}: its code can't be scanned any more. Start a new scene.",
                    state.as_str()
                ),
            )
            .in_state(state),
            Error::BrowserSecret => Self::new(
                Code::BrowserSecretRequired,
                "Send the cookie that POST /scenes set, or its browser_secret as Authorization: Bearer.",
            ),
            Error::ConfirmToken => Self::new(
                Code::ConfirmTokenRequired,
                "Send the confirm_token of the last scan as Authorization: Bearer; scanning again gives a new one.",
            ),
            Error::EntrySceneRefused => Self::new(
                Code::EntrySceneRefused,
                "Scan the code with the camera, from the screen that shows it: this site takes no code that was passed on.",
            ),
            Error::WrongNumber => Self::new(
                Code::WrongMatchNumber,
                "Look at the browser's screen once more. After a second wrong number the login is declined.",
            ),
            Error::SecondWrongNumber => Self::new(
                Code::WrongMatchNumber,
                "It was the second wrong number, so the login is declined. Get a new code, and scan none that others sent.",
            )
            .in_state(StateName::Declined),
            Error::ScannedByAnother => Self::new(
                Code::ScannedByAnother,
                "Another person scanned this code first. Get a new code.",
            ),
            Error::AlreadyFinished(state) => Self::new(
                Code::AlreadyFinished,
                format!("The scene is {} already. Start a new one to try again.", state.as_str()),
            )
            .in_state(state),
            Error::Expired => Self::new(Code::Expired, "The scene's time is over. Get a new code and scan that.")
                .in_state(StateName::Expired),
            Error::InvalidWxCode(source) => {
                let problem = Self::new(
                    Code::InvalidWxCode,
                    "Call wx.login again and send the fresh code; each works once, within five minutes, and only for the Mini Program whose AppID the \
                     service has for this site.",
                );
                source.map_or(problem.clone(), |error| problem.of_wechat(&error))
            }
            Error::BlockedUser(error) => Self::new(
                Code::WechatBlockedUser,
                "WeChat holds this account for a risk and gives no login. The person can ask WeChat's support.",
            )
            .of_wechat(&error),
            Error::NotAnImage => Self::new(
                Code::UnsupportedMediaType,
                "An avatar must be a JPEG, PNG or WebP picture.",
            ),
            Error::NoRoomForAvatar => Self::no_room_for_avatar(),
            Error::WeChat(error) => Self::from(error),
            Error::Undrawable => Self::broken("the link is too long for a QR code"),
            Error::Picture(error) => Self::from(error),
            Error::Limited(limited) => Self::from(limited),
            Error::Store(error) => Self::from(error),
            Error::Unreplicated => Self::new(
                Code::StoreUnavailable,
                "Written, but not yet safe on a second node. Send the same request again.",
            )
            .after(Duration::from_secs(1))
            .caused_by(&Error::Unreplicated),
        }
    }
}

impl From<wechat::Error> for Problem {
    fn from(error: wechat::Error) -> Self {
        let problem = match &error {
            wechat::Error::Timeout => Self::new(Code::WechatTimeout, "WeChat did not answer in time. Try again.")
                .after(Duration::from_secs(2)),
            wechat::Error::Unavailable(_) => Self::new(
                Code::WechatUnavailable,
                "WeChat can't be reached just now. Try again shortly.",
            )
            .after(Duration::from_secs(5)),
            wechat::Error::CircuitOpen { until } => Self::new(
                Code::WechatUnavailable,
                "WeChat has not answered for a while. Try again when Retry-After says.",
            )
            .after(until.saturating_duration_since(Instant::now())),
            wechat::Error::Limited(limited) => Self {
                quota: Some(Box::new(limited.into())),
                ..Self::new(
                    Code::WechatQuota,
                    "As many calls were made to WeChat as this Mini Program may make just now. Try again when Retry-After says.",
                )
            },
            wechat::Error::CutShort => Self::new(
                Code::WechatUnavailable,
                "WeChat's picture arrived without its end. Try again shortly.",
            )
            .after(Duration::from_secs(2)),
            wechat::Error::Invalid(_) => Self::new(
                Code::WechatError,
                "WeChat's answer is not what its documentation says. Try again; if it stays so, look at the service's log.",
            )
            .after(Duration::from_secs(2)),
            wechat::Error::TokenRefused { errcode, .. } => {
                Self::new(Code::WechatUnavailable, told(*errcode)).after(Duration::from_secs(2))
            }
            wechat::Error::Errcode { errcode, .. } => {
                let detail = told(*errcode);
                match errcode.class() {
                    Class::Quota => Self::new(Code::WechatQuota, detail).after(Duration::from_mins(1)),
                    Class::Busy => Self::new(Code::WechatUnavailable, detail).after(Duration::from_secs(2)),
                    Class::TokenInvalid | Class::CodeInvalid | Class::Blocked | Class::Setup => {
                        Self::new(Code::WechatError, detail)
                    }
                }
            }
        };
        problem.of_wechat(&error)
    }
}

fn told(errcode: Errcode) -> String {
    format!("WeChat answered {errcode}. {}", errcode.advice())
}

impl From<PictureError> for Problem {
    fn from(error: PictureError) -> Self {
        match error {
            PictureError::WeChat(error) => Self::from(error),
            PictureError::Timeout => Self::new(
                Code::WechatTimeout,
                "The code's picture is still being made. Ask for it again.",
            )
            .after(Duration::from_secs(1)),
            PictureError::Store(error) => Self::of_store(&error),
            PictureError::ShuttingDown => Self::shutting_down(),
        }
    }
}

impl Problem {
    fn of_wechat(mut self, error: &wechat::Error) -> Self {
        self.errcode = error.errcode().map(Errcode::number);
        self.caused_by(error)
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::new(
                Code::StoreUnavailable,
                "The service can't reach its store just now. Try again shortly.",
            )
            .after(Duration::from_secs(2)),
            StoreError::Full => Self::new(
                Code::StoreUnavailable,
                "The service takes no new logins just now; those under way go on. Try again shortly.",
            )
            .after(FULL),
            StoreError::Corrupt(_) => Self::new(Code::Internal, "A record can't be read. Start a new scene."),
        }
        .caused_by(error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::of_store(&error)
    }
}

impl<E: Into<Self>> From<Undone<E>> for Problem {
    fn from(undone: Undone<E>) -> Self {
        match undone {
            Undone::Overloaded(error) => error.into(),
            Undone::Failed(error) => error.into(),
        }
    }
}

impl From<Overloaded> for Problem {
    fn from(error: Overloaded) -> Self {
        Self::new(
            Code::StoreUnavailable,
            "This replica does as much as it can. Try again shortly: another may have room.",
        )
        .after(Overloaded::RETRY_AFTER)
        .caused_by(&error)
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotFound => Self::unknown_scene(),
            OpenError::WrongSecret => Self::from(Error::BrowserSecret),
            OpenError::Full => Self::new(
                Code::StoreUnavailable,
                "This replica holds as many streams as it may. Try again: another may have room.",
            )
            .after(Duration::from_secs(3)),
            OpenError::AddressFull(most) => Self::new(
                Code::RateLimited,
                format!(
                    "All {most} streams that one address may have are open. Close some, or try again after {} seconds.",
                    ADDRESS_FULL.as_secs()
                ),
            )
            .of_quota(Quota::of_streams(most))
            .caused_by(&error),
            OpenError::Store(error) => Self::from(error),
        }
    }
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Self {
        let what = match limited.rule {
            Rule::ScenesPerAddress => "Too many logins were started from this address.",
            Rule::ScenesPerClient => "Too many logins were started at this site.",
            Rule::UnknownPerAddress => {
                "Too many scenes that never were, or are over, were asked for from this address."
            }
            Rule::ScansPerAddress => "Too many scans came from this address.",
            Rule::ScansPerScene => "This code was scanned too often. Get a new code and scan that.",
            Rule::FailedRedemptions => "Too many redemptions of this client failed from this address.",
            Rule::ShortCodesPerAddress => "Too many codes were typed at this address.",
            Rule::WrongShortCodesPerPerson => "You typed too many wrong codes. Scan the code with the camera instead.",
            Rule::WrongShortCodes => {
                "Too many wrong codes were typed, by whomever. Scan the code with the camera instead."
            }
            Rule::Pictures | Rule::Code2Session | Rule::TokenCalls | Rule::ForceRefreshes => {
                return Self::from(wechat::Error::Limited(limited));
            }
        };
        Self::new(Code::RateLimited, format!("{what} Try again when Retry-After says."))
            .of_quota(Quota::from(&limited))
            .caused_by(&limited)
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(Code::BodyTooLarge, "The body is larger than this address takes.")
            }
            _ => Self::invalid("The body ended before it was whole."),
        }
    }
}

/// A limit that was met, of what comes in a time or of what is open at once.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    rule: &'static str,
    /// How much there may be, as parameters of `RateLimit-Policy`.
    policy: String,
    wait: Duration,
}

impl From<&Limited> for Quota {
    fn from(limited: &Limited) -> Self {
        let rate = limited.rate;
        Self {
            rule: limited.rule.name(),
            policy: format!("q={};w={}", rate.count(), rate.period().as_secs()),
            wait: limited.retry_after,
        }
    }
}

impl Quota {
    fn of_streams(most: usize) -> Self {
        Self {
            rule: "streams_per_address",
            policy: format!("q={most};qu=\"concurrent-requests\""),
            wait: ADDRESS_FULL,
        }
    }

    /// `Retry-After`, and the `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-10).
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let (rule, policy, wait) = (self.rule, &self.policy, whole_seconds(self.wait).max(1));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        let policy = format!("\"{rule}\";{policy}");
        let state = format!("\"{rule}\";r=0;t={wait}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// `GET /problems`: what each code means, where the `type` of a problem leads.
pub(super) async fn page() -> Response {
    let sections = Code::ALL.iter().fold(String::new(), |mut sections, code| {
        let (word, status, title) = (code.as_str(), code.status().as_u16(), code.title());
        let (meaning, remedy) = (code.meaning(), code.remedy());
        let _ = write!(
            sections,
            "<section id=\"{word}\"><h2><code>{word}</code> {status}</h2>\
             <p><strong>{title}.</strong> {meaning}</p><p>{remedy}</p></section>"
        );
        sections
    });
    let mut response = Html(PAGE.replace("<!-- the codes -->", &sections)).into_response();
    assets::protect(&mut response, None, &[]);
    response
}
