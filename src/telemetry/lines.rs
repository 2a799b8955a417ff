//! Lines written by a thread of their own, so that no request waits for whoever takes them. What finds no room is dropped and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::{Metrics, prefixed};

/// How long the end waits for lines to be written.
const LAST: Duration = Duration::from_secs(1);

/// Where lines end up, while this lives. Dropped, it writes those that wait, and gives up after a second.
#[derive(Debug)]
pub(crate) struct Lines {
    writer: LineWriter,
}

/// Takes whole lines, and never makes anybody wait.
#[derive(Debug, Clone)]
pub(crate) struct LineWriter(Arc<Queue>);

/// What becomes of lines that are not written.
#[derive(Debug)]
pub(crate) enum Trouble<'a> {
    /// They can't be.
    Failed(&'a io::Error),
    /// As many wait as may: whoever takes them stands still, or is slow.
    Full,
    /// It is over.
    Over,
    /// The end came before they could be, so many.
    Left(usize),
}

/// Whom it is told, once of each trouble. It must not write a line there itself.
pub(crate) type Tell = fn(&Trouble<'_>);

/// What lines are written to. It keeps nothing back.
pub(crate) trait Output: Write + Send + 'static {
    /// Asked between two lines, when it may go over to another place: whether where it writes now a line stands in part, so that the
    /// next would be taken for the rest of it. `cut` is whether the last one does.
    fn next_line(&mut self, cut: bool) -> io::Result<bool> {
        Ok(cut)
    }
}

impl Output for io::Stderr {}
impl Output for File {}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// A line, or the end.
    came: Condvar,
    /// Nothing is left after the end.
    done: Condvar,
    max: usize,
    dropped: IntCounter,
    tell: Tell,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    is_writing: bool,
    in_trouble: bool,
    has_ended: bool,
}

impl State {
    fn left(&self) -> usize {
        self.waiting.len() + usize::from(self.is_writing)
    }
}

impl Lines {
    /// To `output`; so many may wait. `metric` and `help` are of the counter of those that are dropped.
    ///
    /// # Errors
    /// That is no name of a metric, or there can't be another thread.
    pub(crate) fn to(
        mut output: impl Output,
        tell: Tell,
        max: usize,
        [metric, help]: [&str; 2],
    ) -> anyhow::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            came: Condvar::new(),
            done: Condvar::new(),
            max,
            dropped: IntCounter::new(prefixed(metric), help)?,
            tell,
        });
        let writer = LineWriter(Arc::clone(&queue));
        thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || queue.write_to(&mut output))?;
        Ok(Self { writer })
    }

    pub(crate) fn writer(&self) -> LineWriter {
        self.writer.clone()
    }

    /// Counts there the lines that were not written.
    ///
    /// # Errors
    /// Something of that name is counted there already.
    pub(crate) fn count_in(&self, metrics: &Metrics) -> anyhow::Result<()> {
        Ok(metrics.register(self.writer.0.dropped.clone())?)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let queue = &*self.writer.0;
        let mut state = queue.state();
        state.has_ended = true;
        queue.came.notify_one();
        let ended = queue.done.wait_timeout_while(state, LAST, |state| state.left() > 0);
        let (state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        let left = state.left();
        if left > 0 {
            queue.dropped.inc_by(left as u64);
            (queue.tell)(&Trouble::Left(left));
        }
    }
}

impl LineWriter {
    /// With its end.
    pub(crate) fn put(&self, line: Vec<u8>) {
        let queue = &*self.0;
        let mut state = queue.state();
        if state.has_ended {
            queue.dropped.inc();
        } else if state.waiting.len() < queue.max {
            state.waiting.push_back(line);
            queue.came.notify_one();
        } else {
            queue.dropped.inc();
            queue.trouble(&mut state, &Trouble::Full);
        }
    }
}

/// For a subscriber of `tracing`, which writes a line at once.
impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, output: &mut impl Output) {
        let mut cut = false;
        while let Some(line) = self.next() {
            let failed = put(output, &line, &mut cut).err();
            let mut state = self.state();
            state.is_writing = false;
            match failed {
                Some(error) => {
                    self.dropped.inc();
                    self.trouble(&mut state, &Trouble::Failed(&error));
                }
                // Of one who is slow it would else be told with each line.
                None if state.in_trouble && state.waiting.len() <= self.max / 2 => {
                    state.in_trouble = false;
                    (self.tell)(&Trouble::Over);
                }
                None => {}
            }
        }
        self.done.notify_one();
    }

    /// The next line; at the end `None` once none is left.
    fn next(&self) -> Option<Vec<u8>> {
        let waits = |state: &mut State| state.waiting.is_empty() && !state.has_ended;
        let state = self.came.wait_while(self.state(), waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let line = state.waiting.pop_front();
        state.is_writing = line.is_some();
        line
    }

    /// Tells of the first of them.
    fn trouble(&self, state: &mut State, trouble: &Trouble<'_>) {
        if !state.in_trouble {
            state.in_trouble = true;
            (self.tell)(trouble);
        }
    }
}

