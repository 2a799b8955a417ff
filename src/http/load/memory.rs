//! How much memory there is for this process, and when it is nearly used up.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::Load;

/// From this share of the limit on nothing that fills memory is taken on: the kernel would end the process at the whole.
const TIGHT_PERCENT: u64 = 80;

/// Where there is no limit version 2 says `max`, and version 1 a number of this size.
const UNLIMITED: u64 = 1 << 60;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What the kernel says of this process's memory.
#[derive(Debug)]
pub struct Memory {
    /// `/proc/self/status`.
    status: PathBuf,
    group: Group,
}

/// A control group and its limit.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
    version: &'static Version,
    limit: u64,
}

/// What a version of control groups calls its files, and in `memory.stat` the files that are cached.
#[derive(Debug)]
struct Version {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    cached: [&'static str; 2],
}

const V1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};

const V2: Version = Version {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    cached: ["inactive_file", "active_file"],
};

impl Memory {
    /// `None` where no control group sets a limit. The files are looked for under `root`, which is `/`.
    #[must_use]
    pub fn under(root: &Path) -> Option<Self> {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let group = groups
            .lines()
            .filter_map(|group| Group::lowest(root, group))
            .min_by_key(|group| group.limit)?;
        Some(Self {
            status: root.join("proc/self/status"),
            group,
        })
    }

    /// Tells `load` each second whether memory is nearly used up. For a task.
    pub async fn watch(self, load: Load) {
        tracing::info!(
            limit_bytes = self.group.limit,
            "memory is limited: new scenes and streams are refused from 80 % on"
        );
        loop {
            let is_tight = self
                .used()
                .is_some_and(|bytes| bytes >= self.group.limit / 100 * TIGHT_PERCENT);
            match (load.0.is_tight.swap(is_tight, Ordering::Relaxed), is_tight) {
                (false, true) => tracing::warn!("memory is nearly used up: no new scenes and streams"),
                (true, false) => tracing::info!("there is memory again"),
                (false, false) | (true, true) => {}
            }
            sleep(PERIOD).await;
        }
    }

    /// What this process holds, or if that is more what its group is charged with: the buffers of sockets, and other processes.
    fn used(&self) -> Option<u64> {
        self.resident().max(self.group.used())
    }

    fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(&self.status).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }
}

impl Group {
    /// The one of the lowest limit on the way up from a group that /proc/self/cgroup names: `0::/path` in version 2,
    /// `4:memory:/path` in version 1. Inside of a container the path may be that of the host, and only the top is there.
    fn lowest(root: &Path, group: &str) -> Option<Self> {
        let mut parts = group.splitn(3, ':').skip(1);
        let version = match parts.next()? {
            "" => &V2,
            "memory" => &V1,
            _ => return None,
        };
        let path = Path::new(parts.next()?.trim_start_matches('/'));
        let limited = |path: &Path| {
            let directory = root.join(version.mount).join(path);
            let limit = bytes_in(&directory.join(version.limit)).filter(|bytes| *bytes < UNLIMITED)?;
            Some(Self {
                directory,
                version,
                limit,
            })
        };
        path.ancestors().filter_map(limited).min_by_key(|group| group.limit)
    }

    /// Without the files that are cached, which the kernel forgets before it ends anybody for want of memory.
    fn used(&self) -> Option<u64> {
        let usage = bytes_in(&self.directory.join(self.version.usage))?;
        let stat = fs::read_to_string(self.directory.join("memory.stat")).ok()?;
        let cached = stat.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            let bytes: u64 = bytes.trim().parse().ok()?;
            self.version.cached.contains(&name).then_some(bytes)
        });
        Some(usage.saturating_sub(cached.sum()))
    }
}

