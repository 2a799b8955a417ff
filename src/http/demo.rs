//! The built-in demo site: a login page, and the few lines of backend that any site would have.
//!
//! It is a public client. Its PKCE verifier and its state live in a cookie of the browser, so any replica can finish what
//! another began, and a code that another browser got does not work here.

use std::sync::Arc;

use axum::Json as JsonReply;
use axum::extract::State;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::TryFutureExt;
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::AppState;
use super::assets;
use super::browser::check_own_origin;
use super::extract::Json;
use super::load::Work;
use super::problem::{Code, Problem};
use super::scenes::avatar_urls;
use crate::entropy::os_rng;
use crate::login::{ACCESS_TOKEN_LIFE, Claims, Presented, RedeemError, Site, UserinfoError};
use crate::scene::s256;

/// The demo site's session: its access token, as long as that lives.
const SESSION: &str = "scanlogin_demo_session";

/// A login that takes longer than any scene may live is forgotten.
const LOGIN_SECONDS: u64 = 1_200;

/// `GET /`: the demo site's login page, or a line that says what runs here.
///
/// Somebody who types `localhost` is led to the public URL, where the page's cookies and its origin are right.
pub(super) async fn page(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    if state.login.sites().demo().is_none() {
        let words = "scanlogin: scan with WeChat to log in. The sites that use it show the codes.\n";
        return Ok(words.into_response());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| state.public_url.has_other_name(host)) {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        return Ok(Redirect::temporary(&format!("{}{path}", state.public_url.as_str())).into_response());
    }
    assets::page("demo/index.html", &headers)
}

#[derive(Debug, Serialize)]
pub(super) struct ProfileReply {
    profile: Option<Claims>,
    /// So that the page says it before any login begins.
    simulator: bool,
}

impl ProfileReply {
    fn of(state: &AppState, profile: Option<Claims>) -> JsonReply<Self> {
        let simulator = state.login.is_simulated();
        JsonReply(Self { profile, simulator })
    }
}

/// `GET /demo/profile`: who is logged in to the demo site.
pub(super) async fn profile(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<JsonReply<ProfileReply>, Problem> {
    demo_site(&state)?;
    check_own_origin(&state, &headers)?;
    let Some(session) = state.public_url.read_cookie(&headers, SESSION) else {
        return Ok(ProfileReply::of(&state, None));
    };
    let profile = async {
        match state.login.userinfo(&session).await {
            Ok(claims) => Ok(Some(claims)),
            Err(UserinfoError::InvalidToken) => Ok(None),
            Err(UserinfoError::Unavailable(error)) => Err(error),
        }
    };
    let profile = state.load.carry(Work::Scan, profile).await?;
    Ok(ProfileReply::of(&state, profile))
}

#[derive(Debug, Serialize)]
pub(super) struct StartReply {
    client_id: String,
    client_name: String,
    code_challenge: String,
    state: String,
    simulated_phone_url: Option<String>,
}

/// `POST /demo/start`: the demo's backend begins a login of this browser.
pub(super) async fn start(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    let site = demo_site(&state)?;
    check_own_origin(&state, &headers)?;
    let (login, verifier) = (random_text(), random_text());
    let reply = StartReply {
        client_id: site.client.client_id.clone(),
        client_name: site.client.name.clone(),
        code_challenge: s256(&verifier),
        state: login.clone(),
        simulated_phone_url: state.simulated_phone.clone(),
    };
    let cookie = state.public_url.cookie(&login_cookie(&login), verifier, LOGIN_SECONDS);
    let is_of_login = |name: &str| {
        let login = name.strip_prefix(LOGIN_COOKIE);
        login.is_some_and(is_random_text)
    };
    let cookies = std::iter::once(cookie).chain(state.public_url.forgotten(&headers, is_of_login));
    let cookies: Vec<_> = cookies.map(|cookie| (header::SET_COOKIE, cookie.to_string())).collect();
    Ok((AppendHeaders(cookies), JsonReply(reply)).into_response())
}

#[derive(Deserialize)]
pub(super) struct CallbackRequest {
    code: Zeroizing<String>,
    state: String,
}

/// `POST /demo/callback`: the demo's backend redeems the code, if this browser began that login.
pub(super) async fn callback(
    State(state): State<AppState>,
    headers: HeaderMap,
    Json(request): Json<CallbackRequest>,
) -> Result<Response, Problem> {
    let site = demo_site(&state)?;
    check_own_origin(&state, &headers)?;
    let verifier = state
        .public_url
        .read_cookie(&headers, &login_cookie(&request.state))
        .filter(|_| is_random_text(&request.state));
    let verifier = verifier.ok_or_else(|| {
        Problem::invalid("This browser did not begin this login, or began it too long ago. Start again.")
    })?;
    let now = jiff::Timestamp::now().as_second();
    let presented = Presented {
        code: &request.code,
        redirect_uri: None,
        code_verifier: Some(&verifier),
    };
    let redeem = state.login.redeem(site, presented, avatar_urls(&state), now);
    let redeem = redeem.map_err(|error| match error {
        RedeemError::InvalidClient(_) | RedeemError::InvalidGrant(_) => {
            Problem::invalid("The login's code is used or too old. Start again.")
        }
        RedeemError::Unavailable(error) => error.into(),
        RedeemError::Unreplicated => crate::login::Error::Unreplicated.into(),
    });
    let redeemed = state.load.carry(Work::Finish, redeem).await?;
    let session = state
        .public_url
        .cookie(SESSION, redeemed.access_token.to_string(), ACCESS_TOKEN_LIFE.as_secs());
    let forgotten = state.public_url.cookie(&login_cookie(&request.state), String::new(), 0);
    let cookies = AppendHeaders([
        (header::SET_COOKIE, session.to_string()),
        (header::SET_COOKIE, forgotten.to_string()),
    ]);
    Ok((cookies, ProfileReply::of(&state, Some(redeemed.claims))).into_response())
}

/// `POST /demo/logout`
pub(super) async fn logout(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    demo_site(&state)?;
    check_own_origin(&state, &headers)?;
    let forgotten = state.public_url.cookie(SESSION, String::new(), 0);
    Ok((
        StatusCode::NO_CONTENT,
        AppendHeaders([(header::SET_COOKIE, forgotten.to_string())]),
    )
        .into_response())
}

fn demo_site(state: &AppState) -> Result<Arc<Site>, Problem> {
    let demo = state.login.sites().demo();
    demo.ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            "The demo site is there only while no client is configured.",
        )
    })
}

/// What the name of such a login's cookie begins with.
const LOGIN_COOKIE: &str = "scanlogin_demo_";

fn login_cookie(login: &str) -> String {
    format!("{LOGIN_COOKIE}{login}")
}

/// 256 random bits as 43 characters: what RFC 7636 §4.1 advises for a verifier.
fn random_text() -> String {
    let mut bytes = [0; 32];
    os_rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether this looks like one. A session's name does not.
fn is_random_text(text: &str) -> bool {
    let is_of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == 43 && text.bytes().all(is_of_alphabet)
}
