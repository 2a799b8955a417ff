//! What the replicas share, kept in a map: the contract of tokens and pictures, and nothing of scenes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use scanlogin::scene::{AvatarId, SceneId, WriteId};
use scanlogin::store::{BlobStore, Generation, Picture, StoreError, StoredToken, TokenStore};
use tokio::sync::Semaphore;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Shared {
    is_away: AtomicBool,
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    tokens: HashMap<String, (Vec<u8>, Generation, Instant)>,
    leases: HashMap<String, (WriteId, Instant)>,
    /// `None` is a claim.
    pictures: HashMap<SceneId, (Option<Bytes>, Instant)>,
    generation: u64,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether it answers nobody.
    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Everything that whoever reads the whole store sees.
    pub(super) fn dump(&self) -> String {
        let maps = self.maps.lock().unwrap();
        let sealed = maps
            .tokens
            .values()
            .map(|(sealed, ..)| String::from_utf8_lossy(sealed).into_owned());
        sealed.chain([format!("{maps:?}")]).collect()
    }

    /// What is left of a picture's life.
    pub(super) fn picture_left(&self, id: SceneId) -> Option<Duration> {
        let maps = self.maps.lock().unwrap();
        maps.pictures.get(&id).map(|(_, until)| *until - Instant::now())
    }

    fn maps(&self) -> Result<MutexGuard<'_, Maps>, StoreError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the test took it away".to_owned()));
        }
        let mut maps = self.maps.lock().unwrap();
        let now = Instant::now();
        maps.tokens.retain(|_, (.., until)| *until > now);
        maps.leases.retain(|_, (_, until)| *until > now);
        maps.pictures.retain(|_, (_, until)| *until > now);
        Ok(maps)
    }
}

#[async_trait]
impl TokenStore for Shared {
    async fn token(&self, appid: &str) -> Result<Option<StoredToken>, StoreError> {
        tokio::task::yield_now().await;
        let maps = self.maps()?;
        Ok(maps.tokens.get(appid).map(|(sealed, generation, until)| StoredToken {
            sealed: sealed.clone(),
            generation: *generation,
            left: *until - Instant::now(),
        }))
    }

    async fn acquire_lease(&self, name: &str, owner: WriteId, length: Duration) -> Result<bool, StoreError> {
        tokio::task::yield_now().await;
        let mut maps = self.maps()?;
        let is_free = !maps.leases.contains_key(name);
        if is_free {
            maps.leases.insert(name.to_owned(), (owner, Instant::now() + length));
        }
        Ok(is_free)
    }

    async fn release_lease(&self, name: &str, owner: WriteId) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let mut maps = self.maps()?;
        if maps.leases.get(name).is_some_and(|(held_by, _)| *held_by == owner) {
            maps.leases.remove(name);
        }
        Ok(())
    }

    async fn put_token(
        &self,
        appid: &str,
        owner: WriteId,
        seen: Option<Generation>,
        sealed: &[u8],
        life: Duration,
    ) -> Result<bool, StoreError> {
        tokio::task::yield_now().await;
        let mut maps = self.maps()?;
        let until = Instant::now() + life;
        let is_holder = maps.leases.get(appid).is_some_and(|(held_by, _)| *held_by == owner);
        let stored = maps
            .tokens
            .get(appid)
            .map(|(_, generation, until)| (*generation, *until));
        let is_seen = stored.map(|(generation, _)| generation) == seen;
        let is_kept = is_holder && is_seen && stored.is_none_or(|(_, stored_until)| stored_until <= until);
        if is_kept {
            maps.generation += 1;
            let generation = Generation(maps.generation);
            maps.tokens
                .insert(appid.to_owned(), (sealed.to_vec(), generation, until));
        }
        Ok(is_kept)
    }

    async fn drop_token(&self, appid: &str, generation: Generation) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let mut maps = self.maps()?;
        if maps
            .tokens
            .get(appid)
            .is_some_and(|(_, stored, _)| *stored == generation)
        {
            maps.tokens.remove(appid);
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Shared {
    async fn picture(&self, id: &SceneId, claim: Duration) -> Result<Picture, StoreError> {
        tokio::task::yield_now().await;
        let mut maps = self.maps()?;
        match maps.pictures.get(id) {
            Some((Some(bytes), _)) => Ok(Picture::Ready(bytes.clone())),
            Some((None, _)) => Ok(Picture::Making),
            None => {
                maps.pictures.insert(*id, (None, Instant::now() + claim));
                Ok(Picture::Yours)
            }
        }
    }

    async fn put_picture(&self, id: &SceneId, picture: Bytes, life: Duration) -> Result<(), StoreError> {
        self.maps()?
            .pictures
            .insert(*id, (Some(picture), Instant::now() + life));
        Ok(())
    }

    async fn release_picture(&self, id: &SceneId) -> Result<(), StoreError> {
        self.maps()?
            .pictures
            .retain(|kept, (bytes, _)| kept != id || bytes.is_some());
        Ok(())
    }

    async fn keep_picture(&self, id: &SceneId, life: Duration) -> Result<(), StoreError> {
        if let Some((_, until)) = self.maps()?.pictures.get_mut(id) {
            *until = Instant::now() + life;
        }
        Ok(())
    }

    async fn put_avatar(&self, _: &SceneId, _: AvatarId, _: Bytes, _: Duration) -> Result<(), StoreError> {
        unreachable!("no avatar here")
    }

    async fn avatar(&self, _: &SceneId, _: AvatarId) -> Result<Option<Bytes>, StoreError> {
        unreachable!("no avatar here")
    }
}

/// The same store, seen by a replica that falls asleep just before it puts a token there.
#[derive(Debug)]
pub(super) struct Sleepy {
    pub(super) store: Arc<Shared>,
    pub(super) asleep: Semaphore,
    pub(super) awake: Semaphore,
}

impl Sleepy {
    pub(super) fn new(store: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            asleep: Semaphore::new(0),
            awake: Semaphore::new(0),
        })
    }
}

#[async_trait]
impl TokenStore for Sleepy {
    async fn token(&self, appid: &str) -> Result<Option<StoredToken>, StoreError> {
        self.store.token(appid).await
    }

    async fn acquire_lease(&self, name: &str, owner: WriteId, length: Duration) -> Result<bool, StoreError> {
        self.store.acquire_lease(name, owner, length).await
    }

    async fn release_lease(&self, name: &str, owner: WriteId) -> Result<(), StoreError> {
        self.store.release_lease(name, owner).await
    }

    async fn put_token(
        &self,
        appid: &str,
        owner: WriteId,
        seen: Option<Generation>,
        sealed: &[u8],
        life: Duration,
    ) -> Result<bool, StoreError> {
        self.asleep.add_permits(1);
        self.awake.acquire().await.unwrap().forget();
        self.store.put_token(appid, owner, seen, sealed, life).await
    }

    async fn drop_token(&self, appid: &str, generation: Generation) -> Result<(), StoreError> {
        self.store.drop_token(appid, generation).await
    }
}
