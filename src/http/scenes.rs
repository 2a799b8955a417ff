//! For the site's page: start a scene, show its code, read its state, give up.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use super::AppState;
use super::authorize;
use super::browser::{browser_secret, check_client_origin, describe, forgotten_scenes, secret_cookie};
use super::extract::{Json, SceneOf};
use super::load::{Overloaded, Undone, Work};
use super::openapi::problems;
use super::peer::Peer;
use super::problem::Problem;
use super::trace::{About, Trace, watch};
use crate::hub::{Change, Told};
use crate::login::{Error, Site, Start};
use crate::oidc::AuthorizationRequest;
use crate::oidc::request::{CHALLENGE_FORM, answer, is_challenge, wrong_nonce};
use crate::scene::{
    Authorization, AuthorizationCode, Avatar, BrowserDescription, BrowserSecret, MatchNumber, Return, SceneId,
    StateName,
};
use crate::wechat::EnvVersion;

/// No long-poll waits longer.
const WAIT_MOST: Duration = Duration::from_secs(30);

/// Which site asks, and what it will want to be told again.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct StartRequest {
    /// The site. May be left out where only one is configured.
    client_id: Option<String>,
    /// The SHA-256 of the code_verifier that will redeem (RFC 7636), in base64url. A site without a secret must
    /// send one.
    #[schema(pattern = "^[A-Za-z0-9_-]{43}$")]
    code_challenge: Option<String>,
    #[schema(pattern = "^S256$")]
    code_challenge_method: Option<String>,
    /// Comes again in the id_token. At most 255 bytes, none of them a control character.
    #[schema(max_length = 255)]
    nonce: Option<String>,
    /// The edition of the Mini Program that the code opens: the usual one, or one of the client's `env_versions`.
    env_version: Option<String>,
    /// The query of a request to `/authorize`, from the page there: it is checked again, and wins over the other fields.
    authorization_request: Option<String>,
}

/// A scene that was just started.
#[derive(Serialize, ToSchema)]
pub(super) struct StartReply {
    scene: SceneId,
    /// Names this event, the scene's first.
    id: String,
    state: StateName,
    version: u64,
    /// Where the code's picture is.
    #[schema(format = "uri")]
    code_url: String,
    /// Where the stream is.
    #[schema(format = "uri")]
    events_url: String,
    /// Where the state is.
    #[schema(format = "uri")]
    status_url: String,
    /// Where a short code is given, which can be typed in the Mini Program in place of a scan: where the site has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = "uri")]
    short_code_url: Option<String>,
    /// In seconds.
    expires_in: u64,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Opens the stream and the state, as the cookie does.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_-]{43}$")]
    browser_secret: Zeroizing<String>,
}

problems!(StartProblems: InvalidRequest UnknownClient OriginNotAllowed RateLimited StoreUnavailable
    BodyTooLarge UnsupportedMediaType RequestTimeout);

