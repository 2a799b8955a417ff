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

mod support;

mod architecture;
mod conformance;
mod lifecycle;
mod login_flow;
mod replicas;
mod settings;
mod simulator;
mod subscriber;
mod token_thrift;
mod wechat_client;
