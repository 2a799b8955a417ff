//! What is measured: each function starts whom it measures, does one thing with it, and says what it took.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::machine::{Watch, cpu, free_port, kernel_memory, memory};
use crate::pace;
use crate::peers::{Kind, Maker, NCHAN, Peer, Programs, Scene};
use crate::redis::{Asker, Redis, Traffic};
use crate::shard::{self, CONFIRMING, OPENING, Shard, millis, open, tell};
use crate::wire::{Caller, request};

/// What one measurement came to, by the name of each figure.
pub type Values = BTreeMap<&'static str, f64>;

/// One measurement.
pub struct Measured {
    pub values: Values,
    /// The part of the machine that others took meanwhile, 0 to 1.
    pub foreign: f64,
}

/// How many callers are at work at a time in a closed loop.
pub const CALLERS: usize = 64;
/// How late the hundredth part of events may be sent.
const LATE_MICROS: f64 = 5_000.0;
/// Until memory that is given back is given back.
pub const SETTLE: Duration = Duration::from_millis(1500);

/// From a process's start until it serves, the median of five.
pub async fn start(kind: Kind, programs: &Programs) -> Result<Measured> {
    let mut times = Vec::new();
    let peer = Peer::start(kind, programs, 0)?;
    let watch = Watch::begin();
    for _ in 0..5 {
        times.push(peer.replica(programs)?.took.as_secs_f64() * 1e3);
        // What others take shows in no less.
        sleep(Duration::from_millis(200)).await;
    }
    Ok(Measured {
        values: Values::from([("start", quantile(&mut times, 0.5))]),
        foreign: watch.foreign(),
    })
}

/// How large what is started is: without what the system has anyway, and of Node.js with the library that it takes.
pub fn size(kind: Kind, programs: &Programs) -> Result<Measured> {
    let files = match kind {
        Kind::Scanlogin => vec![programs.scanlogin.clone()],
        // It is within the bench.
        Kind::Floor => Vec::new(),
        Kind::Nchan => vec![program("nginx")?, NCHAN.into()],
        Kind::Node => vec![program("node")?, programs.peers.join("node/node_modules")],
    };
    let bytes = files.iter().map(|file| bytes_in(file)).sum::<Result<u64>>()?;
    let mut values = Values::new();
    if bytes > 0 {
        values.insert("size", bytes as f64 / 1e6);
    }
    Ok(Measured { values, foreign: 0.0 })
}

/// Of a program that the system finds by its name.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.exists());
    found.with_context(|| format!("{name} is not installed"))
}

/// In a file, or in all within a directory.
fn bytes_in(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path)?;
    if !found.is_dir() {
        return Ok(found.len());
    }
    std::fs::read_dir(path)?.map(|entry| bytes_in(&entry?.path())).sum()
}

/// A replica is killed that has so many streams; they come back at the other as fast as they can.
pub async fn storm(kind: Kind, programs: &Programs, count: usize) -> Result<Measured> {
    let mut peer = Peer::start(kind, programs, 2)?;
    warm_up(&peer).await?;
    let scenes = peer.scenes(count).await?;
    let b = peer.b();
    let (opened, _) = open(peer.a(), scenes, OPENING).await?;
    let scenes: Vec<Scene> = opened.into_iter().map(|(_, _, scene)| scene).collect();
    let mut gone = peer.replicas.remove(0);
    gone.process.kill();
    let watch = Watch::begin();
    let began = Instant::now();
    let (opened, times) = open(b, scenes, OPENING).await?;
    let back = began.elapsed();
    let mut each = millis(&times);
    let told = tell(b, opened, CONFIRMING).await?;
    ensure!(told == count, "{told} events of {count} came");
    let values = Values::from([
        ("storm", back.as_secs_f64()),
        ("storm_open_p99", quantile(&mut each, 0.99)),
    ]);
    Ok(Measured {
        values,
        foreign: watch.foreign(),
    })
}

