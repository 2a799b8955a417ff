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
    limit: u64,
}

impl Memory {
    /// `None` where no control group sets a limit. The files are looked for under `root`, which is `/`.
    #[must_use]
    pub fn under(root: &Path) -> Option<Self> {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let limit = groups.lines().filter_map(|group| limit_of(root, group)).min()?;
        Some(Self {
            status: root.join("proc/self/status"),
            limit,
        })
    }

    /// Tells `load` each second whether memory is nearly used up. For a task.
    pub async fn watch(self, load: Load) {
        tracing::info!(
            limit_bytes = self.limit,
            "memory is limited: new scenes and streams are refused from 80 % on"
        );
        loop {
            let is_tight = self
                .resident()
                .is_some_and(|bytes| bytes >= self.limit / 100 * TIGHT_PERCENT);
            match (load.0.is_tight.swap(is_tight, Ordering::Relaxed), is_tight) {
                (false, true) => tracing::warn!("memory is nearly used up: no new scenes and streams"),
                (true, false) => tracing::info!("there is memory again"),
                (false, false) | (true, true) => {}
            }
            sleep(PERIOD).await;
        }
    }

    fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(&self.status).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }
}

/// The lowest limit on the way up from a group that /proc/self/cgroup names: `0::/path` in version 2, `4:memory:/path` in version 1.
/// Inside of a container the path may be that of the host, and only the top is there.
fn limit_of(root: &Path, group: &str) -> Option<u64> {
    let mut parts = group.splitn(3, ':').skip(1);
    let (mount, file) = match parts.next()? {
        "" => ("sys/fs/cgroup", "memory.max"),
        "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let path = Path::new(parts.next()?.trim_start_matches('/'));
    let read = |group: &Path| fs::read_to_string(root.join(mount).join(group).join(file)).ok();
    path.ancestors()
        .filter_map(read)
        .filter_map(|text| text.trim().parse().ok())
        .filter(|bytes| *bytes < UNLIMITED)
        .min()
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
        Memory::under(root.path()).map(|memory| memory.limit)
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

    #[tokio::test(start_paused = true)]
    async fn near_the_limit_no_scene_or_stream_is_taken_on_but_logins_under_way_go_on() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/cgroup", "0::/\n");
        write(root.path(), "sys/fs/cgroup/memory.max", "102400000\n");
        let load = Load::new(Metrics::new().unwrap());
        let watching = Memory::under(root.path()).unwrap().watch(load.clone());
        let works = [Work::Start, Work::Picture, Work::Watch, Work::Scan, Work::Finish];
        let check = async {
            for (kib, taken) in [
                (79_999, [true; 5]),
                (80_000, [false, false, false, true, true]),
                (79_000, [true; 5]),
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
