//! The log: lines on standard error.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use anyhow::Context;
use tracing::Level;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::prelude::*;

use super::export::Spans;
use super::{Lines, Metrics, trace};

/// Enough for the busiest second; lines beyond are dropped and counted.
const WAITING_MAX: usize = 4_096;

/// The log, while this lives. Dropped, it writes the lines that wait, and gives up after a second.
#[derive(Debug)]
pub struct Logs {
    lines: Lines,
}

impl Logs {
    /// Writes the log to standard error, as text or as one JSON object a line; `RUST_LOG` says how much, `info` unless set. Spans for a
    /// collector go to `spans`, whatever it says.
    ///
    /// # Errors
    /// When `RUST_LOG` can't be read, or a log is set up already.
    pub fn init(json: bool, spans: Option<Spans>) -> anyhow::Result<Self> {
        let filter = tracing_subscriber::EnvFilter::builder()
            .with_default_directive(Level::INFO.into())
            .from_env()
            .context("RUST_LOG: it must be such as info or scanlogin=debug")?;
        // The collector's spans are none of the log's, whatever is asked of it: a directive would be no match for `[request]=debug`.
        let of_the_log = filter_fn(|told| told.target() != trace::TARGET).with_max_level_hint(LevelFilter::TRACE);
        let filter = filter.and(of_the_log);
        let dropped = ["log_lines_dropped_total", "Lines of the log that nobody will read."];
        // Of a log that can't be written there is nowhere to tell.
        let lines = Lines::to(io::stderr(), |_| {}, WAITING_MAX, dropped)?;
        let writer = lines.writer();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = if json {
            layer.json().flatten_event(true).boxed()
        } else {
            layer.with_ansi(io::stderr().is_terminal()).boxed()
        };
        let log = layer.with_filter(filter);
        match spans {
            None => tracing_subscriber::registry().with(log).try_init()?,
            Some(Spans(tracer)) => {
                let spans = tracing_opentelemetry::layer()
                    .with_tracer(tracer)
                    .with_location(false)
                    .with_threads(false)
                    .with_level(false)
                    .with_target(false)
                    .with_tracked_inactivity(false)
                    .with_filter(Targets::new().with_target(trace::TARGET, Level::INFO));
                tracing_subscriber::registry().with(log).with(spans).try_init()?;
            }
        }
        std::panic::set_hook(Box::new(tell_of_panic));
        Ok(Self { lines })
    }

    /// Counts there the lines that were not written.
    ///
    /// # Errors
    /// They are counted there already.
    pub fn count_in(&self, metrics: &Metrics) -> anyhow::Result<()> {
        self.lines.count_in(metrics)
    }
}

/// What a panic says may hold anything, so only where it was is told.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!("panicked at {location}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Write for Heard {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn t22_of_a_panic_only_its_place_is_told() {
        // Where no subscriber is everybody's, a line that another test's thread comes to first stays muted for this one.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let heard = Heard::default();
        let writer = heard.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(tell_of_panic));
        let broken = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| panic!("a canary: {}", "hush"))
        });
        std::panic::set_hook(others);
        assert!(broken.is_err());
        let heard = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
        assert!(heard.contains("panicked at src/telemetry/logs.rs"), "{heard}");
        assert!(!heard.contains("canary") && !heard.contains("hush"), "{heard}");
    }
}
