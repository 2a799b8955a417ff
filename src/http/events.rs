//! The event stream: a snapshot, then each newer state, until a final one (Server-Sent Events, WHATWG HTML §9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use super::browser::browser_secret;
use super::extract::SceneOf;
use super::layers::Cause;
use super::load::{Overloaded, Undone, Work};
use super::openapi::problems;
use super::peer::Peer;
use super::problem::Problem;
use super::scenes::{View, missed, unproven};
use super::serve::Lasts;
use super::trace::watch;
use super::{AppState, DRAIN_SPREAD};
use crate::entropy::between;
use crate::hub::{Change, OpenError, Subscription};
use crate::scene::{BrowserSecret, SceneId};
use crate::web::RequestId;

/// When a browser whose stream broke comes again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// The same when a whole replica's browsers are sent away.
const RETRY_ON_DRAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// In the place of an event's id: this stream made room for newer ones of the same browser, and shall not come back.
const REPLACED: &str = "replaced.";

problems!(StreamProblems: BrowserSecretRequired OriginNotAllowed UnknownClient UnknownScene RateLimited StoreUnavailable
    ShuttingDown);

/// The stream: the state as it is, then each newer one, until a final one.
///
/// `event:` is the state, `id:` the event's id, `data:` one line of JSON, the `SceneState` that GET /scenes/{scene} gives too. \
/// What passes, such as a limit or a store that is away, is told to whoever accepts `text/event-stream` by a stream of one event \
/// `unavailable` whose data is the `Problem`, as an EventSource never tries again after anything but a 200.
#[utoipa::path(get, path = "/events/{scene}", tag = "page", params(
    ("scene" = SceneId, Path),
    ("Last-Event-ID" = Option<String>, Header, description = "The id of the event that is known."),
), responses(
    (status = 200, description = "The events.", content(("text/event-stream"))),
    (status = 204, description = "The final event is known: do not come back."),
    StreamProblems,
), security(("browser_secret" = []), ("browser_cookie" = [])))]
pub(super) async fn stream(
    State(state): State<AppState>,
    peer: Peer,
    SceneOf(scene): SceneOf,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let opened = match state.load.carry(Work::Watch, open(&state, peer, scene, &headers)).await {
        Err(Undone::Overloaded(full)) => catch_up(&state, &scene, &headers, full).await,
        opened => opened.map_err(Problem::from),
    };
    Ok(match opened? {
        Opened::Stream(following) => reply(&state, follow(following)),
        Opened::News(event) => reply(&state, stream::iter([Ok(event)])),
        Opened::Over => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Whether it asks for a stream of events, as an EventSource does.
pub(super) fn hears_events(request: &Request) -> bool {
    request.uri().path().starts_with("/events/") && wants_events(request.headers())
}

/// Tells what passes to an EventSource, which never tries again after anything but a 200, by a stream of that and nothing else.
pub(super) fn in_events(state: &AppState, id: &RequestId, response: Response) -> Response {
    let problem = response.extensions().get::<Problem>();
    let Some(problem) = problem.filter(|problem| problem.is_passing()) else {
        return response;
    };
    let events = stream::iter([Ok(unavailable(state, problem, &id.0))]);
    let mut told = reply(state, events);
    problem.tell_limit(told.headers_mut());
    // The status is that of a stream; the log knows better.
    told.extensions_mut().insert(Cause::from(problem));
    told
}

enum Opened {
    Stream(Box<Following>),
    /// Nothing but this.
    News(Event),
    /// The browser has the final event already.
    Over,
}

async fn open(state: &AppState, peer: Peer, scene: SceneId, headers: &HeaderMap) -> Result<Opened, Problem> {
    let secret = browser_secret(state, headers, &scene).await?;
    let Some(secret) = secret else {
        return Err(unproven(state, &scene).await);
    };
    if state.lifecycle.ending.is_cancelled() {
        return Err(Problem::shutting_down());
    }
    let last = last_event_id(headers);
    if last.is_some_and(|last| last.starts_with(REPLACED)) {
        // Not by subscribing, which would take the place of yet another stream.
        state.login.of_browser(&scene, Some(&secret)).await?;
        return Ok(Opened::Over);
    }
    let subscription = watch(state, scene, &secret, peer.ip).await.map_err(|error| {
        if matches!(error, OpenError::Full | OpenError::AddressFull(_)) {
            state.metrics.streams_closed_total.with_label_values(&["refused"]).inc();
        }
        Problem::from(error)
    })?;
    let current = subscription.current();
    let has_current = last.is_some_and(|last| last == current.id());
    if has_current && current.state().is_final() {
        return Ok(Opened::Over);
    }
    let next = if has_current { Next::Retry } else { Next::Snapshot };
    let ended = Ended {
        state: state.clone(),
        reason: "client",
    };
    Ok(Opened::Stream(Box::new(Following {
        state: state.clone(),
        subscription,
        secret,
        next,
        leaves_at: None,
        ended,
    })))
}

/// What there is no room to watch may still be told: a browser that comes back hears what it missed and comes again.
async fn catch_up(state: &AppState, scene: &SceneId, headers: &HeaderMap, full: Overloaded) -> Result<Opened, Problem> {
    let Some(last) = last_event_id(headers) else {
        return Err(full.into());
    };
    let view = missed(state, scene, headers, last, full).await?;
    if view.id == last || last.starts_with(REPLACED) {
        return Ok(Opened::Over);
    }
    Ok(Opened::News(telling(retrying(RETRY), &view)))
}

pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}

/// One stream under way. Dropping it leaves the scene's topic.
struct Following {
    state: AppState,
    subscription: Subscription,
    secret: BrowserSecret,
    next: Next,
    /// Set once this replica ends. What is told until then does not put it off.
    leaves_at: Option<Instant>,
    ended: Ended,
}

#[derive(Clone, Copy)]
enum Next {
    Snapshot,
    Retry,
    Change,
    End,
}

/// Counts how a stream ended, whoever ended it.
struct Ended {
    state: AppState,
    reason: &'static str,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.state
            .metrics
            .streams_closed_total
            .with_label_values(&[self.reason])
            .inc();
    }
}

fn follow(following: Box<Following>) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(event), following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        match std::mem::replace(&mut self.next, Next::Change) {
            Next::Snapshot => Some(self.told(retrying(RETRY))),
            Next::Retry => Some(retrying(RETRY)),
            Next::Change => self.change().await,
            Next::End => None,
        }
    }

    async fn change(&mut self) -> Option<Event> {
        let Self {
            state,
            subscription,
            leaves_at,
            ..
        } = self;
        let leave = async {
            state.lifecycle.ending.cancelled().await;
            let at = *leaves_at.get_or_insert_with(|| Instant::now() + between(Duration::ZERO, DRAIN_SPREAD));
            sleep_until(at).await;
        };
        tokio::select! {
            // Whoever is sent away takes all that is known along.
            biased;
            change = subscription.changed() => match change {
                Change::Told => Some(self.told(Event::default())),
                Change::Replaced => {
                    self.end("replaced");
                    Some(Event::default().id(format!("{REPLACED}{}", self.subscription.current().id())))
                }
            },
            () = leave => {
                self.end("drain");
                Some(retrying(RETRY_ON_DRAIN))
            }
        }
    }

    fn told(&mut self, event: Event) -> Event {
        let told = self.subscription.current();
        let view = View::new(&self.state, told, Some(&self.secret));
        if view.state.is_final() {
            self.end("final");
        }
        telling(event, &view)
    }

    fn end(&mut self, reason: &'static str) {
        self.next = Next::End;
        self.ended.reason = reason;
    }
}

fn retrying((least, most): (Duration, Duration)) -> Event {
    Event::default().retry(between(least, most))
}

fn telling(event: Event, view: &View) -> Event {
    json(event.event(view.state.as_str()).id(&view.id), view)
}

/// Whoever met a limit comes again no sooner than it says, and not all at once.
fn unavailable(state: &AppState, problem: &Problem, request_id: &str) -> Event {
    let (least, most) = RETRY;
    let wait = problem.limited_for().unwrap_or_default();
    json(
        retrying((least.max(wait), most + wait)).event("unavailable"),
        &problem.body(state.public_url.as_str(), request_id),
    )
}

/// What we serialize has string keys and no failing parts; should it fail all the same, the event is only its name.
fn json(event: Event, data: &impl serde::Serialize) -> Event {
    event.data(serde_json::to_string(data).unwrap_or_default())
}

pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/event-stream"))
    })
}

fn reply(state: &AppState, events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let headers = [
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store, no-transform"),
        ),
        // nginx holds a stream back otherwise, for seconds.
        (
            header::HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (
        Extension(Lasts),
        headers,
        Sse::new(events).keep_alive(KeepAlive::new().interval(state.heartbeat)),
    )
        .into_response()
}
