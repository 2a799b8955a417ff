//! For the Mini Program: scan, avatar, confirm, decline.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::AppState;
use super::extract::{Json, SceneOf, Whole, authorization};
use super::language::Language;
use super::load::Work;
use super::openapi::problems;
use super::peer::Peer;
use super::problem::{Code, Problem};
use super::scenes::{avatar_url, rfc3339, whole_seconds};
use crate::login::{ScanOf, Scanned, UploadedAvatar, media_type_of_avatar};
use crate::scene::{Avatar, AvatarId, ConfirmToken, Doubt, MatchNumber, Scene, SceneId, ShortCode, StateName};
use crate::web::json::Object;

/// What `chooseAvatar` gives, compressed, is far smaller.
pub(super) const AVATAR_BYTES: usize = 64 * 1024;

/// Who scans, and how they came.
#[derive(Deserialize, ToSchema)]
pub(super) struct ScanRequest {
    /// What wx.login gave. It works once.
    #[schema(value_type = String)]
    code: Zeroizing<String>,
    /// The way in that WeChat tells the Mini Program.
    entry_scene: Option<i64>,
    /// When it was scanned, in seconds since the Unix epoch, as WeChat tells the Mini Program of an ordinary QR code.
    scancode_time: Option<i64>,
}

/// Who types a short code.
#[derive(Deserialize, ToSchema)]
pub(super) struct TypedRequest {
    /// As it stands on the browser's screen, in whatever case and with whatever gaps.
    short_code: String,
    /// What wx.login gave. It works once.
    #[schema(value_type = String)]
    code: Zeroizing<String>,
}

/// What the person is asked.
#[derive(Serialize, ToSchema)]
pub(super) struct ScanReply {
    /// Lets this phone answer. The one of an earlier scan is dead.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_-]{43}$")]
    confirm_token: Zeroizing<String>,
    /// Which scene it is, where a short code was typed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<SceneId>)]
    scene: Option<SceneId>,
    client: ClientView,
    browser: BrowserView,
    /// When the browser started the scene.
    #[schema(format = DateTime)]
    requested_at: String,
    requested_seconds_ago: u64,
    /// In seconds.
    expires_in: u64,
    /// To be shown: it was not a screen that was scanned with the camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    warning: Option<&'static str>,
    /// One of them stands on the browser's screen. Where they are here, confirm wants that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_items = 3, max_items = 3)]
    match_choices: Option<Vec<MatchNumber>>,
}

/// The site that asks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Client)]
struct ClientView {
    client_id: String,
    /// For people.
    name: String,
    /// The host that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = "uri")]
    logo_url: Option<String>,
}

/// The browser that asks, as it says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BrowserDescription)]
struct BrowserView {
    name: String,
    os: String,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ip: Option<String>,
    /// Where that is, in the language asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    place: Option<String>,
}

problems!(ScanProblems: InvalidRequest InvalidWxCode EntrySceneRefused WechatBlockedUser UnknownClient UnknownScene
    ScannedByAnother AlreadyFinished Expired BodyTooLarge UnsupportedMediaType RequestTimeout RateLimited WechatQuota
    WechatError WechatUnavailable WechatTimeout StoreUnavailable ShuttingDown);

/// Somebody scanned: WeChat says who.
#[utoipa::path(post, path = "/scenes/{scene}/scan", tag = "phone", params(("scene" = SceneId, Path)),
    request_body = ScanRequest, responses(
    (status = 200, description = "Who asks.", body = ScanReply),
    ScanProblems,
))]
pub(super) async fn scan(
    State(state): State<AppState>,
    peer: Peer,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
    Json(request): Json<ScanRequest>,
) -> Result<axum::Json<ScanReply>, Problem> {
    let scan_of = ScanOf {
        wx_code: &request.code,
        entry_scene: request.entry_scene,
        scanned_at: request.scancode_time,
        address: peer.ip,
        now: jiff::Timestamp::now().as_second(),
    };
    let scan = state.lifecycle.while_there_is_time(state.login.scan(&id, scan_of));
    let scanned = state.load.carry(Work::Scan, Box::pin(scan)).await?;
    Ok(axum::Json(asked(scanned, Language::of(&headers))))
}

problems!(TypedProblems: InvalidRequest InvalidWxCode EntrySceneRefused WechatBlockedUser UnknownClient UnknownShortCode
    AlreadyFinished Expired BodyTooLarge UnsupportedMediaType RequestTimeout RateLimited WechatQuota WechatError
    WechatUnavailable WechatTimeout StoreUnavailable ShuttingDown);

