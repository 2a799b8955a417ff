//! Pictures and avatars in Redis.
//!
//! A picture's key first holds the claim of whoever makes it, `making ` and a random mark, so that a maker whose claim got no
//! reply knows it again.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::route::Command;
use super::{RedisStore, millis};
use crate::entropy::os_rng;
use crate::scene::{AvatarId, SceneId, WriteId};
use crate::store::{BlobStore, Picture, StoreError};

const CLAIM: &str = "making ";

#[async_trait]
impl BlobStore for RedisStore {
    async fn picture(&self, id: &SceneId, claim: Duration) -> Result<Picture, StoreError> {
        let key = &self.keys.picture(id);
        let mine = &Bytes::from(format!("{CLAIM}{}", WriteId::random(&mut os_rng())));
        self.commands
            .run("picture", |route| async move {
                // Read first: a full server refuses even a SET that would change nothing.
                let mut found: Option<Bytes> = route.one(Command::new("GET", key)).await?;
                if found.is_none() {
                    found = route.one(Command::set_new(key, mine.clone(), millis(claim))).await?;
                }
                Ok(match found {
                    None => Picture::Yours,
                    Some(found) if found == *mine => Picture::Yours,
                    Some(found) if is_claim(&found) => Picture::Making,
                    Some(found) => Picture::Ready(found),
                })
            })
            .await
    }

    async fn put_picture(&self, id: &SceneId, picture: Bytes, life: Duration) -> Result<(), StoreError> {
        self.put("put_picture", &self.keys.picture(id), &picture, life).await
    }

    async fn release_picture(&self, id: &SceneId) -> Result<(), StoreError> {
        self.settle_picture("release_picture", id, Bytes::new()).await
    }

    async fn keep_picture(&self, id: &SceneId, life: Duration) -> Result<(), StoreError> {
        self.settle_picture("keep_picture", id, Bytes::from(millis(life).to_string()))
            .await
    }

    async fn put_avatar(&self, id: &SceneId, avatar: AvatarId, image: Bytes, life: Duration) -> Result<(), StoreError> {
        let named = Bytes::from([avatar.to_string().as_bytes(), &image].concat());
        self.put("put_avatar", &self.keys.avatar(id), &named, life).await
    }

    async fn avatar(&self, id: &SceneId, avatar: AvatarId) -> Result<Option<Bytes>, StoreError> {
        let key = &self.keys.avatar(id);
        let kept: Option<Bytes> = self
            .commands
            .run(
                "avatar",
                |route| async move { route.one(Command::new("GET", key)).await },
            )
            .await?;
        let name = avatar.to_string();
        let kept = kept.filter(|kept| kept.starts_with(name.as_bytes()));
        Ok(kept.map(|kept| kept.slice(name.len()..)))
    }
}

impl RedisStore {
    async fn put(&self, op: &'static str, key: &str, bytes: &Bytes, life: Duration) -> Result<(), StoreError> {
        self.commands
            .run(op, |route| async move {
                route.one(Command::set(key, bytes.clone(), millis(life))).await
            })
            .await
    }

    async fn settle_picture(&self, op: &'static str, id: &SceneId, life: Bytes) -> Result<(), StoreError> {
        let key = &*self.keys.picture(id);
        let args = &[Bytes::from_static(CLAIM.as_bytes()), life];
        self.commands
            .run(op, |route| async move {
                self.scripts.picture.run(&route, &[key], args).await
            })
            .await
    }
}

fn is_claim(bytes: &Bytes) -> bool {
    bytes.starts_with(CLAIM.as_bytes())
}