/// `None` also for `max`.
fn bytes_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;
    use crate::telemetry::Metrics;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    type Files = &'static [(&'static str, &'static str)];

    fn limit(files: Files) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            write(root.path(), file, text);
        }
        Memory::under(root.path()).map(|memory| memory.group.limit)
    }

    #[test]
    fn the_limit_is_the_lowest_of_the_groups_that_hold_the_process_in_both_versions() {
        const V2: (&str, &str) = ("proc/self/cgroup", "0::/pod/container\n");
        const V1: (&str, &str) = ("proc/self/cgroup", "5:devices:/\n4:memory:/pod/container\n0::/\n");
        let cases: [(Files, Option<u64>); 7] = [
            (&[V2, ("sys/fs/cgroup/pod/container/memory.max", "1000\n")], Some(1_000)),
            (
                &[
                    V2,
                    ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
                    ("sys/fs/cgroup/pod/memory.max", "500\n"),
                ],
                Some(500),
            ),
            (&[V2, ("sys/fs/cgroup/memory.max", "700\n")], Some(700)),
            (&[V2, ("sys/fs/cgroup/memory.max", "max\n")], None),
            (
                &[
                    V1,
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                None,
            ),
            (
                &[
                    V1,
                    ("sys/fs/cgroup/memory/pod/container/memory.limit_in_bytes", "800\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                Some(800),
            ),
            (&[], None),
        ];
        for (files, expected) in cases {
            assert_eq!(limit(files), expected, "{files:?}");
        }
    }

    #[test]
    fn what_counts_is_the_most_of_what_the_process_holds_and_what_its_group_is_charged_with_but_for_cached_files() {
        const STATUS: (&str, &str) = ("proc/self/status", "VmRSS:\t 1 kB\n");
        let cases: [(Files, Option<u64>); 4] = [
            (
                &[
                    STATUS,
                    ("proc/self/cgroup", "0::/pod\n"),
                    ("sys/fs/cgroup/pod/memory.max", "9000\n"),
                    ("sys/fs/cgroup/pod/memory.current", "8000\n"),
                    (
                        "sys/fs/cgroup/pod/memory.stat",
                        "anon 5000\ninactive_file 2000\nactive_file 500\n",
                    ),
                ],
                Some(5_500),
            ),
            (
                &[
                    STATUS,
                    ("proc/self/cgroup", "4:memory:/pod\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"),
                    ("sys/fs/cgroup/memory/memory.usage_in_bytes", "8000\n"),
                    (
                        "sys/fs/cgroup/memory/memory.stat",
                        "inactive_file 7000\ntotal_inactive_file 2000\n",
                    ),
                ],
                Some(6_000),
            ),
            (
                &[
                    STATUS,
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "9000\n"),
                    ("sys/fs/cgroup/memory.current", "900\n"),
                    ("sys/fs/cgroup/memory.stat", "inactive_file 1000\n"),
                ],
                Some(1_024),
            ),
            (
                &[
                    STATUS,
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "9000\n"),
                ],
                Some(1_024),
            ),
        ];
        for (files, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (file, text) in files {
                write(root.path(), file, text);
            }
            assert_eq!(Memory::under(root.path()).unwrap().used(), expected, "{files:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn near_the_limit_no_scene_or_stream_is_taken_on_but_logins_under_way_go_on() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/cgroup", "0::/\n");
        write(root.path(), "sys/fs/cgroup/memory.max", "102400000\n");
        let load = Load::new(Metrics::new().unwrap());
        let watching = Memory::under(root.path()).unwrap().watch(load.clone());
        let works = [
            Work::Start,
            Work::Picture,
            Work::Watch,
            Work::Status,
            Work::Scan,
            Work::Finish,
        ];
        let check = async {
            for (kib, taken) in [
                (79_999, [true; 6]),
                (80_000, [false, false, false, true, true, true]),
                (79_000, [true; 6]),
            ] {
                let status = format!("Name:\tscanlogin\nVmPeak:\t999999 kB\nVmRSS:\t   {kib} kB\n");
                write(root.path(), "proc/self/status", &status);
                sleep(PERIOD * 2).await;
                assert_eq!(works.map(|work| load.admit(work).is_ok()), taken, "{kib} KiB");
            }
        };
        tokio::select! {
            () = watching => {}
            () = check => {}
        }
    }
}
