//! For the site's backend: `/token`, `/userinfo`, discovery and keys. Errors are those of RFC 6749 §5.2 and RFC 6750 §3.1.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::AppState;
use super::extract::{Form, Whole, authorization, is_form};
use super::layers::Cause;
use super::load::{Undone, Work};
use super::peer::Peer;
use super::problem::{Problem, Quota};
use super::scenes::avatar_urls;
use super::trace::About;
use crate::limits::{Limited, Rule, octets};
use crate::login::{
    ACCESS_TOKEN_LIFE, Claims, ClientCredentials, Login, Presented, RedeemError, Redeemed, Site, UserinfoError,
};
use crate::oidc::IdToken;
use crate::telemetry::chain;

/// What a redemption sends (RFC 6749 §4.1.3): for the document, as the form is read by hand.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the document alone reads it")]
struct TokenRequest {
    #[schema(pattern = "^authorization_code$")]
    grant_type: String,
    /// What the page was given.
    #[schema(value_type = String)]
    code: Zeroizing<String>,
    /// As at the start, where that had one.
    #[schema(nullable = false)]
    redirect_uri: Option<String>,
    /// What the code_challenge was made of (RFC 7636).
    #[schema(nullable = false, value_type = Option<String>)]
    code_verifier: Option<Zeroizing<String>>,
    /// For a site that does not prove itself in the header.
    #[schema(nullable = false)]
    client_id: Option<String>,
    #[schema(nullable = false, value_type = Option<String>)]
    client_secret: Option<Zeroizing<String>>,
}

/// Who logged in.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenReply {
    /// For /userinfo.
    #[schema(value_type = String)]
    access_token: Zeroizing<String>,
    #[schema(pattern = "^Bearer$")]
    token_type: &'static str,
    /// Of the access token, in seconds.
    expires_in: u64,
    /// A JWT (OpenID Connect Core §2), signed by a key of /jwks.json.
    id_token: String,
    scope: &'static str,
}

/// What went wrong (RFC 6749 §5.2, RFC 6750 §3.1).
#[derive(Serialize, ToSchema)]
#[schema(as = OauthError)]
struct OauthBody {
    /// The word of the standard.
    error: &'static str,
    /// What to do.
    error_description: String,
}

/// An OAuth error reply.
#[derive(Debug)]
pub(super) struct OauthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// What `WWW-Authenticate` says, with a 401.
    challenge: Option<String>,
    retry: bool,
    quota: Option<Box<Quota>>,
    cause: Option<String>,
}

/// Redeems the authorization code, once.
#[utoipa::path(post, path = "/token", tag = "backend",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 200, description = "Who logged in.", body = TokenReply),
    (status = 400, description = "`invalid_request`, `invalid_grant` or `unsupported_grant_type`.", body = OauthBody),
    (status = 401, description = "`invalid_client`", body = OauthBody, headers(("WWW-Authenticate" = String))),
    (status = 408, description = "`invalid_request`: the body came too slowly.", body = OauthBody),
    (status = 413, description = "`invalid_request`: the body is too large.", body = OauthBody),
    (status = 429, description = "`temporarily_unavailable`: too many redemptions failed.", body = OauthBody, headers(
        ("Retry-After" = u64), ("RateLimit" = String), ("RateLimit-Policy" = String),
    )),
    (status = 503, description = "`temporarily_unavailable`: nothing was given.", body = OauthBody, headers(("Retry-After" = u64))),
), security((), ("client" = [])))]
pub(super) async fn token(
    State(state): State<AppState>,
    peer: Peer,
    headers: HeaderMap,
    body: Result<Whole, Problem>,
) -> Result<(Extension<About>, axum::Json<TokenReply>), OauthError> {
    let Whole(body) = body?;
    let form = Form::parse(&headers, &body).map_err(|why| OauthError::bad("invalid_request", why))?;
    match redeemed(&state, &headers, &form).await {
        Err(error) if error.is_failed_redemption() => {
            // By the client that is guessed at, however its name is written.
            let client_id = claimed_client(&state.login, &headers, &form);
            let guesser = [&octets(peer.ip), client_id.as_bytes()].concat();
            state.login.limits().take(Rule::FailedRedemptions, &guesser).await?;
            Err(error)
        }
        redeemed => redeemed,
    }
}

