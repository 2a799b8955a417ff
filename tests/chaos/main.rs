//! Logins under faults, and the checker that reads what every client saw of them.
//!
//! In the order to read them: `schedule` (a run: its legs, and the tables it prints), `leg` (one, from its first login to its
//! report), `world` (replicas, nginx, Redis, WeChat), `faults` (every kind and what it may cost; done in `faults/`).
//! Then the clients: `login` (who takes part, and how), `browser`, `phone` and `site`, all by `client`; `upstream` is WeChat.
//! `machine` tells when it was not the service that was late.
//! What they see goes by `recorder` into a `history`, which `checker` reads: the invariants I1 to I12, who is lost, the counts,
//! and how long each fault was felt. `doctored` has histories that it must find fault with, and `without/` has patches, each of
//! which takes one mechanism out of the program.
//!
//! docs/faults.md explains the invariants, what a run prints (lost, doubled, misdelivered, in vain, fallbacks, unavailable,
//! recovery), and what is seen of each fault.
#![expect(
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "it serves the integration tests too")]
mod support;

mod browser;
mod checker;
mod client;
mod doctored;
mod faults;
mod history;
mod leg;
mod login;
mod machine;
mod phone;
mod recorder;
mod schedule;
mod site;
mod upstream;
mod world;

use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;

use schedule::Schedule;
use serde::de::DeserializeOwned;

/// How many broken promises are told; the reports have all.
const SHOWN: usize = 20;

/// As `scripts/chaos` sets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes; scripts/chaos runs it"]
async fn no_login_is_lost_doubled_or_given_to_another() {
    let schedule = Schedule {
        logins: setting("CHAOS_LOGINS"),
        faults: setting("CHAOS_FAULTS"),
        rate: setting("CHAOS_RATE"),
        seed: setting("CHAOS_SEED"),
        legs: setting("CHAOS_LEGS"),
        shapes: named(&setting::<String>("CHAOS_SHAPES")),
        kinds: named(&setting::<String>("CHAOS_KINDS")),
        slack_ms: setting("CHAOS_SLACK"),
        overlapping: setting("CHAOS_OVERLAP"),
        directory: setting("CHAOS_DIRECTORY"),
    };
    none(&schedule.run().await);
}

/// For whoever has sharpened the checker: `scripts/chaos --check-again`.
#[test]
#[ignore = "checks again what another run has kept"]
fn a_kept_run_lost_doubled_and_misdelivered_nothing() {
    none(&Schedule::check_again(&setting::<PathBuf>("CHAOS_DIRECTORY")));
}

fn none(broken: &[String]) {
    let shown = broken.iter().take(SHOWN).map(|promise| format!("\n  {promise}"));
    assert!(
        broken.is_empty(),
        "{} promises were broken:{}",
        broken.len(),
        shown.collect::<String>()
    );
}

fn named<T: DeserializeOwned>(names: &str) -> Vec<T> {
    let names = names.split(',').filter(|name| !name.is_empty());
    let read = |name: &str| serde_json::from_value(name.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
    names.map(read).collect()
}

#[expect(clippy::disallowed_methods, reason = "settings of the test, not of the program")]
fn setting<T: FromStr<Err: Debug>>(name: &str) -> T {
    let value = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see scripts/chaos"));
    value
        .parse()
        .unwrap_or_else(|error| panic!("{name}: {value:?}: {error:?}"))
}
