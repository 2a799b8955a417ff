//! A redis-server of our own, and as much of its protocol as the bench speaks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::far;
use crate::machine::{Process, free_port, until};

/// How many a cluster has (its specification).
const SLOTS: usize = 16_384;

pub struct Redis {
    pub process: Process,
    pub addr: SocketAddr,
    /// The other masters of a cluster.
    others: Vec<Redis>,
    /// Where replicas find it, if that is elsewhere.
    door: Option<SocketAddr>,
}

/// What came and went so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub bytes: u64,
    /// How often it read what had come: of one who asks one thing after another, how often they asked.
    pub reads: u64,
}

impl Redis {
    /// Empty, and nothing of it is kept.
    pub fn start() -> Result<Self> {
        Self::start_with(free_port()?, &["--appendonly", "no", "--dir", "/"])
    }

    /// What is kept in this directory outlives it.
    pub fn start_keeping(dir: &Path, port: u16) -> Result<Self> {
        let dir = dir.display().to_string();
        Self::start_with(
            port,
            &["--appendonly", "yes", "--appendfsync", "everysec", "--dir", &dir],
        )
    }

    /// The same, but to replicas so far away.
    pub fn away(mut self, round_trip: Duration) -> Result<Self> {
        self.door = Some(far::away(self.addr, round_trip)?);
        Ok(self)
    }

    /// A cluster of so many masters without replicas.
    pub fn start_cluster(dir: &Path, masters: usize) -> Result<Self> {
        let mut nodes = Vec::with_capacity(masters);
        for number in 0..masters {
            let (port, bus) = (free_port()?, free_port()?);
            let dir = dir.join(format!("node-{port}"));
            std::fs::create_dir_all(&dir)?;
            let (dir, bus) = (dir.display().to_string(), bus.to_string());
            let args = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--dir", &dir];
            let node = Self::start_with(port, &args)?;
            let (first, end) = (SLOTS * number / masters, SLOTS * (number + 1) / masters);
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()])?;
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
            nodes.push((node, bus));
        }
        let met: Vec<_> = nodes
            .iter()
            .map(|(node, bus)| (node.addr.port().to_string(), bus.clone()))
            .collect();
        let mut nodes = nodes.into_iter().map(|(node, _)| node);
        let mut first = nodes.next().context("a cluster has a master")?;
        for (port, bus) in &met[1..] {
            first.ask(&["CLUSTER", "MEET", "127.0.0.1", port, bus])?;
        }
        first.others = nodes.collect();
        until("the cluster is whole", Duration::from_secs(30), || {
            for node in first.all() {
                let said = node.ask(&["CLUSTER", "INFO"])?.concat();
                if !said.contains("cluster_state:ok") || !said.contains(&format!("cluster_known_nodes:{masters}\r")) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(first)
    }

    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.all().map(|node| node.process.pid()).collect()
    }

    fn start_with(port: u16, args: &[&str]) -> Result<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--tcp-backlog", "4096"]).args(args);
        let process = Process::start(command, "redis-server")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let redis = Self {
            process,
            addr,
            others: Vec::new(),
            door: None,
        };
        until("redis-server answers", Duration::from_secs(30), || {
            Ok(redis.ask(&["PING"]).is_ok().then_some(()))
        })?;
        Ok(redis)
    }

    pub fn url(&self) -> String {
        if self.others.is_empty() {
            return format!("redis://{}", self.door.unwrap_or(self.addr));
        }
        let others: Vec<String> = self.others.iter().map(|node| format!("node={}", node.addr)).collect();
        format!("redis-cluster://{}?{}", self.addr, others.join("&"))
    }

    pub fn ask(&self, words: &[&str]) -> Result<Vec<Box<str>>> {
        Asker::to(self.addr)?.ask(words)
    }

    /// How many commands each server ran, those of scripts included, but what keeps watch over connections and servers.
    pub fn commands(&self) -> Result<Vec<u64>> {
        self.all().map(Self::own_commands).collect()
    }

    fn own_commands(&self) -> Result<u64> {
        let kept_up = [
            "ping",
            "info",
            "hello",
            "auth",
            "role",
            "time",
            "config|resetstat",
            "command",
            "cluster|slots",
            "cluster|shards",
            "cluster|info",
            "cluster|nodes",
        ];
        let said = self.info("commandstats")?;
        let counts = said.iter().filter_map(|(name, value)| {
            let command = name.strip_prefix("cmdstat_")?;
            let calls = value.strip_prefix("calls=")?.split(',').next()?.parse().ok()?;
            Some((command, calls))
        });
        Ok(counts
            .filter(|(command, _): &(&str, u64)| !kept_up.contains(command) && !command.starts_with("client|"))
            .map(|(_, calls)| calls)
            .sum())
    }

    pub fn traffic(&self) -> Result<Traffic> {
        let mut all = Traffic::default();
        for node in self.all() {
            let said = node.info("stats")?;
            let of = |name: &str| said.get(name).and_then(|value| value.parse::<u64>().ok());
            all.bytes += of("total_net_input_bytes").unwrap_or(0) + of("total_net_output_bytes").unwrap_or(0);
            all.reads += of("total_reads_processed").context("redis does not say how often it read")?;
        }
        Ok(all)
    }

    pub fn used_memory(&self) -> Result<u64> {
        let said = self.info("memory")?;
        said.get("used_memory")
            .and_then(|value| value.parse().ok())
            .context("redis says no used_memory")
    }

    fn info(&self, section: &str) -> Result<BTreeMap<String, String>> {
        let text = self.ask(&["INFO", section])?.concat();
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// Asks one thing after another.
pub struct Asker {
    pub socket: TcpStream,
    come: Vec<u8>,
}

impl Asker {
    pub fn to(addr: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            socket,
            come: Vec::new(),
        })
    }

    pub fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut bytes = Vec::new();
        encode(words, &mut bytes);
        Ok(self.socket.write_all(&bytes)?)
    }

    pub fn next(&mut self) -> Result<Vec<Box<str>>> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some((words, length)) = decode(&self.come) {
                self.come.drain(..length);
                return Ok(words);
            }
            match self.socket.read(&mut buffer)? {
                0 => bail!("redis has closed the connection"),
                length => self.come.extend_from_slice(&buffer[..length]),
            }
        }
    }

    pub fn ask(&mut self, words: &[&str]) -> Result<Vec<Box<str>>> {
        self.send(words)?;
        let reply = self.next()?;
        match reply.first().filter(|first| first.starts_with('-')) {
            Some(refusal) => bail!("redis answers {words:?}: {refusal}"),
            None => Ok(reply),
        }
    }
}

