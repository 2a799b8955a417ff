//! How much memory the kernel says there is.

use std::fs;

use tempfile::TempDir;

use super::service::ServiceBuilder;
use super::temporary_directory;

/// The control group that one process finds itself in, as the system would show it in both versions.
#[derive(Debug)]
pub(crate) struct ControlGroup(TempDir);

impl ControlGroup {
    const LIMIT: u64 = 4_000_000_000;

    pub(crate) fn new() -> Self {
        let group = Self(temporary_directory());
        fs::create_dir(group.0.path().join("memory")).unwrap();
        for limit in ["memory.max", "memory/memory.limit_in_bytes"] {
            group.write(limit, &Self::LIMIT.to_string());
        }
        for stat in ["memory.stat", "memory/memory.stat"] {
            group.write(stat, "");
        }
        group.uses(0);
        group
    }

    /// So much of what there is.
    pub(crate) fn uses(&self, percent: u64) {
        for usage in ["memory.current", "memory/memory.usage_in_bytes"] {
            self.write(usage, &(Self::LIMIT / 100 * percent).to_string());
        }
    }

    fn write(&self, file: &str, text: &str) {
        // At once, as the process may read it at any time.
        let next = self.0.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.0.path().join(file)).unwrap();
    }

    /// The process is in it.
    pub(crate) fn of(&self, builder: ServiceBuilder) -> ServiceBuilder {
        builder.in_place_of("/sys/fs/cgroup", self.0.path())
    }
}
