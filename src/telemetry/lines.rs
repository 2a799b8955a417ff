//! Lines written by a thread of their own, so that no request waits for whoever takes them. What finds no room is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntCounter;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::{Metrics, prefixed};

/// Where lines end up, while this lives. Dropped, it writes those that wait, and gives up after a second.
#[derive(Debug)]
pub(crate) struct Lines {
    writer: LineWriter,
    dropped: DroppedLines,
    _worker: WorkerGuard,
}

/// Takes whole lines, and never makes anybody wait.
#[derive(Debug, Clone)]
pub(crate) struct LineWriter(NonBlocking);

/// Whom it is told that lines can't be written, and by `None` that they can again.
pub(crate) type Tell = fn(Option<&io::Error>);

impl Lines {
    /// To `output`; so many may wait. `metric` and `help` are of the counter of those that are dropped.
    ///
    /// # Errors
    /// That is no name of a metric.
    pub(crate) fn to<W: Write + Send + 'static>(
        output: W,
        tell: Tell,
        waiting_max: usize,
        [metric, help]: [&str; 2],
    ) -> anyhow::Result<Self> {
        let total = IntCounter::new(prefixed(metric), help)?;
        let output = Counted {
            output,
            cut: false,
            fails: false,
            failed: total.clone(),
            tell,
        };
        let builder = NonBlockingBuilder::default().lossy(true);
        let (writer, worker) = builder.buffered_lines_limit(waiting_max).finish(output);
        Ok(Self {
            dropped: DroppedLines {
                overflowed: writer.error_counter(),
                counted: Arc::default(),
                total,
            },
            writer: LineWriter(writer),
            _worker: worker,
        })
    }

    pub(crate) fn writer(&self) -> LineWriter {
        self.writer.clone()
    }

    /// Counts there the lines that were not written.
    ///
    /// # Errors
    /// Something of that name is counted there already.
    pub(crate) fn count_in(&self, metrics: &Metrics) -> anyhow::Result<()> {
        Ok(metrics.register(self.dropped.clone())?)
    }
}

impl LineWriter {
    /// With its end.
    pub(crate) fn put(&self, line: &[u8]) {
        // Never an error: what finds no room is counted there.
        let _ = self.0.clone().write(line);
    }

    /// For a subscriber of `tracing`.
    pub(super) fn make_writer(self) -> NonBlocking {
        self.0
    }
}

/// Takes every line, and counts those that can't be written.
#[derive(Debug)]
struct Counted<W> {
    output: W,
    /// Whether the last line stands there in part, so that the next would be taken for the rest of it.
    cut: bool,
    fails: bool,
    failed: IntCounter,
    tell: Tell,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, mut line: &[u8]) -> io::Result<()> {
        if self.cut {
            self.output.write_all(b"\n")?;
            self.cut = false;
        }
        while !line.is_empty() {
            match self.output.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    line = line.get(written..).unwrap_or_default();
                    self.cut = !line.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let failed = self.put(line).err();
        if failed.is_some() {
            self.failed.inc();
        }
        if failed.is_some() != self.fails {
            self.fails = failed.is_some();
            (self.tell)(failed.as_ref());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
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

    /// Takes as many bytes as it has room for.
    #[derive(Debug, Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let (held, room) = &mut *self.0.lock().unwrap();
            let taken = text.len().min(*room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            held.extend(&text[..taken]);
            *room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    static TOLD: Mutex<Vec<bool>> = Mutex::new(Vec::new());

    #[test]
    fn a_line_that_a_full_disk_cut_off_ends_where_the_next_begins_and_is_told_of_once() {
        let disk = Disk::default();
        let mut lines = Counted {
            output: disk.clone(),
            cut: false,
            fails: false,
            failed: IntCounter::new("failed", "Lines.").unwrap(),
            tell: |failed| TOLD.lock().unwrap().push(failed.is_some()),
        };
        let mut put = |line: &str, room| {
            disk.0.lock().unwrap().1 = room;
            assert_eq!(lines.write(line.as_bytes()).unwrap(), line.len());
        };
        put("one\n", 99);
        put("two\n", 2);
        put("three\n", 0);
        put("four\n", 99);
        put("five\n", 0);
        put("six\n", 99);
        assert_eq!(disk.0.lock().unwrap().0, b"one\ntw\nfour\nsix\n");
        assert_eq!(lines.failed.get(), 3);
        assert_eq!(*TOLD.lock().unwrap(), [true, false, true, false]);
    }
}