/// Starts a scene.
#[utoipa::path(post, path = "/scenes", tag = "page", 
    request_body(content((StartRequest = "application/json"))), responses(
    (status = 201, description = "It waits to be scanned.", body = StartReply, headers(
        ("Location" = String, description = "Its status_url."),
        ("Set-Cookie" = String, description = "The browser secret as a cookie, which no script can read. Further ones let the browser forget its oldest scenes when it has many."),
    )),
    StartProblems,
))]
pub(super) async fn start(
    State(state): State<AppState>,
    peer: Peer,
    Trace(traceparent): Trace,
    headers: HeaderMap,
    Json(request): Json<StartRequest>,
) -> Result<Response, Problem> {
    let (site, authorization) = asked(&state, &request)?;
    check_client_origin(&state, &headers, &site.client)?;
    let start = Start {
        site: &site,
        authorization,
        env_version: edition(&site, request.env_version.as_deref())?,
        browser: BrowserDescription {
            place: state.places.as_ref().and_then(|places| places.of(peer.ip)),
            ..describe(&headers, peer.ip)
        },
        address: peer.ip,
        traceparent,
        now: jiff::Timestamp::now().as_second(),
    };
    let started = state.load.carry(Work::Start, state.login.start(start)).await?;

    let scene = &started.scene;
    let address = format!("{}/scenes/{}", state.public_url.as_str(), scene.id);
    let cookie = secret_cookie(&state, &scene.id, &started.browser_secret, started.ttl.as_secs());
    let reply = StartReply {
        scene: scene.id,
        id: scene.event_id.to_string(),
        state: StateName::Waiting,
        version: scene.version,
        code_url: format!("{address}/code"),
        events_url: format!("{}/events/{}", state.public_url.as_str(), scene.id),
        status_url: address.clone(),
        short_code_url: site.client.short_codes.then(|| format!("{address}/short-code")),
        expires_in: started.ttl.as_secs(),
        expires_at: rfc3339(scene.expires_at),
        browser_secret: started.browser_secret.expose(),
    };
    let cookies = std::iter::once(cookie).chain(forgotten_scenes(&state, &headers));
    let cookies: Vec<_> = cookies.map(|cookie| (header::SET_COOKIE, cookie.to_string())).collect();
    let headers = (AppendHeaders([(header::LOCATION, address)]), AppendHeaders(cookies));
    let about = Extension(About(scene.id));
    Ok((StatusCode::CREATED, headers, about, axum::Json(reply)).into_response())
}

/// Which site asks, and for what: as it asked at `/authorize`, or as its own page says.
fn asked(state: &AppState, request: &StartRequest) -> Result<(Arc<Site>, Authorization), Problem> {
    if let Some(query) = &request.authorization_request {
        let checked = authorize::check(state, &AuthorizationRequest::read(query.as_bytes()));
        return checked.map_err(|refusal| Problem::invalid(format!("authorization_request: {refusal}")));
    }
    let site = match &request.client_id {
        Some(client_id) => state.login.site(client_id)?,
        None => state
            .login
            .sites()
            .only()
            .ok_or_else(|| Problem::invalid("Several clients are configured here: say which one in client_id."))?,
    };
    Ok((site, authorization_of(request)?))
}

/// The edition asked for, if it is another than the usual one.
fn edition(site: &Site, asked: Option<&str>) -> Result<Option<EnvVersion>, Problem> {
    let usual = site.program.mini_program.code.env_version;
    let Some(asked) = asked else { return Ok(None) };
    let listed = site.client.env_versions.iter().filter(|listed| **listed != usual);
    let allowed: Vec<EnvVersion> = [usual].into_iter().chain(listed.copied()).collect();
    let found = allowed.iter().find(|edition| edition.as_str() == asked).copied();
    let found = found.ok_or_else(|| {
        let words: Vec<&str> = allowed.iter().map(|edition| edition.as_str()).collect();
        Problem::invalid(format!(
            "env_version can only be {} for this client.",
            words.join(" or ")
        ))
    })?;
    Ok(Some(found).filter(|edition| *edition != usual))
}

/// Only `S256` (RFC 7636 §4.2), and only what a challenge can look like.
fn authorization_of(request: &StartRequest) -> Result<Authorization, Problem> {
    let StartRequest {
        code_challenge,
        code_challenge_method,
        nonce,
        ..
    } = request;
    if code_challenge_method.as_deref().is_some_and(|method| method != "S256") {
        return Err(Problem::invalid("code_challenge_method must be S256."));
    }
    if !code_challenge.as_deref().is_none_or(is_challenge) {
        return Err(Problem::invalid(CHALLENGE_FORM));
    }
    if let Some(wrong) = nonce.as_deref().and_then(wrong_nonce) {
        return Err(Problem::invalid(wrong));
    }
    Ok(Authorization {
        code_challenge: code_challenge.clone(),
        nonce: nonce.clone(),
        ..Authorization::default()
    })
}

