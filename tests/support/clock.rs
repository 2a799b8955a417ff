//! Wall clocks that are wrong.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::service::ServiceBuilder;
use super::temporary_directory;

/// The wall clock of one process, to be set while it runs; its monotonic clock goes on as it is.
#[derive(Debug)]
pub(crate) struct WallClock(TempDir);

impl WallClock {
    /// Off by so much, such as `+300` seconds.
    pub(crate) fn new(offset: &str) -> Self {
        let clock = Self(temporary_directory());
        clock.set(offset);
        clock
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    pub(crate) fn set(&self, offset: &str) {
        let next = self.0.path().join("next");
        fs::write(&next, offset).unwrap();
        fs::rename(next, self.file()).unwrap();
    }

    /// The process goes by it.
    pub(crate) fn of(&self, builder: ServiceBuilder) -> ServiceBuilder {
        let libraries = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
        let mut preloads = libraries.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
        let preload = preloads.find(|path| path.exists());
        builder
            .env(
                "LD_PRELOAD",
                preload.expect("libfaketime is not installed: `apt-get install faketime`, or run scripts/test"),
            )
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}
