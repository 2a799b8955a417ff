//! Whole logins: made, watched, scanned, confirmed, told, and left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::figures::{CALLERS, Measured, SETTLE, Taken, Values, quantile, warm_up_at};
use crate::machine::Watch;
use crate::peers::{Kind, Maker, Peer, Programs};
use crate::redis::Redis;
use crate::wire::Stream;

/// How many are done one after another, to see how often each asks Redis.
const ALONE: usize = 200;

/// Who does how many of them where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// At a time.
    pub callers: usize,
    pub replicas: usize,
    /// Of a Redis Cluster; none of a Redis that is one server.
    pub masters: usize,
    pub long: Duration,
}

impl Load {
    pub const fn usual(long: Duration) -> Self {
        Self {
            callers: CALLERS,
            replicas: 2,
            masters: 0,
            long,
        }
    }

    /// What is other than usual.
    pub fn name(self) -> Option<String> {
        let Self {
            callers,
            replicas,
            masters,
            ..
        } = self;
        match Self::usual(self.long) {
            usual if usual == self => None,
            usual if usual.callers != callers => Some(format!("{callers} callers")),
            usual if usual.masters != masters => Some(format!("{masters} masters")),
            _ => Some(format!("{replicas} replicas")),
        }
    }
}

/// One after another by each of many, and before that by one alone.
pub async fn logins(kind: Kind, programs: &Programs, load: Load) -> Result<Measured> {
    let redis = match load.masters {
        0 => Redis::start()?,
        masters => Redis::start_cluster(&programs.dir, masters)?,
    };
    let peer = Peer::start_with(kind, programs, load.replicas, redis, Vec::new())?;
    let at: Vec<SocketAddr> = peer.replicas.iter().map(|replica| replica.addr).collect();
    for a in &at {
        warm_up_at(&peer, *a).await?;
    }
    sleep(SETTLE).await;
    let mut makers = Vec::with_capacity(load.callers);
    for number in 0..load.callers {
        // Each browser at another replica than its phone, where there is another.
        let (a, b) = (at[number % at.len()], at[(number + 1) % at.len()]);
        makers.push((a, peer.maker(a, b).await?));
    }
    let watch = Watch::begin();
    let idle = Taken::by(&peer)?;
    let (a, maker) = &mut makers[0];
    for number in 0..ALONE {
        login(maker, *a, &format!("e{number:06x}")).await?;
    }
    sleep(SETTLE).await;
    let before = Taken::by(&peer)?;
    let began = Instant::now();
    let mut times = all(makers, load.long).await?;
    let took = began.elapsed();
    // Channels that are given up together.
    sleep(SETTLE).await;
    let (after, foreign) = (Taken::by(&peer)?, watch.foreign());
    let per = |amount: f64| amount / times.len() as f64;
    let micros = |from: Duration, to: Duration| per((to - from).as_secs_f64() * 1e6);
    let own = micros(before.cpu, after.cpu);
    let each = after.commands.iter().zip(&before.commands);
    let busiest = each.map(|(after, before)| after - before).max().unwrap_or(0);
    let values = Values::from([
        ("logins_per_second", times.len() as f64 / took.as_secs_f64()),
        ("login_cpu", own),
        ("login_cpu_redis", micros(before.redis_cpu, after.redis_cpu)),
        ("logins_per_core", 1e6 / own),
        ("login_commands", per(after.commands_since(&before))),
        ("login_commands_busiest", per(busiest as f64)),
        (
            "login_redis_bytes",
            per((after.redis.bytes - before.redis.bytes) as f64),
        ),
        (
            "login_round_trips",
            (before.redis.reads - idle.redis.reads) as f64 / ALONE as f64,
        ),
        ("login_p99", quantile(&mut times, 0.99)),
    ]);
    Ok(Measured { values, foreign })
}

/// How long each took, in milliseconds.
async fn all(makers: Vec<(SocketAddr, Maker)>, long: Duration) -> Result<Vec<f64>> {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for (caller, (a, mut maker)) in makers.into_iter().enumerate() {
        callers.spawn_local(async move {
            let mut times = Vec::new();
            while began.elapsed() < long {
                let began = Instant::now();
                login(&mut maker, a, &format!("f{caller:03x}{:06x}", times.len())).await?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(own) = callers.join_next().await {
        times.extend(own??);
    }
    Ok(times)
}

async fn login(maker: &mut Maker, a: SocketAddr, name: &str) -> Result<()> {
    let mut scene = maker.make(name).await?;
    let mut stream = Stream::open(a, &scene.open).await?;
    maker.scan(&mut scene).await?;
    let (confirmed, heard) = tokio::join!(maker.confirm(&scene), stream.confirmed());
    confirmed?;
    heard?;
    Ok(())
}
