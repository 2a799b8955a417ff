//! What happens to the replicas, and to the proxy before them.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Injector;

const GONE_WITHIN: Duration = Duration::from_secs(10);
const SLOW_READERS: usize = 200;

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

    /// Connections to one replica that say half of what they want, or never read what they get.
    pub(super) async fn read_slowly(&mut self) {
        let n = self.some_replica();
        let addr = self.world.replicas[n].addr;
        let mut connections = Vec::new();
        for number in 0..SLOW_READERS {
            let Ok(mut connection) = TcpStream::connect(addr).await else {
                break;
            };
            let said: &[u8] = match number % 2 {
                0 => b"POST /scenes HTTP/1.1\r\nHost: slow\r\nContent-Type: app",
                _ => b"GET /jwks.json HTTP/1.1\r\nHost: slow\r\n\r\n",
            };
            let _ = connection.write_all(said).await;
            connections.push(connection);
        }
        self.hold(2_000, 5_000).await;
    }
}
