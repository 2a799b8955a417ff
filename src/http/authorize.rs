//! `/authorize`: where a site sends its people to log in (OpenID Connect Core §3.1.2).
//!
//! What the site asks for is checked here, and once more when the page starts a scene with it.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{RefOr, Required};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::AppState;
use super::assets;
use super::extract::{NO_FORM, Whole, is_form};
use super::language::Language;
use super::layers::Cause;
use super::openapi::problems;
use super::problem::{Code, Problem};
use crate::login::{Client, Site};
use crate::oidc::request::{self, Stranger};
use crate::oidc::{AuthorizationRequest, Refusal};
use crate::scene::Authorization;
use crate::web::embedded::filled;

/// What a site asks for, in a query or a form (OpenID Connect Core §3.1.2.1).
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone: AuthorizationRequest is what is read")]
struct AuthorizeRequest {
    client_id: String,
    /// One of the site's, letter for letter.
    redirect_uri: String,
    #[schema(pattern = "^code$")]
    response_type: String,
    /// `openid`, and `profile` if names are wanted.
    #[schema(nullable = false)]
    scope: Option<String>,
    /// Comes back as it is.
    #[schema(nullable = false)]
    state: Option<String>,
    /// Stands in the id_token.
    #[schema(nullable = false)]
    nonce: Option<String>,
    /// PKCE (RFC 7636), as `code_challenge_method` says: `S256`.
    #[schema(nullable = false)]
    code_challenge: Option<String>,
    #[schema(nullable = false)]
    code_challenge_method: Option<String>,
    /// `none` is answered `login_required`; any other login is one that is asked for.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// In seconds. Any holds: each login is scanned anew.
    #[schema(nullable = false)]
    max_age: Option<u64>,
    /// The languages to speak, the dearest first: `zh` and `en` are spoken. Without either, Accept-Language decides: English for whoever
    /// names other languages only, Chinese for whoever names none.
    #[schema(nullable = false)]
    ui_locales: Option<String>,
    #[schema(nullable = false)]
    login_hint: Option<String>,
}

/// Each field is a parameter of the query.
impl IntoParams for AuthorizeRequest {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let RefOr::T(Schema::Object(fields)) = Self::schema() else {
            return Vec::new();
        };
        let Object {
            properties, required, ..
        } = fields;
        let parameter = |(name, schema): (String, RefOr<Schema>)| {
            let is_required = if required.contains(&name) {
                Required::True
            } else {
                Required::False
            };
            let parameter = Parameter::builder().parameter_in(ParameterIn::Query);
            parameter.name(name).required(is_required).schema(Some(schema)).build()
        };
        properties.into_iter().map(parameter).collect()
    }
}

