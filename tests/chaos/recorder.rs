//! Writes down what every client sent and got.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tokio::time::Instant;

use crate::history::{ClientName, Entry, What};
use crate::support::canaries::Secrets;

/// One clock and one file for all clients of a run. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    /// None ends the file.
    lines: Sender<Option<Vec<u8>>>,
    file: Mutex<Option<JoinHandle<()>>>,
    secrets: Mutex<Secrets>,
}

impl Recorder {
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::create(path).expect("a file for the history");
        let (lines, written) = channel();
        Self(Arc::new(Inner {
            began: Instant::now(),
            lines,
            // A disk that is busy must hold up no client: its times would be the disk's.
            file: Mutex::new(Some(thread::spawn(|| write_all(file, written)))),
            secrets: Mutex::default(),
        }))
    }

    /// Milliseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap()
    }

    /// Something that began at `sent_ms` and has ended now.
    pub(crate) fn write(&self, client: ClientName, sent_ms: u64, what: What) {
        let entry = Entry {
            client,
            sent_ms,
            got_ms: Some(self.now()),
            what,
        };
        let mut line = serde_json::to_vec(&entry).unwrap();
        line.push(b'\n');
        self.0.lines.send(Some(line)).expect("the history's file takes it");
    }

    /// Something that has no length.
    pub(crate) fn note(&self, client: ClientName, what: What) {
        self.write(client, self.now(), what);
    }

    /// What must be found in no log, metric or dump.
    pub(crate) fn secret(&self, what: &str, secret: &str) {
        self.0.secrets.lock().unwrap().learn(what, secret);
    }

    /// The same of all secrets in a reply of the service, or in an event's data.
    pub(crate) fn told(&self, told: &Value) {
        self.0.secrets.lock().unwrap().learn_from(told);
    }

    /// Ends the file; what was secret in this run.
    pub(crate) fn finish(&self) -> Secrets {
        self.0.lines.send(None).expect("the history is ended once");
        let file = self.0.file.lock().unwrap().take();
        file.expect("the history is ended once")
            .join()
            .expect("the history's file takes it");
        std::mem::take(&mut *self.0.secrets.lock().unwrap())
    }
}

fn write_all(file: File, lines: Receiver<Option<Vec<u8>>>) {
    let mut file = BufWriter::new(file);
    for line in lines.into_iter().map_while(|line| line) {
        file.write_all(&line).expect("the history's file takes it");
    }
    file.flush().expect("the history's file takes it");
}