problems!(CodeProblems: UnknownScene NotWaiting RateLimited WechatQuota WechatError WechatUnavailable WechatTimeout
    StoreUnavailable ShuttingDown);

/// The mini-program code's picture.
#[utoipa::path(get, path = "/scenes/{scene}/code", tag = "page", params(("scene" = SceneId, Path)), responses(
    (status = 200, description = "The code.", content(("image/jpeg"), ("image/png"))),
    CodeProblems,
))]
pub(super) async fn code_image(State(state): State<AppState>, SceneOf(id): SceneOf) -> Result<Response, Problem> {
    let image = state.lifecycle.while_there_is_time(state.login.code_image(&id));
    let image = state.load.carry(Work::Picture, image).await?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(image.media_type().as_str()),
        ),
        // The page that shows the code may be of any site: its address is the scene that it shows anyway.
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("cross-origin"),
        ),
    ];
    Ok((headers, image.bytes().clone()).into_response())
}

/// What a browser shows to somebody without a camera.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShortCode)]
pub(super) struct ShortCodeReply {
    /// To be typed in the Mini Program.
    #[schema(pattern = "^[2-9A-Z]{4}-[2-9A-Z]{4}$")]
    short_code: String,
    /// The name by which people find that in WeChat, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    mini_program: Option<String>,
    /// In seconds.
    expires_in: u64,
}

problems!(ShortCodeProblems: BrowserSecretRequired OriginNotAllowed UnknownClient ShortCodeRefused UnknownScene NotWaiting
    RateLimited StoreUnavailable);

