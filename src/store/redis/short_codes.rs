//! Which scene a short code leads to, in Redis: its hash alone is there, and ends by itself.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::route::Command;
use super::{RedisStore, millis};
use crate::scene::{SceneId, ShortCodeTag};
use crate::store::{ShortCodeStore, StoreError};

#[async_trait]
impl ShortCodeStore for RedisStore {
    async fn put_short_code(&self, tag: ShortCodeTag, id: &SceneId, life: Duration) -> Result<bool, StoreError> {
        let key = &self.keys.short_code(tag);
        let scene = &Bytes::from(id.to_string());
        self.commands
            .run("put_short_code", |route| async move {
                let set = Command::set_new(key, scene.clone(), millis(life));
                let found: Option<Bytes> = route.one(set).await?;
                // That very scene: asked again, or a reply was lost.
                Ok(found.is_none_or(|found| found == *scene))
            })
            .await
    }

    async fn scene_of_short_code(&self, tag: ShortCodeTag) -> Result<Option<SceneId>, StoreError> {
        let key = &self.keys.short_code(tag);
        let found: Option<String> = self
            .commands
            .run("short_code", |route| async move {
                route.one(Command::new("GET", key)).await
            })
            .await?;
        Ok(found.and_then(|id| id.parse().ok()))
    }

    async fn drop_short_code(&self, tag: ShortCodeTag) -> Result<(), StoreError> {
        let key = &self.keys.short_code(tag);
        self.commands
            .run("drop_short_code", |route| async move {
                route.one(Command::new("DEL", key)).await
            })
            .await
    }
}
