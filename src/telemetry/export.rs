//! Takes spans to a collector: OTLP by HTTP and protobuf, behind everybody's back.
//!
//! Whatever the collector does, no request waits for it: what finds no room, or is not taken, is dropped and counted.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanLimits, SpanProcessor};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::chain;

/// Spans that wait for their turn; of about a kilobyte each.
const WAITING_MAX: usize = 4_096;
/// Spans of one message.
const BATCH: usize = 512;
/// How long a first one waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take for one message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses before a message is sent again that may be taken later.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// How much of its reply is read.
const REPLY_MAX: usize = 64 * 1024;
/// How long what waits at the end of the process gets.
const LAST: Duration = Duration::from_secs(1);

/// Where spans go.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The collector's address of traces.
    pub endpoint: Url,
    /// What it wants to see besides; marked sensitive.
    pub headers: HeaderMap,
    /// How many of the traces that begin here are recorded, from 0 to 1. Whoever calls with a trace of their own decides for it.
    pub ratio: f64,
}

/// Makes spans.
#[derive(Debug)]
pub struct Spans(pub(super) SdkTracer);

/// Takes them away.
#[derive(Debug)]
pub struct Export {
    waiting: mpsc::Receiver<SpanData>,
    resource: ResourceAttributesWithSchema,
    instance_id: String,
    http: reqwest::Client,
    settings: TraceSettings,
    fails: bool,
    counted: IntCounterVec,
}

/// Where spans wait that have ended.
#[derive(Debug)]
struct Queue {
    ended: mpsc::Sender<SpanData>,
    counted: IntCounterVec,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.ended.try_send(span).is_err() {
            count(&self.counted, "dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Spans by what became of them. Without a collector there are none, and the metric is there all the same.
pub(crate) fn counter() -> Result<IntCounterVec, prometheus::Error> {
    let help = "Spans by what became of them: exported or dropped.";
    let counter = IntCounterVec::new(Opts::new(super::prefixed("trace_spans_total"), help), &["outcome"])?;
    count(&counter, "exported", 0);
    count(&counter, "dropped", 0);
    Ok(counter)
}

fn count(counter: &IntCounterVec, outcome: &str, spans: usize) {
    let spans = u64::try_from(spans).unwrap_or(u64::MAX);
    counter.with_label_values(&[outcome]).inc_by(spans);
}

/// Why a message was not taken.
struct Fault {
    why: String,
    /// Whether it may be later.
    is_passing: bool,
}

impl Export {
    /// Both ends of the queue. Nothing is sent before [`Self::run`].
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(settings: TraceSettings) -> anyhow::Result<(Spans, Self)> {
        // An error says that one is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("scanlogin/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .build()?;
        let instance_id = instance_id();
        let resource = Resource::builder_empty()
            .with_service_name("scanlogin")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance_id.clone()))
            .build();
        let counted = counter()?;
        let (ended, waiting) = mpsc::channel(WAITING_MAX);
        let queue = Queue {
            ended,
            counted: counted.clone(),
        };
        let sampler = Sampler::TraceIdRatioBased(settings.ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            // By default the environment says how much of a span there is.
            .with_span_limits(SpanLimits::default())
            .with_span_processor(queue)
            .build();
        let export = Self {
            waiting,
            resource: ResourceAttributesWithSchema::from(&resource),
            instance_id,
            http,
            settings,
            fails: false,
            counted,
        };
        Ok((Spans(provider.tracer("scanlogin")), export))
    }

    /// What it counts.
    pub(crate) fn counter(&self) -> impl Collector + use<> {
        self.counted.clone()
    }

    /// Sends until `stop`, and then what is left, for a second at most.
    pub async fn run(mut self, stop: CancellationToken) {
        // By which whoever has a span finds the log.
        tracing::info!(service.instance.id = self.instance_id, "spans are sent");
        let sending = async {
            while let Some(spans) = self.next(&stop).await {
                self.deliver(spans, &stop).await;
            }
        };
        let cut = async {
            stop.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            () = sending => {}
            () = cut => tracing::warn!("spans that could not be delivered in time are dropped"),
        }
    }

    /// Those that wait, and some that end shortly after the first; at the end `None` once none is left.
    async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<SpanData>> {
        let mut spans = Vec::new();
        if let Some(first) = stop.run_until_cancelled(self.waiting.recv()).await {
            spans.push(first?);
            let until = Instant::now() + GATHER;
            let gathering = async {
                while spans.len() < BATCH
                    && let Ok(Some(span)) = timeout_at(until, self.waiting.recv()).await
                {
                    spans.push(span);
                }
            };
            stop.run_until_cancelled(gathering).await;
        }
        while spans.len() < BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            spans.push(span);
        }
        (!spans.is_empty()).then_some(spans)
    }

    async fn deliver(&mut self, spans: Vec<SpanData>, stop: &CancellationToken) {
        let sum = spans.len();
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let message: Bytes = ExportTraceServiceRequest { resource_spans }.encode_to_vec().into();
        let mut pauses = PAUSES.iter();
        let rejected = loop {
            let fault = match self.post(message.clone()).await {
                Ok(rejected) => break rejected.min(sum),
                Err(fault) => fault,
            };
            self.fails_as(&fault.why);
            match pauses.next() {
                Some(pause) if fault.is_passing && !stop.is_cancelled() => {
                    stop.run_until_cancelled(sleep(*pause)).await;
                }
                Some(_) | None => return count(&self.counted, "dropped", sum),
            }
        };
        if rejected > 0 {
            self.fails_as("it rejected spans of a message that it took");
        } else if self.fails {
            self.fails = false;
            tracing::info!("the collector takes spans again");
        }
        count(&self.counted, "dropped", rejected);
        count(&self.counted, "exported", sum - rejected);
    }

    /// Tells why, once.
    fn fails_as(&mut self, why: &str) {
        if !self.fails {
            self.fails = true;
            tracing::warn!(
                why,
                "the collector of SCANLOGIN_OTLP_ENDPOINT does not take spans; logins go on, and what it misses is dropped"
            );
        }
    }

    /// How many of its spans the collector took the message without.
    async fn post(&self, message: Bytes) -> Result<usize, Fault> {
        let TraceSettings { endpoint, headers, .. } = &self.settings;
        let request = self.http.post(endpoint.clone()).headers(headers.clone());
        let request = request.header(CONTENT_TYPE, "application/x-protobuf").body(message);
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(rejected(response).await),
            Ok(response) => Err(Fault {
                why: format!("HTTP status {}", response.status().as_u16()),
                is_passing: is_passing(response.status()),
            }),
            // The operator knows the address, which may hold a secret.
            Err(error) => Err(Fault {
                why: chain(&error.without_url()),
                is_passing: true,
            }),
        }
    }
}

