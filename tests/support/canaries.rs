//! Secrets that somebody came by, and a search for them where none may be: logs, metrics, Redis.
//!
//! Those that a test of this process comes by are one such collection, and what its services leave behind is searched for them
//! all. Tests in other languages hand theirs to `leaks.rs`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// What is shorter could be a word of anybody's.
const LEN_MIN: usize = 11;

/// How many bytes of a secret are looked up before the whole of it is compared.
const KEY_BYTES: usize = 8;

/// The simulator's access_tokens, which no test is given, are told by their form: so many letters and digits in a row.
const ACCESS_TOKEN_LEN: usize = 157;

/// WeChat's session keys the same: 16 bytes in base64, so many characters before what fills them up.
const SESSION_KEY_LEN: usize = 22;

static KNOWN: LazyLock<Mutex<Secrets>> = LazyLock::new(Mutex::default);

/// What must be found nowhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    all: Vec<Secret>,
    /// Where in `all` the ones are of which some form begins so.
    by_key: HashMap<[u8; KEY_BYTES], Vec<usize>>,
    /// The same for forms with bytes that break a run.
    odd: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Secret {
    what: String,
    text: String,
}

/// From now on `secret` must be found in nothing that a service of this process leaves behind.
pub(crate) fn learn(what: &str, secret: &str) {
    known(|secrets| secrets.learn(what, secret));
}

/// The same of all secrets in a reply of the service, or in an event's data.
pub(crate) fn learn_from(told: &Value) {
    known(|secrets| secrets.learn_from(told));
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
pub(crate) fn find(text: &[u8]) -> Option<(String, usize)> {
    // Locked only for a line, so that no other test waits for whoever searches a long log.
    first(text, |line| known(|secrets| secrets.find_in(line)))
}

fn known<T>(act: impl FnOnce(&mut Secrets) -> T) -> T {
    act(&mut KNOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The first line in which `find` finds something: what, and where in the text that begins.
fn first(text: &[u8], find: impl Fn(&[u8]) -> Option<(String, usize)>) -> Option<(String, usize)> {
    let mut at = 0;
    for line in text.split(|byte| *byte == b'\n') {
        if let Some((what, offset)) = find(line) {
            return Some((what, at + offset));
        }
        at += line.len() + 1;
    }
    None
}

impl Secrets {
    /// From now on `secret` must be found nowhere. What is too short to be told from other words is left out.
    pub(crate) fn learn(&mut self, what: &str, secret: &str) {
        if secret.len() < LEN_MIN {
            return;
        }
        let has_it = |places: &Vec<usize>| places.iter().any(|place| self.all[*place].text == secret);
        if self.by_key.get(&key(secret.as_bytes())).is_some_and(has_it) {
            return;
        }
        let forms = forms(secret);
        let place = self.all.len();
        self.all.push(Secret {
            what: what.to_owned(),
            text: secret.to_owned(),
        });
        for form in &forms {
            self.by_key.entry(key(form.as_bytes())).or_default().push(place);
        }
        if forms.iter().any(|form| !form.bytes().all(is_of_a_run)) {
            self.odd.push(place);
        }
    }

    /// The same of all secrets in a reply of the service, or in an event's data.
    pub(crate) fn learn_from(&mut self, told: &Value) {
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
                Some((_, secret)) => self.learn(what, secret),
                // A problem's code is a word.
                None if name != "code" => self.learn(what, secret),
                None => {}
            }
        }
    }

    /// What each that is known is, by name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|secret| secret.what.as_str())
    }

    /// The first of them in `text`, and where it begins.
    pub(crate) fn find(&self, text: &[u8]) -> Option<(String, usize)> {
        first(text, |line| self.find_in(line))
    }

    fn find_in(&self, line: &[u8]) -> Option<(String, usize)> {
        let mut at = 0;
        for run in line.split(|byte| !is_of_a_run(*byte)) {
            if let Some(what) = told_by_form(run, &line[at + run.len()..]) {
                return Some((what.to_owned(), at));
            }
            let windows = run.windows(KEY_BYTES).enumerate();
            for (offset, window) in windows.filter(|_| run.len() >= LEN_MIN) {
                let places = self.by_key.get(window).into_iter().flatten();
                let mut found = places.filter_map(|place| self.begins_with(*place, &line[at + offset..]));
                if let Some(what) = found.next() {
                    return Some((what.to_owned(), at + offset));
                }
            }
            at += run.len() + 1;
        }
        self.odd.iter().find_map(|place| {
            let secret = &self.all[*place];
            let forms = forms(&secret.text);
            let mut found = forms.iter().filter_map(|form| position(line, form.as_bytes()));
            found.next().map(|at| (secret.what.clone(), at))
        })
    }

    /// What secret this is, if some form of it is here.
    fn begins_with(&self, place: usize, text: &[u8]) -> Option<&str> {
        let secret = &self.all[place];
        let forms = forms(&secret.text);
        let mut forms = forms.iter().map(String::as_bytes);
        forms.any(|form| text.starts_with(form)).then_some(secret.what.as_str())
    }
}

/// What a run is that looks like a secret of WeChat's, and what follows it.
fn told_by_form(run: &[u8], after: &[u8]) -> Option<&'static str> {
    match run.len() {
        ACCESS_TOKEN_LEN if run.iter().all(u8::is_ascii_alphanumeric) => Some("an access_token of WeChat"),
        SESSION_KEY_LEN if after.starts_with(b"==") => Some("a session_key of WeChat"),
        _ => None,
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