/// Writes a line whole, or as much of it as there is room for: then it is `cut`.
fn put(output: &mut impl Output, mut line: &[u8], cut: &mut bool) -> io::Result<()> {
    *cut = output.next_line(*cut)?;
    if *cut {
        output.write_all(b"\n")?;
        *cut = false;
    }
    while !line.is_empty() {
        match output.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                line = line.get(written..).unwrap_or_default();
                *cut = !line.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use tokio::time::Instant;

    use super::*;

    /// Takes as many bytes as it has room for.
    #[derive(Debug, Default)]
    struct Disk {
        held: Vec<u8>,
        room: usize,
        /// Another file, which is empty, comes before the next line.
        is_moved: bool,
    }

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let taken = text.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.held.extend(&text[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Disk {
        fn next_line(&mut self, cut: bool) -> io::Result<bool> {
            if !self.is_moved {
                return Ok(cut);
            }
            self.is_moved = false;
            self.held.clear();
            Ok(false)
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cut_off_ends_where_the_next_begins_and_not_in_another_file() {
        let (mut disk, mut cut) = (Disk::default(), false);
        let put = |disk: &mut Disk, cut: &mut bool, line: &str, room| {
            disk.room = room;
            put(disk, line.as_bytes(), cut).is_ok()
        };
        let lines = [
            ("one\n", 99),
            ("two\n", 2),
            ("three\n", 1),
            ("four\n", 99),
            ("five\n", 0),
        ];
        let written = lines.map(|(line, room)| put(&mut disk, &mut cut, line, room));
        assert_eq!(written, [true, false, false, true, false]);
        assert!(put(&mut disk, &mut cut, "six\n", 99));
        assert_eq!(disk.held, b"one\ntw\nfour\nsix\n");
        assert!(!put(&mut disk, &mut cut, "seven\n", 2) && cut);
        disk.is_moved = true;
        assert!(put(&mut disk, &mut cut, "eight\n", 99));
        assert_eq!(disk.held, b"eight\n");
    }

    impl Output for UnixStream {}

    const METRIC: [&str; 2] = ["lines_of_a_test", "Lines."];

    /// What was told, each test by its own.
    macro_rules! told {
        () => {{
            static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
            let tell: Tell = |trouble| TOLD.lock().unwrap().push(format!("{trouble:?}"));
            (|| TOLD.lock().unwrap().clone(), tell)
        }};
    }

    fn until(what: impl Fn() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(30), "in vain");
            thread::yield_now();
        }
    }

    #[test]
    fn who_stands_still_is_told_of_once_and_once_when_it_is_over() {
        let (told, tell) = told!();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lines = Lines::to(ours, tell, 8, METRIC).unwrap();
        let writer = lines.writer();
        let dropped = || writer.0.dropped.get();
        // More than a socket holds.
        while dropped() < 3 {
            writer.put(vec![b'x'; 65_536]);
            thread::yield_now();
        }
        assert_eq!(told(), ["Full"]);
        let (read, reading) = mpsc::channel();
        thread::spawn(move || read.send(theirs.read_to_end(&mut Vec::new())));
        until(|| told().len() > 1);
        writer.put(b"one more\n".to_vec());
        drop(lines);
        assert_eq!(told(), ["Full", "Over"]);
        drop(writer);
        let read = reading.recv().unwrap().unwrap();
        assert_eq!(read % 65_536, 9);
    }

    #[test]
    fn who_stands_still_does_not_hold_the_end_up_and_what_is_left_is_counted_and_told() {
        let (told, tell) = told!();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lines = Lines::to(ours, tell, 8, METRIC).unwrap();
        let writer = lines.writer();
        writer.put(vec![b'x'; 4 << 20]);
        theirs.read_exact(&mut [0]).unwrap();
        for _ in 0..5 {
            writer.put(b"left\n".to_vec());
        }
        let began = Instant::now();
        drop(lines);
        assert!(began.elapsed() < LAST * 5);
        assert_eq!(told(), ["Left(6)"]);
        writer.put(b"too late\n".to_vec());
        assert_eq!(writer.0.dropped.get(), 7);
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let (told, tell) = told!();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lines = Lines::to(ours, tell, 1_000, METRIC).unwrap();
        for _ in 0..1_000 {
            lines.writer().put(vec![b'x'; 1_000]);
        }
        let reading = thread::spawn(move || theirs.read_to_end(&mut Vec::new()).unwrap());
        drop(lines);
        assert!(told().is_empty(), "{:?}", told());
        assert_eq!(reading.join().unwrap(), 1_000_000);
    }
}
