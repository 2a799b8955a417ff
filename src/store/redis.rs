//! Commands.

pub mod servers;
pub mod subscriber;
