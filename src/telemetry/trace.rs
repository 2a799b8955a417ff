//! Spans for a collector, where one is set: one trace tells of a login from its start on, by whichever replicas it goes.
//!
//! Each request has a span, in its caller's trace if it names one. Each step of a login has one below the span of its start, in that
//! trace, with a link to the request that took the step: browser, phone and site know nothing of each other's traces. What is asked
//! of Redis and of WeChat meanwhile is below the step, or below the request. A stream's span is that of its start.
//!
//! Without a collector nothing here exists but in name, and the log has none of it. No attribute may hold what the log may not.

use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::traceparent::Traceparent;

/// What tells these spans from those of the log.
pub(super) const TARGET: &str = "scanlogin::otel";

/// A request, in the words of OpenTelemetry's conventions for HTTP servers.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// `None` of what nobody knows: as it was sent it may hold anything.
    pub(crate) method: Option<&'a str>,
    /// `None` of what there is not.
    pub(crate) route: Option<&'a str>,
    /// The path as the log has it.
    pub(crate) path: Option<&'a str>,
    pub(crate) scheme: &'a str,
    pub(crate) request_id: &'a str,
}

/// The span of a request, in the trace of `caller`.
pub(crate) fn request(caller: Option<Traceparent>, asked: &Asked<'_>) -> Span {
    let Asked {
        method,
        route,
        path,
        scheme,
        request_id,
    } = asked;
    let (name, method) = method.map_or(("HTTP", "_OTHER"), |method| (method, method));
    let span = info_span!(
        target: TARGET,
        "request",
        otel.name = route.map_or_else(|| name.to_owned(), |route| format!("{name} {route}")),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = path,
        url.scheme = scheme,
        error.type = Empty,
        scanlogin.request_id = request_id,
    );
    below(&span, caller);
    span
}

/// How a request was answered.
pub(crate) fn answered(span: &Span, status: u16, code: Option<&str>) {
    span.record("http.response.status_code", i64::from(status));
    if status >= 500 {
        failed(span, code.unwrap_or("internal"));
    }
}

/// A step of a login: first only a part of its request.
pub(crate) fn begun(name: &'static str, scene: Option<&str>) -> Span {
    info_span!(
        target: TARGET,
        "step",
        otel.name = format!("login {name}"),
        scanlogin.scene = scene,
    )
}

/// The scene of a step that began without one.
pub(crate) fn about(step: &Span, scene: &str) {
    step.record("scanlogin.scene", scene);
}

/// Puts a step that was not entered yet below the start of its login. Of what an earlier version started that is not known: then it
/// stays where it is.
pub(crate) fn join(step: &Span, start: Option<Traceparent>) {
    if start.is_some() {
        step.add_link(Context::current().span().span_context().clone());
        below(step, start);
    }
}

/// A step of the login that began with `start`.
pub(crate) fn step(name: &'static str, scene: &str, start: Option<Traceparent>) -> Span {
    let step = begun(name, Some(scene));
    join(&step, start);
    step
}

/// A request to Redis; none outside of spans, since what is asked in the background, all the time, is part of no login.
pub(crate) fn redis(op: &'static str) -> Span {
    if !Context::current().span().span_context().is_valid() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "redis",
        otel.name = format!("redis {op}"),
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "redis",
        db.operation.name = op,
        error.type = Empty,
    )
}

/// A call of WeChat's API. It is never told of our trace: that would be of no use to a third party but to recognise people by. Nor does
/// any attribute hold the address, of which the query is secrets.
pub(crate) fn wechat(call: &'static str, method: &'static str) -> Span {
    info_span!(
        target: TARGET,
        "wechat",
        otel.name = format!("wechat {call}"),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = method,
        scanlogin.wechat.call = call,
        scanlogin.wechat.errcode = Empty,
        error.type = Empty,
    )
}

/// Why WeChat did not do what it was asked.
pub(crate) fn refused_by_wechat(span: &Span, why: &str, errcode: Option<i64>) {
    failed(span, why);
    span.record("scanlogin.wechat.errcode", errcode);
}

/// A message to a site's server, below the step that it tells of.
pub(crate) fn webhook(client: &str, step: Option<Traceparent>) -> Span {
    let span = info_span!(
        target: TARGET,
        "webhook",
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = "POST",
        scanlogin.client = client,
        error.type = Empty,
    );
    below(&span, step);
    span
}

/// Says of a span that it came to nothing, by a word of few.
pub(crate) fn failed(span: &Span, why: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", why);
}

/// The span's name towards others, if there is a collector.
pub(crate) fn traceparent(span: &Span) -> Option<Traceparent> {
    named(span.context().span().span_context())
}

/// The name of the span that this is part of.
pub(crate) fn current() -> Option<Traceparent> {
    named(Context::current().span().span_context())
}

/// Lets what goes on in a task of its own be part of the span that this is part of, in the log as well.
pub(crate) fn carried<F: Future>(doing: F) -> impl Future<Output = F::Output> {
    doing.in_current_span().with_current_context()
}

fn named(span: &SpanContext) -> Option<Traceparent> {
    let (trace_id, span_id) = (span.trace_id().to_bytes(), span.span_id().to_bytes());
    Traceparent::of(trace_id, span_id, span.is_sampled())
}

/// Puts a span that was not entered yet below one that may be another process's.
fn below(span: &Span, parent: Option<Traceparent>) {
    let Some(parent) = parent else { return };
    let parent = SpanContext::new(
        TraceId::from_bytes(parent.trace_bytes()),
        SpanId::from_bytes(parent.span_bytes()),
        TraceFlags::SAMPLED.with_sampled(parent.is_sampled()),
        true,
        TraceState::NONE,
    );
    // Without a collector there is nothing to put anywhere.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}