async fn redeemed(
    state: &AppState,
    headers: &HeaderMap,
    form: &Form,
) -> Result<(Extension<About>, axum::Json<TokenReply>), OauthError> {
    let site = authenticate(&state.login, headers, form)?;
    match form.get("grant_type") {
        Some("authorization_code") => {}
        Some(_) => {
            return Err(OauthError::bad(
                "unsupported_grant_type",
                "Only authorization_code is given here.",
            ));
        }
        None => {
            return Err(OauthError::bad(
                "invalid_request",
                "grant_type is missing: authorization_code.",
            ));
        }
    }
    let code = form
        .get("code")
        .ok_or_else(|| OauthError::bad("invalid_request", "code is missing."))?;

    let now = jiff::Timestamp::now().as_second();
    let presented = Presented {
        code,
        redirect_uri: form.get("redirect_uri"),
        code_verifier: form.get("code_verifier"),
    };
    let redeem = state
        .login
        .redeem(Arc::clone(&site), presented, avatar_urls(state), now);
    let redeemed = state.load.carry(Work::Finish, redeem).await;
    let redeemed = redeemed.map_err(|error| OauthError::from(error).to(&site))?;
    let Redeemed {
        scene,
        access_token,
        claims,
        nonce,
        scope,
    } = redeemed;
    let id_token = IdToken {
        iss: state.public_url.as_str(),
        aud: &site.client.client_id,
        nonce: nonce.as_deref(),
        claims: &claims,
    };
    let id_token = site
        .keys
        .id_token(&id_token, site.client.id_token_alg, now)
        .map_err(|error| OauthError::server(&error))?;
    let reply = TokenReply {
        access_token,
        token_type: "Bearer",
        expires_in: ACCESS_TOKEN_LIFE.as_secs(),
        id_token,
        scope,
    };
    Ok((Extension(About(scene)), axum::Json(reply)))
}

/// Who logged in, for the bearer of the access token.
#[utoipa::path(get, path = "/userinfo", tag = "backend", responses(
    (status = 200, description = "Who logged in.", body = Claims),
    (status = 401, description = "`invalid_token`", body = OauthBody, headers(("WWW-Authenticate" = String))),
    (status = 503, description = "`temporarily_unavailable`", body = OauthBody, headers(("Retry-After" = u64))),
), security(("access_token" = [])))]
pub(super) async fn userinfo(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<axum::Json<Claims>, OauthError> {
    claims(&state, authorization(&headers, "Bearer")).await
}

/// The same, for whoever posts, the token in the header or in a form (OpenID Connect Core §5.3.1, RFC 6750 §2.2).
#[utoipa::path(post, path = "/userinfo", tag = "backend", responses(
    (status = 200, description = "Who logged in.", body = Claims),
    (status = 401, description = "`invalid_token`", body = OauthBody, headers(("WWW-Authenticate" = String))),
    (status = 413, description = "`invalid_request`: the body is too large.", body = OauthBody),
    (status = 503, description = "`temporarily_unavailable`", body = OauthBody, headers(("Retry-After" = u64))),
), security(("access_token" = [])))]
pub(super) async fn userinfo_posted(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Whole, Problem>,
) -> Result<axum::Json<Claims>, OauthError> {
    let Whole(body) = body?;
    let form = is_form(&headers).then(|| Form::parse(&headers, &body)).transpose();
    let form = form.map_err(|why| OauthError::bad("invalid_request", why))?;
    let in_form = form.as_ref().and_then(|form| form.get("access_token"));
    match (authorization(&headers, "Bearer"), in_form) {
        (Some(_), Some(_)) => Err(OauthError::bad(
            "invalid_request",
            "The access_token is there twice: in the header and in the form.",
        )),
        (in_header, in_form) => claims(&state, in_header.or(in_form)).await,
    }
}

async fn claims(state: &AppState, token: Option<&str>) -> Result<axum::Json<Claims>, OauthError> {
    let token = token.ok_or_else(OauthError::no_token)?;
    let claims = state.load.carry(Work::Scan, state.login.userinfo(token)).await?;
    Ok(axum::Json(claims))
}

