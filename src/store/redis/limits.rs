//! Who took how much of what is limited, counted by all replicas together and by the server's clock.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::RedisStore;
use super::fault::Fault;
use crate::rate::{Rate, Taken};
use crate::store::{LimitKey, LimitStore, StoreError};

#[async_trait]
impl LimitStore for RedisStore {
    async fn take(&self, key: LimitKey, rate: Rate) -> Result<Taken, StoreError> {
        let key = &*self.keys.limit(&key);
        let micros = |time: Duration| Bytes::from(time.as_micros().to_string());
        let args = &[micros(rate.apart()), micros(rate.whole())];
        self.commands
            .run("take", |route| async move {
                let (is_taken, left): (u8, u64) = self.scripts.take.run(&route, &[key], args).await?;
                let left = Duration::from_micros(left);
                Ok::<_, Fault>(if is_taken == 1 {
                    Taken::Yes(left)
                } else {
                    Taken::NotFor(left)
                })
            })
            .await
    }

    async fn give_back(&self, key: LimitKey, rate: Rate) -> Result<(), StoreError> {
        let key = &*self.keys.limit(&key);
        let args = &[Bytes::from(rate.apart().as_micros().to_string())];
        self.commands
            .run("give_back", |route| async move {
                self.scripts.give_back.run::<()>(&route, &[key], args).await
            })
            .await
    }
}
