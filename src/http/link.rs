//! What is at the address that an ordinary QR code holds, for whoever opens it anywhere but by WeChat's scan; and the file by which
//! WeChat's console knows whose address it is.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::assets;
use super::problem::Problem;
use crate::scene::SceneId;

/// `GET /s/{name}`: the same for every scene, so that nobody learns here which there are.
pub(super) async fn page(
    State(state): State<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if name.parse::<SceneId>().is_ok() {
        return assets::page("link/index.html", &headers);
    }
    let sites = state.login.sites();
    let mut files = sites
        .programs()
        .values()
        .filter_map(|program| program.mini_program.link_file.as_ref());
    let file = files.find(|file| file.name == name);
    let Some(file) = file else {
        // Cut off on its way, as a rule, and opened by a person. Whole whatever they have of it: a 304 would be no 404.
        let mut page = assets::page("link/unknown.html", &HeaderMap::new())?;
        *page.status_mut() = StatusCode::NOT_FOUND;
        return Ok(page);
    };
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], file.text.clone()).into_response())
}
