//! Searches what services left behind for the secrets that a test in another language came by.
//!
//! Reads one JSON object: `secrets`, lists by what they are; `told`, replies of the service; and `texts` by name, such as logs.
//! Writes another: how many secrets it searched for by what they are, in how many bytes, and what it found. Ends with 1 if it found
//! any or had nothing to search, or to search for.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[expect(dead_code, reason = "it serves the tests in Rust too")]
mod canaries;

use std::collections::BTreeMap;
use std::process::ExitCode;

use canaries::Secrets;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    secrets: BTreeMap<String, Vec<String>>,
    told: Vec<Value>,
    texts: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Searched {
    secrets: BTreeMap<String, usize>,
    bytes: usize,
    /// Which stands in which text, but not what it is.
    found: Vec<String>,
}

fn main() -> Result<ExitCode, serde_json::Error> {
    let asked: Asked = serde_json::from_reader(std::io::stdin().lock())?;
    let mut secrets = Secrets::default();
    // First what is known by its name in a reply: a cookie may hold the same.
    for told in &asked.told {
        secrets.learn_from(told);
    }
    for (what, of_this_kind) in &asked.secrets {
        for secret in of_this_kind {
            secrets.learn(what, secret);
        }
    }
    let found = asked.texts.iter().filter_map(|(name, text)| {
        let (what, at) = secrets.find(text.as_bytes())?;
        Some(format!("{what} stands in {name}, {at} bytes behind its beginning"))
    });
    let mut searched = Searched {
        found: found.collect(),
        secrets: BTreeMap::new(),
        bytes: asked.texts.values().map(String::len).sum(),
    };
    for what in secrets.names() {
        *searched.secrets.entry(what.to_owned()).or_default() += 1;
    }
    println!("{}", serde_json::to_string(&searched)?);
    let is_clean = searched.found.is_empty() && !searched.secrets.is_empty() && searched.bytes > 0;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
