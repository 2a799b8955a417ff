//! What is at the address that an ordinary QR code holds, for whoever opens it anywhere but by WeChat's scan; and the file by which
//! WeChat's console knows whose address it is.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::assets;
use super::problem::{Code, Problem};
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
    let file = file.ok_or_else(|| Problem::new(Code::NotFound, "There is no such file."))?;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], file.text.clone()).into_response())
}
