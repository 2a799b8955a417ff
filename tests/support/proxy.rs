//! A TCP link before a server: slow, and at a word cut, stalled, blackholed, or without the next reply.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Links serve on a runtime of their own: a test blocks its own while it waits for a process, and several tests may share a link.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.expect("a runtime for the links")
});

/// Ends with the test.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    link: Arc<Link>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Link {
    target: SocketAddr,
    delay: Mutex<Duration>,
    /// How much later at most some bytes are than others.
    jitter: Mutex<Duration>,
    mode: watch::Sender<Mode>,
    /// Whose connections are black holes.
    parted: watch::Sender<Vec<Caller>>,
    /// Which request waits, alone with what follows it on its connection.
    detention: watch::Sender<Option<Detention>>,
    /// How often everything was cut.
    cuts: watch::Sender<u64>,
    /// What a request holds whose reply is to be lost.
    lose: Mutex<Option<Vec<u8>>>,
    /// What a request ends with behind which the rest is held back.
    hold: Mutex<Option<Vec<u8>>>,
    /// The same, with everything thrown away from then on.
    swallow: Mutex<Option<Vec<u8>>>,
    /// What a request holds that is to be held back, with all that follows.
    stall: Mutex<Option<Vec<u8>>>,
    /// What a request holds whose reply is to be.
    stall_reply: Mutex<Option<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Stalled,
    Blackholed,
}

/// Somebody who opens connections to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Who speaks from this address.
    From(IpAddr),
    /// Who greets with this word, which nobody else does.
    Saying(&'static str),
}

#[derive(Debug)]
struct Detention {
    whose: Caller,
    needle: &'static str,
    has_begun: bool,
}

/// Who has opened a connection, as far as that is known.
#[derive(Debug)]
struct Peer {
    ip: IpAddr,
    /// What came first.
    greeting: OnceLock<Vec<u8>>,
    /// Whether bytes from or to it were thrown away because it is parted.
    has_lost: AtomicBool,
}

