//! What surrounds every handler: request ids, one log line each, the words of problems, headers, limits, panics.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{Instrument, Span};

use super::events;
use super::oidc::OauthError;
use super::peer::Peer;
use super::phone::AVATAR_BYTES;
use super::problem::{Code, Problem};
use super::trace::{self, About, Trace};
use super::{AppState, PublicUrl};
use crate::limits::{Rule, octets};
use crate::telemetry::{self, Metrics};
use crate::traceparent::{TRACEPARENT, TraceId, Traceparent};
use crate::web::{RequestId, X_REQUEST_ID};

/// The largest body any call but the avatar's takes.
const BODY_BYTES: usize = 16 * 1024;

/// How much of a refused body is read over, and for how long.
const DISCARD_BYTES: usize = 256 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The methods that are counted each by its name. Any other word may be a caller's invention, of which there is no end.
const COUNTED_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
];

/// What nobody may put into an address, where proxies and browsers keep it: it is not taken from there either.
const SECRETS: [&str; 9] = [
    "access_token",
    "browser_secret",
    "client_secret",
    "code",
    "code_verifier",
    "confirm_token",
    "id_token",
    "session_key",
    "short_code",
];

/// Why a reply is an error: for the log.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    pub(super) code: &'static str,
    pub(super) why: Option<String>,
    /// Whether an operator should look, whatever the status is: a stream that can't be is told so with a 200.
    pub(super) is_failure: bool,
}

impl From<&Problem> for Cause {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code().as_str(),
            why: problem.cause().map(ToOwned::to_owned),
            is_failure: problem.status().is_server_error() || problem.code() == Code::WechatQuota,
        }
    }
}

/// Pages of listed sites may call, with credentials; nobody else's page learns anything.
fn cors(is_listed: impl Fn(&str, &Parts) -> bool + Clone + Send + Sync + 'static) -> CorsLayer {
    let listed =
        move |origin: &HeaderValue, parts: &Parts| origin.to_str().is_ok_and(|origin| is_listed(origin, parts));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(listed))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            // Pages that are traced send these with every call; without leave to, none of them would get through.
            HeaderName::from_static(TRACEPARENT),
            HeaderName::from_static("tracestate"),
        ])
        .expose_headers([header::LOCATION, header::RETRY_AFTER, X_REQUEST_ID])
        .max_age(Duration::from_mins(10))
}

/// An origin that was refused is named again this much later.
const STRANGER_AGAIN: Duration = Duration::from_mins(10);
/// So many origins are named within that time, and no more: a caller can make up any number.
const STRANGERS_MAX: usize = 32;
/// The longest origin that is named, in bytes: a host has at most 253.
const STRANGER_LEN: usize = 280;

/// Origins that no client lists: a browser tells their pages nothing but that it was refused, so the log says what to do.
#[derive(Debug, Default)]
struct Strangers(Mutex<HashMap<String, Instant>>);

impl Strangers {
    /// `host` is where the request went.
    fn warn_of(&self, origin: &str, host: Option<&str>) {
        // As browsers write them: nothing else is worth a line, whoever sends it.
        let is_origin = || PublicUrl::parse(origin).is_ok_and(|read| read.as_str() == origin);
        if origin.len() > STRANGER_LEN || !is_origin() || !self.is_due(origin, Instant::now()) {
            return;
        }
        if origin.split_once("://").map(|(_, host)| host) == host {
            tracing::warn!(
                origin,
                "a page of this service called that was opened at another address than SCANLOGIN_PUBLIC_URL; if people come by this \
                 one, that setting must say so"
            );
            return;
        }
        tracing::warn!(
            origin,
            "a page of an origin that is in no client's origins called, and its browser kept the answer from it; if the page is of one \
             of your sites, add this to that client's origins (or to SCANLOGIN_CLIENT_ORIGINS)"
        );
    }

    /// Whether it was not named lately, and there is room.
    fn is_due(&self, origin: &str, now: Instant) -> bool {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, at| now.duration_since(*at) < STRANGER_AGAIN);
        if named.contains_key(origin) || named.len() >= STRANGERS_MAX {
            return false;
        }
        named.insert(origin.to_owned(), now);
        true
    }
}

/// The layers, the outermost last.
pub(super) fn wrap(router: Router, state: AppState) -> Router {
    let sites = state.clone();
    let strangers = Arc::new(Strangers::default());
    let cors = cors(move |origin, parts| {
        let is_listed = sites.login.sites().list_origin(origin);
        let wants_in = parts.method == Method::OPTIONS || parts.uri.path() == "/scenes";
        if !is_listed && wants_in && origin != sites.public_url.as_str() {
            let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
            strangers.warn_of(origin, host);
        }
        // People are sent there, and no page calls (RFC 9700 §2.6).
        is_listed && parts.uri.path() != "/authorize"
    });
    let router = router
        .fallback(|| async { Problem::new(Code::NotFound, "Nothing is at this address.") })
        .method_not_allowed_fallback(method_not_allowed);
    // All in one, as a router copies for each request what is within each of its own.
    router.layer((
        from_fn_with_state(state.clone(), surround),
        guard(cors),
        from_fn_with_state(state, limit),
    ))
}