/// Redis, so far away, dies under so many streams and comes back with what it had.
pub async fn restart(programs: &Programs, count: usize, round_trip: Duration) -> Result<Measured> {
    let (port, dir) = (free_port()?, programs.dir.join("kept"));
    std::fs::create_dir_all(&dir)?;
    let mut redis = Redis::start_keeping(&dir, port)?;
    if !round_trip.is_zero() {
        redis = redis.away(round_trip)?;
    }
    let mut peer = Peer::start_with(Kind::Scanlogin, programs, 1, redis, Vec::new())?;
    warm_up(&peer).await?;
    let scenes = peer.scenes(count).await?;
    let (opened, _) = open(peer.a(), scenes, OPENING).await?;
    // What is written by then is on the disk.
    sleep(SETTLE).await;
    let read_before = peer.metric("scanlogin_rereads_total").await?;
    peer.redis.process.kill();
    sleep(Duration::from_secs(1)).await;
    peer.redis = Redis::start_keeping(&dir, port)?;
    let (watch, began) = (Watch::begin(), Instant::now());
    let mut listened = None;
    while peer.metric("scanlogin_rereads_total").await? - read_before < count as f64 || listened.is_none() {
        ensure!(began.elapsed() < Duration::from_secs(60), "not all were read again");
        if listened.is_none() && peer.redis.ask(&["PUBSUB", "SHARDCHANNELS"])?.len() >= count {
            listened = Some(began.elapsed());
        }
        sleep(Duration::from_millis(2)).await;
    }
    let read = began.elapsed();
    let told = tell(peer.b(), opened, CONFIRMING).await?;
    ensure!(told == count, "{told} events of {count} came");
    let values = Values::from([
        ("restart_listened", listened.unwrap_or(read).as_secs_f64()),
        ("restart", read.as_secs_f64()),
    ]);
    let _ = std::fs::remove_dir_all(dir);
    Ok(Measured {
        values,
        foreign: watch.foreign(),
    })
}

/// How long a page waits for its picture: with one made ahead, without any, and of a replica that has just started, while WeChat takes
/// five seconds for one.
pub async fn pictures(programs: &Programs, count: usize) -> Result<Measured> {
    let settings = vec![("SCANLOGIN_CODE_POOL", count.to_string())];
    let mut peer = Peer::start_with(Kind::Scanlogin, programs, 1, Redis::start()?, settings)?;
    let began = Instant::now();
    while peer.metric("scanlogin_code_pool_ready").await? < count as f64 {
        ensure!(began.elapsed() < Duration::from_secs(60), "no codes were made ahead");
        sleep(Duration::from_millis(20)).await;
    }
    let slow = r#"{"call":"getwxacodeunlimit","delay_ms":5000,"times":1000000}"#;
    Caller::to(peer.simulator()?)
        .await?
        .call(&request("POST", "/simulator/faults", None, Some(slow)))
        .await?;
    let watch = Watch::begin();
    let (mut started, mut shown) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (start, picture) = picture(peer.a()).await?;
        started.push(start);
        shown.push(picture);
    }
    let (_, empty) = picture(peer.a()).await?;
    peer.settings = vec![("SCANLOGIN_CODE_POOL", "0".to_owned())];
    let fresh = peer.replica(programs)?;
    let (_, cold) = picture(fresh.addr).await?;
    let mut read = Vec::new();
    let mut asker = Asker::to(peer.redis.addr)?;
    asker.ask(&["SET", "picture", &"x".repeat(66_000)])?;
    for _ in 0..count {
        let began = Instant::now();
        asker.ask(&["GET", "picture"])?;
        read.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let values = Values::from([
        ("picture_p50", quantile(&mut shown, 0.5)),
        ("picture_p99", quantile(&mut shown, 0.99)),
        ("picture_empty", empty),
        ("picture_cold", cold),
        ("picture_start_p99", quantile(&mut started, 0.99)),
        ("picture_get", quantile(&mut read, 0.5)),
    ]);
    Ok(Measured {
        values,
        foreign: watch.foreign(),
    })
}

