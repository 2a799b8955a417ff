//! Scan with WeChat to log in.

pub mod entropy;
pub mod scene;
pub mod store;
pub mod telemetry;
pub mod wechat;
