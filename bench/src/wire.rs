//! The clients of a run: calls on connections that are kept, and event streams. They do as little as they can, since they share the
//! machine with what they measure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// After it what was awaited counts as lost.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many connections come from one address: a source has no more than 28,000 ports towards one server, and those that were closed
/// lately are looked through for one that is free.
const FROM_ONE: u32 = 2_000;

/// From one loopback address after another.
pub async fn connect(to: SocketAddr) -> Result<TcpStream> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + made / FROM_ONE % 60_000);
    let socket = TcpSocket::new_v4()?;
    // Else one that is free towards everybody is looked for.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind((IpAddr::V4(from), 0).into())?;
    socket.set_nodelay(true)?;
    let connected = timeout(PATIENCE, socket.connect(to))
        .await
        .context("no connection in time")?;
    connected.with_context(|| format!("{to} can't be reached"))
}

pub fn request(method: &str, path: &str, bearer: Option<&str>, body: Option<&str>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
    if let Some(bearer) = bearer {
        text += &format!("authorization: Bearer {bearer}\r\n");
    }
    if let Some(body) = body {
        text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body.unwrap_or_default();
    text
}

/// The request for an event stream, as a browser makes it.
pub fn stream(id: &str, bearer: Option<&str>) -> String {
    let text = request("GET", &format!("/events/{id}"), bearer, None);
    text.replacen("\r\n\r\n", "\r\naccept: text/event-stream\r\n\r\n", 1)
}

/// A connection that is kept, and asked one thing after another.
pub struct Caller {
    to: SocketAddr,
    stream: TcpStream,
    come: Vec<u8>,
}

impl Caller {
    pub async fn to(to: SocketAddr) -> Result<Self> {
        Ok(Self {
            to,
            stream: connect(to).await?,
            come: Vec::with_capacity(1024),
        })
    }

    /// The body of a success.
    pub async fn call(&mut self, request: &str) -> Result<Vec<u8>> {
        self.stream.write_all(request.as_bytes()).await?;
        let answered = timeout(PATIENCE, self.answer()).await;
        let (status, body) = answered.with_context(|| format!("{} did not answer", self.to))??;
        if !(200..300).contains(&status) {
            let asked = request.lines().next().unwrap_or_default();
            bail!("{asked}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    async fn answer(&mut self) -> Result<(u16, Vec<u8>)> {
        self.come.clear();
        loop {
            if let Some(whole) = whole_answer(&self.come)? {
                return Ok(whole);
            }
            if self.stream.read_buf(&mut self.come).await? == 0 {
                bail!("{} has closed the connection", self.to);
            }
        }
    }
}

fn whole_answer(bytes: &[u8]) -> Result<Option<(u16, Vec<u8>)>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let body = bytes[end + 4..].get(..length.unwrap_or(0));
    Ok(body.map(|body| (status, body.to_vec())))
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// An event stream, of which its beginning and one event are awaited.
pub struct Stream {
    stream: TcpStream,
    come: Vec<u8>,
}

impl Stream {
    /// Open once it has told something: its state, or that it is there.
    pub async fn open(to: SocketAddr, request: &str) -> Result<Self> {
        let mut stream = Self {
            stream: connect(to).await?,
            come: Vec::new(),
        };
        stream.stream.write_all(request.as_bytes()).await?;
        let opened = timeout(
            PATIENCE,
            stream.until(|come| {
                let head = find(come, b"\r\n\r\n")?;
                let told = find(&come[head + 4..], b"\n\n")?;
                Some((come.starts_with(b"HTTP/1.1 200"), head + 4 + told + 2))
            }),
        );
        let is_ok = opened.await;
        let (is_ok, length) =
            is_ok.with_context(|| format!("a stream did not open: {}", String::from_utf8_lossy(&stream.come)))??;
        if !is_ok {
            bail!("a stream is refused: {}", String::from_utf8_lossy(&stream.come));
        }
        stream.come.drain(..length);
        // There are ten thousands of them.
        stream.come.shrink_to_fit();
        Ok(stream)
    }

    /// When it told of the confirmation.
    pub async fn confirmed(&mut self) -> Result<Instant> {
        let heard = timeout(PATIENCE, self.until(|come| find(come, b"confirmed")));
        heard.await.context("an event is lost")??;
        Ok(Instant::now())
    }

    async fn until<T>(&mut self, found: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = found(&self.come) {
                return Ok(found);
            }
            self.stream.readable().await?;
            let mut buffer = [0; 2048];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => bail!("a stream has ended: {}", String::from_utf8_lossy(&self.come)),
                Ok(length) => self.come.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
        for cut in 0..text.len() {
            assert!(whole_answer(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        assert_eq!(whole_answer(text).unwrap(), Some((201, b"{}".to_vec())));
        assert_eq!(
            whole_answer(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(),
            Some((204, Vec::new()))
        );
    }
}
