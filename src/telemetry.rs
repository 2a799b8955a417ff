//! Logs, metrics and traces.

mod export;
mod lines;
mod logs;
pub(crate) mod trace;

use std::fmt::Write as _;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use export::{Export, Spans, TraceSettings};
pub(crate) use lines::{LineWriter, Lines, Output, Trouble};
pub use logs::Logs;

/// An error and all that lies behind it, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// Everything this process counts. Labels are closed sets; there is no global registry.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Scenes started.
    pub scenes_created_total: IntCounter,
    /// Steps of logins, by `step`: the code `shown` (again to who loads it again), its scene `watched` (once at each replica where it
    /// is), `scanned`, `confirmed`, `redeemed`, or ended otherwise: `declined`, `cancelled`, `expired` while somebody watched.
    pub login_steps_total: IntCounterVec,
    /// Seconds that people took from the step before to a `step`: `scanned`, `confirmed`, `redeemed`, `declined`, `cancelled`.
    pub login_step_seconds: HistogramVec,
    /// Logins declined, by `client` and `reason` (`no`, `not_me`, `wrong_number`): many of the last two are an attack.
    pub declined_total: IntCounterVec,
    /// First scans by how the phone came to the code, by `client`, `entry` (`camera`, `picture`, `card`, `other`) and what the site
    /// makes of it, the `verdict` (`allow`, `warn`, `refuse`).
    pub scans_total: IntCounterVec,
    /// Event streams open now.
    pub streams_open: IntGauge,
    /// Event streams ended, by `reason`.
    pub streams_closed_total: IntCounterVec,
    /// Scenes watched by this replica now.
    pub scenes_watched: IntGauge,
    /// Those of them whose changes Redis does not tell at the moment.
    pub scenes_unheard: IntGauge,
    /// Re-reads of watched scenes, by `cause` (`lost`, `deadline`, `slow`) and whether they `found` something new.
    pub rereads_total: IntCounterVec,
    /// Store requests in seconds, by `op` and `outcome` (`ok`, `unavailable`, `full`, `corrupt`, or `given_up` by whoever asked).
    pub store_request_seconds: HistogramVec,
    /// Connections to Redis that were made, by `use`: one for `commands` and one for `news` of each server, and more only after one that
    /// ended.
    pub store_connections_total: IntCounterVec,
    /// Times that news of watched scenes may have been missed, by `cause`.
    pub store_lost_total: IntCounterVec,
    /// Durable writes by how their wait for a replica ended (`replicated`; `vouched` for by the sentinels,
    /// while a replica is missing; `unreplicated`; `not_asked`, as there is none; `not_wanted`, by the settings).
    pub store_waits_total: IntCounterVec,
    /// By how many seconds this machine's clock is ahead of that Redis server's which differs most from it.
    pub clock_skew_seconds: Gauge,
    /// WeChat calls in seconds, by `call` and `outcome` (`ok`, `errcode`, `timeout`, `unavailable`, `circuit_open`, `limited`, `invalid`).
    pub wechat_request_seconds: HistogramVec,
    /// 1 while a host of WeChat is thought dead, by `call` and `host` (`primary`, `fail_over`).
    pub wechat_circuit_open: IntGaugeVec,
    /// Error codes WeChat answered, by `call` and `errcode`.
    pub wechat_errcodes_total: IntCounterVec,
    /// Seconds until the access_token in use ends, by `appid`.
    pub access_token_left_seconds: IntGaugeVec,
    /// Seconds until a replica that needed an access_token had one, or had to do without, by `appid` and `outcome` (`ok`, `failed`):
    /// waiting for the one that holds the lease included.
    pub access_token_fetch_seconds: HistogramVec,
    /// Codes made ahead and ready.
    pub code_pool_ready: IntGauge,
    /// Requests that the store or WeChat are busy with now.
    pub requests_under_way: IntGauge,
    /// Requests refused because too much was under way or memory was short, by `work` (`start`, `picture`, `watch`, `status`, `scan`, `finish`).
    pub requests_shed_total: IntCounterVec,
    /// Connections closed at once, as their address had as many as it may.
    pub connections_refused_total: IntCounter,
    /// What came too often and was refused, by `rule`.
    pub limited_total: IntCounterVec,
    /// What this replica counted for itself, as the store did not in time.
    pub limits_alone_total: IntCounter,
    /// HTTP requests in seconds, by `route`, `method` and `status`.
    pub http_request_seconds: HistogramVec,
    /// Seconds from start of a scene to its redemption.
    pub login_seconds: Histogram,
    /// 1 when what answers as WeChat is a simulator.
    pub simulator: IntGauge,
    /// Times that sites, Mini Programs and keys were read again, by `outcome`: `taken` or `refused`.
    pub settings_read_again_total: IntCounterVec,
    /// Tries to tell a site how a login ended, by `client` and `result`: `delivered`; `failed`, to be tried again; `given_up` after the
    /// last try or for good; `dropped`, as too much waited for that site; `elsewhere`, as another replica had come to its end.
    pub webhooks_total: IntCounterVec,
    /// What sites are still to be told, as the store had it when this replica last looked.
    pub webhooks_waiting: IntGauge,
}

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// When two share a name: a bug that every start would show.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build_info = Opts::new(prefixed("build_info"), "1, of this version.");
        register(&registry, IntGaugeVec::new(build_info, &["version"])?)?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            register(&registry, IntCounter::new(prefixed(name), help)?)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            register(&registry, IntCounterVec::new(Opts::new(prefixed(name), help), labels)?)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            register(&registry, IntGauge::new(prefixed(name), help)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            register(&registry, IntGaugeVec::new(Opts::new(prefixed(name), help), labels)?)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let buckets = vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
            ];
            register(
                &registry,
                HistogramVec::new(HistogramOpts::new(prefixed(name), help).buckets(buckets), labels)?,
            )
        };
        let metrics = Self {
            settings_read_again_total: counters(
                "settings_read_again_total",
                "Times that sites, Mini Programs and keys were read again.",
                &["outcome"],
            )?,
            scenes_created_total: counter("scenes_created_total", "Scenes started.")?,
            login_steps_total: counters("login_steps_total", "Steps of logins.", &["step"])?,
            declined_total: counters(
                "declined_total",
                "Logins that a person, or a wrong number, declined.",
                &["client", "reason"],
            )?,
            scans_total: counters(
                "scans_total",
                "First scans by how the phone came to the code.",
                &["client", "entry", "verdict"],
            )?,
            streams_open: gauge("streams_open", "Event streams open now.")?,
            streams_closed_total: counters("streams_closed_total", "Event streams ended.", &["reason"])?,
            scenes_watched: gauge("scenes_watched", "Scenes watched by this replica now.")?,
            scenes_unheard: gauge("scenes_unheard", "Watched scenes whose changes are not told now.")?,
            rereads_total: counters("rereads_total", "Re-reads of watched scenes.", &["cause", "found"])?,
            store_request_seconds: seconds("store_request_seconds", "Store requests.", &["op", "outcome"])?,
            store_connections_total: counters(
                "store_connections_total",
                "Connections to Redis that were made.",
                &["use"],
            )?,
            store_lost_total: counters("store_lost_total", "Times news may have been missed.", &["cause"])?,
            store_waits_total: counters("store_waits_total", "Durable writes by their wait's end.", &["outcome"])?,
            clock_skew_seconds: register(
                &registry,
                Gauge::new(
                    prefixed("clock_skew_seconds"),
                    "By how much our clock is ahead of Redis's.",
                )?,
            )?,
            wechat_request_seconds: seconds("wechat_request_seconds", "WeChat calls.", &["call", "outcome"])?,
            wechat_errcodes_total: counters("wechat_errcodes_total", "Error codes of WeChat.", &["call", "errcode"])?,
            wechat_circuit_open: gauges(
                "wechat_circuit_open",
                "1 while a host counts as dead.",
                &["call", "host"],
            )?,
            access_token_left_seconds: gauges("access_token_left_seconds", "Seconds until it ends.", &["appid"])?,
            access_token_fetch_seconds: seconds(
                "access_token_fetch_seconds",
                "Needing an access_token, waiting for the lease's holder included.",
                &["appid", "outcome"],
            )?,
            code_pool_ready: gauge("code_pool_ready", "Codes made ahead and ready.")?,
            requests_under_way: gauge(
                "requests_under_way",
                "Requests that the store or WeChat are busy with now.",
            )?,
            requests_shed_total: counters(
                "requests_shed_total",
                "Requests refused for want of room, by what they are for: start, picture, watch, status, scan or finish.",
                &["work"],
            )?,
            connections_refused_total: counter(
                "connections_refused_total",
                "Connections closed at once, as their address had enough.",
            )?,
            limited_total: counters("limited_total", "What came too often and was refused.", &["rule"])?,
            limits_alone_total: counter(
                "limits_alone_total",
                "What this replica counted for itself, as the store did not in time.",
            )?,
            http_request_seconds: seconds("http_request_seconds", "HTTP requests.", &["route", "method", "status"])?,
            login_seconds: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(prefixed("login_seconds"), "From start of a scene to its redemption.")
                        .buckets(HUMAN_SECONDS.to_vec()),
                )?,
            )?,
            login_step_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(prefixed("login_step_seconds"), "From a person's step to the next.")
                        .buckets(HUMAN_SECONDS.to_vec()),
                    &["step"],
                )?,
            )?,
            webhooks_total: counters(
                "webhooks_total",
                "Tries to tell a site how a login ended: delivered, failed, given_up, dropped or elsewhere.",
                &["client", "result"],
            )?,
            webhooks_waiting: gauge("webhooks_waiting", "What sites are still to be told, of all replicas.")?,
            simulator: gauge("simulator", "1 when what answers as WeChat is a simulator.")?,
            registry,
        };
        for step in STEPS {
            metrics.login_steps_total.with_label_values(&[step]);
        }
        for outcome in ["taken", "refused"] {
            metrics.settings_read_again_total.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    /// Has what alerts watch of a site stand at nothing before it counts: a series that begins at one has not grown, to Prometheus.
    pub fn expect_site(&self, client_id: &str, has_webhook: bool) {
        for reason in ["no", "not_me", "wrong_number"] {
            self.declined_total.with_label_values(&[client_id, reason]);
        }
        let lost: &[_] = if has_webhook { &["given_up", "dropped"] } else { &[] };
        for result in lost {
            self.webhooks_total.with_label_values(&[client_id, result]);
        }
    }

    /// Counts what becomes of spans, whether there are any or not.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_export(&self, export: Option<&Export>) -> Result<(), prometheus::Error> {
        match export {
            Some(export) => self.register(export.counter()),
            None => self.register(export::counter()?),
        }
    }

    /// Counts this too.
    ///
    /// # Errors
    /// When something of that name is counted already.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(collector))
    }

    /// The Prometheus text format.
    ///
    /// # Errors
    /// When a collector fails.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// All that `login_steps_total` counts.
const STEPS: [&str; 8] = [
    "shown",
    "watched",
    "scanned",
    "confirmed",
    "redeemed",
    "declined",
    "cancelled",
    "expired",
];

/// What people take for something.
const HUMAN_SECONDS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// Ours among all that a Prometheus scrapes; the `process_*` series keep the names that everybody knows.
fn prefixed(name: &str) -> String {
    format!("scanlogin_{name}")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