type AfterPanic = fn(Box<dyn Any + Send>) -> Response;

/// What breaks: within the CORS layer, so that a listed site's page can read of it too.
fn guard(cors: CorsLayer) -> (CorsLayer, CatchPanicLayer<AfterPanic>) {
    (cors, CatchPanicLayer::custom(panicked))
}

/// What an answer says of itself unless it says something else.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Names a request, watches over it, and says of its answer what is true of every answer.
async fn surround(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::give(&mut request);
    tell_preflights(&mut request);
    let mut response = observe(&state, &id, request, next).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    id.mark(&mut response);
    response
}

/// The CORS layer answers each OPTIONS, whatever it is of. One that is no preflight (Fetch §3.2.2) goes on as a method that
/// nothing here takes, so that it is told what there is.
fn tell_preflights(request: &mut Request) {
    let headers = request.headers();
    let is_preflight =
        headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !is_preflight {
        *request.method_mut() = Method::TRACE;
    }
}

/// Gives a problem its words, and says to the log what it was.
pub(super) async fn word(State(public_url): State<PublicUrl>, id: RequestId, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    write_problem(&mut response, &public_url, &id);
    response
}

/// The router adds what is allowed.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "This address takes other methods: see Allow.")
}

/// How large a body may be, and how often what there is not is asked for; which an EventSource is told as it can hear it.
async fn limit(State(state): State<AppState>, peer: Peer, id: RequestId, mut request: Request, next: Next) -> Response {
    if let Some(refused) = limit_body(&mut request).await {
        return refused;
    }
    let hears_events = events::hears_events(&request);
    let response = limit_unknown(&state, peer, next.run(request).await).await;
    if hears_events {
        events::in_events(&state, &id, response)
    } else {
        response
    }
}

/// An avatar may be larger than anything else.
async fn limit_body(request: &mut Request) -> Option<Response> {
    let is_avatar = request.method() == Method::PUT;
    let most = if is_avatar { AVATAR_BYTES } else { BODY_BYTES };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        let is_oauth = matches!(request.uri().path(), "/token" | "/userinfo");
        discard(std::mem::take(request.body_mut())).await;
        return Some(if is_oauth {
            OauthError::from(too_large(most)).into_response()
        } else {
            too_large(most).into_response()
        });
    }
    // For what announces no length: the extractors stop reading there.
    DefaultBodyLimit::max(most).apply(request);
    None
}

/// Reads over a body, within bounds: a connection closed with bytes unread is reset, and the caller never sees the answer.
async fn discard(body: Body) {
    let _too_slow = timeout(DISCARD_TIMEOUT, Limited::new(body, DISCARD_BYTES).collect()).await;
}

fn too_large(most: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("The body is larger than the {most} bytes that this address takes."),
    )
}

/// Whoever asks again and again for what there is not is told that it is too often.
async fn limit_unknown(state: &AppState, peer: Peer, response: Response) -> Response {
    let problem = response.extensions().get::<Problem>();
    if problem.is_some_and(|problem| problem.code() == Code::UnknownScene) {
        let taken = state
            .login
            .limits()
            .take(Rule::UnknownPerAddress, &octets(peer.ip))
            .await;
        if let Err(limited) = taken {
            return Problem::from(limited).into_response();
        }
    }
    response
}

/// A panic ends the request that met it, and nothing else. Its message may hold anything, so it stays out of the reply and the log.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::new(
        Code::Internal,
        "Something is broken on our side. The log knows more under this request_id.",
    )
    .into_response()
}

/// What is counted and logged of a request whose caller hung up before its answer, as nginx calls it. What it asked for may be done.
const HUNG_UP: u16 = 499;

