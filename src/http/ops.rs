//! The second listener, for operators: probes and metrics. Never merged with the public one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::layers::{method_not_allowed, word};
use super::problem::{Code, Problem};
use super::{Lifecycle, PublicUrl};
use crate::login::Login;
use crate::store::Store;
use crate::telemetry::{Metrics, chain};
use crate::web;

/// How long the store may take to answer a probe. Whoever probes waits a second, and often no longer.
const PROBE: Duration = Duration::from_millis(300);

/// What the probes look at.
#[derive(Clone)]
pub struct OpsState {
    /// Asked whether it answers.
    pub store: Arc<dyn Store>,
    /// For asking it to the end when the probe does not wait for that.
    pub tasks: TaskTracker,
    /// Asked whether WeChat gives it what it needs.
    pub login: Login,
    /// Whether everything needed at start was there once.
    pub started: Arc<AtomicBool>,
    /// Where browsers reach us: problems are explained there.
    pub public_url: PublicUrl,
    /// Whether this process is on its way out.
    pub lifecycle: Lifecycle,
    /// What is served at `/metrics`.
    pub metrics: Metrics,
}

impl std::fmt::Debug for OpsState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpsState")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// The ops listener's routes.
pub fn router(state: OpsState) -> Router {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || Problem::new(Code::NotFound, "Here are /livez, /readyz and /metrics."))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.public_url.clone(), word))
        .with_state(state);
    web::mark(router)
}

/// Whether the runtime's loop turns: it does when this is answered.
async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    checks: Checks,
}

#[derive(Debug, Serialize)]
struct Checks {
    store: Check,
    wechat: Check,
}

#[derive(Debug, Serialize)]
struct Check {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Check {
    fn of(trouble: Option<String>) -> Self {
        Self {
            status: if trouble.is_some() { "degraded" } else { "ok" },
            detail: trouble,
        }
    }
}

/// Whether to route to this process. A store that is away for all replicas degrades them, but takes none out.
async fn readyz(State(state): State<OpsState>) -> Response {
    let store = Check::of(store_trouble(&state).await);
    let wechat = state
        .login
        .wechat_trouble()
        .map(|(appid, error)| format!("{appid}: {}", chain(&error)));
    let wechat = Check::of(wechat);
    let status = if state.lifecycle.draining.is_cancelled() {
        "draining"
    } else if state.started.load(Ordering::Acquire) {
        "ready"
    } else {
        "starting"
    };
    let code = if status == "ready" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        axum::Json(Readiness {
            status,
            checks: Checks { store, wechat },
        }),
    )
        .into_response()
}

/// What of the store does not go well. Asked to the end all the same: that is how it finds out that a connection hangs.
async fn store_trouble(state: &OpsState) -> Option<String> {
    let store = Arc::clone(&state.store);
    let asked = state.tasks.spawn(async move { store.ready().await });
    let silence = match timeout(PROBE, asked).await {
        Ok(Ok(answer)) => answer.err().map(|error| error.to_string()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".to_owned()),
    };
    // It says more than that a connection is closed, and tells also of what answers and does nothing.
    state.store.trouble().or(silence)
}

async fn metrics(State(state): State<OpsState>) -> Response {
    match state.metrics.render() {
        Ok(text) => {
            let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, media_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
