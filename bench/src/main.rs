//! Measures scanlogin beside what people would otherwise run: see `scripts/bench`.

#![forbid(unsafe_code)]

mod far;
mod figures;
mod floor;
mod logins;
mod machine;
mod pace;
mod peers;
mod redis;
mod report;
mod rows;
mod scale;
mod shard;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::sleep;

use figures::Measured;
use logins::Load;
use machine::Watch;
use peers::{Kind, Programs};
use report::{DISTURBED, LEAST, Record, Report};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves as the floor does
    Floor { listen: SocketAddr, redis: SocketAddr },
    /// Watches and confirms, as it is asked to there
    Shard { to: SocketAddr },
    /// Measures all, side by side
    Run(Wishes),
}

#[derive(Args)]
struct Wishes {
    /// The program
    #[arg(long)]
    scanlogin: PathBuf,
    /// Where the settings of the others are
    #[arg(long)]
    peers: PathBuf,
    /// Where bench.json and the pictures go
    #[arg(long, default_value = "docs/bench")]
    out: PathBuf,
    /// With 1,000 streams alone, and one round
    #[arg(long)]
    quick: bool,
    /// With 50,000 streams, a replica that is killed, a Redis that is restarted, pictures that WeChat is slow to make, and more replicas
    /// and masters, too
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    #[arg(long)]
    rounds: Option<usize>,
    /// Only what begins so: least, size, start, streams, events, logins, storm, restart, pictures
    #[arg(long, default_value = "")]
    only: String,
    /// Only these
    #[arg(long, value_enum, default_values_t = Kind::ALL)]
    of: Vec<Kind>,
    /// What the table says it was made by
    #[arg(long, default_value = "scripts/bench")]
    command: String,
}

/// How often what was disturbed is measured again.
const TRIES: usize = 3;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Floor { listen, redis } => Ok(floor::run(listen, redis)?),
        Command::Shard { to } => block_on(shard::run(to)),
        Command::Run(wishes) => block_on(run(wishes)),
    }
}

fn block_on<T>(doing: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, doing)
}

/// Something that is measured of each.
#[derive(Clone, Copy)]
enum Figure {
    Least,
    Start,
    Streams(usize),
    Events { count: usize, one_thread: bool },
    Logins(Load),
    Size,
    Storm,
    Restart { round_trip: Duration },
    Pictures,
}

impl Figure {
    fn name(self) -> String {
        match self {
            Self::Least => LEAST.to_owned(),
            Self::Start => "start".to_owned(),
            Self::Streams(count) => format!("streams {count}"),
            Self::Events { one_thread: false, .. } => "events".to_owned(),
            Self::Events { one_thread: true, .. } => "events, one thread".to_owned(),
            Self::Logins(load) => match load.name() {
                None => "logins".to_owned(),
                Some(other) => format!("logins, {other}"),
            },
            Self::Size => "size".to_owned(),
            Self::Storm => "storm".to_owned(),
            Self::Restart { round_trip } if round_trip.is_zero() => "restart".to_owned(),
            Self::Restart { .. } => "restart, 1 ms away".to_owned(),
            Self::Pictures => "pictures".to_owned(),
        }
    }

    fn all(wishes: &Wishes) -> Vec<Self> {
        let mut all = vec![Self::Least, Self::Size, Self::Start, Self::Streams(1_000)];
        let (count, seconds) = if wishes.quick {
            (1_000, 3)
        } else {
            all.push(Self::Streams(10_000));
            (2_000, 5)
        };
        let usual = Load::usual(Duration::from_secs(seconds));
        all.extend([
            Self::Events {
                count,
                one_thread: false,
            },
            Self::Logins(usual),
        ]);
        if wishes.full {
            all.push(Self::Streams(50_000));
            all.push(Self::Events {
                count,
                one_thread: true,
            });
            all.push(Self::Storm);
            all.extend([0, 1].map(|millis| Self::Restart {
                round_trip: Duration::from_millis(millis),
            }));
            all.push(Self::Pictures);
            all.push(Self::Logins(Load { callers: 512, ..usual }));
            all.extend([1, 4, 8].map(|replicas| Self::Logins(Load { replicas, ..usual })));
            all.extend([3, 6].map(|masters| Self::Logins(Load { masters, ..usual })));
        }
        all.retain(|figure| figure.name().starts_with(&wishes.only));
        all
    }

