//! `redis-cli`, for what a client library hides.

use std::net::SocketAddr;
use std::process::Command;

/// What the server at `addr` answers, an error included.
pub(crate) fn cli(addr: SocketAddr, words: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()])
        .args(words)
        .output()
        .expect("redis-cli is not installed: `apt-get install redis-tools`");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// As [`cli`], where anything but `OK` is a failure of the test.
pub(crate) fn cli_ok(addr: SocketAddr, words: &[&str]) {
    let answer = cli(addr, words);
    assert_eq!(answer, "OK", "{words:?} at {addr}");
}