/// How long a scene takes to be made, and its picture to be shown, in milliseconds.
async fn picture(at: SocketAddr) -> Result<(f64, f64)> {
    let mut caller = Caller::to(at).await?;
    let (scene, started) = timed(Maker::start(&mut caller)).await?;
    let id = scene["scene"].as_str().context("no scene")?;
    let asked = request("GET", &format!("/scenes/{id}/code"), None, None);
    let (_, shown) = timed(caller.call(&asked)).await?;
    Ok((started, shown))
}

async fn timed<T>(doing: impl Future<Output = Result<T>>) -> Result<(T, f64)> {
    let began = Instant::now();
    let done = doing.await?;
    Ok((done, began.elapsed().as_secs_f64() * 1e3))
}

/// Streams that are opened, idle for so long, and then told, as fast as it goes.
pub async fn streams(kind: Kind, programs: &Programs, count: usize, idle_for: Duration) -> Result<Measured> {
    let shards = count.div_ceil(shard::MOST);
    let peer = Peer::start(kind, programs, shards + 1)?;
    // What a process takes once for all is taken by then.
    for replica in &peer.replicas[..shards] {
        warm_up_at(&peer, replica.addr).await?;
    }
    let empty = peer.redis.used_memory()?;
    let mut scenes = peer.scenes(count).await?;
    let scene_memory = (peer.redis.used_memory()? as f64 - empty as f64) / count as f64 / 1e3;
    let mut watching = Vec::with_capacity(shards);
    for number in 0..shards {
        let own = scenes.split_off(scenes.len() - (count + number) / shards);
        watching.push(Shard::start(programs, own, (peer.replicas[number].addr, peer.b()), shards).await?);
    }
    sleep(SETTLE).await;

    let watch = Watch::begin();
    let (before, began) = (Taken::by(&peer)?, Instant::now());
    try_join_all(watching.iter_mut().map(Shard::open)).await?;
    let (took, after_opening) = (began.elapsed(), Taken::by(&peer)?);
    let mut each = try_join_all(watching.iter_mut().map(Shard::took)).await?.concat();
    sleep(SETTLE).await;
    let settled = Taken::by(&peer)?;
    sleep(idle_for).await;
    let idle = Taken::by(&peer)?;

    let began = Instant::now();
    let told: usize = try_join_all(watching.iter_mut().map(Shard::tell)).await?.iter().sum();
    let telling = began.elapsed();
    ensure!(told == count, "{told} events of {count} came");
    let after = Taken::by(&peer)?;
    let foreign = watch.foreign();

    let per = |amount: f64| amount / count as f64;
    let micros = |from: Duration, to: Duration| per((to - from).as_secs_f64() * 1e6);
    let mut values = Values::from([
        ("opens_per_second", count as f64 / took.as_secs_f64()),
        ("open_p99", quantile(&mut each, 0.99)),
        ("open_cpu", micros(before.cpu, after_opening.cpu)),
        ("open_commands", per(after_opening.commands_since(&before))),
        ("memory", per(idle.memory as f64 - before.memory as f64) / 1e3),
        ("memory_at_rest", before.memory as f64 / 1e6),
        // Both ends are on this machine.
        ("kernel_memory", per(idle.kernel as f64 - before.kernel as f64) / 2e3),
        ("scene_memory", scene_memory),
        (
            "redis_memory",
            per(idle.redis_memory as f64 - before.redis_memory as f64) / 1e3,
        ),
        ("events_per_second", count as f64 / telling.as_secs_f64()),
        ("event_cpu", micros(idle.cpu, after.cpu)),
        ("event_cpu_redis", micros(idle.redis_cpu, after.redis_cpu)),
        ("event_commands", per(after.commands_since(&idle))),
    ]);
    if !idle_for.is_zero() {
        values.insert("idle_cpu", micros(settled.cpu, idle.cpu) / idle_for.as_secs_f64());
    }
    Ok(Measured { values, foreign })
}

