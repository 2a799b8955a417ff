//! The floor: event streams over Redis pub/sub on bare sockets, and nothing else. No scenes, no checks, no heartbeats: it shows what
//! the machine allows.
//!
//! `GET /events/<id>` subscribes, and begins once Redis has said so; `POST /confirm/<id>` publishes, and is answered once Redis has.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\r\nevent: waiting\ndata: {}\n\n";
const EVENT: &[u8] = b"event: confirmed\ndata: {}\n\n";
const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

const LISTENER: Token = Token(0);
const SUBSCRIBER: Token = Token(1);
const PUBLISHER: Token = Token(2);
const FIRST: usize = 3;

/// Serves until it is killed.
pub fn run(listen: SocketAddr, redis: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        subscriber: Link::to(redis, SUBSCRIBER, &poll)?,
        publisher: Link::to(redis, PUBLISHER, &poll)?,
        connections: Vec::new(),
        free: Vec::new(),
        watched: HashMap::new(),
        publishing: VecDeque::new(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener, &poll)?,
                SUBSCRIBER => floor.heard()?,
                PUBLISHER => floor.published()?,
                Token(token) => floor.asked(token - FIRST),
            }
        }
        floor.subscriber.flush()?;
        floor.publisher.flush()?;
    }
}

struct Floor {
    subscriber: Link,
    publisher: Link,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Who watches which channel.
    watched: HashMap<Box<str>, usize>,
    /// Who waits for which publish.
    publishing: VecDeque<usize>,
}

struct Connection {
    socket: TcpStream,
    channel: Option<Box<str>>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let (mut socket, _) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.registry()
                .register(&mut socket, Token(index + FIRST), Interest::READABLE)?;
            self.connections[index] = Some(Connection { socket, channel: None });
        }
    }

    /// Requests come whole, and one at a time, as the bench sends them.
    fn asked(&mut self, index: usize) {
        let mut buffer = [0; 4096];
        loop {
            let Some(connection) = &mut self.connections[index] else {
                return;
            };
            match connection.socket.read(&mut buffer) {
                Ok(0) => return self.left(index),
                Ok(length) => self.answer(index, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.left(index),
            }
        }
    }

    fn answer(&mut self, index: usize, request: &[u8]) {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let path = std::str::from_utf8(line)
            .unwrap_or_default()
            .split(' ')
            .nth(1)
            .unwrap_or_default();
        if let Some(id) = path.strip_prefix("/events/") {
            self.subscriber.send(&["SSUBSCRIBE", id]);
            self.watched.insert(id.into(), index);
            if let Some(connection) = &mut self.connections[index] {
                connection.channel = Some(id.into());
            }
        } else if let Some(id) = path.strip_prefix("/confirm/") {
            self.publisher.send(&["SPUBLISH", id, "confirmed"]);
            self.publishing.push_back(index);
        } else {
            self.left(index);
        }
    }

    fn left(&mut self, index: usize) {
        if let Some(channel) = self.connections[index].take().and_then(|connection| connection.channel) {
            self.subscriber.send(&["SUNSUBSCRIBE", &channel]);
            self.watched.remove(&channel);
        }
        self.free.push(index);
    }

    fn heard(&mut self) -> io::Result<()> {
        self.subscriber.read()?;
        while let Some(reply) = self.subscriber.reply() {
            let (Some(kind), Some(channel)) = (reply.first(), reply.get(1)) else {
                continue;
            };
            let bytes = match &**kind {
                "ssubscribe" => HEAD,
                "smessage" => EVENT,
                _ => continue,
            };
            if let Some(connection) = self
                .watched
                .get(&**channel)
                .and_then(|index| self.connections[*index].as_mut())
            {
                let _ = connection.socket.write(bytes);
            }
        }
        Ok(())
    }

    fn published(&mut self) -> io::Result<()> {
        self.publisher.read()?;
        while self.publisher.reply().is_some() {
            let waiting = self.publishing.pop_front();
            if let Some(connection) = waiting.and_then(|index| self.connections[index].as_mut()) {
                let _ = connection.socket.write(DONE);
            }
        }
        Ok(())
    }
}

/// A connection to Redis: what is sent in one turn goes out at once.
struct Link {
    socket: TcpStream,
    out: Vec<u8>,
    come: Vec<u8>,
    read: usize,
}

impl Link {
    fn to(redis: SocketAddr, token: Token, poll: &Poll) -> io::Result<Self> {
        let socket = std::net::TcpStream::connect(redis)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry()
            .register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            out: Vec::new(),
            come: Vec::new(),
            read: 0,
        })
    }

    fn send(&mut self, words: &[&str]) {
        crate::redis::encode(words, &mut self.out);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        self.come.drain(..self.read);
        self.read = 0;
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.come.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole reply's words, where one has come.
    fn reply(&mut self) -> Option<Vec<Box<str>>> {
        let (words, length) = crate::redis::decode(&self.come[self.read..])?;
        self.read += length;
        Some(words)
    }
}
