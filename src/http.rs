//! The HTTP contract: routes, layers, and what all handlers stand on. Only here is HTTP spoken.

mod assets;
mod authorize;
mod browser;
mod demo;
mod events;
mod extract;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod language;
mod layers;
mod link;
mod load;
mod oidc;
mod openapi;
pub mod ops;
mod peer;
mod phone;
mod places;
mod problem;
mod reference;
mod scenes;
pub mod serve;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::hub::Hub;
use crate::login::Login;
use crate::telemetry::Metrics;

use problem::Problem;

pub use axum::Router;
pub use browser::PublicUrl;
pub use load::{Load, Memory};
pub use peer::{ForwardedHeader, TrustedProxies};
pub use places::Places;

/// What the handlers stand on. Clones share it.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Parts>);

/// The parts of [`AppState`].
#[derive(Debug)]
pub struct Parts {
    /// The use cases.
    pub login: Login,
    /// This replica's streams.
    pub hub: Hub,
    /// Where browsers reach us.
    pub public_url: PublicUrl,
    /// Whose word on the browser's address counts.
    pub trusted_proxies: TrustedProxies,
    /// Where addresses are, if the operator has a file that says so.
    pub places: Option<Places>,
    /// How much is under way.
    pub load: Load,
    /// Comments on a silent stream come this often.
    pub heartbeat: Duration,
    /// Where this process stands between start and end.
    pub lifecycle: Lifecycle,
    /// Where browsers find the simulated phone, if there is one that they reach.
    pub simulated_phone: Option<String>,
    /// What is counted.
    pub metrics: Metrics,
}

impl AppState {
    /// Shares these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The three moments of an orderly end, in this order.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Not ready any more; everything is still served, with `Connection: close`.
    pub draining: CancellationToken,
    /// Long-polls are answered, streams end; and so does, a little later, whatever else takes long.
    pub ending: CancellationToken,
    /// Idle connections close, nothing new is accepted.
    pub closing: CancellationToken,
}

impl Lifecycle {
    /// Does what may take longer than there is time left: whoever waits for it is told to ask another replica before connections
    /// are cut.
    async fn while_there_is_time<T, E>(&self, doing: impl Future<Output = Result<T, E>>) -> Result<T, Problem>
    where
        Problem: From<E>,
    {
        let over = async {
            self.ending.cancelled().await;
            sleep(DRAIN_SPREAD).await;
        };
        tokio::select! {
            done = doing => Ok(done?),
            () = over => Err(Problem::shutting_down()),
        }
    }
}

/// How long streams take to end, all together, so that their browsers do not come back at once.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(3);

/// A scene's calls, each at the path that stands above its handler.
fn scene_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(scenes::start))
        .routes(routes!(scenes::status, scenes::cancel))
        .routes(routes!(scenes::code_image))
        .routes(routes!(scenes::short_code))
        .routes(routes!(phone::scan))
        .routes(routes!(phone::scan_typed))
        .routes(routes!(phone::confirm))
        .routes(routes!(phone::decline))
        .routes(routes!(phone::upload_avatar))
        .routes(routes!(phone::avatar))
}

fn stream_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(events::stream))
}

fn backend_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(authorize::page, authorize::posted))
        .routes(routes!(oidc::token))
        .routes(routes!(oidc::userinfo, oidc::userinfo_posted))
        .routes(routes!(oidc::discovery))
        .routes(routes!(oidc::jwks))
}

/// The contract, as a document.
#[must_use]
pub fn contract() -> OpenApi {
    openapi::document(scene_routes().merge(stream_routes()).merge(backend_routes()))
}

/// The public listener's routes.
pub fn router(state: AppState, simulator: Option<Router>) -> Router {
    let pages = Router::new()
        .route("/", get(demo::page))
        .route("/demo/profile", get(demo::profile))
        .route("/demo/start", post(demo::start))
        .route("/demo/callback", post(demo::callback))
        .route("/demo/logout", post(demo::logout))
        .route("/assets/{*path}", get(assets::file))
        .route("/web/v1/scan-login.js", get(assets::component))
        .route("/s/{name}", get(link::page))
        .route("/problems", get(problem::page))
        .merge(reference::routes(&state));
    let all = Router::from(scene_routes())
        .merge(Router::from(stream_routes()))
        .merge(Router::from(backend_routes()))
        .merge(pages)
        .with_state(state.clone())
        .merge(simulator.unwrap_or_default());
    layers::wrap(all, state)
}
