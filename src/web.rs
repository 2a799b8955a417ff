//! What the replies of all listeners have in common, and the pages' files that more than one of them serves.

pub mod embedded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod gzip;
pub mod json;
mod request_id;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;

pub use request_id::{RequestId, X_REQUEST_ID};

/// Gives every reply its `X-Request-Id`, and `Cache-Control: no-store` unless it has one of its own. The outermost layer.
pub fn mark(router: Router) -> Router {
    router.layer(from_fn(marked))
}

async fn marked(mut request: Request, next: Next) -> Response {
    let id = RequestId::give(&mut request);
    let mut response = next.run(request).await;
    id.mark(&mut response);
    response
}
