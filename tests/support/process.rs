//! The program itself as a process, with its log kept for the test to read.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::{canaries, eventually};

/// Dies with the test, which fails if a secret is in its log.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Log,
    /// Reads the log to its end.
    reading: Option<JoinHandle<()>>,
}

/// What a process has written to standard error so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Arc<Reader>,
}

/// Who takes the lines out of the pipe.
#[derive(Debug, Default)]
struct Reader {
    stands_still: Mutex<bool>,
    goes_on: Condvar,
}

/// The program, without any setting from outside the test.
pub(crate) fn scanlogin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scanlogin"));
    command.env_clear();
    command.envs(log_level());
    command
}

/// The same, and at its end it says how much memory it asked for in all its life.
pub(crate) fn scanlogin_with_its_allocations_counted() -> Command {
    let mut command = Command::new("valgrind");
    command.env_clear();
    command.envs(log_level());
    command.args(["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"]);
    command.arg(env!("CARGO_BIN_EXE_scanlogin"));
    command
}

/// How much every process of a run is to log, where its test does not say so itself.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the program")]
fn log_level() -> Option<(&'static str, String)> {
    Some(("RUST_LOG", std::env::var("TEST_LOG").ok()?))
}

/// The same, but what comes first of each pair is mounted over what comes second, in a view of the file system that is this
/// process's alone.
pub(crate) fn scanlogin_with(mounts: &[(PathBuf, PathBuf)]) -> Command {
    if mounts.is_empty() {
        return scanlogin();
    }
    let mount_all = r#"while [ $# -gt 1 ]; do mount --bind "$1" "$2" || exit; shift 2; done; exec "$1""#;
    let mut command = Command::new("unshare");
    command.env_clear();
    command.envs(log_level());
    command.args(["--map-root-user", "--mount", "sh", "-c", mount_all, "sh"]);
    command.args(mounts.iter().flat_map(|(from, to)| [from, to]));
    command.arg(env!("CARGO_BIN_EXE_scanlogin"));
    command
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with_output_to(command, Stdio::null())
    }

    /// With a standard output that is read.
    pub(crate) fn start_with_output_to(command: &mut Command, output: Stdio) -> Self {
        let mut process = Self::start_with(command, output, Stdio::piped());
        let (log, output) = (process.log.clone(), process.child.stderr.take().expect("a pipe"));
        process.reading = Some(std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().push(line);
                let still = log.reader.stands_still.lock().unwrap();
                drop(log.reader.goes_on.wait_while(still, |still| *still).unwrap());
            }
        }));
        process
    }

    /// With a log that is not kept.
    pub(crate) fn start_with_log_to(command: &mut Command, output: Stdio) -> Self {
        Self::start_with(command, Stdio::null(), output)
    }

    fn start_with(command: &mut Command, output: Stdio, log_to: Stdio) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log_to)
            .spawn()
            .expect("the program starts");
        let log = Log::default();
        let reading = None;
        Self { child, log, reading }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the process ends", || {
            let ended = child.try_wait().expect("its status");
            async move { ended }
        })
        .await
    }

    /// Waits for its end: what it has said by then.
    pub(crate) async fn said(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.ended().await;
        self.read_to_end();
        (status, self.log.lines())
    }

    fn read_to_end(&mut self) {
        self.log.read_on();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_to_end();
        canaries::assert_none_in("the log", self.log.lines().join("\n").as_bytes());
    }
}

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Takes no more lines out of the pipe, until [`Self::read_on`].
    pub(crate) fn stand_still(&self) {
        *self.reader.stands_still.lock().unwrap() = true;
    }

    pub(crate) fn read_on(&self) {
        *self.reader.stands_still.lock().unwrap() = false;
        self.reader.goes_on.notify_all();
    }

    /// Waits for a line that contains all of `words`.
    pub(crate) async fn line_with(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?} in the log"), || async {
            self.lines()
                .into_iter()
                .find(|line| words.iter().all(|word| line.contains(word)))
        })
        .await
    }
}