/// What there is, and where (OpenID Connect Discovery §3).
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "backend", responses(
    (status = 200, description = "OpenID Provider Metadata.", body = Object),
))]
pub(super) async fn discovery(State(state): State<AppState>) -> axum::Json<Value> {
    let issuer = state.public_url.as_str();
    axum::Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks.json"),
        "scopes_supported": ["openid", "profile"],
        "grant_types_supported": ["authorization_code"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "ui_locales_supported": ["zh-CN", "en"],
        "authorization_response_iss_parameter_supported": true,
        // Left out, the first two would be taken for supported.
        "request_uri_parameter_supported": false,
        "request_parameter_supported": false,
        "claims_parameter_supported": false,
        "subject_types_supported": ["public", "pairwise"],
        "id_token_signing_alg_values_supported": state.login.sites().keys().algorithms(),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": ["iss", "aud", "exp", "iat", "auth_time", "nonce", "sub", "amr",
            "wechat_openid", "wechat_unionid", "wechat_appid", "nickname", "picture"],
    }))
}

/// The keys that sign id_tokens (RFC 7517 §5).
#[utoipa::path(get, path = "/jwks.json", tag = "backend", responses(
    (status = 200, description = "The public keys.", body = Object, content_type = "application/jwk-set+json"),
))]
pub(super) async fn jwks(State(state): State<AppState>) -> Response {
    (
        [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/jwk-set+json"),
            ),
            // Short, so that a key published a day ahead is known everywhere before it signs.
            (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300")),
        ],
        state.login.sites().keys().public_set().to_string(),
    )
        .into_response()
}

/// A client's name and its secret.
type Basic = (String, Zeroizing<String>);

/// The client that the request proves.
fn authenticate(login: &Login, headers: &HeaderMap, form: &Form) -> Result<Arc<Site>, OauthError> {
    let proven = |basic: Option<&Basic>| Ok(login.authenticate(&credentials(basic, form)?)?);
    let Some((id, secret)) = basic_credentials(headers)? else {
        return proven(None);
    };
    let encoded = (form_decoded(&id), Zeroizing::new(form_decoded(&secret)));
    // RFC 6749 §2.3.1 has both form-encoded first. Many clients leave that out, which shows when a secret is of base64.
    proven(Some(&encoded)).or_else(|error| proven(Some(&(id, secret))).map_err(|_| error))
}

/// The client that the request says it is of. What is none is counted like one, so that a limit tells nobody which there are.
fn claimed_client(login: &Login, headers: &HeaderMap, form: &Form) -> String {
    let sites = login.sites();
    match basic_credentials(headers).ok().flatten() {
        Some((id, _)) => {
            let decoded = form_decoded(&id);
            let is_written_plainly = sites.get(&decoded).is_none() && sites.get(&id).is_some();
            if is_written_plainly { id } else { decoded }
        }
        None => form.get("client_id").unwrap_or_default().to_owned(),
    }
}

/// The client and its secret in `Authorization: Basic`, as they are there.
pub(super) fn basic_credentials(headers: &HeaderMap) -> Result<Option<Basic>, OauthError> {
    let Some(value) = authorization(headers, "Basic") else {
        return Ok(None);
    };
    let decoded = STANDARD
        .decode(value)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Zeroizing::new);
    let pair = decoded.as_ref().and_then(|text| text.split_once(':'));
    let (id, secret) = pair.ok_or_else(|| {
        OauthError::invalid_client("Authorization: Basic is not base64 of a name, a colon and a secret")
    })?;
    Ok(Some((id.to_owned(), Zeroizing::new(secret.to_owned()))))
}

