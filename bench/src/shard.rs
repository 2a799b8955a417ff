//! Who watches and confirms many scenes: a process of its own, as no process may have so many connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::machine::Process;
use crate::peers::{Programs, Scene};
use crate::wire::{Caller, Stream};

/// How many streams one process has, on either side: often it may have 20,000 files open.
pub const MOST: usize = 16_000;
/// How many streams are being opened at a time, by all of them together.
pub const OPENING: usize = 128;
/// How many confirm at a time, in the same way.
pub const CONFIRMING: usize = 64;
/// How long a process may take for what it was asked.
const PATIENCE: Duration = Duration::from_mins(2);

/// What one of them does.
#[derive(Serialize, Deserialize)]
struct Work {
    scenes: Vec<Scene>,
    /// Where they are watched, and where they are confirmed.
    at: (SocketAddr, SocketAddr),
    /// How many of them there are.
    shards: usize,
}

/// One of them, as who measures has it.
pub struct Shard {
    /// Ends with it.
    _process: Process,
    lines: Lines,
}

impl Shard {
    /// It has its work, and does nothing yet.
    pub async fn start(
        programs: &Programs,
        scenes: Vec<Scene>,
        at: (SocketAddr, SocketAddr),
        shards: usize,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut command = Command::new(&programs.bench);
        command.args(["shard", &listener.local_addr()?.to_string()]);
        let process = Process::start(command, "a shard")?;
        let (stream, _) = timeout(PATIENCE, listener.accept()).await??;
        let mut lines = Lines(BufStream::new(stream));
        lines.tell(&Work { scenes, at, shards }).await?;
        lines.hear::<()>().await?;
        Ok(Self {
            _process: process,
            lines,
        })
    }

    /// Opens all streams.
    pub async fn open(&mut self) -> Result<()> {
        self.lines.tell(&()).await?;
        self.lines.hear().await
    }

    /// How long each took to open, in milliseconds.
    pub async fn took(&mut self) -> Result<Vec<f64>> {
        self.lines.tell(&()).await?;
        self.lines.hear().await
    }

    /// Confirms each scene, and says how many were told of it.
    pub async fn tell(&mut self) -> Result<usize> {
        self.lines.tell(&()).await?;
        self.lines.hear().await
    }
}

/// The process itself, which is asked by `to`.
pub async fn run(to: SocketAddr) -> Result<()> {
    let mut lines = Lines(BufStream::new(TcpStream::connect(to).await?));
    let Work {
        scenes,
        at: (a, b),
        shards,
    } = lines.hear().await?;
    lines.tell(&()).await?;
    lines.hear::<()>().await?;
    let (opened, times) = open(a, scenes, OPENING / shards).await?;
    lines.tell(&()).await?;
    lines.hear::<()>().await?;
    lines.tell(&millis(&times)).await?;
    lines.hear::<()>().await?;
    lines.tell(&tell(b, opened, CONFIRMING / shards).await?).await
}

/// Each is JSON.
struct Lines(BufStream<TcpStream>);

impl Lines {
    async fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.0.write_all(&line).await?;
        Ok(self.0.flush().await?)
    }

    async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let heard = timeout(PATIENCE, self.0.read_line(&mut line)).await;
        heard.context("a shard took too long")??;
        serde_json::from_str(&line).context("a shard has ended")
    }
}

/// One that is open, with its number.
pub type Opened = (usize, Stream, Scene);

pub type Times = Vec<(Instant, Instant)>;

pub fn millis(times: &Times) -> Vec<f64> {
    times
        .iter()
        .map(|(start, end)| (*end - *start).as_secs_f64() * 1e3)
        .collect()
}

/// Opens a stream for each, so many at a time.
pub async fn open(a: SocketAddr, scenes: Vec<Scene>, at_a_time: usize) -> Result<(Vec<Opened>, Times)> {
    let count = scenes.len();
    let mut parts: Vec<Vec<(usize, Scene)>> = (0..at_a_time).map(|_| Vec::new()).collect();
    for (number, scene) in scenes.into_iter().enumerate() {
        parts[number % at_a_time].push((number, scene));
    }
    let mut opening = JoinSet::new();
    for part in parts {
        opening.spawn_local(async move {
            let mut opened = Vec::with_capacity(part.len());
            for (number, scene) in part {
                let began = Instant::now();
                let stream = Stream::open(a, &scene.open).await?;
                opened.push((number, stream, scene, (began, Instant::now())));
            }
            anyhow::Ok(opened)
        });
    }
    let (mut streams, mut times) = (Vec::with_capacity(count), Vec::with_capacity(count));
    while let Some(opened) = opening.join_next().await {
        for (number, stream, scene, time) in opened?? {
            streams.push((number, stream, scene));
            times.push(time);
        }
    }
    Ok((streams, times))
}

/// Confirms each, so many at a time, and says how many were told of it.
pub async fn tell(b: SocketAddr, opened: Vec<Opened>, at_a_time: usize) -> Result<usize> {
    let mut parts: Vec<Vec<(Stream, Scene)>> = (0..at_a_time).map(|_| Vec::new()).collect();
    for (number, stream, scene) in opened {
        parts[number % at_a_time].push((stream, scene));
    }
    let mut telling = JoinSet::new();
    for part in parts {
        telling.spawn_local(async move {
            let mut caller = Caller::to(b).await?;
            let mut told = 0;
            for (mut stream, scene) in part {
                let (answered, heard) = tokio::join!(caller.call(&scene.confirm), stream.confirmed());
                answered?;
                heard?;
                told += 1;
            }
            anyhow::Ok(told)
        });
    }
    let mut all = 0;
    while let Some(told) = telling.join_next().await {
        all += told??;
    }
    Ok(all)
}
