//! A Redis that is not on this machine: what is said to it, and what it says, takes its time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Where `to` is found so far away: half of `round_trip` in each direction, however much is on its way.
pub fn away(to: SocketAddr, round_trip: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // Who finds nobody behind it is told so by the end of the connection.
            if let Ok(far) = TcpStream::connect(to) {
                let _ = carry(near, far, round_trip / 2);
            }
        }
    });
    Ok(addr)
}

fn carry(near: TcpStream, far: TcpStream, way: Duration) -> Result<()> {
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
    }
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let (send, sent) = mpsc::channel::<(Instant, Vec<u8>)>();
        let mut reading = from.try_clone()?;
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = reading.read(&mut buffer) {
                if send.send((Instant::now() + way, buffer[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        thread::spawn(move || {
            let mut to = to;
            for (due, bytes) in sent {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            // Either's end is the other's.
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_takes_half_of_the_round_trip_and_the_answer_the_other_half() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let round_trip = Duration::from_millis(30);
        let addr = away(listener.local_addr().unwrap(), round_trip).unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut buffer = [0; 8];
            let length = socket.read(&mut buffer).unwrap();
            socket.write_all(&buffer[..length]).unwrap();
        });
        let mut socket = TcpStream::connect(addr).unwrap();
        let began = Instant::now();
        socket.write_all(b"far").unwrap();
        let mut answer = String::new();
        // To its end, which is passed on too.
        socket.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "far");
        assert!(began.elapsed() >= round_trip);
    }
}
