//! The contract, to read and to make clients from: `/openapi.json`, and a page of it that needs nothing from elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::Server;
use utoipa_swagger_ui::Config;

use super::problem::{Code, Problem};
use super::{AppState, assets, contract};
use crate::web::gzip::{self, Constant};

/// Swagger UI sets styles by script, which no policy forbids, and brings small pictures in its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Swagger UI's files: its script is megabytes.
static FILES: LazyLock<Mutex<HashMap<String, Arc<Constant>>>> = LazyLock::new(Mutex::default);

/// The document of the service at this public URL, and its page.
pub(super) fn routes(state: &AppState) -> Router<AppState> {
    let mut document = contract();
    document.servers = Some(vec![Server::new(state.public_url.as_str())]);
    let document = serde_json::to_vec(&document).unwrap_or_default();
    let document = Arc::new(Constant::new(document.into()));
    let of_document = async move |asked: HeaderMap| json(&document, &asked);
    let of_file = async |Path(name): Path<String>, asked: HeaderMap| file(&name, &asked);
    Router::new()
        .route("/openapi.json", get(of_document))
        .route("/openapi", get(Redirect::permanent("/openapi/")))
        .route("/openapi/", get(async |asked: HeaderMap| file("index.html", &asked)))
        .route("/openapi/{file}", get(of_file))
}

fn json(document: &Constant, asked: &HeaderMap) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        gzip::VARY,
    ];
    match document.packed(asked) {
        Some(packed) => (headers, [gzip::IS_GZIP], packed).into_response(),
        None => (headers, document.plain()).into_response(),
    }
}

/// A file of the page. The page itself is ours, for Swagger UI's is made for no phone and has the name of that.
fn file(name: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let mut response = match name {
        "index.html" => assets::page("openapi/index.html", asked)?,
        _ => of_swagger_ui(name, asked)?,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    Ok(response)
}

/// One of Swagger UI's, most of which are gzip in the binary already.
fn of_swagger_ui(name: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    // Calls are made with a client's own tools; and whoever reads needs nobody elsewhere to say that the document is valid.
    let config = Config::from("/openapi.json")
        .supported_submit_methods(Vec::<String>::new())
        .validator_url("none")
        .use_base_layout();
    let found = utoipa_swagger_ui::serve(name, Arc::new(config));
    let found = found.map_err(|error| Problem::broken(&format!("the page of the contract is broken: {error}")))?;
    let found = found.ok_or_else(|| Problem::new(Code::NotFound, "There is no such file."))?;
    let bytes = found.bytes;
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let file = files.entry(name.to_owned()).or_insert_with(|| {
        let bytes = Bytes::from(bytes.into_owned());
        let constant = if found.gzpipped {
            Constant::of_packed(bytes)
        } else {
            Constant::new(bytes)
        };
        Arc::new(constant)
    });
    let file = Arc::clone(file);
    drop(files);
    let packed = file.packed(asked);
    let is_gzip = packed.is_some();
    let mut response = packed.unwrap_or_else(|| file.plain()).into_response();
    let headers = response.headers_mut();
    let media_type =
        HeaderValue::try_from(found.content_type).map_err(|_| Problem::broken("a file has no media type"))?;
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.extend([gzip::VARY]);
    if is_gzip {
        headers.extend([gzip::IS_GZIP]);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Ok(response)
}
