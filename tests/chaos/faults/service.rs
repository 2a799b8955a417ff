//! What happens to the replicas, and to the proxy before them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::Injector;
use crate::support::service::http_client;

const GONE_WITHIN: Duration = Duration::from_secs(10);
const HALF_SAID: usize = 100;
const UNREAD_SCENES: usize = 60;
/// As many as it may have.
const STREAMS_OF_A_SCENE: usize = 3;
/// The kernel's least.
const LITTLE: u32 = 2_048;

impl Injector<'_> {
    fn some_replica(&mut self) -> usize {
        self.rng.random_range(0..self.world.replicas.len())
    }

    /// Healed as soon as it is dead: the others go on.
    pub(super) async fn kill_replica(&mut self) -> u64 {
        let n = self.some_replica();
        self.world.replicas[n].signal(Signal::KILL);
        self.world.replicas[n].ended().await;
        let killed = self.recorder.now();
        self.hold(500, 2_500).await;
        self.world.replicas[n].start().await;
        killed
    }

    pub(super) async fn freeze_replica(&mut self) {
        let n = self.some_replica();
        self.world.replicas[n].signal(Signal::STOP);
        self.hold(1_000, 5_000).await;
        self.world.replicas[n].signal(Signal::CONT);
    }

    pub(super) async fn roll_replicas(&mut self) {
        for replica in &mut self.world.replicas {
            replica.signal(Signal::TERM);
            let took = replica.ended().await;
            assert!(took < GONE_WITHIN, "a replica took {took:?} to end");
            replica.start().await;
        }
    }

    pub(super) async fn set_clock(&mut self) {
        let n = self.some_replica();
        let jump = *["+3600", "-3600"].choose(self.rng).expect("there are two");
        self.world.replicas[n].set_clock(Some(jump));
        self.hold(2_000, 5_000).await;
        self.world.replicas[n].set_clock(None);
    }

    /// Long enough for its pipe to fill.
    pub(super) async fn leave_log_unread(&mut self) {
        let n = self.some_replica();
        self.world.replicas[n].log().stand_still();
        self.hold(10_000, 14_000).await;
        self.world.replicas[n].log().read_on();
    }

    /// Sooner than a heartbeat comes.
    pub(super) async fn cut_silent_streams(&mut self) {
        self.world.nginx.restart_cutting(Duration::from_secs(2)).await;
        self.hold(4_000, 8_000).await;
        self.world.nginx.restart().await;
    }

    pub(super) async fn use_up_memory_of_replica(&mut self) {
        let n = self.some_replica();
        self.world.replicas[n].memory.uses(90);
        self.hold(2_000, 5_000).await;
        self.world.replicas[n].memory.uses(0);
    }

    pub(super) async fn use_up_descriptors(&mut self) {
        let n = self.some_replica();
        let pid = Pid::from_raw(i32::try_from(self.world.replicas[n].pid()).unwrap()).unwrap();
        let usual = getrlimit(Resource::Nofile);
        let limit = |current| Rlimit {
            current: Some(current),
            maximum: usual.maximum,
        };
        // Fewer than it has open, so that it gets no further one.
        let before = prlimit(Some(pid), Resource::Nofile, limit(8)).expect("a limit");
        self.hold(1_000, 3_000).await;
        prlimit(Some(pid), Resource::Nofile, before).expect("the former limit");
    }

    /// Connections to one replica that say half of what they want; and streams of scenes of their own which nobody reads, not even
    /// when the scene is scanned, or its time is up long after this.
    pub(super) async fn read_slowly(&mut self) {
        let n = self.some_replica();
        let addr = self.world.replicas[n].addr;
        let mut half_said = Vec::new();
        for _ in 0..HALF_SAID {
            let Ok(mut connection) = TcpStream::connect(addr).await else {
                break;
            };
            let said = b"POST /scenes HTTP/1.1\r\nHost: slow\r\nContent-Type: app";
            let _ = connection.write_all(said).await;
            half_said.push(connection);
        }
        let (http, base) = (http_client(), format!("http://{addr}"));
        for number in 0..UNREAD_SCENES {
            let Some((scene, secret)) = self.start_scene(&http, &base).await else {
                break;
            };
            for _ in 0..STREAMS_OF_A_SCENE {
                self.world.unread.extend(never_read(addr, &scene, &secret).await);
            }
            if number % 2 == 0 {
                self.scan(&http, &base, &scene).await;
            }
        }
        self.hold(2_000, 5_000).await;
    }

    /// A scene and its browser's secret.
    async fn start_scene(&self, http: &reqwest::Client, base: &str) -> Option<(String, String)> {
        let started = http.post(format!("{base}/scenes")).json(&json!({})).send().await.ok()?;
        let started: Value = started.json().await.ok()?;
        let secret = started["browser_secret"].as_str()?;
        self.recorder.told(&started);
        Some((started["scene"].as_str()?.to_owned(), secret.to_owned()))
    }

    /// As somebody does who then forgets about it.
    async fn scan(&self, http: &reqwest::Client, base: &str, scene: &str) {
        let code = self.world.upstream.wechat.login("openid-of-who-forgets").await;
        self.recorder.secret("a wx.login code", &code);
        let request = http.post(format!("{base}/scenes/{scene}/scan"));
        let _ = request.json(&json!({ "code": code })).send().await;
    }
}

/// A stream that takes next to nothing before its bytes are in the service's way.
async fn never_read(addr: SocketAddr, scene: &str, secret: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(LITTLE)?;
    let mut stream = socket.connect(addr).await?;
    let asked = format!(
        "GET /events/{scene} HTTP/1.1\r\nHost: slow\r\nAuthorization: Bearer {secret}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(asked.as_bytes()).await?;
    Ok(stream)
}
