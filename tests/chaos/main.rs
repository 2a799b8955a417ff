//! Logins under faults, and the checker that reads what every client saw of them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod checker;
mod doctored;
mod history;