/// A code that can be typed in the Mini Program in place of a scan. It counts for two minutes, or as long as its scene waits.
#[utoipa::path(post, path = "/scenes/{scene}/short-code", tag = "page", params(("scene" = SceneId, Path)), responses(
    (status = 201, description = "A new one.", body = ShortCodeReply),
    (status = 200, description = "The one that was given before, and counts still.", body = ShortCodeReply),
    ShortCodeProblems,
), security(("browser_secret" = []), ("browser_cookie" = [])))]
pub(super) async fn short_code(
    State(state): State<AppState>,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let show = async {
        let secret = browser_secret(&state, &headers, &id).await?;
        Ok(state.login.show_short_code(&id, secret.as_ref()).await?)
    };
    let shown = state.load.carry::<_, Problem>(Work::Start, show).await?;
    let status = if shown.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let reply = ShortCodeReply {
        short_code: shown.code.expose(),
        mini_program: shown.mini_program,
        expires_in: whole_seconds(shown.left),
    };
    Ok((status, axum::Json(reply)).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatusQuery {
    /// Answer when there is news, or after so many seconds. Above 30 counts as 30.
    #[param(value_type = u64, required = false)]
    wait: Option<String>,
    /// The id of the event that is known: any other is news.
    #[param(value_type = String, required = false)]
    after: Option<String>,
}

problems!(StatusProblems: InvalidRequest BrowserSecretRequired OriginNotAllowed UnknownClient UnknownScene RateLimited
    StoreUnavailable);

/// The scene's state, at once or when it changes: the event stream's long-poll twin.
#[utoipa::path(get, path = "/scenes/{scene}", tag = "page", params(("scene" = SceneId, Path), StatusQuery), responses(
    (status = 200, description = "The state as it is.", body = View),
    StatusProblems,
), security(("browser_secret" = []), ("browser_cookie" = [])))]
pub(super) async fn status(
    State(state): State<AppState>,
    peer: Peer,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
    query: Result<Query<StatusQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<axum::Json<View>, Problem> {
    let Query(query) =
        query.map_err(|_| Problem::invalid("The query is not as expected: wait and after, once each."))?;
    let wait = query.wait.as_deref().map_or(Ok(Duration::ZERO), wait_of)?;
    if wait.is_zero() {
        let read = read(&state, &id, &headers);
        return Ok(axum::Json(state.load.carry(Work::Status, read).await?));
    }
    let until = Instant::now() + wait;
    let opening = async {
        let secret = browser_secret(&state, &headers, &id).await?;
        let Some(secret) = secret else {
            return Err(unproven(&state, &id).await);
        };
        Ok((watch(&state, id, &secret, peer.ip).await?, secret))
    };
    // Who only waits is one of the streams, which have limits of their own.
    let opened = match (state.load.carry(Work::Watch, opening).await, &query.after) {
        (Err(Undone::Overloaded(full)), Some(after)) => {
            return Ok(axum::Json(missed(&state, &id, &headers, after, full).await?));
        }
        (opened, _) => opened,
    };
    let (mut subscription, secret) = opened?;
    let after = query.after.unwrap_or_else(|| subscription.current().id());
    let is_news = |told: &Told| told.id() != after;
    while !is_news(subscription.current()) && !subscription.current().state().is_final() {
        tokio::select! {
            changed = timeout_at(until, subscription.changed()) => {
                if !matches!(changed, Ok(Change::Told)) { break }
            }
            away = state.hub.store_away() => return Err(away.into()),
            () = state.lifecycle.ending.cancelled() => break,
        }
    }
    Ok(axum::Json(View::new(&state, subscription.current(), Some(&secret))))
}

/// What happened since the event `last`, for a browser that there is no room to keep waiting: one that was here before must hear
/// how its login went on. `full` is what it is told when there is nothing new.
pub(super) async fn missed(
    state: &AppState,
    id: &SceneId,
    headers: &HeaderMap,
    last: &str,
    full: Overloaded,
) -> Result<View, Problem> {
    let view = state.load.carry(Work::Status, read(state, id, headers)).await?;
    if view.id == last && !view.state.is_final() {
        return Err(full.into());
    }
    Ok(view)
}

async fn read(state: &AppState, id: &SceneId, headers: &HeaderMap) -> Result<View, Problem> {
    let secret = browser_secret(state, headers, id).await?;
    let stored = state.login.told_to_browser(id, secret.as_ref()).await?;
    Ok(View::new(state, &Told::read(&stored), secret.as_ref()))
}

/// What a browser is told that brings no secret.
pub(super) async fn unproven(state: &AppState, id: &SceneId) -> Problem {
    let error = state.login.of_browser(id, None).await.err();
    error.unwrap_or(Error::BrowserSecret).into()
}

/// A whole number of seconds, however large.
pub(super) fn wait_of(text: &str) -> Result<Duration, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::invalid("wait must be a whole number of seconds, 0 or more."));
    }
    Ok(text
        .parse()
        .map_or(WAIT_MOST, |seconds| Duration::from_secs(seconds).min(WAIT_MOST)))
}

problems!(CancelProblems: BrowserSecretRequired OriginNotAllowed UnknownClient UnknownScene AlreadyFinished RateLimited
    StoreUnavailable);

/// The browser gives up.
#[utoipa::path(delete, path = "/scenes/{scene}", tag = "page", params(("scene" = SceneId, Path)), responses(
    (status = 204, description = "It is cancelled, or over."),
    CancelProblems,
), security(("browser_secret" = []), ("browser_cookie" = [])))]
pub(super) async fn cancel(
    State(state): State<AppState>,
    SceneOf(id): SceneOf,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let cancel = async {
        let secret = browser_secret(&state, &headers, &id).await?;
        Ok(state.login.cancel(&id, secret.as_ref()).await?)
    };
    state.load.carry::<(), Problem>(Work::Finish, cancel).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A scene's state, as its browser sees it: the body of the status and the data of an event.
#[derive(Serialize, ToSchema)]
#[schema(as = SceneState)]
pub(super) struct View {
    scene: SceneId,
    /// Names this very event.
    pub(super) id: String,
    pub(super) state: StateName,
    /// One more than before the last change.
    version: u64,
    /// In seconds.
    expires_in: u64,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Why it expired: its time is over, or the service lost it. Or that two wrong numbers declined it, and not a no.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(time|lost|wrong_number)$")]
    reason: Option<&'static str>,
    /// To show once it is scanned, where the site asks for it: the person picks it on the phone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    match_number: Option<MatchNumber>,
    /// What the person gave with the yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    profile: Option<ProfileView>,
    /// The authorization code, once confirmed, while it can be redeemed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    code: Option<Zeroizing<String>>,
    /// Where the browser goes now, if the site sent it to `/authorize`: back there, with the code or with `error=access_denied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, format = "uri")]
    redirect_to: Option<Zeroizing<String>>,
}

/// A person's own words.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Profile)]
struct ProfileView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    nickname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = "uri")]
    avatar_url: Option<String>,
}

