//! Everything in this process: the store of a single replica that needs nothing beside it, and the default.
//!
//! It keeps the same promises as the one in Redis and announces by the same channel. One lock guards all of it, never held while
//! anything waits, so every method is one step for everybody else.

mod expiring;
mod limits;
mod notices;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rate::{Rate, Taken};
use crate::scene::{AvatarId, Life, Scene, SceneId, ShortCodeTag, WriteId};
use crate::store::{
    BlobStore, Created, Found, Generation, Grant, LimitKey, LimitStore, News, Picture, Replaced, SceneStore,
    ShortCodeStore, StoreError, Stored, StoredToken, TokenStore, Write,
};
use expiring::{Expiring, Weight};
pub use limits::MemoryLimits;
use notices::Notices;

/// How much all pictures may weigh. Beyond it those that end soonest make room: they can be made again.
const PICTURES_BYTES_MAX: usize = 96 << 20;

/// How much all avatars may weigh. Beyond it those that end soonest make room: a login goes on without.
const AVATARS_BYTES_MAX: usize = 32 << 20;

/// The store.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    limits: MemoryLimits,
    news: mpsc::Sender<News>,
    lost: Arc<Lost>,
}

#[derive(Debug)]
struct State {
    scenes_max: usize,
    scenes: Expiring<SceneId, Scene>,
    grants: Expiring<SceneId, Vec<u8>>,
    pictures: Expiring<SceneId, Bytes>,
    /// Who makes a picture; never makes room, or two would make it.
    claims: Expiring<SceneId, ()>,
    avatars: Expiring<SceneId, NamedAvatar>,
    /// At most one that counts for each scene, so that their number is bounded too.
    short_codes: Expiring<ShortCodeTag, SceneId>,
    tokens: HashMap<String, Token>,
    leases: HashMap<String, Lease>,
    notices: Notices,
    watched: HashSet<SceneId>,
}

/// Scenes whose news found the channel full: told as [`News::Lost`] as soon as there is room.
#[derive(Debug, Default)]
struct Lost {
    scenes: Mutex<HashSet<SceneId>>,
    some: Notify,
}

/// An entry is never free of charge, so that their number is bounded as well.
const ENTRY: usize = 256;

/// The last avatar of a scene's phone.
#[derive(Debug)]
struct NamedAvatar {
    avatar: AvatarId,
    image: Bytes,
}

impl Weight for NamedAvatar {
    fn bytes(&self) -> usize {
        self.image.bytes()
    }
}

impl Weight for Bytes {
    fn bytes(&self) -> usize {
        ENTRY + self.len()
    }
}

impl Weight for () {
    fn bytes(&self) -> usize {
        0
    }
}

impl Weight for SceneId {
    fn bytes(&self) -> usize {
        0
    }
}

impl Weight for Scene {
    fn bytes(&self) -> usize {
        0
    }
}

impl Weight for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

#[derive(Debug)]
struct Token {
    sealed: Option<Vec<u8>>,
    generation: Generation,
    ends: Instant,
}

#[derive(Debug)]
struct Lease {
    owner: WriteId,
    ends: Instant,
}

impl MemoryStore {
    /// An empty store for at most `scenes_max` live scenes, which tells `news` what changes.
    #[must_use]
    pub fn start(
        scenes_max: usize,
        news: mpsc::Sender<News>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let lost = Arc::new(Lost::default());
        tasks.spawn(tell_lost(Arc::clone(&lost), news.clone(), shutdown.clone()));
        Self {
            state: Mutex::new(State {
                scenes_max,
                scenes: Expiring::default(),
                grants: Expiring::default(),
                pictures: Expiring::default(),
                claims: Expiring::default(),
                avatars: Expiring::default(),
                short_codes: Expiring::default(),
                tokens: HashMap::new(),
                leases: HashMap::new(),
                notices: Notices::default(),
                watched: HashSet::new(),
            }),
            limits: MemoryLimits::default(),
            news,
            lost,
        }
    }

    /// The state, with a little of what has expired swept out of it.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        state.scenes.sweep(now);
        state.grants.sweep(now);
        state.pictures.sweep(now);
        state.claims.sweep(now);
        state.avatars.sweep(now);
        state.short_codes.sweep(now);
        state
    }

    /// Called with the state locked, so that news keep the order of what they tell.
    fn announce(&self, scene: &Scene, life: Life) {
        let news = News::Changed(scene.id, scene.public_state(life));
        if let Err(TrySendError::Full(_)) = self.news.try_send(news) {
            lock(&self.lost.scenes).insert(scene.id);
            self.lost.some.notify_one();
        }
    }
}

