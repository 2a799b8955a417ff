//! `redis-cli`, for what a client library hides.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Who may do everything on each server that the tests start, also where the default user is off; its password is its name.
pub(crate) const OPERATOR: &str = "operator";

/// What the server at `addr` answers to [`OPERATOR`], an error included.
pub(crate) fn cli(addr: SocketAddr, words: &[&str]) -> String {
    output(command(addr).args(words), "")
}

/// As [`cli`], where anything but `OK` is a failure of the test.
pub(crate) fn cli_ok(addr: SocketAddr, words: &[&str]) {
    let answer = cli(addr, words);
    assert_eq!(answer, "OK", "{words:?} at {addr}");
}

/// One command on each line, one after the other: the lines of all answers.
pub(crate) fn cli_lines(addr: SocketAddr, commands: &[String]) -> Vec<String> {
    let answers = output(&mut command(addr), &(commands.join("\n") + "\n"));
    answers.lines().map(str::to_owned).collect()
}

/// Many commands in one go. Any error is a failure of the test.
pub(crate) fn cli_pipe(addr: SocketAddr, commands: &[String]) {
    let said = output(command(addr).arg("--pipe"), &(commands.join("\r\n") + "\r\n"));
    let all_fine = said.contains(&format!("errors: 0, replies: {}", commands.len()));
    assert!(all_fine, "{:?} and so on at {addr}: {said}", commands.first());
}

/// As [`cli`], to another user. What goes on and on, such as a subscription, is cut short.
pub(crate) fn cli_as(user: &str, password: &str, addr: SocketAddr, words: &[&str]) -> String {
    let mut bounded = Command::new("timeout");
    bounded.args(["5", "redis-cli"]).args(arguments(user, password, addr));
    output(bounded.args(words), "")
}

/// `redis-cli` itself, with nothing to say yet.
pub(crate) fn command(addr: SocketAddr) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(arguments(OPERATOR, OPERATOR, addr));
    command
}

fn arguments(user: &str, password: &str, addr: SocketAddr) -> Vec<String> {
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let words = [
        "-h",
        &host,
        "-p",
        &port,
        "--user",
        user,
        "--pass",
        password,
        "--no-auth-warning",
    ];
    words.map(str::to_owned).into()
}

fn output(command: &mut Command, input: &str) -> String {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("redis-cli is not installed: `apt-get install redis-tools`");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("its output");
    let _ = writing.join().expect("no panic");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
