//! The audit log: who logged in where, and how it ended. A line of JSON for each step of a login, apart from the log, which knows nobody.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use rustix::fs::{Access, access};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;

use crate::scene::{Doubt, Place, Scene};
use crate::telemetry::{LineWriter, Lines, Metrics, Output, Trouble};

/// Most of a minute of a hundred logins a second, where a disk stands still: some 6 MB.
const WAITING_MAX: usize = 16_384;

/// The counter of lines that are not in it.
const DROPPED: [&str; 2] = [
    "audit_lines_dropped_total",
    "Lines of the audit log that nobody will read.",
];

/// How soon it is seen that the file was moved away.
const LOOK: Duration = Duration::from_secs(1);

/// Where the audit log goes, and what people are called in it.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// A file, appended to; standard output where there is none.
    pub file: Option<PathBuf>,
    /// What people are called.
    pub names: Names,
}

/// What people are called.
#[derive(Clone)]
pub enum Names {
    /// By HMAC-SHA-256 of AppID and openid: the same person has the same name wherever the same key is, and nobody without it finds out
    /// whose it is.
    Hashed(hmac::Key),
    /// By their openid.
    Plain,
}

impl Names {
    /// Hashed with this key.
    #[must_use]
    pub fn hashed(key: &SecretString) -> Self {
        Self::Hashed(hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes()))
    }

    fn of(&self, appid: &str, openid: &str) -> String {
        match self {
            // An AppID holds no NUL, so that no two pairs are written alike.
            Self::Hashed(key) => {
                let pair = [appid.as_bytes(), &[0], openid.as_bytes()].concat();
                URL_SAFE_NO_PAD.encode(hmac::sign(key, &pair))
            }
            Self::Plain => openid.to_owned(),
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hashed(_) => "Hashed",
            Self::Plain => "Plain",
        })
    }
}

/// What a login came to. The words are those of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A person scanned, or typed a short code.
    Scanned,
    /// They said yes.
    Confirmed,
    /// They said no, or picked two wrong numbers.
    Declined,
    /// The browser gave up.
    Cancelled,
    /// The site has got to know who it is.
    Redeemed,
    /// Its time was over.
    Expired,
    /// Its code was used again, so what the first use gave was taken back.
    Revoked,
}

impl Event {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scanned => "scanned",
            Self::Confirmed => "confirmed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::Redeemed => "redeemed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// The audit log, while this lives. Dropped, it writes the lines that wait, and gives up after a second.
#[derive(Debug)]
pub struct AuditLog {
    audit: Audit,
    _lines: Lines,
}

impl AuditLog {
    /// Begins it, and counts the lines that are not written. `simulated` is whether what answers as WeChat is a simulator.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(settings: &AuditSettings, simulated: bool, metrics: &Metrics) -> anyhow::Result<Self> {
        let lines = if let Some(path) = &settings.file {
            let file = AuditFile::open(path).with_context(|| {
                let path = path.display();
                format!("SCANLOGIN_AUDIT_LOG: {path} can't be written; give a file that this user may append to, or - for standard output")
            })?;
            Lines::to(file, tell, WAITING_MAX, DROPPED)?
        } else {
            // Not by the buffer that the process shares: of what is in it nobody knows that it can't be written.
            let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Lines::to(output, tell, WAITING_MAX, DROPPED)?
        };
        lines.count_in(metrics)?;
        let log = Log {
            lines: lines.writer(),
            names: settings.names.clone(),
            simulated,
        };
        Ok(Self {
            audit: Audit {
                log: Some(Arc::new(log)),
            },
            _lines: lines,
        })
    }

    /// For whoever has something to tell.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.audit.clone()
    }
}

/// Told what happens; where there is no audit log, in vain. What is told after the log's end is lost.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    log: Option<Arc<Log>>,
}

#[derive(Debug)]
struct Log {
    lines: LineWriter,
    names: Names,
    simulated: bool,
}

/// One line.
#[derive(Debug, Serialize)]
struct Record<'a> {
    time: String,
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    client_id: &'a str,
    scene: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    appid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<String>,
    browser: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_scene: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<Doubt>,
    warned: bool,
    simulated: bool,
}

