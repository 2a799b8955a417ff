//! Scan with WeChat to log in.

pub mod app;
pub mod config;
pub mod entropy;
pub mod http;
pub mod hub;
pub mod keys;
pub mod login;
pub mod oidc;
pub mod scene;
pub mod store;
pub mod telemetry;
pub mod wechat;