impl Proxy {
    /// Passes on to `target` what it gets, `delay` later, in both directions.
    pub(crate) async fn start(target: SocketAddr, delay: Duration) -> Self {
        let bound = RUNTIME.spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = bound.expect("no panic").expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let link = Arc::new(Link {
            target,
            delay: Mutex::new(delay),
            jitter: Mutex::default(),
            mode: watch::Sender::new(Mode::Open),
            parted: watch::Sender::default(),
            detention: watch::Sender::default(),
            cuts: watch::Sender::new(0),
            lose: Mutex::default(),
            hold: Mutex::default(),
            swallow: Mutex::default(),
            stall: Mutex::default(),
            stall_reply: Mutex::default(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn_on(accept(listener, Arc::clone(&link)), RUNTIME.handle());
        Self {
            addr,
            link,
            _accepting: accepting,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> SocketAddr {
        self.link.target
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// How much later it passes on what it gets from now on.
    pub(crate) fn slow_down_to(&self, delay: Duration) {
        *self.link.delay.lock().unwrap() = delay;
    }

    /// Each of its reads from now on waits for up to so long, as behind a lost packet; what follows waits with it.
    pub(crate) fn lose_packets(&self, most: Duration) {
        *self.link.jitter.lock().unwrap() = most;
    }

    /// Resets every connection; new ones are served.
    pub(crate) fn cut(&self) {
        self.link.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds all bytes back until [`Self::heal`]; connections, new ones too, seem fine.
    pub(crate) fn stall(&self) {
        self.link.mode.send_replace(Mode::Stalled);
    }

    /// Throws all bytes away until [`Self::heal`], which resets the connections that have lost some.
    pub(crate) fn blackhole(&self) {
        self.link.mode.send_replace(Mode::Blackholed);
    }

    pub(crate) fn heal(&self) {
        if self.link.mode.send_replace(Mode::Open) == Mode::Blackholed {
            self.cut();
        }
    }

    /// From now on throws away all bytes from and to these callers, and no others. Connections that have lost some are reset when
    /// their caller is none of them any more.
    pub(crate) fn part_from(&self, callers: Vec<Caller>) {
        self.link.parted.send_replace(callers);
    }

    /// Holds this caller's next request that holds `needle` back until [`Self::release`], with what follows on its connection.
    pub(crate) fn detain(&self, whose: Caller, needle: &'static str) {
        self.link.detention.send_replace(Some(Detention {
            whose,
            needle,
            has_begun: false,
        }));
    }

    /// Returns when a request is held back.
    pub(crate) async fn detained(&self) {
        let mut detention = self.link.detention.subscribe();
        let begun = detention.wait_for(|detention| detention.as_ref().is_some_and(|detention| detention.has_begun));
        begun.await.expect("it lives as long as the test");
    }

    /// Ends what [`Self::detain`] began.
    pub(crate) fn release(&self) {
        self.link.detention.send_replace(None);
    }

    /// Passes on the next request that holds `needle`, then resets its connection instead of passing on the reply.
    pub(crate) fn lose_reply_to(&self, needle: &str) {
        *self.link.lose.lock().unwrap() = Some(needle.as_bytes().to_vec());
    }

    /// Stalls once it has passed on a request up to the next `needle`, even in the middle of a pipeline.
    pub(crate) fn stall_behind(&self, needle: &str) {
        *self.link.hold.lock().unwrap() = Some(needle.as_bytes().to_vec());
    }

    /// Returns when it is stalled.
    pub(crate) async fn stalled(&self) {
        let mut mode = self.link.mode.subscribe();
        let stalled = mode.wait_for(|mode| *mode == Mode::Stalled).await;
        stalled.expect("it lives as long as the test");
    }

    /// Passes on the next request that holds `needle`, and is a black hole from then on: nobody knows that it arrived.
    pub(crate) fn blackhole_behind(&self, needle: &str) {
        *self.link.swallow.lock().unwrap() = Some(needle.as_bytes().to_vec());
    }

    /// Whether the reply asked for has been lost.
    pub(crate) fn has_lost(&self) -> bool {
        self.link.lose.lock().unwrap().is_none()
    }

    /// As [`Self::stall`], from the next request on that holds `needle`.
    pub(crate) fn stall_at(&self, needle: &str) {
        *self.link.stall.lock().unwrap() = Some(needle.as_bytes().to_vec());
    }

    /// As [`Self::stall`], from the reply on to the next request that holds `needle`: it was done, and nobody hears of it.
    pub(crate) fn stall_reply_to(&self, needle: &str) {
        *self.link.stall_reply.lock().unwrap() = Some(needle.as_bytes().to_vec());
    }

    /// Whether the request asked for has been held back.
    pub(crate) fn has_stalled(&self) -> bool {
        self.link.stall.lock().unwrap().is_none()
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    while let Ok((client, peer)) = listener.accept().await {
        let peer = Peer {
            ip: peer.ip(),
            greeting: OnceLock::new(),
            has_lost: AtomicBool::new(false),
        };
        connections.spawn(connect(client, peer, Arc::clone(&link)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(mut client: TcpStream, peer: Peer, link: Arc<Link>) {
    let mut cuts = link.cuts.subscribe();
    let Ok(mut server) = TcpStream::connect(link.target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (losing, stalling) = (AtomicBool::new(false), AtomicBool::new(false));
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pass(from_client, to_server, &peer, &link, |chunk| {
            let _ = peer.greeting.get_or_init(|| chunk.to_vec());
            if taken(&link.lose, chunk).is_some() {
                losing.store(true, Ordering::Relaxed);
            }
            if taken(&link.stall, chunk).is_some() {
                link.mode.send_replace(Mode::Stalled);
            }
            if taken(&link.stall_reply, chunk).is_some() {
                stalling.store(true, Ordering::Relaxed);
            }
            true
        });
        let down = pass(from_server, to_client, &peer, &link, |_| {
            if stalling.swap(false, Ordering::Relaxed) {
                link.mode.send_replace(Mode::Stalled);
            }
            !losing.load(Ordering::Relaxed)
        });
        tokio::select! {
            passed = up => !passed,
            passed = down => !passed,
            _ = cuts.changed() => true,
            () = rejoined(&peer, &link) => true,
        }
    };
    if reset {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Returns when this peer has been parted and is no more.
async fn rejoined(peer: &Peer, link: &Link) {
    let mut parted = link.parted.subscribe();
    let mut was_parted = peer.is_one_of(&parted.borrow_and_update());
    loop {
        parted.changed().await.expect("it lives as long as its connections");
        let is_parted = peer.is_one_of(&parted.borrow_and_update());
        // One that connected since has not said before who it is.
        if !is_parted && (was_parted || peer.has_lost.load(Ordering::Relaxed)) {
            return;
        }
        was_parted = is_parted;
    }
}

impl Peer {
    fn is(&self, caller: &Caller) -> bool {
        match caller {
            Caller::From(ip) => self.ip == *ip,
            Caller::Saying(word) => self
                .greeting
                .get()
                .is_some_and(|said| place(word.as_bytes(), said).is_some()),
        }
    }

    fn is_one_of(&self, callers: &[Caller]) -> bool {
        callers.iter().any(|caller| self.is(caller))
    }
}

impl Link {
    /// Returns at once, unless this request of this peer is to be held back.
    async fn detain(&self, peer: &Peer, chunk: &[u8]) {
        let begins = |detention: &mut Option<Detention>| match detention {
            Some(detention) if !detention.has_begun && peer.is(&detention.whose) => {
                detention.has_begun = place(detention.needle.as_bytes(), chunk).is_some();
                detention.has_begun
            }
            _ => false,
        };
        if self.detention.send_if_modified(begins) {
            let mut detention = self.detention.subscribe();
            let released = detention.wait_for(Option::is_none).await;
            drop(released.expect("it lives as long as its connections"));
        }
    }
}

/// Where the first needle in a chunk begins.
fn place(needle: &[u8], chunk: &[u8]) -> Option<usize> {
    chunk.windows(needle.len()).position(|window| window == needle)
}

/// Where the first needle in a chunk ends, once.
fn taken(needle: &Mutex<Option<Vec<u8>>>, chunk: &[u8]) -> Option<usize> {
    let mut needle = needle.lock().unwrap();
    let wanted = needle.as_deref()?;
    let at = place(wanted, chunk)?;
    Some(at + needle.take()?.len())
}

/// Whether it ended as the sender ended, not because `is_passed` refused a chunk.
async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    peer: &Peer,
    link: &Link,
    is_passed: impl Fn(&[u8]) -> bool,
) -> bool {
    let (tx, mut rx) = mpsc::channel::<(Instant, Vec<u8>, bool)>(1_024);
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else {
                return true;
            };
            if !is_passed(&buffer[..read]) {
                return false;
            }
            if peer.is_one_of(&link.parted.borrow()) {
                peer.has_lost.store(true, Ordering::Relaxed);
                continue;
            }
            if *link.mode.borrow() == Mode::Blackholed {
                continue;
            }
            link.detain(peer, &buffer[..read]).await;
            if taken(&link.swallow, &buffer[..read]).is_some() {
                link.mode.send_replace(Mode::Blackholed);
            }
            let jitter = link.jitter.lock().unwrap().mul_f64(rand::random());
            let due = Instant::now() + *link.delay.lock().unwrap() + jitter;
            let rest = match taken(&link.hold, &buffer[..read]) {
                Some(end) => {
                    if tx.send((due, buffer[..end].to_vec(), true)).await.is_err() {
                        return true;
                    }
                    &buffer[end..read]
                }
                None => &buffer[..read],
            };
            if tx.send((due, rest.to_vec(), false)).await.is_err() {
                return true;
            }
        }
    };
    let writing = async {
        let mut mode = link.mode.subscribe();
        while let Some((due, chunk, stall)) = rx.recv().await {
            sleep_until(due).await;
            if mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() || to.write_all(&chunk).await.is_err() {
                return;
            }
            if stall {
                link.mode.send_replace(Mode::Stalled);
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing).0
}
