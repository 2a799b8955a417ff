//! WeChat's server API as this service uses it.

pub mod access_token;
pub mod client;
pub mod code_pool;
pub mod simulator;
