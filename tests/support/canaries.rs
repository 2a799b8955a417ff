//! Every secret that a test of this process has come by, and a search for them where none may be: logs, metrics, Redis.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::cli::OPERATOR;

/// What is shorter could be a word of anybody's.
const LEN_MIN: usize = 11;

/// How many bytes of a secret are looked up before the whole of it is compared.
const KEY_BYTES: usize = 8;

/// The simulator's access_tokens, which no test is given, are told by their form: so many letters and digits in a row.
const ACCESS_TOKEN_LEN: usize = 157;

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

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Known {
    secrets: Vec<Secret>,
    /// Where in `secrets` the ones are of which some form begins so.
    by_key: HashMap<[u8; KEY_BYTES], Vec<usize>>,
    /// The same for forms with bytes that break a run.
    odd: Vec<usize>,
}

#[derive(Debug)]
struct Secret {
    what: &'static str,
    text: String,
}

/// From now on `secret` must be found nowhere. What is too short to be told from other words is left out.
pub(crate) fn learn(what: &'static str, secret: &str) {
    if secret.len() < LEN_MIN {
        return;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let Known { secrets, by_key, odd } = &mut *known;
    let has_it = |places: &Vec<usize>| places.iter().any(|place| secrets[*place].text == secret);
    if by_key.get(&key(secret.as_bytes())).is_some_and(has_it) {
        return;
    }
    let forms = forms(secret);
    let place = secrets.len();
    secrets.push(Secret {
        what,
        text: secret.to_owned(),
    });
    for form in &forms {
        by_key.entry(key(form.as_bytes())).or_default().push(place);
    }
    if forms.iter().any(|form| !form.bytes().all(is_of_a_run)) {
        odd.push(place);
    }
}

/// The same of all secrets in a reply of the service, or in an event's data.
pub(crate) fn learn_from(told: &Value) {
    for (name, what) in [
        ("browser_secret", "a browser secret"),
        ("confirm_token", "a confirm token"),
        ("code", "an authorization code"),
        ("access_token", "an access token"),
        ("id_token", "an id_token"),
    ] {
        let secret = told[name].as_str().unwrap_or_default();
        match secret.rsplit_once('.') {
            // What comes before is public, or at least no key to anything.
            Some((_, secret)) => learn(what, secret),
            // A problem's code is a word.
            None if name != "code" => learn(what, secret),
            None => {}
        }
    }
}

/// The same of all secrets in a settings file.
pub(crate) fn learn_from_settings(file: &toml::Value) {
    match file {
        toml::Value::Table(table) => {
            for (name, value) in table {
                match value {
                    toml::Value::String(secret) if name.ends_with("secret") || name.ends_with("password") => {
                        learn("a secret of the settings file", secret);
                    }
                    other => learn_from_settings(other),
                }
            }
        }
        toml::Value::Array(values) => values.iter().for_each(learn_from_settings),
        _ => {}
    }
}

/// The same of the private halves in a file of signing keys.
pub(crate) fn learn_from_keys(file: &Path) {
    let keys = std::fs::read(file).expect("signing keys");
    let keys: Value = serde_json::from_slice(&keys).expect("JSON");
    for key in keys["keys"].as_array().expect("keys") {
        learn("a signing key", key["d"].as_str().expect("a private half"));
    }
}

/// Fails the test if any secret is in `text`.
pub(crate) fn assert_none_in(place: &str, text: &[u8]) {
    // A test that fails already says more about itself than this could.
    if std::thread::panicking() {
        return;
    }
    if let Some((what, at)) = find(text) {
        let (from, to) = (at.saturating_sub(300), (at + 120).min(text.len()));
        panic!("{what} is in {place}: …{}…", text[from..to].escape_ascii());
    }
}

/// The first secret in `text`, and where it begins.
pub(crate) fn find(text: &[u8]) -> Option<(&'static str, usize)> {
    let mut at = 0;
    for line in text.split(|byte| *byte == b'\n') {
        // Only for a line, so that no other test waits for whoever searches a long log.
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((what, offset)) = known.find(line) {
            return Some((what, at + offset));
        }
        at += line.len() + 1;
    }
    None
}

impl Known {
    fn find(&self, line: &[u8]) -> Option<(&'static str, usize)> {
        let mut at = 0;
        for run in line.split(|byte| !is_of_a_run(*byte)) {
            if run.len() == ACCESS_TOKEN_LEN && run.iter().all(u8::is_ascii_alphanumeric) {
                return Some(("an access_token of WeChat", at));
            }
            let windows = run.windows(KEY_BYTES).enumerate();
            for (offset, window) in windows.filter(|_| run.len() >= LEN_MIN) {
                let places = self.by_key.get(window).into_iter().flatten();
                let mut found = places.filter_map(|place| self.begins_with(*place, &line[at + offset..]));
                if let Some(what) = found.next() {
                    return Some((what, at + offset));
                }
            }
            at += run.len() + 1;
        }
        self.odd.iter().find_map(|place| {
            let secret = &self.secrets[*place];
            let forms = forms(&secret.text);
            let mut found = forms.iter().filter_map(|form| position(line, form.as_bytes()));
            found.next().map(|at| (secret.what, at))
        })
    }

    /// What secret this is, if some form of it is here.
    fn begins_with(&self, place: usize, text: &[u8]) -> Option<&'static str> {
        let secret = &self.secrets[place];
        let forms = forms(&secret.text);
        let mut forms = forms.iter().map(String::as_bytes);
        forms.any(|form| text.starts_with(form)).then_some(secret.what)
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Of what most secrets consist in each of their forms.
fn is_of_a_run(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'/' | b'%')
}

fn key(form: &[u8]) -> [u8; KEY_BYTES] {
    std::array::from_fn(|place| form.get(place).copied().unwrap_or_default())
}

/// What a secret looks like as it is, percent-encoded, in hex, and within base64 wherever it begins there.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), hex(secret.as_bytes())];
    let encoded = percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string();
    forms.push(encoded);
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(secret) {
        forms.push(hex(&bytes));
    }
    for before in 0..3 {
        let padded = [&b"\0\0"[..before], secret.as_bytes()].concat();
        // What characters other bytes have a part in is not the secret's alone.
        let own = [0, 2, 3][before]..padded.len() / 3 * 4;
        forms.extend([&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|base64| base64.encode(&padded)[own.clone()].to_owned()));
    }
    forms
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a digit");
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
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