/// Shows the code, and sends the browser back to the site with what comes of it.
#[utoipa::path(get, path = "/authorize", tag = "browser", params(AuthorizeRequest), responses(
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
    let language = Language::preferred(request.ui_locales(), headers);
    match check(state, &request) {
        Ok((site, authorization)) => {
            // Nothing is lost of what counts: that was refused where it is no text.
            let query = String::from_utf8_lossy(query);
            code_page(state, &query, language, &site.client, &authorization)
        }
        Err(Refusal::Stay(stranger)) => {
            // Then it is known whose it is.
            let sent = request.redirect_uri().filter(|_| stranger == Stranger::RedirectUri);
            let words = match (request.client_id(), sent) {
                (Ok(client_id), Some(sent)) => format!("client {client_id}: {stranger}: {:?}", loggable(sent)),
                _ => stranger.to_string(),
            };
            stranger_page(stranger, words, language)
        }
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
    language: Language,
    client: &Client,
    authorization: &Authorization,
) -> Response {
    let Client {
        name,
        logo_url,
        origins,
        client_id,
        ..
    } = client;
    let page = filled(
        "authorize/index.html",
        &[
            ("lang", language.tag()),
            ("client_id", client_id),
            ("name", name),
            ("logo_url", logo_url.as_deref().unwrap_or_default()),
            ("request", query),
            ("leave", &gave_up(state, authorization)),
            ("leave_words", LEAVE.in_language(language)),
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

/// Where the browser goes if the person gives up while no scene is waiting which they could end.
fn gave_up(state: &AppState, authorization: &Authorization) -> String {
    let Authorization {
        redirect_uri,
        state: own,
        ..
    } = authorization;
    let redirect_uri = redirect_uri.as_deref().unwrap_or_default();
    request::answer(redirect_uri, &GAVE_UP, own.as_deref(), state.public_url.as_str())
}

/// What the site is told of whoever gives up.
pub(super) const GAVE_UP: [(&str, &str); 2] =
    [("error", "access_denied"), ("error_description", "The person gave up.")];

/// What the site's makers must mend, said to whoever stands before it: nobody is sent anywhere.
fn stranger_page(stranger: Stranger, words: String, language: Language) -> Response {
    let page = filled(
        "authorize/stranger.html",
        &[
            ("lang", language.tag()),
            ("title", NO_LOGIN.in_language(language)),
            ("text", NOT_AS_AGREED.in_language(language)),
            ("why", why(stranger).in_language(language)),
        ],
    );
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

/// So much of a refused address stands in the log, in characters.
const LOGGED: usize = 200;

/// An address without what may be secret in it: a user, and what comes behind the path, whatever it was encoded as.
fn loggable(address: &str) -> String {
    let lower = address.to_ascii_lowercase();
    let ends = ["?", "#", ";", "%3f", "%23", "%3b", "%253f", "%2523"];
    let end = ends.iter().filter_map(|end| Some((lower.find(end)?, *end))).min();
    let (bare, cut) = match end {
        // What it was that is not listed there is seen all the same.
        Some((at, end)) => (address.get(..at).unwrap_or_default(), format!("{end}…")),
        None => (address, String::new()),
    };
    let whole = match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            format!("{scheme}://{}{path}", without_user(host, "@"))
        }
        None => without_user(&without_user(bare, "@"), "%40"),
    };
    whole.chars().take(LOGGED).collect::<String>() + &cut
}

fn without_user(host: &str, at: &str) -> String {
    host.rsplit_once(at)
        .map_or_else(|| host.to_owned(), |(_, host)| format!("…{at}{host}"))
}

/// The same in both languages.
struct Words {
    zh: &'static str,
    en: &'static str,
}

impl Words {
    fn in_language(&self, language: Language) -> &'static str {
        match language {
            Language::Chinese => self.zh,
            Language::English => self.en,
        }
    }
}

const LEAVE: Words = Words {
    zh: "取消并返回网站",
    en: "Cancel and go back to the site",
};
const NO_LOGIN: Words = Words {
    zh: "无法登录",
    en: "This login can't begin",
};
const NOT_AS_AGREED: Words = Words {
    zh: "把你带到这里的网站没有按约定发起登录，因此这里不会把你带往任何地方。请回到该网站再试一次；如果仍然如此，请把下面的原因告诉网站的管理者：",
    en: "The site that brought you here did not ask for it as agreed, so you are sent nowhere. Go back to the site and try again. If it happens again, tell whoever runs it:",
};

/// What [`Stranger`] says to the log, in both languages.
fn why(stranger: Stranger) -> Words {
    match stranger {
        Stranger::Client => Words {
            zh: "client_id 缺失，或不是在这里登记过的网站",
            en: "client_id is missing, or not one of a site that is set up here",
        },
        Stranger::NoRedirectUri => Words {
            zh: "缺少 redirect_uri",
            en: "redirect_uri is missing",
        },
        Stranger::RedirectUri => Words {
            zh: "redirect_uri 与网站登记的地址都不是逐字符相同",
            en: "redirect_uri is none of those that the site listed, character by character",
        },
        Stranger::Twice => Words {
            zh: "client_id 或 redirect_uri 出现了不止一次",
            en: "client_id or redirect_uri is there more than once",
        },
    }
}
