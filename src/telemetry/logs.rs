//! The log: lines on standard error, written by a thread of its own, so that no request waits for whoever reads them.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use prometheus::IntCounter;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::prelude::*;

/// Enough for the busiest second; lines beyond are dropped and counted.
const WAITING_MAX: usize = 4_096;

/// The log, while this lives. Dropped, it writes the lines that wait, and gives up after a second.
#[derive(Debug)]
pub struct Logs {
    dropped: DroppedLines,
    _worker: WorkerGuard,
}

impl Logs {
    /// Writes the log to standard error, as text or as one JSON object a line; `RUST_LOG` says how much, `info` unless set.
    ///
    /// # Errors
    /// When `RUST_LOG` can't be read, or a log is set up already.
    pub fn init(json: bool) -> anyhow::Result<Self> {
        let filter = tracing_subscriber::EnvFilter::builder()
            .with_default_directive(tracing::Level::INFO.into())
            .from_env()
            .context("RUST_LOG: it must be such as info or scanlogin=debug")?;
        let total = IntCounter::new(
            super::prefixed("log_lines_dropped_total"),
            "Lines of the log that nobody will read.",
        )?;
        let output = StandardError { failed: total.clone() };
        let builder = NonBlockingBuilder::default().lossy(true);
        let (lines, worker) = builder.buffered_lines_limit(WAITING_MAX).finish(output);
        let dropped = DroppedLines {
            overflowed: lines.error_counter(),
            counted: Arc::default(),
            total,
        };
        let layer = tracing_subscriber::fmt::layer().with_writer(lines);
        let layer = if json {
            layer.json().flatten_event(true).boxed()
        } else {
            layer.with_ansi(io::stderr().is_terminal()).boxed()
        };
        tracing_subscriber::registry().with(filter).with(layer).try_init()?;
        std::panic::set_hook(Box::new(tell_of_panic));
        Ok(Self {
            dropped,
            _worker: worker,
        })
    }

    /// Counts the lines that were not written.
    #[must_use]
    pub fn dropped(&self) -> impl Collector + use<> {
        self.dropped.clone()
    }
}

/// What a panic says may hold anything, so only where it was is told.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!("panicked at {location}");
}

/// Takes every line: one that can't be written is counted, since there is nowhere to tell it.
#[derive(Debug)]
struct StandardError {
    failed: IntCounter,
}

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            self.failed.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that found no room and lines that could not be written, in one number.
#[derive(Debug, Clone)]
struct DroppedLines {
    overflowed: ErrorCounter,
    /// How many of those the total has.
    counted: Arc<AtomicUsize>,
    total: IntCounter,
}

impl Collector for DroppedLines {
    fn desc(&self) -> Vec<&Desc> {
        self.total.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let overflowed = self.overflowed.dropped_lines();
        let counted = self.counted.fetch_max(overflowed, Ordering::Relaxed);
        self.total.inc_by(overflowed.saturating_sub(counted) as u64);
        self.total.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