/// Gives the metrics their count and the log its line.
async fn observe(state: &AppState, id: &RequestId, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let counted = COUNTED_METHODS.into_iter().find(|counted| *counted == method.as_str());
    let method = counted.unwrap_or("other");
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let scene = scene_in(request.uri().path());
    warn_of_secret(&route, request.uri().query());

    let (spans, trace) = traced(state, &request, id, counted, scene.as_deref());
    request.extensions_mut().insert(trace);
    // What is logged on the way bears the request's names too.
    let trace_id = trace
        .0
        .unwrap_or_else(|| Traceparent::random(&mut rand::rng()))
        .trace_id();
    let span = tracing::info_span!("request", request_id = id.0, %trace_id, scene);
    let mut line = Line {
        metrics: &state.metrics,
        spans: &spans,
        started,
        id: &id.0,
        trace_id,
        method,
        route: &route,
        scene,
        status: HUNG_UP,
        cause: None,
    };
    let mut response = next.run(request).instrument(span).instrument(spans.clone()).await;
    write_problem(&mut response, &state.public_url, id);
    if state.lifecycle.draining.is_cancelled() {
        // Proxies that do not look at readiness move on to another replica with their next request.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    line.status = response.status().as_u16();
    line.cause = response.extensions_mut().remove::<Cause>();
    if let Some(about) = response.extensions_mut().remove::<About>() {
        line.scene.get_or_insert_with(|| about.0.shortened());
    }
    drop(line);
    response
}

/// The request's span, where there is a collector, and what others may know it by.
fn traced(
    state: &AppState,
    request: &Request,
    id: &RequestId,
    method: Option<&str>,
    scene: Option<&str>,
) -> (Span, Trace) {
    let caller = trace::of_caller(request.headers());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // As it was sent it may hold anything.
    let path = route.map(|route| route.replace("{scene}", scene.unwrap_or("{scene}")));
    let span = telemetry::trace::request(
        caller,
        &telemetry::trace::Asked {
            method,
            route,
            path: path.as_deref(),
            scheme: if state.public_url.is_https() { "https" } else { "http" },
            request_id: &id.0,
        },
    );
    let own = telemetry::trace::traceparent(&span).or(caller);
    (span, Trace(own))
}

/// Says once of each that some caller has its secrets written down by whatever its requests pass, and which, but not what they are.
fn warn_of_secret(route: &str, query: Option<&str>) {
    static WARNED: [AtomicBool; SECRETS.len()] = [const { AtomicBool::new(false) }; SECRETS.len()];
    let is_api = ["/scenes", "/events", "/avatars", "/token", "/userinfo"]
        .iter()
        .any(|prefix| route.starts_with(prefix));
    let Some(query) = query.filter(|_| is_api) else {
        return;
    };
    let names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let secrets = names.filter_map(|name| SECRETS.into_iter().zip(&WARNED).find(|(secret, _)| *secret == name));
    for (name, warned) in secrets {
        if !warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                route,
                name,
                "a caller puts a secret into the address, where proxies write it down; it is not taken from there"
            );
        }
    }
}

/// What there is to tell of a request, told when it has ended, however that was.
struct Line<'a> {
    metrics: &'a Metrics,
    spans: &'a Span,
    started: Instant,
    id: &'a str,
    trace_id: TraceId,
    method: &'static str,
    route: &'a str,
    scene: Option<String>,
    status: u16,
    cause: Option<Cause>,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let Self {
            id,
            trace_id,
            method,
            route,
            status,
            ..
        } = *self;
        let seconds = self.started.elapsed().as_secs_f64();
        let labels = [route, method, &status.to_string()];
        let counted = self.metrics.http_request_seconds.with_label_values(&labels);
        counted.observe(seconds);
        let code = self.cause.as_ref().map(|cause| cause.code);
        telemetry::trace::answered(self.spans, status, code);
        let why = self.cause.as_ref().and_then(|cause| cause.why.as_deref());
        let is_failure = self.cause.as_ref().map_or(status >= 500, |cause| cause.is_failure);
        let (scene, millis) = (self.scene.as_deref(), format!("{:.1}", seconds * 1000.0));
        if is_failure {
            tracing::warn!(request_id = id, %trace_id, %method, route, scene, status, millis, code, cause = why, "request failed");
        } else {
            tracing::info!(request_id = id, %trace_id, %method, route, scene, status, millis, code, cause = why, "request");
        }
    }
}

fn write_problem(response: &mut Response, public_url: &PublicUrl, id: &RequestId) {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return;
    };
    let body = serde_json::to_vec(&problem.body(public_url.as_str(), &id.0)).unwrap_or_default();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = body.into();
    *response.status_mut() = problem.status();
    response.extensions_mut().insert(Cause::from(&problem));
}

/// The scene in a path, shortened: enough to find it in a log, too little to use it.
pub(super) fn scene_in(path: &str) -> Option<String> {
    let scene: crate::scene::SceneId = path.split('/').find_map(|part| part.get(..32)?.parse().ok())?;
    Some(scene.shortened())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_origin_is_named_once_in_ten_minutes_and_so_many_at_most() {
        let strangers = Strangers::default();
        let is_due = |origin: &str| strangers.is_due(origin, Instant::now());
        assert!(is_due("https://a.example"));
        assert!(!is_due("https://a.example"));
        for n in 1..STRANGERS_MAX {
            assert!(is_due(&format!("https://{n}.example")));
        }
        assert!(!is_due("https://one-more.example"));
        tokio::time::advance(STRANGER_AGAIN).await;
        assert!(is_due("https://a.example") && is_due("https://one-more.example"));
    }

    #[tokio::test]
    async fn a_listed_sites_page_can_read_that_a_handler_broke() {
        let broken = Router::new().route("/", get(async || -> () { panic!("broken") }));
        let guarded = broken.layer(guard(cors(|origin, _| origin == "https://blog.example")));
        for (origin, named) in [
            ("https://blog.example", Some("https://blog.example")),
            ("https://evil.example", None),
        ] {
            let request = Request::builder().uri("/").header(header::ORIGIN, origin);
            let reply = guarded
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let allowed = reply.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed.map(HeaderValue::as_bytes), named.map(str::as_bytes));
        }
    }
}