pub fn encode(words: &[&str], to: &mut Vec<u8>) {
    to.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        to.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// The words of the first reply, and how long it is, if it is whole. An error keeps its sign; of RESP2, and of no array within another.
pub fn decode(bytes: &[u8]) -> Option<(Vec<Box<str>>, usize)> {
    let (kind, text, mut at) = line(bytes)?;
    if kind != b'*' {
        let (word, length) = bulk(kind, text, &bytes[at..])?;
        return Some((vec![word], at + length));
    }
    let count = text.parse::<usize>().ok()?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, text, length) = line(&bytes[at..])?;
        at += length;
        let (word, length) = bulk(kind, text, &bytes[at..])?;
        at += length;
        words.push(word);
    }
    Some((words, at))
}

fn line(bytes: &[u8]) -> Option<(u8, &str, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let text = std::str::from_utf8(bytes.get(1..end)?).ok()?;
    Some((bytes[0], text, end + 2))
}

fn bulk(kind: u8, text: &str, rest: &[u8]) -> Option<(Box<str>, usize)> {
    match (kind, text.parse::<usize>()) {
        (b'$', Ok(length)) => {
            let word = rest.get(..length + 2)?;
            Some((String::from_utf8_lossy(&word[..length]).into(), length + 2))
        }
        (b'-', _) => Some((format!("-{text}").into(), 0)),
        // What there is not is a word without letters.
        (b'$', Err(_)) => Some(("".into(), 0)),
        _ => Some((text.into(), 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_once_they_are_whole() {
        let mut bytes = Vec::new();
        encode(&["smessage", "a", "confirmed"], &mut bytes);
        let whole = bytes.len();
        for cut in 0..whole {
            assert!(decode(&bytes[..cut]).is_none(), "{cut}");
        }
        bytes.extend_from_slice(b":1\r\n$-1\r\n-ERR no\r\n");
        let mut at = 0;
        let mut read = Vec::new();
        while let Some((words, length)) = decode(&bytes[at..]) {
            read.push(words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
            at += length;
        }
        assert_eq!(
            read,
            [vec!["smessage", "a", "confirmed"], vec!["1"], vec![""], vec!["-ERR no"]]
        );
    }
}
