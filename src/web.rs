//! What the replies of all listeners have in common, and the pages' files that more than one of them serves.

pub mod embedded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod gzip;
pub mod json;
mod request_id;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn;
use tower_http::set_header::SetResponseHeaderLayer;

pub use request_id::{RequestId, X_REQUEST_ID};

/// Gives every reply its `X-Request-Id`, and `Cache-Control: no-store` unless it has one of its own. The outermost layer.
pub fn mark(router: Router) -> Router {
    let no_store = SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    router.layer(no_store).layer(from_fn(request_id::give))
}
