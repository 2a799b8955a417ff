//! File descriptors: what all connections share, and how some are left for Redis, WeChat and operators.

use std::fs::File;
use std::io;
use std::net::IpAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use super::door::{Door, Place};

/// So many are never given to the public: for two times 64 connections to WeChat, about 11 to each primary of Redis and one to
/// each further node (96 for 8 primaries with a replica each), and operators. Where there are few at all it is half of them.
const KEPT_BACK: u64 = 256;

/// So many of an operator's connections there is always room for.
const RESERVED: usize = 4;

/// What part of the descriptors a listener may take, and for whom.
#[derive(Debug)]
pub enum Share {
    /// All but those that are kept back, for whom the door lets in.
    Most(Door),
    /// Any; and when there is none, one of these, held open to be closed in time.
    Reserved(Vec<File>),
}

impl Share {
    /// With some held open from now on, however few the system leaves later.
    #[must_use]
    pub fn reserved() -> Self {
        let mut held = Vec::new();
        refill(&mut held);
        Self::Reserved(held)
    }

    /// The next connection, when there are `open` already. Cancel safe.
    pub(super) async fn accept(&mut self, listener: &TcpListener, open: usize) -> io::Result<TcpStream> {
        match self {
            Self::Most(door) => {
                if open >= most() {
                    return Err(io::Error::other("as many are open as descriptors allow"));
                }
                if !door.has_memory(open) {
                    return Err(io::Error::other("memory is short"));
                }
                Ok(listener.accept().await?.0)
            }
            Self::Reserved(held) => {
                refill(held);
                match listener.accept().await {
                    Ok((stream, _)) => Ok(stream),
                    Err(error) => match held.pop() {
                        Some(one) => {
                            drop(one);
                            Ok(listener.accept().await?.0)
                        }
                        None => Err(error),
                    },
                }
            }
        }
    }
}

impl Share {
    /// Lets a caller in, unless its address has all that it may have.
    pub(super) fn admit(&self, caller: IpAddr) -> Option<Place> {
        match self {
            Self::Most(door) => door.admit(caller),
            Self::Reserved(_) => Some(Place::default()),
        }
    }
}

/// Lets this process have as many descriptors as the system allows: each stream takes one, and the lower limit that it starts
/// with is for the sake of programs that use select(2).
pub fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// How many connections the public may have, by the limit of this moment.
fn most() -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    usize::try_from(limit - KEPT_BACK.min(limit / 2)).unwrap_or(usize::MAX)
}

fn refill(held: &mut Vec<File>) {
    while held.len() < RESERVED
        && let Ok(file) = File::open("/dev/null")
    {
        held.push(file);
    }
}