    async fn measure(self, kind: Kind, programs: &Programs) -> Result<Measured> {
        match self {
            Self::Least => pace::least(400, 200),
            Self::Start => figures::start(kind, programs).await,
            Self::Streams(count) => {
                // A heartbeat comes each 15 s: of fewer streams too little to be measured.
                let idle_for = Duration::from_secs(if count >= 50_000 { 30 } else { 0 });
                figures::streams(kind, programs, count, idle_for).await
            }
            Self::Events { count, one_thread } => {
                let threads = one_thread.then(|| ("TOKIO_WORKER_THREADS", "1".to_owned()));
                figures::events(kind, programs, count, 200, Vec::from_iter(threads)).await
            }
            Self::Logins(load) => logins::logins(kind, programs, load).await,
            Self::Size => figures::size(kind, programs),
            Self::Storm => figures::storm(kind, programs, 10_000).await,
            Self::Restart { round_trip } => figures::restart(programs, 10_000, round_trip).await,
            Self::Pictures => figures::pictures(programs, 100).await,
        }
    }

    /// What depends on how many there are is told apart by that.
    fn named(self, value: &str) -> String {
        match self {
            Self::Streams(count) => format!("{value}@{count}"),
            Self::Logins(_) | Self::Events { .. } | Self::Restart { .. } => match self.name().split_once(", ") {
                None => value.to_owned(),
                Some((_, other)) => format!("{value}@{other}"),
            },
            _ => value.to_owned(),
        }
    }
}

async fn run(wishes: Wishes) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("scanlogin-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let programs = Programs {
        scanlogin: fs::canonicalize(&wishes.scanlogin)?,
        bench: std::env::current_exe()?,
        peers: fs::canonicalize(&wishes.peers)?,
        dir: dir.clone(),
    };
    let mut report = Report {
        machine: machine::description(),
        command: wishes.command.clone(),
        records: Vec::new(),
    };
    let figures = Figure::all(&wishes);
    ensure!(!figures.is_empty(), "there is nothing of that name");
    quiet().await?;
    for round in 0..wishes.rounds.unwrap_or(if wishes.quick { 1 } else { 3 }) {
        for figure in &figures {
            let mut kinds = match figure {
                // Of the machine, and of nobody's.
                Figure::Least => vec![Kind::Floor],
                // Of what nobody else does.
                Figure::Restart { .. } | Figure::Pictures | Figure::Events { one_thread: true, .. } => {
                    vec![Kind::Scanlogin]
                }
                // How its own cost grows.
                Figure::Logins(load) if load.name().is_some() => vec![Kind::Scanlogin],
                _ => wishes.of.clone(),
            };
            // Nobody is always the first.
            let first = round % kinds.len();
            kinds.rotate_left(first);
            for kind in kinds {
                report.records.push(undisturbed(*figure, kind, round, &programs).await?);
            }
        }
    }
    let _ = fs::remove_dir_all(dir);
    report.write(&wishes.out)?;
    println!("{}", report.table());
    if let Some(costs) = report.costs() {
        println!("{}", costs.table());
    }
    Ok(())
}

/// Before minutes are spent on what comes to nothing.
async fn quiet() -> Result<()> {
    let mut foreign = 0.0;
    for _ in 0..10 {
        let watch = Watch::begin();
        sleep(Duration::from_secs(1)).await;
        foreign = watch.foreign();
        if foreign <= DISTURBED {
            return Ok(());
        }
    }
    bail!(
        "other processes take {:.0} % of this machine, of which {:.0} % is too much to measure beside: end them, and try again",
        foreign * 100.0,
        DISTURBED * 100.0
    )
}

/// Again while others disturb it, a few times.
async fn undisturbed(figure: Figure, kind: Kind, round: usize, programs: &Programs) -> Result<Record> {
    for tried in 1.. {
        let measured = figure.measure(kind, programs).await?;
        let disturbed = measured.foreign > DISTURBED;
        eprintln!(
            "round {}: {} of {}: others took {:.1} % of the machine{}",
            round + 1,
            figure.name(),
            kind.name(),
            measured.foreign * 100.0,
            if disturbed { ", which is too much" } else { "" },
        );
        if !disturbed || tried == TRIES {
            let values = measured
                .values
                .into_iter()
                .map(|(name, value)| (figure.named(name), value));
            return Ok(Record {
                round,
                kind,
                values: values.collect(),
                foreign: measured.foreign,
            });
        }
    }
    unreachable!("a range without an end has none")
}
