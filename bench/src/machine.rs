//! The processes of a run, what they take of the machine, and what everything else takes of it meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A process of a run, which ends with it.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub fn start(mut command: Command, name: &str) -> Result<Self> {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} can't be started"))?;
        let log = Arc::new(Mutex::new(String::new()));
        let told = child.stderr.take().context("no stderr")?;
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                // Its beginning says where it listens, or why it does not.
                if kept.len() < 16 * 1024 {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        });
        Ok(Self { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error once it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("ended with {status}:\n{}", self.log()),
            None => Ok(()),
        }
    }

    /// At once, and waits for its end.
    pub fn kill(&mut self) {
        for pid in family(&[self.pid()]) {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// # Errors
/// When it does not come to be in `most`, or `check` fails.
pub fn until<T>(what: &str, most: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if began.elapsed() > most {
            bail!("in vain: {what}");
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Nobody listens there now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// These and all that they started.
pub fn family(pids: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all_pids() {
        if let Some(parent) = stat(pid).and_then(|stat| stat.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut seen) = (pids.to_vec(), HashSet::new());
    let mut at = 0;
    while at < found.len() {
        if seen.insert(found[at]) {
            found.extend(children.get(&found[at]).into_iter().flatten());
        }
        at += 1;
    }
    found
}

fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The fields of /proc/<pid>/stat from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// A hundredth of a second is what the system counts in.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of these and all that they started, so far; also of what has ended by now.
pub fn cpu(pids: &[u32]) -> Duration {
    // In user mode and in the kernel, its own and that of its children that have ended.
    let ticks = |pid: &u32| {
        stat(*pid)?
            .get(11..15)?
            .iter()
            .map(|field| field.parse::<u32>().ok())
            .sum::<Option<u32>>()
    };
    TICK * family(pids).iter().filter_map(ticks).sum()
}

/// Resident memory of these and all that they started, in bytes: their own, and what they share counted once.
pub fn memory(pids: &[u32]) -> u64 {
    let pss = |pid: &u32| kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    family(pids).iter().filter_map(pss).sum()
}

/// What the kernel holds for itself, which is where connections are, in bytes.
pub fn kernel_memory() -> u64 {
    kilobytes("/proc/meminfo", "Slab:").unwrap_or(0)
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// From here on, who takes what of the machine.
pub struct Watch {
    began: Instant,
    all: Duration,
    own: Duration,
}

impl Watch {
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            all: busy(),
            own: cpu(&[std::process::id()]),
        }
    }

    /// The part of all cores that went to processes outside of this run, 0 to 1.
    pub fn foreign(&self) -> f64 {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let own = cpu(&[std::process::id()]).saturating_sub(self.own);
        let foreign = busy().saturating_sub(self.all).saturating_sub(own);
        foreign.as_secs_f64() / self.began.elapsed().as_secs_f64() / cores as f64
    }
}

/// Time in which any core worked for a process, or was taken away from this machine by the one below it. Interrupts, which
/// carry loopback's packets, are nobody's.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u32> = text
        .lines()
        .next()
        .map(|line| {
            line.split_whitespace()
                .skip(1)
                .filter_map(|field| field.parse().ok())
                .collect()
        })
        .unwrap_or_default();
    let of = |index: usize| fields.get(index).copied().unwrap_or(0);
    TICK * (of(0) + of(1) + of(2) + of(7))
}

/// What this machine is, in a line.
pub fn description() -> String {
    let of = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find_map(|line| {
            Some(
                line.strip_prefix(name)?
                    .trim_start_matches([' ', '\t', ':', '='])
                    .to_owned(),
            )
        });
        found.unwrap_or_default()
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = kilobytes("/proc/meminfo", "MemTotal:").unwrap_or(0) / (1 << 30);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = of("/etc/os-release", "PRETTY_NAME");
    format!(
        "{cores} cores ({}), {memory} GiB, {}, Linux {}",
        of("/proc/cpuinfo", "model name"),
        system.trim_matches('"'),
        kernel.trim()
    )
}
