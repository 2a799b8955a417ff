//! Sending at a steady rate, whatever comes back, and the least that a message takes on this machine at that rate.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::figures::{Measured, Values, quantile};
use crate::machine::Watch;
use crate::redis::{Asker, Redis};

/// On how many connections in turn: an answer that is late holds up nothing.
const CONNECTIONS: usize = 32;

pub struct Sent {
    pub due: Instant,
    pub at: Instant,
}

/// Each when it is due, from a thread that does nothing else.
pub fn send(to: SocketAddr, requests: Vec<String>, per_second: u32) -> JoinHandle<Result<Vec<Sent>>> {
    thread::spawn(move || {
        let connect = |_| {
            let socket = TcpStream::connect(to)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(socket)
        };
        let mut sockets = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()?;
        let mut sent = Vec::with_capacity(requests.len());
        let mut clock = Clock::new(per_second);
        for (number, request) in requests.iter().enumerate() {
            let socket = &mut sockets[number % CONNECTIONS];
            if number >= CONNECTIONS {
                success(socket)?;
            }
            let due = clock.wait();
            let at = Instant::now();
            socket.write_all(request.as_bytes())?;
            sent.push(Sent { due, at });
        }
        for number in requests.len().saturating_sub(CONNECTIONS)..requests.len() {
            success(&mut sockets[number % CONNECTIONS])?;
        }
        Ok(sent)
    })
}

/// The answer to what was sent last on it, which is small and comes at once.
fn success(socket: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 4096];
    let length = socket.read(&mut buffer).context("no answer in time")?;
    let answer = String::from_utf8_lossy(&buffer[..length]);
    ensure!(answer.starts_with("HTTP/1.1 2"), "refused: {answer}");
    Ok(())
}

struct Clock {
    pause: Duration,
    next: Instant,
}

impl Clock {
    fn new(per_second: u32) -> Self {
        Self {
            pause: Duration::from_secs(1) / per_second,
            next: Instant::now() + Duration::from_millis(100),
        }
    }

    /// Until the next is due.
    fn wait(&mut self) -> Instant {
        let due = self.next;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        self.next += self.pause;
        due
    }
}

/// What the machine takes for one message at that rate: there and back on loopback, and through Redis in several ways.
pub fn least(count: usize, per_second: u32) -> Result<Measured> {
    let redis = Redis::start()?;
    let watch = Watch::begin();
    let echo = echo(count, per_second)?;
    let ping = asked(&redis, &["PING"], count, per_second)?;
    let script = "local v = redis.call('GET', KEYS[1]) if v then redis.call('SET', KEYS[1], v) end return redis.call('PUBLISH', KEYS[1], 'x')";
    let sha = redis.ask(&["SCRIPT", "LOAD", script])?.concat();
    let evalsha = asked(&redis, &["EVALSHA", &sha, "1", "k"], count, per_second)?;
    let published = published(&redis, count, per_second)?;
    let values = Values::from([
        ("echo", echo),
        ("redis_ping", ping),
        ("redis_script", evalsha),
        ("redis_publish", published),
        ("least", echo + published),
    ]);
    Ok(Measured {
        values,
        foreign: watch.foreign(),
    })
}

fn median_micros(mut times: Vec<Duration>) -> f64 {
    let mut micros: Vec<f64> = times.drain(..).map(|time| time.as_secs_f64() * 1e6).collect();
    quantile(&mut micros, 0.5)
}

fn echo(count: usize, per_second: u32) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let echoing = thread::spawn(move || -> Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = socket.read(&mut buffer) {
            socket.write_all(&buffer[..length])?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(addr)?;
    socket.set_nodelay(true)?;
    let (mut clock, mut times, mut buffer) = (Clock::new(per_second), Vec::new(), [0; 64]);
    for _ in 0..count {
        clock.wait();
        let began = Instant::now();
        socket.write_all(b"x")?;
        ensure!(socket.read(&mut buffer)? == 1, "the echo has ended");
        times.push(began.elapsed());
    }
    drop(socket);
    echoing.join().map_err(|_| anyhow::anyhow!("the echo has panicked"))??;
    Ok(median_micros(times))
}

fn asked(redis: &Redis, words: &[&str], count: usize, per_second: u32) -> Result<f64> {
    let mut asker = Asker::to(redis.addr)?;
    let (mut clock, mut times) = (Clock::new(per_second), Vec::new());
    for _ in 0..count {
        clock.wait();
        let began = Instant::now();
        asker.ask(words)?;
        times.push(began.elapsed());
    }
    Ok(median_micros(times))
}

/// From a PUBLISH on one connection to its message on another.
fn published(redis: &Redis, count: usize, per_second: u32) -> Result<f64> {
    let mut listener = Asker::to(redis.addr)?;
    listener.ask(&["SUBSCRIBE", "bench"])?;
    let (tell, told) = mpsc::channel();
    let listening = thread::spawn(move || -> Result<()> {
        for _ in 0..count {
            listener.next()?;
            tell.send(Instant::now())?;
        }
        Ok(())
    });
    let mut publisher = Asker::to(redis.addr)?;
    let (mut clock, mut times) = (Clock::new(per_second), Vec::new());
    for _ in 0..count {
        clock.wait();
        let began = Instant::now();
        publisher.send(&["PUBLISH", "bench", "x"])?;
        times.push(told.recv()?.saturating_duration_since(began));
        publisher.next()?;
    }
    listening
        .join()
        .map_err(|_| anyhow::anyhow!("the listener has panicked"))??;
    Ok(median_micros(times))
}