impl View {
    /// `secret` is what the browser presented and the scene was opened with: its authorization code is made of it.
    pub(super) fn new(state: &AppState, told: &Told, secret: Option<&BrowserSecret>) -> Self {
        let scene = told.scene();
        let profile = told
            .public()
            .map(|public| &public.profile)
            .filter(|profile| !profile.is_empty());
        let code = secret.filter(|_| told.is_redeemable());
        let code = code.map(|secret| AuthorizationCode::derive(scene.id, told.event_id(), secret).expose());
        let numbers = told.public().filter(|public| public.wrong_numbers);
        Self {
            redirect_to: redirect_to(state, told, code.as_ref()),
            scene: scene.id,
            id: told.id(),
            state: told.state(),
            version: told.version(),
            expires_in: match told.state() {
                StateName::Expired => 0,
                _ => whole_seconds(scene.deadline.saturating_duration_since(Instant::now())),
            },
            expires_at: rfc3339(scene.expires_at),
            reason: told
                .reason()
                .map(crate::hub::Reason::as_str)
                .or(numbers.map(|_| "wrong_number")),
            match_number: told.public().and_then(|public| public.match_number),
            profile: profile.map(|profile| ProfileView {
                nickname: profile.nickname.clone(),
                avatar_url: profile
                    .avatar
                    .as_ref()
                    .map(|avatar| avatar_url(state, &scene.id, avatar)),
            }),
            code,
        }
    }
}

/// Where the browser goes with what came of its login.
fn redirect_to(state: &AppState, told: &Told, code: Option<&Zeroizing<String>>) -> Option<Zeroizing<String>> {
    let Return {
        redirect_uri,
        state: own,
    } = told.scene().returns.as_ref()?;
    let said: &[(&str, &str)] = match told.state() {
        StateName::Confirmed => &[("code", code?)],
        StateName::Declined => &[
            ("error", "access_denied"),
            ("error_description", "The person declined on the phone."),
        ],
        StateName::Cancelled => &authorize::GAVE_UP,
        StateName::Waiting | StateName::Scanned | StateName::Expired => return None,
    };
    let issuer = state.public_url.as_str();
    Some(Zeroizing::new(answer(redirect_uri, said, own.as_deref(), issuer)))
}

/// [`avatar_url`], for whoever outlives the request.
pub(super) fn avatar_urls(state: &AppState) -> impl Fn(&SceneId, &Avatar) -> String + Send + Sync + 'static {
    let state = state.clone();
    move |scene, avatar| avatar_url(&state, scene, avatar)
}

/// Where a person's picture can be fetched.
pub(super) fn avatar_url(state: &AppState, scene: &SceneId, avatar: &Avatar) -> String {
    match avatar {
        Avatar::Url(address) => address.clone(),
        Avatar::Uploaded(id) => format!("{}/avatars/{scene}.{id}", state.public_url.as_str()),
    }
}

/// Rounded up, so that a scene with time left never says zero.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, of seconds since the Unix epoch.
pub(super) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}
