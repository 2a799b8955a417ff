//! The contract, to read and to make clients from: `/openapi.json`, and a page of it that needs nothing from elsewhere.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::Server;
use utoipa_swagger_ui::Config;

use super::problem::{Code, Problem};
use super::{AppState, contract};

/// Swagger UI sets styles by script, which no policy forbids, and brings small pictures in its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document of the service at this public URL, and its page.
pub(super) fn routes(state: &AppState) -> Router<AppState> {
    let mut document = contract();
    document.servers = Some(vec![Server::new(state.public_url.as_str())]);
    let document = Arc::new(document);
    Router::new()
        .route("/openapi.json", get(async move || Json(document)))
        .route("/openapi", get(Redirect::permanent("/openapi/")))
        .route("/openapi/", get(async || file("index.html")))
        .route("/openapi/{file}", get(async |Path(name): Path<String>| file(&name)))
}

/// One of Swagger UI's.
fn file(name: &str) -> Result<Response, Problem> {
    // Calls are made with a client's own tools; and whoever reads needs nobody elsewhere to say that the document is valid.
    let config = Config::from("/openapi.json")
        .supported_submit_methods(Vec::<String>::new())
        .validator_url("none")
        .use_base_layout();
    let found = utoipa_swagger_ui::serve(name, Arc::new(config));
    let found = found.map_err(|error| Problem::broken(&format!("the page of the contract is broken: {error}")))?;
    let found = found.ok_or_else(|| Problem::new(Code::NotFound, "There is no such file."))?;
    let mut response = found.bytes.into_response();
    let headers = response.headers_mut();
    let media_type =
        HeaderValue::try_from(found.content_type).map_err(|_| Problem::broken("a file has no media type"))?;
    headers.insert(header::CONTENT_TYPE, media_type);
    if found.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    Ok(response)
}
