//! Those that are measured side by side. Each has replicas on a Redis of its own: phones are at the last, browsers at the others.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::machine::{Process, free_port, until};
use crate::redis::Redis;
use crate::wire::{Caller, request, stream};

/// A PKCE pair, the same for each scene: nothing is redeemed.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// Where the module is.
pub const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// How many calls of a preparation are under way at a time.
const AT_A_TIME: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Scanlogin,
    Floor,
    Nchan,
    Node,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Scanlogin, Self::Floor, Self::Nchan, Self::Node];

    pub fn name(self) -> &'static str {
        match self {
            Self::Scanlogin => "scanlogin",
            Self::Floor => "floor",
            Self::Nchan => "nginx + nchan",
            Self::Node => "Node.js + ioredis",
        }
    }

    /// Whether a scene is something that is made before it is watched.
    fn makes_scenes(self) -> bool {
        matches!(self, Self::Scanlogin | Self::Node)
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    pub scanlogin: PathBuf,
    pub bench: PathBuf,
    pub peers: PathBuf,
    /// What a run writes.
    pub dir: PathBuf,
}

pub struct Replica {
    pub process: Process,
    pub addr: SocketAddr,
    /// Where scanlogin has its metrics.
    ops: Option<SocketAddr>,
    /// From its start until it was ready.
    pub took: Duration,
}

pub struct Peer {
    pub kind: Kind,
    pub redis: Redis,
    pub replicas: Vec<Replica>,
    /// The WeChat that scanlogin asks.
    simulator: Option<(Process, SocketAddr)>,
    /// Of scanlogin's environment, beside what is of every run.
    pub settings: Vec<(&'static str, String)>,
}

/// One that is to be watched and confirmed.
#[derive(Serialize, Deserialize)]
pub struct Scene {
    /// The request for its stream, at the first replica.
    pub open: String,
    /// The request that confirms it, at the second.
    pub confirm: String,
}

impl Peer {
    pub fn start(kind: Kind, programs: &Programs, replicas: usize) -> Result<Self> {
        Self::start_with(kind, programs, replicas, Redis::start()?, Vec::new())
    }

    pub fn start_with(
        kind: Kind,
        programs: &Programs,
        replicas: usize,
        redis: Redis,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let simulator = match kind {
            Kind::Scanlogin => Some(simulator(programs)?),
            Kind::Floor | Kind::Nchan | Kind::Node => None,
        };
        let mut peer = Self {
            kind,
            redis,
            replicas: Vec::new(),
            simulator,
            settings,
        };
        for _ in 0..replicas {
            let replica = peer.replica(programs)?;
            peer.replicas.push(replica);
        }
        Ok(peer)
    }

    /// A replica where browsers are.
    pub fn a(&self) -> SocketAddr {
        self.replicas[0].addr
    }

    /// Where phones are.
    pub fn b(&self) -> SocketAddr {
        self.replicas[self.replicas.len() - 1].addr
    }

    pub fn pids(&self) -> Vec<u32> {
        self.replicas.iter().map(|replica| replica.process.pid()).collect()
    }

    pub fn replica(&self, programs: &Programs) -> Result<Replica> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (command, ready) = match self.kind {
            Kind::Scanlogin => self.scanlogin(programs, addr)?,
            Kind::Floor => {
                let mut command = Command::new(&programs.bench);
                command.args(["floor", &addr.to_string(), &self.redis.addr.to_string()]);
                (command, addr)
            }
            Kind::Nchan => (self.nchan(programs, addr)?, addr),
            Kind::Node => {
                let mut command = Command::new("node");
                command.arg(programs.peers.join("node/server.mjs"));
                command.args([addr.port().to_string(), self.redis.addr.port().to_string()]);
                (command, addr)
            }
        };
        let asked = match self.kind {
            Kind::Scanlogin => Some("/readyz"),
            // It can be reached before it has reached Redis.
            Kind::Nchan => Some("/events/ready"),
            Kind::Floor | Kind::Node => None,
        };
        let began = Instant::now();
        let mut process = Process::start(command, self.kind.name())?;
        until(
            &format!("{} is ready", self.kind.name()),
            Duration::from_secs(30),
            || {
                process.still_runs()?;
                Ok(serves(ready, asked).then_some(()))
            },
        )?;
        Ok(Replica {
            process,
            addr,
            ops: (self.kind == Kind::Scanlogin).then_some(ready),
            took: began.elapsed(),
        })
    }

