//! A collector of OpenTelemetry's, as far as traces go: it takes OTLP by HTTP and protobuf, or does not, as a test wants it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::canaries::{self, hex};
use super::eventually;

/// What it does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers(u16),
    Hangs,
    /// To an address where it takes everything.
    Redirects,
    /// Takes each message, and says that so many of its spans it did not.
    Rejects(i64),
}

/// One message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    taken: bool,
}

/// A span as it was told of.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace_id: String,
    pub(crate) id: String,
    /// Of the root of a trace it is empty.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) millis: u64,
    /// Who told.
    pub(crate) resource: BTreeMap<String, String>,
}

/// Stops with the test, which fails if it was told a secret.
#[derive(Debug)]
pub(crate) struct Collector {
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Vec<Told>>,
    manner: watch::Sender<Manner>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
        for told in self.told() {
            canaries::assert_none_in("what a collector was told", &told.bytes);
        }
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), Manner::Answers(200)).await
    }

    pub(crate) async fn at(addr: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            told: Mutex::default(),
            manner: watch::Sender::new(manner),
        });
        let router = Router::new()
            .route("/v1/traces", post(take))
            .route("/elsewhere", post(StatusCode::OK))
            .with_state(Arc::clone(&shared));
        let serving = TaskTracker::new().spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { addr, shared, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on; who was kept hanging is answered.
    pub(crate) fn set(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// All that came, taken or not.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.shared.told.lock().unwrap().clone()
    }

    /// Of what was taken.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let told = self.told();
        told.iter().filter(|told| told.taken).flat_map(spans).collect()
    }

    /// Waits for a span of this name and trace.
    pub(crate) async fn span(&self, name: &str, trace_id: &str) -> Span {
        eventually(&format!("a span {name:?} of trace {trace_id}"), || async {
            let mut spans = self.spans().into_iter();
            spans.find(|span| span.name == name && span.trace_id == trace_id)
        })
        .await
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, bytes: Bytes) -> Response {
    let mut manner = shared.manner.subscribe();
    let now = *manner.borrow_and_update();
    shared.told.lock().unwrap().push(Told {
        headers,
        bytes,
        taken: now == Manner::Answers(200),
    });
    if now == Manner::Hangs {
        let _ = manner.changed().await;
    }
    match now {
        Manner::Answers(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Manner::Hangs => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Manner::Redirects => Redirect::temporary("/elsewhere").into_response(),
        Manner::Rejects(rejected_spans) => {
            let partial_success = Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: "too many".to_owned(),
            });
            ExportTraceServiceResponse { partial_success }
                .encode_to_vec()
                .into_response()
        }
    }
}

fn spans(told: &Told) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(told.bytes.clone()).expect("OTLP");
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.expect("a resource").attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.events.is_empty(), "the log is not told: {:?}", span.events);
            all.push(Span {
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                attributes: attributes(&span.attributes),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                    .collect(),
                millis: (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000,
                name: span.name,
                kind: span.kind,
                resource: resource.clone(),
            });
        }
    }
    all
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute)))
        .collect()
}
