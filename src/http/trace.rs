//! Whose trace a request is part of, and the first step of who watches.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::AppState;
use crate::hub::{OpenError, Subscription};
use crate::scene::{BrowserSecret, SceneId};
use crate::telemetry::trace;
use crate::traceparent::{TRACEPARENT, Traceparent};

/// This request's span, or its caller's where nobody records any here. None where there is neither: what the log calls it then means
/// nothing to others, who would take it for a trace that is not to be recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace(pub(super) Option<Traceparent>);

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

/// The scene that a request turned out to be about, whose path names none: for the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct About(pub(super) SceneId);

/// The caller's, if it names one, and one only.
pub(super) fn of_caller(headers: &HeaderMap) -> Option<Traceparent> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    match (given.next(), given.next()) {
        (Some(only), None) => Traceparent::parse(only.to_str().ok()?),
        _ => None,
    }
}

/// Watches a scene. A stream lasts, and is no step; that it began is one.
pub(super) async fn watch(
    state: &AppState,
    scene: SceneId,
    secret: &BrowserSecret,
    ip: IpAddr,
) -> Result<Subscription, OpenError> {
    // Whose trace it is part of, is known only once the record was read.
    let step = trace::begun("watch", Some(&scene.shortened()));
    let subscription = state.hub.subscribe(scene, secret, ip).await?;
    trace::join(&step, subscription.current().scene().traceparent);
    Ok(subscription)
}
