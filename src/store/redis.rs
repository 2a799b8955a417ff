//! Commands.

pub mod subscriber;
