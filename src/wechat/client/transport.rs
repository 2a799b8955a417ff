//! How a call travels: which host, how often, how many at once, how long, how much.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument, Span};

use super::hosts::Hosts;
use super::reply::scrubbed;
use super::{Call, Error};
use crate::telemetry::{Metrics, chain, trace};
use crate::wechat::errcode::{Class, Errcode};

/// How many calls are under way at once: pictures, which can take 15 s each, and apart from them the others, which must
/// not wait behind pictures.
const CALLS_MAX: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Shorter than servers usually keep a silent connection, so that a single-use code is not sent into one just closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

const FURTHER_TRIES_MAX: usize = 2;

/// A further try this shortly before the deadline, the wait before it included, would only be cut off.
const LAST_TRY: Duration = Duration::from_secs(1);

/// One call as it is sent.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) call: Call,
    pub(super) query: &'a [(&'static str, &'a str)],
    /// With one it is a POST of this JSON, without a GET.
    pub(super) body: Option<&'a serde_json::Value>,
    /// What must not be repeated by any error, even if WeChat's message does.
    pub(super) secrets: &'a [&'a str],
}

/// Asked before each further try, which costs as much as the first.
pub type MayRepeat<'a> = &'a (dyn Fn() -> BoxFuture<'a, bool> + Sync);

/// How an answer is read.
pub(super) type Read<T> = fn(&Bytes) -> Result<T, Error>;

#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    hosts: Hosts,
    pictures: Semaphore,
    others: Semaphore,
    metrics: Metrics,
}

/// A try that failed.
struct Failure {
    error: Error,
    end: End,
}

/// How far a try came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It can't have reached WeChat.
    Unsent,
    /// Nothing of WeChat's came back: what stands before it answered, or nobody.
    Lost,
    /// WeChat itself answered.
    Answered,
}

impl Transport {
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(super) fn new(primary: Url, fail_over: Option<Url>, metrics: Metrics) -> Result<Self, reqwest::Error> {
        // An error says that one is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(CALLS_MAX)
            .build()?;
        Ok(Self {
            http,
            hosts: Hosts::new(primary, fail_over, metrics.clone()),
            pictures: Semaphore::new(CALLS_MAX),
            others: Semaphore::new(CALLS_MAX),
            metrics,
        })
    }

    /// Sends until there is an answer that `read` can read, within the call's deadline.
    pub(super) async fn call<T: Send>(
        &self,
        request: Request<'_>,
        may_repeat: MayRepeat<'_>,
        read: Read<T>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let deadline = started + request.call.deadline();
        let method = if request.body.is_some() { "POST" } else { "GET" };
        let span = trace::wechat(request.call.name(), method);
        let result = if let Some(until) = self.hosts.rest_until(request.call) {
            Err(Error::CircuitOpen { until })
        } else {
            let trying = self.wait_and_try(request, may_repeat, read, deadline);
            trying.instrument(span.clone()).await
        }
        .map_err(|error| scrubbed(error, request.secrets));
        self.observe(request.call, started.elapsed(), result.as_ref().err(), &span);
        result
    }