/// What the collector says of a message that it took (OTLP, "Partial Success"). What says nothing, or too much, rejects none. Why it
/// rejects any may hold anything.
async fn rejected(mut response: Response) -> usize {
    let mut said = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        said.extend_from_slice(&part);
        if said.len() > REPLY_MAX {
            return 0;
        }
    }
    let said = ExportTraceServiceResponse::decode(&*said).unwrap_or_default();
    let rejected = said.partial_success.map_or(0, |partial| partial.rejected_spans);
    usize::try_from(rejected).unwrap_or_default()
}

/// The statuses after which the same message may be sent again (OTLP, "Failures").
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Tells this process from all others.
fn instance_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer};
    use tokio::time::timeout;

    use super::*;

    fn both() -> (Spans, Export) {
        let settings = TraceSettings {
            endpoint: "http://127.0.0.1:9/v1/traces".parse().unwrap(),
            headers: HeaderMap::new(),
            ratio: 1.0,
        };
        Export::new(settings).unwrap()
    }

    fn end(spans: &Spans, count: usize) {
        for _ in 0..count {
            spans.0.start("span").end();
        }
    }

    fn dropped(export: &Export) -> u64 {
        export.counted.with_label_values(&["dropped"]).get()
    }

    #[tokio::test]
    async fn spans_without_room_are_dropped_and_counted_and_nobody_waits() {
        let (spans, export) = both();
        end(&spans, WAITING_MAX);
        assert_eq!(dropped(&export), 0);
        end(&spans, 3);
        assert_eq!(dropped(&export), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn spans_go_together_as_many_as_fit_and_no_later_than_a_second_after_the_first() {
        let (spans, mut export) = both();
        let stop = CancellationToken::new();
        end(&spans, BATCH + 1);
        let asked = Instant::now();
        assert_eq!(export.next(&stop).await.unwrap().len(), BATCH);
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert_eq!(export.next(&stop).await.unwrap().len(), 1);
        assert_eq!(asked.elapsed().as_secs(), GATHER.as_secs());
        timeout(GATHER * 10, export.next(&stop)).await.unwrap_err();
        end(&spans, 2);
        stop.cancel();
        assert_eq!(export.next(&stop).await.unwrap().len(), 2);
        assert!(export.next(&stop).await.is_none(), "and then it is over");
    }

    #[test]
    fn no_header_is_printed() {
        let mut headers = HeaderMap::new();
        let mut value = reqwest::header::HeaderValue::from_static("hidden");
        value.set_sensitive(true);
        headers.insert("api-key", value);
        let endpoint = "http://127.0.0.1:9".parse().unwrap();
        let settings = TraceSettings {
            endpoint,
            headers,
            ratio: 1.0,
        };
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