/// How long an event takes from the phone at one replica to the browser at the other, at a steady rate.
pub async fn events(
    kind: Kind,
    programs: &Programs,
    count: usize,
    per_second: u32,
    settings: Vec<(&'static str, String)>,
) -> Result<Measured> {
    let peer = Peer::start_with(kind, programs, 2, Redis::start()?, settings)?;
    warm_up(&peer).await?;
    let scenes = peer.scenes(count).await?;
    let confirms: Vec<String> = scenes.iter().map(|scene| scene.confirm.clone()).collect();
    let (opened, _) = open(peer.a(), scenes, OPENING).await?;
    // In the order in which they are confirmed.
    let mut hearing = JoinSet::new();
    for (number, mut stream, _) in opened {
        hearing.spawn_local(async move { stream.confirmed().await.map(|at| (number, at)) });
    }
    sleep(SETTLE).await;
    let watch = Watch::begin();
    let before = Taken::by(&peer)?;
    let sender = pace::send(peer.b(), confirms, per_second);
    let mut heard = vec![None; count];
    while let Some(one) = hearing.join_next().await {
        let (number, at) = one??;
        heard[number] = Some(at);
    }
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender has panicked"))??;
    let after = Taken::by(&peer)?;
    let foreign = watch.foreign();
    // Those before it are warmed up with.
    let first = count / 5;
    let mut took = Vec::with_capacity(count);
    let mut late = Vec::with_capacity(count);
    for (sent, heard) in sent.iter().zip(&heard).skip(first) {
        let heard = heard.context("an event is lost")?;
        // From when it should have been sent, so that whoever delays the sender is not spared what that costs.
        took.push(heard.saturating_duration_since(sent.due).as_secs_f64() * 1e6);
        late.push((sent.at - sent.due).as_secs_f64() * 1e6);
    }
    let micros = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e6 / count as f64;
    let late = quantile(&mut late, 0.99);
    let values = Values::from([
        ("event_p50", quantile(&mut took, 0.5)),
        ("event_p99", quantile(&mut took, 0.99)),
        ("event_p999", quantile(&mut took, 0.999)),
        ("sender_late_p99", late),
        ("paced_cpu", micros(before.cpu, after.cpu)),
    ]);
    // Who could not send in time was not let run, whoever it was that ran.
    let foreign = if late > LATE_MICROS { 1.0 } else { foreign };
    Ok(Measured { values, foreign })
}

/// What was taken so far.
pub struct Taken {
    pub cpu: Duration,
    pub redis_cpu: Duration,
    memory: u64,
    kernel: u64,
    redis_memory: u64,
    /// By each of Redis's servers.
    pub commands: Vec<u64>,
    pub redis: Traffic,
}

impl Taken {
    pub fn by(peer: &Peer) -> Result<Self> {
        let pids = peer.pids();
        Ok(Self {
            cpu: cpu(&pids),
            redis_cpu: cpu(&peer.redis.pids()),
            // Where browsers are.
            memory: memory(&pids[..pids.len().saturating_sub(1).max(1)]),
            kernel: kernel_memory(),
            redis_memory: peer.redis.used_memory()?,
            commands: peer.redis.commands()?,
            redis: peer.redis.traffic()?,
        })
    }

    /// How many commands there were since.
    pub fn commands_since(&self, before: &Self) -> f64 {
        (self.commands.iter().sum::<u64>() - before.commands.iter().sum::<u64>()) as f64
    }
}

/// One login by each of a few callers.
pub async fn warm_up(peer: &Peer) -> Result<()> {
    warm_up_at(peer, peer.a()).await
}

pub async fn warm_up_at(peer: &Peer, a: SocketAddr) -> Result<()> {
    let scenes = peer.scenes(CALLERS).await?;
    let (opened, _) = open(a, scenes, OPENING).await?;
    tell(peer.b(), opened, CONFIRMING).await.map(drop)
}

pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get(((values.len() as f64 * q) as usize).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}