    /// As it is by default, with a log, metrics and heartbeats; without limits, which the others do not have either.
    fn scanlogin(&self, programs: &Programs, addr: SocketAddr) -> Result<(Command, SocketAddr)> {
        let ops = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let keys = programs.dir.join("keys.json");
        if !keys.exists() {
            let made = Command::new(&programs.scanlogin)
                .args(["keys", "new", "--out"])
                .arg(&keys)
                .env_clear()
                .status()?;
            anyhow::ensure!(made.success(), "no signing keys can be made");
        }
        let simulator = self.simulator.as_ref().context("no simulator")?.1;
        let mut command = Command::new(&programs.scanlogin);
        command.env_clear().env("NO_COLOR", "1");
        let settings = [
            ("SCANLOGIN_LISTEN", addr.to_string()),
            ("SCANLOGIN_OPS_LISTEN", ops.to_string()),
            ("SCANLOGIN_REDIS_URL", self.redis.url()),
            ("SCANLOGIN_SIGNING_KEYS_FILE", keys.display().to_string()),
            ("SCANLOGIN_WECHAT_API_BASE", format!("http://{simulator}")),
            ("SCANLOGIN_SIMULATOR", "true".to_owned()),
            ("SCANLOGIN_LIMITS", "off".to_owned()),
            // It takes a while to make 50,000.
            ("SCANLOGIN_SCENE_TTL", "900".to_owned()),
            ("SCANLOGIN_LIMIT_CODE2SESSION", "1000000".to_owned()),
            ("SCANLOGIN_LIMIT_STREAMS", "60000".to_owned()),
            ("SCANLOGIN_LIMIT_STREAMS_PER_ADDRESS", "60000".to_owned()),
        ];
        command.envs(settings);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        Ok((command, ops))
    }

    fn nchan(&self, programs: &Programs, addr: SocketAddr) -> Result<Command> {
        let dir = programs.dir.join(format!("nginx-{}", addr.port()));
        fs::create_dir_all(&dir)?;
        let text = fs::read_to_string(programs.peers.join("nchan.conf"))?;
        let text = text
            .replace("{module}", NCHAN)
            .replace("{listen}", &addr.to_string())
            .replace("{redis}", &self.redis.url());
        let file = dir.join("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-e", "stderr"]);
        Ok(command)
    }

    /// So many, each to be confirmed, of which none is watched yet.
    pub async fn scenes(&self, count: usize) -> Result<Vec<Scene>> {
        let mut making = JoinSet::new();
        for part in 0..AT_A_TIME {
            let own = (count + part) / AT_A_TIME;
            let mut maker = self.maker(self.a(), self.b()).await?;
            making.spawn_local(async move {
                let mut scenes = Vec::with_capacity(own);
                for number in 0..own {
                    let mut scene = maker.make(&format!("{part:02x}{number:06x}")).await?;
                    maker.scan(&mut scene).await?;
                    scenes.push(scene);
                }
                anyhow::Ok(scenes)
            });
        }
        let mut all = Vec::with_capacity(count);
        while let Some(made) = making.join_next().await {
            all.extend(made??);
        }
        Ok(all)
    }

    /// Where the simulated WeChat is told what to do.
    pub fn simulator(&self) -> Result<SocketAddr> {
        Ok(self.simulator.as_ref().context("no simulator")?.1)
    }

    /// A figure of the first replica's metrics, over all its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let ops = self.replicas[0].ops.context("no metrics")?;
        let text = Caller::to(ops)
            .await?
            .call(&request("GET", "/metrics", None, None))
            .await?;
        let text = String::from_utf8(text)?;
        let samples = text.lines().filter(|line| line.starts_with(name));
        Ok(samples
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    /// Who makes one scene after another, watched at the first of these and scanned at the second.
    pub async fn maker(&self, a: SocketAddr, b: SocketAddr) -> Result<Maker> {
        Maker::new(self.kind, a, b, self.simulator.as_ref().map(|(_, addr)| *addr)).await
    }
}

