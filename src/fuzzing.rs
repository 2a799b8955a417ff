//! What bytes from outside can never do, whatever they are: for each parser of them a target, which takes any bytes for its input
//! and asserts what holds of all that comes out.
//!
//! Here for tests and fuzzers alone. `scripts/fuzz` runs the targets guided by coverage; the tests below replay the seeds in
//! `fuzz/corpus/`, and alter them.
//!
//! To add one: a function beside its parser, a line here, its three lines in `fuzz/fuzz_targets/` with their `[[bin]]`, and a seed.

macro_rules! targets {
    ($($(#[doc = $doc:literal])+ $name:ident = $target:path;)*) => {
        $($(#[doc = $doc])+ pub fn $name(data: &[u8]) { $target(data); })*

        #[cfg(test)]
        const TARGETS: &[&str] = &[$(stringify!($name),)*];

        #[cfg(test)]
        mod holds {
            $(#[test]
            fn $name() {
                super::tests::holds(stringify!($name), $target);
            })*
        }
    };
}

targets! {
    /// `X-Forwarded-For` and `Forwarded`.
    forwarded = crate::http::fuzzing::forwarded;
    /// `Cookie`.
    cookies = crate::http::fuzzing::cookies;
    /// `User-Agent`, as the phone shows it.
    user_agent = crate::http::fuzzing::user_agent;
    /// `Origin`, `Sec-Fetch-Site`, `Host`, and origins in settings.
    origin = crate::http::fuzzing::origin;
    /// `Authorization`, and the client's credentials in it.
    authorization = crate::http::fuzzing::authorization;
    /// Requests to `/authorize`.
    authorization_request = crate::oidc::fuzzing::authorization_request;
    /// Forms.
    form = crate::http::fuzzing::form;
    /// JSON bodies.
    json_body = crate::http::fuzzing::json_body;
    /// `Last-Event-ID`, `Accept`, `Accept-Language`, `wait`.
    events = crate::http::fuzzing::events;
    /// Scene ids, event ids, secrets, codes, numbers.
    ids = crate::fuzzing::all_ids;
    /// `X-Request-Id`, and the paths of the pages' files.
    request_id = crate::web::fuzzing::request_id;
    /// `traceparent`, of requests and of records.
    traceparent = crate::fuzzing::traceparents;
    /// What people say of themselves.
    profile = crate::login::fuzzing::profile;
    /// WeChat's answers.
    wechat_reply = crate::wechat::client::fuzzing::wechat_reply;
    /// Sealed tokens, as the store gives them back.
    sealed_token = crate::wechat::fuzzing::sealed_token;
    /// What Redis says on a connection.
    redis_wire = crate::store::redis::subscriber::fuzzing::redis_wire;
    /// What Redis and its sentinels say of themselves, and records.
    redis_answers = crate::store::redis::topology::fuzzing::redis_answers;
    /// The URL of Redis.
    redis_url = crate::store::redis::topology::fuzzing::redis_url;
    /// The configuration file.
    config_file = crate::config::fuzzing::config_file;
    /// Values of settings, and signing keys.
    settings = crate::config::fuzzing::settings;
    /// Whole requests on a connection, answered by all of the service.
    http_exchange = crate::app::fuzzing::http_exchange;
}

/// Ids and secrets are read in one way only: whatever is read is printed as it came.
fn all_ids(data: &[u8]) {
    use crate::scene::secret::Browser;
    use crate::scene::{
        AuthorizationCode, AvatarId, BrowserSecret, Confirm, ConfirmToken, Digest, EventId, MatchNumber, SceneId,
    };

    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<SceneId>() {
        assert_eq!(id.to_string(), text);
        assert!(text.starts_with(id.shortened().trim_end_matches('…')) && text.starts_with(&id.hash_tag()));
    }
    for printed in [
        EventId::parse(text).map(|id| id.to_string()),
        AvatarId::parse(text).map(|id| id.to_string()),
        BrowserSecret::parse(text).map(|secret| secret.expose().to_string()),
        ConfirmToken::parse(text).map(|secret| secret.expose().to_string()),
        AuthorizationCode::parse(text).map(|code| code.expose().to_string()),
        MatchNumber::parse(text).map(|number| number.to_string()),
    ]
    .into_iter()
    .flatten()
    {
        assert_eq!(printed, text);
    }
    let json = serde_json::Value::from(text);
    if let Ok(digest) = serde_json::from_value::<Digest<Browser>>(json.clone()) {
        assert_eq!(serde_json::to_value(digest).ok(), Some(json.clone()));
    }
    if let (Some(browser), Some(confirm)) = (BrowserSecret::parse(text), ConfirmToken::parse(text)) {
        let of_browser = serde_json::to_value(browser.digest()).ok();
        let of_confirm = serde_json::to_value::<Digest<Confirm>>(confirm.digest()).ok();
        assert_ne!(of_browser, of_confirm, "one kind of secret opens what another does");
        assert!(!format!("{browser:?}{confirm:?}").contains(text), "it prints");
    }
}

/// What names a span is written as it came, as far as it is known.
fn traceparents(data: &[u8]) {
    use crate::traceparent::Traceparent;

    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(parsed) = Traceparent::parse(text) else {
        return;
    };
    let written = parsed.to_string();
    assert_eq!(written.get(2..53), text.get(2..53));
    assert_eq!(Traceparent::parse(&written), Some(parsed));
    assert!(written.len() == text.len() || !text.starts_with("00"), "{text}");
    assert!(parsed.trace_bytes() != [0; 16] && parsed.span_bytes() != [0; 8]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use proptest::test_runner::{Config, TestRunner};

    use super::TARGETS;

    /// So many altered seeds of each target: a fuzzer tries more in a second.
    const CASES: u32 = 256;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    fn names_in(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    fn seeds_of(target: &str) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(folder("corpus").join(target)).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    #[test]
    fn every_target_is_fuzzed_and_has_seeds() {
        let named: BTreeSet<String> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names_in(&folder("fuzz_targets")), named);
        assert_eq!(names_in(&folder("corpus")), named);
        let manifest: toml::Table = fs::read_to_string(folder("Cargo.toml")).unwrap().parse().unwrap();
        let bins = manifest["bin"].as_array().unwrap().iter();
        assert_eq!(
            bins.map(|bin| bin["name"].as_str().unwrap().to_owned())
                .collect::<BTreeSet<_>>(),
            named
        );
    }

    /// What a target asserts, of each of its seeds and of altered ones.
    pub(super) fn holds(name: &str, target: fn(&[u8])) {
        let seeds = seeds_of(name);
        assert!(!seeds.is_empty(), "{name} has seeds");
        for seed in &seeds {
            target(seed);
        }
        let mut runner = TestRunner::new(Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        });
        let tried = runner.run(&altered(seeds), |data| {
            target(&data);
            Ok(())
        });
        tried.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Bytes of no form, or a seed in which something was put in the place of something else.
    fn altered(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let others = seeds.clone();
        let pieces: Vec<&'static [u8]> = vec![
            b"",
            b"\"",
            b"\\",
            b",",
            b";",
            b"=",
            b":",
            b".",
            b"-",
            b"/",
            b"%",
            b"\n",
            b"\r\n",
            b"\0",
            b"\x7f",
            b"\xff",
            b" ",
            b"0",
            b"-1",
            b"99999999999999999999",
            b"+",
            b"[",
            b"]",
            b"{",
            b"}",
            b"null",
            "\u{202e}".as_bytes(),
            "\u{301}".as_bytes(),
            "\u{200b}".as_bytes(),
            b"A",
        ];
        let piece = prop_oneof![
            4 => select(pieces).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..8),
            1 => (select(others), any::<Index>(), any::<Index>()).prop_map(|(seed, from, to)| {
                let (from, to) = (from.index(seed.len() + 1), to.index(seed.len() + 1));
                seed[from.min(to)..from.max(to)].to_vec()
            }),
        ];
        let edit = (any::<Index>(), 0..6_usize, piece);
        let of_seed = (select(seeds), prop::collection::vec(edit, 0..6)).prop_map(|(mut bytes, edits)| {
            for (at, length, piece) in edits {
                let at = at.index(bytes.len() + 1);
                let end = (at + length).min(bytes.len());
                bytes.splice(at..end, piece);
            }
            bytes
        });
        prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 7 => of_seed]
    }
}
