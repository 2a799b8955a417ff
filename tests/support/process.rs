//! The program itself as a process, with its log kept for the test to read.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Log,
}

/// What a process has written to standard error so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

/// The program, without any setting from outside the test.
pub(crate) fn scanlogin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scanlogin"));
    command.env_clear();
    command
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Log::default();
        let (lines, output) = (log.clone(), child.stderr.take().expect("its standard error"));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
            }
        });
        Self { child, log }
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
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
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
