//! The page of the simulated phone, and the files it loads.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;

use super::Simulator;
use super::control::Problem;
use crate::web::embedded;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: http://127.0.0.1:* http://localhost:*; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<Simulator> {
    Router::new()
        .route("/simulator/phone", get(page))
        .route("/simulator/assets/phone/{file}", get(phone_file))
        .route("/simulator/assets/shared/{file}", get(shared_file))
}

async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = file("phone/index.html", &headers)?;
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

async fn phone_file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    file(&format!("phone/{name}"), &headers)
}

async fn shared_file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    file(&format!("shared/{name}"), &headers)
}

fn file(path: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such file");
    embedded::file(path, asked).ok_or_else(missing)
}
