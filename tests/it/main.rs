//! The story of the product, told at its outside edges.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

mod architecture;
mod conformance;
mod login_flow;
mod simulator;
mod subscriber;
mod wechat_client;
