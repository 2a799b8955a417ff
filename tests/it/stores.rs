//! The stores that a story must be true on.

use crate::support::redis::RedisServer;
use crate::support::service::{Service, ServiceBuilder};

/// Where a service of this test keeps everything.
#[derive(Debug)]
pub(crate) enum Store {
    Embedded,
    Redis(RedisServer),
}

impl Store {
    /// A service on this store, to be set up further.
    pub(crate) fn service(&self) -> ServiceBuilder {
        match self {
            Self::Embedded => Service::builder(),
            Self::Redis(redis) => Service::builder().redis(redis),
        }
    }
}

/// Makes tests of functions that take a [`Store`]: each once with the embedded store, and once with a Redis of its own.
macro_rules! on_each_store {
    ($($test:ident,)+) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::stores::Store::Embedded).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::stores::Store::Redis(crate::support::redis::RedisServer::start())).await;
            })+
        }
    };
}
pub(crate) use on_each_store;