/// Somebody typed the short code on a browser's screen: a scan of its scene. Where several Mini Programs are configured, the Referer that
/// WeChat gives each request says which one it is.
#[utoipa::path(post, path = "/short-codes/scan", tag = "phone", request_body = TypedRequest, responses(
    (status = 200, description = "Who asks.", body = ScanReply),
    TypedProblems,
))]
pub(super) async fn scan_typed(
    State(state): State<AppState>,
    peer: Peer,
    headers: HeaderMap,
    Json(request): Json<TypedRequest>,
) -> Result<axum::Json<ScanReply>, Problem> {
    let code = ShortCode::read(&request.short_code).ok_or_else(|| {
        Problem::invalid("short_code has eight letters and digits, of which none is 0, 1, I, L or O.")
    })?;
    let typed = state
        .login
        .type_short_code(&code, &request.code, referring_program(&headers), peer.ip);
    let typed = state.lifecycle.while_there_is_time(typed);
    let (scene, scanned) = state.load.carry(Work::Scan, Box::pin(typed)).await?;
    Ok(axum::Json(ScanReply {
        scene: Some(scene),
        ..asked(scanned, Language::of(&headers))
    }))
}

/// The AppID in the Referer that WeChat gives the requests of every Mini Program: `https://servicewechat.com/{appid}/{version}/…`.
fn referring_program(headers: &HeaderMap) -> Option<&str> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    referer.strip_prefix("https://servicewechat.com/")?.split('/').next()
}

fn asked(scanned: Scanned, language: Language) -> ScanReply {
    let client = &scanned.site.client;
    ScanReply {
        confirm_token: scanned.confirm_token.expose(),
        scene: None,
        client: ClientView {
            client_id: client.client_id.clone(),
            name: client.name.clone(),
            domain: client.domain(),
            logo_url: client.logo_url.clone(),
        },
        browser: BrowserView {
            name: scanned.browser.name,
            os: scanned.browser.os,
            ip: scanned.browser.ip,
            place: scanned.browser.place.map(|place| match language {
                Language::Chinese => place.zh,
                Language::English => place.en,
            }),
        },
        requested_at: rfc3339(scanned.requested_at),
        requested_seconds_ago: scanned.requested_ago.as_secs(),
        expires_in: whole_seconds(scanned.expires_in),
        warning: scanned.caution.warned.then(|| warning(language, scanned.doubt)),
        match_choices: scanned.caution.number.map(|step| step.choices().to_vec()),
    }
}

/// What the phone shows to somebody who, as far as WeChat says, did not scan a screen with the camera: a signal, and no proof either way.
pub(super) fn warning(language: Language, doubt: Option<Doubt>) -> &'static str {
    match (language, doubt) {
        (Language::English, Some(Doubt::Typed)) => {
            "You typed a code. Confirm only if it stands on the screen before you: if somebody told you this code, it logs them in as \
             you: decline."
        }
        (Language::Chinese, Some(Doubt::Typed)) => {
            "你输入的是登录码。只有它显示在你面前的屏幕上时才可以确认；如果这个码是别人告诉你的，确认后对方将以你的身份登录，请拒绝。"
        }
        (Language::English, Some(Doubt::Late)) => {
            "This code was scanned earlier, perhaps from a picture that somebody sent. If so, it logs them in as you: decline."
        }
        (Language::Chinese, Some(Doubt::Late)) => {
            "这个码是早些时候扫描的，可能来自别人发来的图片。如果是这样，确认后对方将以你的身份登录，请拒绝。"
        }
        (Language::English, None) => {
            "WeChat does not say that you scanned a screen with the camera. That alone proves nothing, but if somebody sent you this \
             code, it logs them in as you: decline."
        }
        (Language::Chinese, None) => {
            "微信没有显示你是用相机扫描屏幕进入的。这本身不能证明什么，但如果这个码是别人发给你的，确认后对方将以你的身份登录，请拒绝。"
        }
    }
}

/// What goes with a yes.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct ConfirmRequest {
    #[schema(value_type = Option<ProfileRequest>)]
    profile: Option<Object<ProfileRequest>>,
    /// The number that the browser shows, where the scan gave match_choices.
    #[schema(pattern = "^[0-9]{2}$")]
    match_number: Option<String>,
}

/// A person's own words.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct ProfileRequest {
    /// At most 64 code points, once what can't be seen is taken out.
    nickname: Option<String>,
    /// Of a host that the site allows, by https.
    avatar_url: Option<String>,
}

/// How the scene stands now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AnswerReply {
    state: StateName,
    version: u64,
}

problems!(ConfirmProblems: InvalidRequest ConfirmTokenRequired WrongMatchNumber UnknownScene AlreadyFinished Expired
    BodyTooLarge UnsupportedMediaType RequestTimeout RateLimited StoreUnavailable);