impl Audit {
    /// Writes down what this scene came to, as it is now. `reason` is that of a decline.
    pub fn tell(&self, event: Event, reason: Option<&str>, scene: &Scene) {
        let Some(log) = &self.log else { return };
        let person = scene.person();
        let record = Record {
            time: format!("{:.3}", Timestamp::now()),
            event,
            reason,
            client_id: &scene.client_id,
            // Whole, it is the address of a login that may be under way.
            scene: scene.id.shortened(),
            appid: person.map(|person| &*person.appid),
            person: person.map(|person| log.names.of(&person.appid, &person.openid)),
            browser: &scene.browser.name,
            os: &scene.browser.os,
            ip: scene.browser.ip.as_deref(),
            place: scene.browser.place.as_ref(),
            entry_scene: scene.caution.entry_scene,
            doubt: scene.doubt,
            warned: scene.caution.warned,
            simulated: log.simulated,
        };
        // Of text and numbers alone, which JSON can always hold.
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        log.lines.put(line);
    }
}

fn tell(trouble: &Trouble<'_>) {
    match trouble {
        Trouble::Failed(error) => {
            tracing::warn!(%error, "the audit log can't be written: what happens meanwhile is not in it");
        }
        Trouble::Full => {
            tracing::warn!(
                "the audit log is written too slowly, and no more can wait: some of what happens meanwhile is not in it"
            );
        }
        Trouble::Over => tracing::info!("the audit log is written again"),
        Trouble::Left(lines) => {
            tracing::warn!(
                lines,
                "the audit log lacks what could not be written in time before the end"
            );
        }
    }
}

/// For whoever runs the service alone.
fn open(path: &Path) -> io::Result<File> {
    refuse_pipe(path)?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whether [`open`] would succeed, as far as that shows without making a file.
///
/// # Errors
/// Those that it would have.
pub(crate) fn may_be_opened(path: &Path) -> io::Result<()> {
    refuse_pipe(path)?;
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        opened => opened.map(drop),
    }
}

/// It would stand still until somebody reads at its other end.
fn refuse_pipe(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| there.file_type().is_fifo()) {
        return Err(io::Error::other("it is a named pipe"));
    }
    Ok(())
}

/// Whether its last line has no end. Of what can be appended to and not read, nor has a size, nobody knows.
fn ends_in_part(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let Some(last) = file.metadata()?.len().checked_sub(1) else {
        return Ok(false);
    };
    let mut end = [0];
    file.read_exact_at(&mut end, last)?;
    Ok(end != *b"\n")
}

/// A file that may be moved away at any time, as logrotate does: then another is begun in its place.
#[derive(Debug)]
struct AuditFile {
    path: PathBuf,
    file: File,
    /// Whether it ended in a part of a line when it was opened: whoever wrote that knew, and is gone.
    was_cut: bool,
    looked: Instant,
}

impl AuditFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path)?,
            was_cut: ends_in_part(path).unwrap_or_default(),
            looked: Instant::now(),
        })
    }

    fn is_in_its_place(&self) -> bool {
        let (Ok(named), Ok(own)) = (self.path.metadata(), self.file.metadata()) else {
            return false;
        };
        (named.dev(), named.ino()) == (own.dev(), own.ino())
    }
}

impl Write for AuditFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output for AuditFile {
    fn next_line(&mut self, mut cut: bool) -> io::Result<bool> {
        if self.looked.elapsed() >= LOOK {
            // Where this fails it is tried with each line: who moved the old one away may have deleted it.
            if !self.is_in_its_place() {
                *self = Self::open(&self.path)?;
                cut = false;
            }
            self.looked = Instant::now();
        }
        Ok(mem::take(&mut self.was_cut) || cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_that_was_cut_off_is_of_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, "in pa").unwrap();
        let mut file = AuditFile::open(&path).unwrap();
        assert!(file.next_line(false).unwrap(), "somebody else's");
        assert!(!file.next_line(false).unwrap(), "and once");
        assert!(file.next_line(true).unwrap(), "its own");
        fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
        assert!(file.next_line(true).unwrap(), "it is not looked for before its time");
        tokio::time::advance(LOOK).await;
        assert!(!file.next_line(true).unwrap(), "the line is in the other file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "whole\n").unwrap();
        tokio::time::advance(LOOK).await;
        assert!(!file.next_line(true).unwrap());
    }
}