async fn tell_lost(lost: Arc<Lost>, news: mpsc::Sender<News>, shutdown: CancellationToken) {
    let tell = async {
        loop {
            lost.some.notified().await;
            // Without anybody to tell there is nothing more to do.
            let Ok(room) = news.reserve().await else { return };
            let scenes = std::mem::take(&mut *lock(&lost.scenes));
            room.send(News::Lost(scenes.into_iter().collect()));
        }
    };
    let _ = shutdown.run_until_cancelled(tell).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl SceneStore for MemoryStore {
    async fn create(&self, scene: &Scene, life: Life) -> Result<Created, StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        if state.scenes.get(&scene.id, now).is_some() {
            return Ok(Created::Exists);
        }
        if state.scenes.len() >= state.scenes_max {
            return Err(StoreError::Full);
        }
        state.scenes.insert(scene.id, scene.clone(), now + life.0);
        Ok(Created::New)
    }

    async fn find(&self, ids: &[SceneId]) -> Vec<Found> {
        let state = self.state();
        let now = Instant::now();
        let stored = |id| {
            let found = state.scenes.get(id, now);
            Ok(found.map(|(scene, left)| Stored::now(scene.clone(), Life(left))))
        };
        ids.iter().map(stored).collect()
    }

    async fn replace(&self, seen: &Stored, write: Write<'_>) -> Result<Replaced, StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        let next = write.next;
        let Some((stored, left)) = state.scenes.get(&next.id, now) else {
            return Ok(Replaced::Absent);
        };
        let life = Life(left);
        let is_repeated = stored.write_id == next.write_id;
        if !is_repeated {
            if stored.write_id != seen.scene.write_id {
                return Ok(Replaced::Stale);
            }
            if seen.scene.is_open() && life.until_deadline().is_zero() {
                return Ok(Replaced::Late);
            }
        }
        state.scenes.replace(&next.id, next.clone());
        match write.grant {
            Grant::Keep => {}
            Grant::Put(grant, life) => state.grants.insert(next.id, grant.to_vec(), now + life),
            Grant::Delete => state.grants.remove(&next.id),
        }
        if let Some(notice) = write.notice.filter(|_| !is_repeated) {
            state.notices.keep(next, notice, now);
        }
        if next.version > seen.scene.version && state.watched.contains(&next.id) {
            self.announce(next, life);
        }
        Ok(Replaced::Written)
    }

    async fn grant(&self, id: &SceneId) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state();
        Ok(state.grants.get(id, Instant::now()).map(|(grant, _)| grant.clone()))
    }

    async fn watch(&self, id: &SceneId) -> Result<(), StoreError> {
        self.state().watched.insert(*id);
        Ok(())
    }

    async fn unwatch(&self, id: &SceneId) {
        self.state().watched.remove(id);
        lock(&self.lost.scenes).remove(id);
    }

    async fn settle(&self, _: &Stored) -> Result<Replaced, StoreError> {
        Ok(Replaced::Written)
    }

    async fn refresh(&self, seen: Stored) -> Found {
        Ok(Some(seen))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn picture(&self, id: &SceneId, claim: Duration) -> Result<Picture, StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some((picture, _)) = state.pictures.get(id, now) {
            return Ok(Picture::Ready(picture.clone()));
        }
        if state.claims.get(id, now).is_some() {
            return Ok(Picture::Making);
        }
        state.claims.insert(*id, (), now + claim);
        Ok(Picture::Yours)
    }

    async fn put_picture(&self, id: &SceneId, picture: Bytes, life: Duration) -> Result<(), StoreError> {
        let mut state = self.state();
        state.claims.remove(id);
        state.pictures.keep(*id, picture, life, PICTURES_BYTES_MAX)
    }

    async fn release_picture(&self, id: &SceneId) -> Result<(), StoreError> {
        self.state().claims.remove(id);
        Ok(())
    }

    async fn keep_picture(&self, id: &SceneId, life: Duration) -> Result<(), StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some((picture, _)) = state.pictures.get(id, now) {
            let picture = picture.clone();
            state.pictures.insert(*id, picture, now + life);
        }
        Ok(())
    }

    async fn put_avatar(&self, id: &SceneId, avatar: AvatarId, image: Bytes, life: Duration) -> Result<(), StoreError> {
        let named = NamedAvatar { avatar, image };
        self.state().avatars.keep(*id, named, life, AVATARS_BYTES_MAX)
    }

    async fn avatar(&self, id: &SceneId, avatar: AvatarId) -> Result<Option<Bytes>, StoreError> {
        let state = self.state();
        let kept = state.avatars.get(id, Instant::now()).map(|(kept, _)| kept);
        let kept = kept.filter(|kept| kept.avatar == avatar);
        Ok(kept.map(|kept| kept.image.clone()))
    }
}