/// Makes scenes, one after another, and does what comes before a confirmation.
pub struct Maker {
    kind: Kind,
    a: Caller,
    b: Caller,
    simulator: Option<Caller>,
    /// Where phones' openids begin: another for each maker.
    own: String,
    scans: u32,
}

impl Maker {
    async fn new(kind: Kind, a: SocketAddr, b: SocketAddr, simulator: Option<SocketAddr>) -> Result<Self> {
        Ok(Self {
            kind,
            a: Caller::to(a).await?,
            b: Caller::to(b).await?,
            simulator: match simulator {
                Some(addr) => Some(Caller::to(addr).await?),
                None => None,
            },
            own: {
                static MADE: AtomicU32 = AtomicU32::new(0);
                format!("o-bench-{}", MADE.fetch_add(1, Ordering::Relaxed))
            },
            scans: 0,
        })
    }

    /// What a page does first.
    pub async fn start(at: &mut Caller) -> Result<Value> {
        let asked = json!({ "code_challenge": CHALLENGE }).to_string();
        Ok(serde_json::from_slice(
            &at.call(&request("POST", "/scenes", None, Some(&asked))).await?,
        )?)
    }

    /// `own` is its name where nothing is made.
    pub async fn make(&mut self, own: &str) -> Result<Scene> {
        if !self.kind.makes_scenes() {
            return Ok(Scene {
                open: stream(own, None),
                confirm: request("POST", &format!("/confirm/{own}"), None, Some("confirmed")),
            });
        }
        let made = Self::start(&mut self.a).await?;
        let id = made["scene"].as_str().context("no scene")?;
        Ok(Scene {
            open: stream(id, made["browser_secret"].as_str()),
            confirm: request("POST", &format!("/scenes/{id}/confirm"), None, Some("{}")),
        })
    }

    /// By a phone, which may confirm it from then on. Nothing where a scene has no such step.
    pub async fn scan(&mut self, scene: &mut Scene) -> Result<()> {
        let Some(simulator) = &mut self.simulator else {
            return Ok(());
        };
        // Somebody else each time, as WeChat lets nobody log in too often.
        self.scans += 1;
        let asked = json!({ "openid": format!("{}-{}", self.own, self.scans) }).to_string();
        let login: Value = serde_json::from_slice(
            &simulator
                .call(&request("POST", "/simulator/login", None, Some(&asked)))
                .await?,
        )?;
        let path = scene.confirm.split(' ').nth(1).context("no path")?.to_owned();
        let asked = json!({ "code": login["code"] }).to_string();
        let scan = request("POST", &path.replace("/confirm", "/scan"), None, Some(&asked));
        let scanned: Value = serde_json::from_slice(&self.b.call(&scan).await?)?;
        let Some(token) = scanned["confirm_token"].as_str() else {
            bail!("no confirm_token: {scanned}")
        };
        scene.confirm = request("POST", &path, Some(token), Some("{}"));
        Ok(())
    }

    pub async fn confirm(&mut self, scene: &Scene) -> Result<()> {
        self.b.call(&scene.confirm).await.map(drop)
    }
}

fn simulator(programs: &Programs) -> Result<(Process, SocketAddr)> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut command = Command::new(&programs.scanlogin);
    command.env_clear().env("NO_COLOR", "1");
    command.args([
        "simulate",
        "--listen",
        &addr.to_string(),
        "--service-url",
        "http://127.0.0.1:1",
    ]);
    let mut process = Process::start(command, "the simulated WeChat")?;
    until("the simulated WeChat listens", Duration::from_secs(30), || {
        process.still_runs()?;
        Ok(TcpStream::connect(addr).is_ok().then_some(()))
    })?;
    Ok((process, addr))
}

/// Whether it serves what is asked there, where something is to be asked.
fn serves(addr: SocketAddr, asked: Option<&str>) -> bool {
    let Ok(mut socket) = TcpStream::connect(addr) else {
        return false;
    };
    let Some(path) = asked else { return true };
    let mut answer = [0; 12];
    let text = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n");
    socket.write_all(text.as_bytes()).is_ok() && socket.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
}