pub(super) fn form_decoded(text: &str) -> String {
    let spaced = Zeroizing::new(text.replace('+', " "));
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// One way of proving oneself at a time (RFC 6749 §2.3).
fn credentials<'a>(basic: Option<&'a Basic>, form: &'a Form) -> Result<ClientCredentials<'a>, OauthError> {
    match (basic, form.get("client_id"), form.get("client_secret")) {
        (Some(_), _, Some(_)) => Err(OauthError::bad(
            "invalid_request",
            "The client proves itself twice: in the header and in the form.",
        )),
        (Some((client_id, _)), Some(other), None) if client_id != other => Err(OauthError::bad(
            "invalid_request",
            "The header and the form name different clients.",
        )),
        (Some((client_id, client_secret)), _, None) => Ok(ClientCredentials::Secret {
            client_id,
            client_secret,
        }),
        (None, Some(client_id), Some(client_secret)) => Ok(ClientCredentials::Secret {
            client_id,
            client_secret,
        }),
        (None, Some(client_id), None) => Ok(ClientCredentials::None { client_id }),
        (None, None, _) => Err(OauthError::invalid_client("no client_id was sent")),
    }
}

impl OauthError {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self {
            status,
            error,
            description: description.into(),
            challenge: None,
            retry: false,
            quota: None,
            cause: None,
        }
    }

    fn bad(error: &'static str, description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, description)
    }

    fn invalid_client(cause: impl Into<String>) -> Self {
        let words = "The client is unknown, or did not prove itself with its secret.";
        Self {
            challenge: Some("Basic realm=\"scanlogin\"".to_owned()),
            cause: Some(cause.into()),
            ..Self::new(StatusCode::UNAUTHORIZED, "invalid_client", words)
        }
    }

    /// To whom, for the log.
    fn to(self, site: &Site) -> Self {
        let client_id = &site.client.client_id;
        let cause = self.cause.map(|cause| format!("client {client_id}: {cause}"));
        Self { cause, ..self }
    }

    /// Whether it may have been a guess: whatever else is wrong too, as another answer past the limit would tell which guess was right.
    fn is_failed_redemption(&self) -> bool {
        self.status.is_client_error()
    }

    fn no_token() -> Self {
        let words = "Send the access_token as Authorization: Bearer.";
        Self {
            challenge: Some("Bearer".to_owned()),
            ..Self::new(StatusCode::UNAUTHORIZED, "invalid_token", words)
        }
    }

    fn unavailable(cause: &dyn std::error::Error) -> Self {
        let words = "Nothing was given. Try again; if that is invalid_grant, the person scans again.";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", words);
        Self {
            retry: true,
            cause: Some(chain(cause)),
            ..error
        }
    }

    fn server(cause: &dyn std::error::Error) -> Self {
        let error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "Something is broken on our side.",
        );
        Self {
            cause: Some(chain(cause)),
            ..error
        }
    }
}

/// What is wrong with a request as such, in the form that OAuth clients read.
impl From<Problem> for OauthError {
    fn from(problem: Problem) -> Self {
        Self::new(problem.status(), "invalid_request", problem.detail())
    }
}

impl<E: Into<Self>> From<Undone<E>> for OauthError {
    fn from(undone: Undone<E>) -> Self {
        match undone {
            Undone::Overloaded(error) => Self::unavailable(&error),
            Undone::Failed(error) => error.into(),
        }
    }
}

impl From<RedeemError> for OauthError {
    fn from(error: RedeemError) -> Self {
        match &error {
            RedeemError::InvalidClient(_) => Self::invalid_client(chain(&error)),
            RedeemError::InvalidGrant(_) => Self {
                cause: Some(chain(&error)),
                ..Self::bad(
                    "invalid_grant",
                    "The code is unknown, used, too old, or not for this client and request.",
                )
            },
            RedeemError::Unavailable(_) | RedeemError::Unreplicated => Self::unavailable(&error),
        }
    }
}

/// The words are of RFC 6749 §4.1.2.1; it has none of its own for this.
impl From<Limited> for OauthError {
    fn from(limited: Limited) -> Self {
        let words = "Too many redemptions of this client failed from this address. A right one still succeeds.";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable", words);
        Self {
            quota: Some(Box::new(Quota::from(&limited))),
            cause: Some(chain(&limited)),
            ..error
        }
    }
}

impl From<UserinfoError> for OauthError {
    fn from(error: UserinfoError) -> Self {
        match &error {
            UserinfoError::InvalidToken => {
                let words = "The access token is unknown, too old or revoked.";
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{words}\"");
                Self {
                    challenge: Some(challenge),
                    ..Self::new(StatusCode::UNAUTHORIZED, "invalid_token", words)
                }
            }
            UserinfoError::Unavailable(_) => Self {
                description: "The service can't reach its store. Try again.".to_owned(),
                ..Self::unavailable(&error)
            },
        }
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let body = OauthBody {
            error: self.error,
            error_description: self.description,
        };
        let mut response = (self.status, axum::Json(&body)).into_response();
        let headers = response.headers_mut();
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(quota) = &self.quota {
            quota.tell(headers);
        }
        response.extensions_mut().insert(Cause {
            code: self.error,
            why: Some(self.cause.unwrap_or(body.error_description)),
            is_failure: self.status.is_server_error(),
        });
        response
    }
}