impl<K: Copy + Eq + Hash, V: Weight> Expiring<K, V> {
    /// Keeps bytes for `life`; others make room for them.
    fn keep(&mut self, key: K, bytes: V, life: Duration, bytes_max: usize) -> Result<(), StoreError> {
        if bytes.bytes() > bytes_max {
            return Err(StoreError::Full);
        }
        self.insert(key, bytes, Instant::now() + life);
        self.shrink(bytes_max, &key);
        Ok(())
    }
}

#[async_trait]
impl ShortCodeStore for MemoryStore {
    async fn put_short_code(&self, tag: ShortCodeTag, id: &SceneId, life: Duration) -> Result<bool, StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some((kept, _)) = state.short_codes.get(&tag, now) {
            return Ok(kept == id);
        }
        state.short_codes.insert(tag, *id, now + life);
        Ok(true)
    }

    async fn scene_of_short_code(&self, tag: ShortCodeTag) -> Result<Option<SceneId>, StoreError> {
        let state = self.state();
        Ok(state.short_codes.get(&tag, Instant::now()).map(|(id, _)| *id))
    }

    async fn drop_short_code(&self, tag: ShortCodeTag) -> Result<(), StoreError> {
        self.state().short_codes.remove(&tag);
        Ok(())
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn token(&self, appid: &str) -> Result<Option<StoredToken>, StoreError> {
        let state = self.state();
        Ok(state.tokens.get(appid).and_then(|token| {
            let left = token.ends.saturating_duration_since(Instant::now());
            let sealed = token.sealed.clone().filter(|_| !left.is_zero())?;
            Some(StoredToken {
                sealed,
                generation: token.generation,
                left,
            })
        }))
    }

    async fn acquire_lease(&self, name: &str, owner: WriteId, length: Duration) -> Result<bool, StoreError> {
        let mut state = self.state();
        let now = Instant::now();
        // Named leases come and go, so those that have ended are not left lying about.
        state.leases.retain(|_, lease| lease.ends > now);
        if state.leases.contains_key(name) {
            return Ok(false);
        }
        let ends = now + length;
        state.leases.insert(name.to_owned(), Lease { owner, ends });
        Ok(true)
    }

    async fn release_lease(&self, name: &str, owner: WriteId) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.leases.get(name).is_some_and(|lease| lease.owner == owner) {
            state.leases.remove(name);
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
        let mut state = self.state();
        let now = Instant::now();
        let held = state
            .leases
            .get(appid)
            .is_some_and(|lease| lease.ends > now && lease.owner == owner);
        let stored = state.tokens.get(appid);
        let current = stored.filter(|token| token.sealed.is_some() && token.ends > now);
        let outrun = current.is_some_and(|token| Some(token.generation) != seen || token.ends > now + life);
        if !held || outrun {
            return Ok(false);
        }
        // Kept beyond every token's end, so that it never falls.
        let generation = Generation(stored.map_or(1, |token| token.generation.0 + 1));
        let token = Token {
            sealed: Some(sealed.to_vec()),
            generation,
            ends: now + life,
        };
        state.tokens.insert(appid.to_owned(), token);
        Ok(true)
    }

    async fn drop_token(&self, appid: &str, generation: Generation) -> Result<(), StoreError> {
        if let Some(token) = self.state().tokens.get_mut(appid)
            && token.generation == generation
        {
            token.sealed = None;
        }
        Ok(())
    }
}

#[async_trait]
impl LimitStore for MemoryStore {
    async fn take(&self, key: LimitKey, rate: Rate) -> Result<Taken, StoreError> {
        Ok(self.limits.take_now(key, rate))
    }

    async fn give_back(&self, key: LimitKey, rate: Rate) -> Result<(), StoreError> {
        self.limits.give_back_now(key, rate);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
