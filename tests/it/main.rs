//! The story of the product, told at its outside edges.
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
#[expect(dead_code, reason = "it serves the fault schedule too")]
mod support;

mod allocations;
mod architecture;
mod audit;
mod authorize;
mod bad_days;
mod bad_input;
mod bounds;
mod claims;
mod conformance;
mod connections;
mod contract;
mod demo_site;
mod doctor;
mod earlier_versions;
mod events;
mod failovers;
mod funnel;
mod healthcheck;
mod kill_points;
mod lease;
mod lifecycle;
mod limits;
mod link_qr;
mod log_output;
mod login_flow;
mod made_ahead;
mod models;
mod number_matching;
mod openapi;
mod origins;
mod places;
mod profile;
mod redemption;
mod redis_commands;
mod relying_party;
mod replicas;
mod reread;
mod security_table;
mod settings;
mod shapes;
mod short_codes;
mod simulator;
mod start_errors;
mod stores;
mod subscriber;
mod threats;
mod token_thrift;
mod tracing;
mod troubles;
mod waiting;
mod watched;
mod webhooks;
mod wechat_client;
mod wechat_faults;