    async fn wait_and_try<T>(
        &self,
        request: Request<'_>,
        may_repeat: MayRepeat<'_>,
        read: Read<T>,
        deadline: Instant,
    ) -> Result<T, Error> {
        // What begins late would be cut off, and a single-use code be spent for nothing.
        let begin_until = deadline - request.call.deadline() / 2;
        match timeout_at(begin_until, self.lane(request.call).acquire()).await {
            Ok(Ok(_permit)) => self.tries(request, may_repeat, read, deadline).await,
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable(format!("{CALLS_MAX} calls are under way"))),
        }
    }

    fn lane(&self, call: Call) -> &Semaphore {
        match call {
            Call::GetWxaCodeUnlimit => &self.pictures,
            Call::StableToken | Call::Token | Call::Jscode2session => &self.others,
        }
    }

    async fn tries<T>(
        &self,
        request: Request<'_>,
        may_repeat: MayRepeat<'_>,
        read: Read<T>,
        deadline: Instant,
    ) -> Result<T, Error> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_times(FURTHER_TRIES_MAX)
            .with_jitter();
        let mut delays = delays.build();
        loop {
            let Failure { error, end } = match self.send(request, read, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let is_passing = error == Error::CutShort || error.class() == Some(Class::Busy);
            let is_safe = end == End::Unsent || (is_passing && request.call.is_repeatable());
            match delays.next() {
                Some(delay) if is_safe && Instant::now() + LAST_TRY < deadline && may_repeat().await => {
                    sleep(delay).await;
                }
                Some(_) | None => return Err(error),
            }
        }
    }

    async fn send<T>(&self, request: Request<'_>, read: Read<T>, deadline: Instant) -> Result<T, Failure> {
        let Some(host) = self.hosts.choose(request.call) else {
            let until = self.hosts.rest_until(request.call).unwrap_or_else(Instant::now);
            return Err(Failure {
                error: Error::CircuitOpen { until },
                end: End::Lost,
            });
        };
        let answer = timeout_at(deadline, self.exchange(host.base(), request)).await;
        let answer = answer.unwrap_or(Err(Failure {
            error: Error::Timeout,
            end: End::Lost,
        }));
        match answer.as_ref().map_or_else(|failure| failure.end, |_| End::Answered) {
            End::Answered => host.answered(),
            End::Lost => host.lost(),
            End::Unsent => host.unreached(),
        }
        answer.and_then(|body| {
            read(&body).map_err(|error| Failure {
                error,
                end: End::Answered,
            })
        })
    }

    /// One request and the body of its answer.
    async fn exchange(&self, base: &Url, request: Request<'_>) -> Result<Bytes, Failure> {
        let url = address(base, request);
        let sending = match request.body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        match sending.send().await {
            Ok(response) => answer(response, request.call.answer_max()).await,
            Err(error) => Err(Failure {
                end: if error.is_connect() { End::Unsent } else { End::Lost },
                error: unavailable(error),
            }),
        }
    }

    fn observe(&self, call: Call, took: Duration, error: Option<&Error>, span: &Span) {
        let outcome = match error {
            None => "ok",
            Some(Error::Errcode { errcode, .. } | Error::TokenRefused { errcode, .. }) => {
                let labels = [call.name(), &errcode.label()];
                self.metrics.wechat_errcodes_total.with_label_values(&labels).inc();
                "errcode"
            }
            Some(Error::Timeout) => "timeout",
            Some(Error::Unavailable(_) | Error::CutShort) => "unavailable",
            Some(Error::CircuitOpen { .. }) => "circuit_open",
            Some(Error::Limited(_)) => "limited",
            Some(Error::Invalid(_)) => "invalid",
        };
        if let Some(error) = error {
            trace::refused_by_wechat(span, outcome, error.errcode().map(Errcode::number));
        }
        self.metrics
            .wechat_request_seconds
            .with_label_values(&[call.name(), outcome])
            .observe(took.as_secs_f64());
    }
}

fn address(base: &Url, request: Request<'_>) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), request.call.path()));
    if !request.query.is_empty() {
        url.query_pairs_mut().extend_pairs(request.query);
    }
    url
}

/// The body of an answer, read no further than it may be long.
async fn answer(mut response: Response, length_max: usize) -> Result<Bytes, Failure> {
    let status = response.status();
    let failure = |error, end| Err(Failure { error, end });
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let end = if status.is_server_error() {
            End::Lost
        } else {
            End::Answered
        };
        return failure(Error::Unavailable(format!("HTTP status {}", status.as_u16())), end);
    }
    if status != StatusCode::OK {
        return failure(
            Error::Invalid(format!("HTTP status {}", status.as_u16())),
            End::Answered,
        );
    }
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > length_max => {
                return failure(Error::Invalid(format!("more than {length_max} bytes")), End::Answered);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return failure(unavailable(error), End::Lost),
        }
    }
}

/// Without the address: that holds secrets.
fn unavailable(error: reqwest::Error) -> Error {
    Error::Unavailable(chain(&error.without_url()))
}