/// The person says yes.
#[utoipa::path(post, path = "/scenes/{scene}/confirm", tag = "phone", params(("scene" = SceneId, Path)),
    request_body(content((ConfirmRequest = "application/json"))), responses(
    (status = 200, description = "It is confirmed, now or already.", body = AnswerReply),
    ConfirmProblems,
), security(("confirm_token" = [])))]
pub(super) async fn confirm(
    State(state): State<AppState>,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
    Json(request): Json<ConfirmRequest>,
) -> Result<axum::Json<AnswerReply>, Problem> {
    let ProfileRequest { nickname, avatar_url } = request.profile.map(|Object(profile)| profile).unwrap_or_default();
    let match_number = request.match_number.as_deref().map(|text| {
        MatchNumber::parse(text).ok_or_else(|| Problem::invalid("match_number must be two digits, as a string."))
    });
    let match_number = match_number.transpose()?;
    let token = confirm_token(&headers);
    let confirm = state
        .login
        .confirm(&id, token.as_ref(), nickname.as_deref(), avatar_url, match_number);
    let scene = state.load.carry(Work::Finish, confirm).await?;
    Ok(answer(&scene, StateName::Confirmed))
}

/// Why the answer is no.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct DeclineRequest {
    /// Whether it was somebody else who asked.
    #[schema(pattern = "^not_me$")]
    reason: Option<String>,
}

problems!(DeclineProblems: InvalidRequest ConfirmTokenRequired UnknownScene AlreadyFinished Expired BodyTooLarge
    UnsupportedMediaType RequestTimeout RateLimited StoreUnavailable);

/// The person says no.
#[utoipa::path(post, path = "/scenes/{scene}/decline", tag = "phone", params(("scene" = SceneId, Path)),
    request_body(content((DeclineRequest = "application/json"))), responses(
    (status = 200, description = "It is declined, now or already.", body = AnswerReply),
    DeclineProblems,
), security(("confirm_token" = [])))]
pub(super) async fn decline(
    State(state): State<AppState>,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
    Json(request): Json<DeclineRequest>,
) -> Result<axum::Json<AnswerReply>, Problem> {
    let not_me = match request.reason.as_deref() {
        None => false,
        Some("not_me") => true,
        Some(_) => return Err(Problem::invalid("reason can only be not_me.")),
    };
    let token = confirm_token(&headers);
    let decline = state.login.decline(&id, token.as_ref(), not_me);
    let scene = state.load.carry(Work::Finish, decline).await?;
    Ok(answer(&scene, StateName::Declined))
}

/// Where the picture is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AvatarReply {
    #[schema(format = "uri")]
    avatar_url: String,
}

problems!(UploadProblems: InvalidRequest ConfirmTokenRequired UnknownScene AlreadyFinished Expired BodyTooLarge
    UnsupportedMediaType RequestTimeout RateLimited StoreUnavailable);

/// The picture that the person chose: a JPEG, PNG or WebP of at most 64 KiB.
#[utoipa::path(put, path = "/scenes/{scene}/avatar", tag = "phone", params(("scene" = SceneId, Path)),
    request_body(content(("image/jpeg"), ("image/png"), ("image/webp"))), responses(
    (status = 200, description = "It goes with a yes, and is served for ten minutes.", body = AvatarReply),
    UploadProblems,
), security(("confirm_token" = [])))]
pub(super) async fn upload_avatar(
    State(state): State<AppState>,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
    Whole(image): Whole,
) -> Result<axum::Json<AvatarReply>, Problem> {
    let token = confirm_token(&headers);
    let upload = state.login.upload_avatar(&id, token.as_ref(), image);
    let UploadedAvatar(avatar) = state.load.carry(Work::Finish, upload).await?;
    Ok(axum::Json(AvatarReply {
        avatar_url: avatar_url(&state, &id, &Avatar::Uploaded(avatar)),
    }))
}

problems!(AvatarProblems: NotFound StoreUnavailable);

/// A picture that a person chose.
#[utoipa::path(get, path = "/avatars/{avatar}", tag = "page", params(
    ("avatar" = String, Path, pattern = "^[0-9a-f]{32}[.][A-Za-z0-9_-]{22}$", description = "The scene, a dot and a name."),
), responses(
    (status = 200, description = "The picture.", content(("image/jpeg"), ("image/png"), ("image/webp"))),
    AvatarProblems,
))]
pub(super) async fn avatar(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let gone = || Problem::new(Code::NotFound, "This picture never was, or its ten minutes are over.");
    let Path(name) = name.map_err(|_| gone())?;
    let (scene, avatar) = name.split_once('.').ok_or_else(gone)?;
    let scene: SceneId = scene.parse().map_err(|_| gone())?;
    let avatar = AvatarId::parse(avatar).ok_or_else(gone)?;
    let image = state
        .load
        .carry(Work::Watch, state.login.avatar(&scene, avatar))
        .await?;
    let image = image.ok_or_else(gone)?;
    let media_type = media_type_of_avatar(&image).ok_or_else(gone)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        // Somebody's bytes: never a page, whatever a browser makes of them.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; sandbox"),
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("cross-origin"),
        ),
    ];
    Ok((headers, image).into_response())
}

fn confirm_token(headers: &HeaderMap) -> Option<ConfirmToken> {
    authorization(headers, "Bearer").and_then(ConfirmToken::parse)
}

fn answer(scene: &Scene, state: StateName) -> axum::Json<AnswerReply> {
    axum::Json(AnswerReply {
        state,
        version: scene.version,
    })
}
