//! WeChat's `access_token` of each Mini Program in Redis, and the lease on fetching it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::fault::Fault;
use super::route::Command;
use super::{RedisStore, life_left, millis};
use crate::entropy::os_rng;
use crate::scene::WriteId;
use crate::store::{Generation, StoreError, StoredToken, TokenStore};

#[async_trait]
impl TokenStore for RedisStore {
    async fn token(&self, appid: &str) -> Result<Option<StoredToken>, StoreError> {
        let key = &self.keys.access_token(appid);
        self.commands
            .run("token", |route| async move {
                // The life first: a token put in between is then said to live shorter than it does, never longer.
                let fields = Command::new("HMGET", key).arg("sealed").arg("generation");
                let [life, fields] = route.together([Command::new("PTTL", key), fields]).await?;
                let (sealed, generation): (Option<Bytes>, Option<u64>) = fields?.convert()?;
                Ok(match (sealed, generation, life_left(life?)?) {
                    (Some(sealed), Some(generation), Some(left)) => Some(StoredToken {
                        sealed: sealed.into(),
                        generation: Generation(generation),
                        left,
                    }),
                    _ => None,
                })
            })
            .await
    }

    async fn acquire_lease(&self, name: &str, owner: WriteId, length: Duration) -> Result<bool, StoreError> {
        let key = &*self.keys.lease(name);
        // The mark tells a call whose reply was lost from an earlier one of the same owner.
        let mine = &Bytes::from(format!("{owner}{}", WriteId::random(&mut os_rng())));
        let args = &[mine.clone(), Bytes::from(millis(length).to_string())];
        self.commands
            .run("acquire_lease", |route| async move {
                let found: Option<Bytes> = self.scripts.acquire_lease.run(&route, &[key], args).await?;
                Ok(found.is_none_or(|found| found == *mine))
            })
            .await
    }

    async fn release_lease(&self, name: &str, owner: WriteId) -> Result<(), StoreError> {
        let key = &*self.keys.lease(name);
        let args = &[Bytes::from(owner.to_string())];
        self.commands
            .run("release_lease", |route| async move {
                self.scripts.release_lease.run::<()>(&route, &[key], args).await
            })
            .await
    }

    async fn put_token(
        &self,
        appid: &str,
        owner: WriteId,
        seen: Option<Generation>,
        sealed: &[u8],
        life: Duration,
    ) -> Result<bool, StoreError> {
        let keys = &[&*self.keys.access_token(appid), &*self.keys.lease(appid)];
        let args = &[
            Bytes::from(owner.to_string()),
            Bytes::from(seen.map_or_else(String::new, |Generation(seen)| seen.to_string())),
            Bytes::copy_from_slice(sealed),
            Bytes::from(millis(life).to_string()),
        ];
        self.commands
            .run("put_token", |route| async move {
                let kept: i64 = self.scripts.put_token.run(&route, keys, args).await?;
                Ok::<_, Fault>(kept == 1)
            })
            .await
    }

    async fn drop_token(&self, appid: &str, generation: Generation) -> Result<(), StoreError> {
        let key = &*self.keys.access_token(appid);
        let args = &[Bytes::from(generation.0.to_string())];
        self.commands
            .run("drop_token", |route| async move {
                self.scripts.drop_token.run::<()>(&route, &[key], args).await
            })
            .await
    }
}
