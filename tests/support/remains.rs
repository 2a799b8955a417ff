//! What a service leaves where others may read it. Asked for while a test ends, so that nobody here waits long or fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::canaries;
use super::cli::OPERATOR;

/// How long a server that may stand still just then is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Each key with all that it holds.
const DUMP: &str = "local out = {} \
    for _, key in ipairs(redis.call('KEYS', '*')) do \
      local kind = redis.call('TYPE', key).ok \
      out[#out + 1] = key \
      if kind == 'string' then out[#out + 1] = redis.call('GET', key) \
      elseif kind == 'hash' then for _, held in ipairs(redis.call('HGETALL', key)) do out[#out + 1] = held end end \
    end return out";

/// A file that services wrote to. A test fails with it if a secret is in there when they have ended.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
}

impl Drop for Written {
    fn drop(&mut self) {
        // A device has no end, and not all that are started come as far as to make a file.
        if self.path.is_file() {
            canaries::assert_none_in(self.what, &std::fs::read(&self.path).expect("a file"));
        }
    }
}

/// The metrics at `ops`, where somebody may still answer.
pub(crate) fn metrics(ops: &str) -> Vec<u8> {
    let addr = ops.trim_start_matches("http://").parse();
    let request = b"GET /metrics HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n";
    addr.map(|addr| exchange(addr, request)).unwrap_or_default()
}

/// All that a Redis holds that may still answer.
pub(crate) fn dump(addr: SocketAddr) -> Vec<u8> {
    let commands = [&["AUTH", OPERATOR, OPERATOR][..], &["EVAL", DUMP, "0"], &["QUIT"]];
    let mut request = String::new();
    for words in commands {
        request.extend([format!("*{}\r\n", words.len())]);
        request.extend(words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())));
    }
    exchange(addr, request.as_bytes())
}

/// All that is answered until the other side closes, or falls silent. Whoever is gone tells nothing.
fn exchange(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if !std::thread::panicking() {
        let _ = try_exchange(addr, request, &mut answer);
    }
    answer
}

fn try_exchange(addr: SocketAddr, request: &[u8], answer: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    stream.read_to_end(answer)
}
