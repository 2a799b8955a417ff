//! `/authorize`: where a site sends its people to log in (OpenID Connect Core §3.1.2).
//!
//! What the site asks for is checked here, and once more when the page starts a scene with it.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use utoipa::ToSchema;

use super::AppState;
use super::assets;
use super::extract::{NO_FORM, Whole, is_form};
use super::language::Language;
use super::layers::Cause;
use super::openapi::problems;
use super::problem::{Code, Problem};
use crate::login::{Client, Site};
use crate::oidc::request::Stranger;
use crate::oidc::{AuthorizationRequest, Refusal};
use crate::scene::Authorization;
use crate::web::embedded::filled;

/// What a site asks for in a form (OpenID Connect Core §3.1.2.1): for the document, as it is read as a query is.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the document alone reads it")]
struct AuthorizeRequest {
    client_id: String,
    /// One of the site's, letter for letter.
    redirect_uri: String,
    #[schema(pattern = "^code$")]
    response_type: String,
    /// `openid`, and `profile` if names are wanted.
    #[schema(nullable = false)]
    scope: Option<String>,
    #[schema(nullable = false)]
    state: Option<String>,
    #[schema(nullable = false)]
    nonce: Option<String>,
    /// PKCE (RFC 7636), as `code_challenge_method` says: `S256`.
    #[schema(nullable = false)]
    code_challenge: Option<String>,
    #[schema(nullable = false)]
    code_challenge_method: Option<String>,
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// In seconds.
    #[schema(nullable = false)]
    max_age: Option<String>,
    #[schema(nullable = false)]
    ui_locales: Option<String>,
    #[schema(nullable = false)]
    login_hint: Option<String>,
}

/// Shows the code, and sends the browser back to the site with what comes of it.
#[utoipa::path(get, path = "/authorize", tag = "browser", params(
    ("client_id" = String, Query), ("redirect_uri" = String, Query), ("response_type" = String, Query), ("scope" = Option<String>, Query),
    ("state" = Option<String>, Query), ("nonce" = Option<String>, Query), ("code_challenge" = Option<String>, Query),
    ("code_challenge_method" = Option<String>, Query), ("prompt" = Option<String>, Query), ("max_age" = Option<u64>, Query),
    ("ui_locales" = Option<String>, Query), ("login_hint" = Option<String>, Query),
), responses(
    (status = 200, description = "The page with the code.", content_type = "text/html"),
    (status = 303, description = "Back to the site, with `error`, `error_description`, `state` and `iss`.", headers(("Location" = String))),
    (status = 400, description = "A page: this is no request of a site that is known here.", content_type = "text/html"),
))]
pub(super) async fn page(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    answer(&state, query.unwrap_or_default().as_bytes(), &headers)
}

problems!(PostedProblems: BodyTooLarge UnsupportedMediaType RequestTimeout);

/// The same, of a form (OpenID Connect Core §3.1.2.1).
#[utoipa::path(post, path = "/authorize", tag = "browser",
    request_body(content = AuthorizeRequest, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 200, description = "The page with the code.", content_type = "text/html"),
    (status = 303, description = "Back to the site, with `error`, `error_description`, `state` and `iss`.", headers(("Location" = String))),
    (status = 400, description = "A page: this is no request of a site that is known here.", content_type = "text/html"),
    PostedProblems,
))]
pub(super) async fn posted(
    State(state): State<AppState>,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<Response, Problem> {
    if !is_form(&headers) {
        return Err(Problem::new(Code::UnsupportedMediaType, NO_FORM));
    }
    // The form of a form is that of a query.
    Ok(answer(&state, &body, &headers))
}

fn answer(state: &AppState, query: &[u8], headers: &HeaderMap) -> Response {
    let mut response = answer_of(state, query, headers);
    // A site may have opened this in a window of its own, and wait there for what comes of it.
    let policy = (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("unsafe-none"),
    );
    response.headers_mut().insert(policy.0, policy.1);
    response
}

fn answer_of(state: &AppState, query: &[u8], headers: &HeaderMap) -> Response {
    let request = AuthorizationRequest::read(query);
    match check(state, &request) {
        // Nothing is lost of it: what is no text was refused.
        Ok((site, _)) => code_page(state, &String::from_utf8_lossy(query), &request, &site.client, headers),
        Err(Refusal::Stay(stranger)) => stranger_page(stranger, headers),
        Err(Refusal::Return {
            redirect_to,
            error,
            description,
        }) => {
            let mut response = Redirect::to(&redirect_to).into_response();
            response.extensions_mut().insert(Cause {
                code: error,
                why: Some(description),
                is_failure: false,
            });
            response
        }
    }
}

/// Whose request it is, and what is kept of it.
pub(super) fn check(state: &AppState, request: &AuthorizationRequest) -> Result<(Arc<Site>, Authorization), Refusal> {
    let site = state.login.site(request.client_id()?).map_err(|_| Stranger::Client)?;
    let authorization = request.check(&site.client, state.public_url.as_str())?;
    Ok((site, authorization))
}

fn code_page(
    state: &AppState,
    query: &str,
    request: &AuthorizationRequest,
    client: &Client,
    headers: &HeaderMap,
) -> Response {
    let Client {
        name,
        logo_url,
        origins,
        client_id,
        ..
    } = client;
    let language = Language::preferred(request.ui_locales(), headers);
    let page = filled(
        "authorize/index.html",
        &[
            ("lang", language.tag()),
            ("client_id", client_id),
            ("name", name),
            ("logo_url", logo_url.as_deref().unwrap_or_default()),
            ("request", query),
            ("simulated", if state.login.is_simulated() { "yes" } else { "" }),
            ("simulated_phone", state.simulated_phone.as_deref().unwrap_or_default()),
        ],
    );
    let Some(page) = page else {
        return Problem::broken("the page of /authorize is missing").into_response();
    };
    let mut response = Html(page).into_response();
    let logo = logo_url.as_deref().and_then(|url| url::Url::parse(url).ok());
    let logo = logo.map(|url| url.origin().ascii_serialization());
    assets::protect(&mut response, logo.as_deref(), origins);
    response
}

/// What the site's makers must mend, said to whoever stands before it: nobody is sent anywhere.
fn stranger_page(stranger: Stranger, headers: &HeaderMap) -> Response {
    let (language, words) = (Language::of(headers), stranger.to_string());
    let page = filled("authorize/stranger.html", &[("lang", language.tag()), ("why", &words)]);
    let Some(page) = page else {
        return Problem::broken("the page of refused requests is missing").into_response();
    };
    let mut response = (StatusCode::BAD_REQUEST, Html(page)).into_response();
    assets::protect(&mut response, None, &[]);
    response.extensions_mut().insert(Cause {
        code: "invalid_request",
        why: Some(words),
        is_failure: false,
    });
    response
}
