//! Logins under faults, and the checker that reads what every client saw of them.
#![expect(clippy::indexing_slicing, reason = "tests")]

mod checker;
mod doctored;
mod history;
