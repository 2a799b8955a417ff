//! The shared truth: what every replica reads and writes, and the news that something changed.
//!
//! One implementation keeps everything in this process ([`memory`], the default), the other in Redis ([`redis`]); both hold the
//! promises written here, checked by one conformance suite. A store never calls the hub: it is built with the sending end of
//! a bounded channel of [`News`].
//!
//! To add a store: implement the traits, add it to `app.rs` where the store is chosen, and to `tests/it/conformance.rs`.

pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::CryptoRng;
use tokio::time::Instant;

use crate::rate::{Rate, Taken};
use crate::scene::{
    Action, AvatarId, GRACE, Life, Outcome, PublicState, Refused, Scene, SceneId, ShortCodeTag, WriteId,
};

/// All that a store is.
pub trait Store: SceneStore + ShortCodeStore + BlobStore + TokenStore + LimitStore + NoticeStore {}
impl<S: SceneStore + ShortCodeStore + BlobStore + TokenStore + LimitStore + NoticeStore> Store for S {}

/// Keeps scenes until their time is over, and announces their visible changes.
#[async_trait]
pub trait SceneStore: Send + Sync + 'static {
    /// Keeps a new scene for `life`; leaves one that is there alone.
    async fn create(&self, scene: &Scene, life: Life) -> Result<Created, StoreError>;

    /// The scenes of these ids and what is left of their life, read together: one answer for each, in the order asked, so that
    /// one that can't be read hides no other. Unknown and long gone is `None`.
    ///
    /// A record is never older than the life that comes with it: if that is past the deadline, nobody can write it any more.
    async fn find(&self, ids: &[SceneId]) -> Vec<Found>;

    /// Puts `write.next` in the place of `seen`, if nobody has written since and, while `seen` is open, its deadline is not past.
    ///
    /// Comparing, writing, the grant and the announcement (made if and only if the version rises) are one step. The key's
    /// life stays as it is. If the stored `write_id` is already that of `write.next`, this very call had happened and only its
    /// reply was lost: it is written once more, unchanged, and answered [`Replaced::Written`].
    async fn replace(&self, seen: &Stored, write: Write<'_>) -> Result<Replaced, StoreError>;

    /// Makes sure that the confirm that was read counts, before anybody is told of it: one that was written and not answered may still
    /// be undone by a fail-over. Fails while it does not.
    async fn settle(&self, seen: &Stored) -> Result<Replaced, StoreError>;

    /// What a refusal may rest on: `seen`, or what is there now if that may have been old.
    async fn refresh(&self, seen: Stored) -> Found;

    /// What [`Grant::Put`] kept beside the scene.
    async fn grant(&self, id: &SceneId) -> Result<Option<Vec<u8>>, StoreError>;

    /// From its return on, every visible change of this scene is told as [`News`], until `unwatch`. Idempotent.
    async fn watch(&self, id: &SceneId) -> Result<(), StoreError>;

    /// Ends `watch`. Idempotent; news already under way may still come.
    async fn unwatch(&self, id: &SceneId);

    /// Whether the store answers just now.
    async fn ready(&self) -> Result<(), StoreError>;

    /// What of it does not go well just now, as far as is known without asking: it may answer all the same.
    fn trouble(&self) -> Option<String>;
}

/// Finds the scene of a short code. What is found is no more than a hint: the scene's own record says whether the code counts.
#[async_trait]
pub trait ShortCodeStore: Send + Sync + 'static {
    /// Lets a code's hash lead to its scene for `life`; not if it leads to another one, which is answered `false`.
    async fn put_short_code(&self, tag: ShortCodeTag, id: &SceneId, life: Duration) -> Result<bool, StoreError>;

    /// Where it leads.
    async fn scene_of_short_code(&self, tag: ShortCodeTag) -> Result<Option<SceneId>, StoreError>;

    /// Lets it lead nowhere.
    async fn drop_short_code(&self, tag: ShortCodeTag) -> Result<(), StoreError>;
}

/// Keeps pictures: codes while their scene waits, and uploaded avatars.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// The code's picture, or whose task it is to make it. Whoever is answered [`Picture::Yours`] is the only maker for `claim`.
    async fn picture(&self, id: &SceneId, claim: Duration) -> Result<Picture, StoreError>;

    /// Keeps a code's picture for `life`, whoever was its maker.
    async fn put_picture(&self, id: &SceneId, picture: Bytes, life: Duration) -> Result<(), StoreError>;

    /// Gives back the task of making it, so that the next who asks may try at once. A finished picture stays.
    async fn release_picture(&self, id: &SceneId) -> Result<(), StoreError>;

    /// Lets a picture that was made ahead live for `life` from now.
    async fn keep_picture(&self, id: &SceneId, life: Duration) -> Result<(), StoreError>;

    /// Keeps an avatar for `life`, in the place of any other of the scene.
    async fn put_avatar(&self, id: &SceneId, avatar: AvatarId, image: Bytes, life: Duration) -> Result<(), StoreError>;

    /// An avatar.
    async fn avatar(&self, id: &SceneId, avatar: AvatarId) -> Result<Option<Bytes>, StoreError>;
}

/// Keeps WeChat's `access_token` of each Mini Program, and the lease on fetching it. Tokens come sealed: a store can't read them.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// The current token.
    async fn token(&self, appid: &str) -> Result<Option<StoredToken>, StoreError>;

    /// Takes the lease of this name, for `length`, if nobody holds it, its present owner included. The lease on fetching is named
    /// like the AppID; others, `<appid>:<purpose>`, count what all replicas did and are left to end by themselves.
    async fn acquire_lease(&self, name: &str, owner: WriteId, length: Duration) -> Result<bool, StoreError>;

    /// Gives a lease back, if it is still this owner's.
    async fn release_lease(&self, name: &str, owner: WriteId) -> Result<(), StoreError>;

    /// Keeps a new token for `life`, if the lease on fetching is still this owner's, the generation has not moved from `seen`, and the stored
    /// token does not live longer. The new generation is greater than every earlier one. Says whether it was kept.
    async fn put_token(
        &self,
        appid: &str,
        owner: WriteId,
        seen: Option<Generation>,
        sealed: &[u8],
        life: Duration,
    ) -> Result<bool, StoreError>;

    /// Drops the token of this generation, if it still is the current one.
    async fn drop_token(&self, appid: &str, generation: Generation) -> Result<(), StoreError>;
}

/// Counts what must not happen too often.
#[async_trait]
pub trait LimitStore: Send + Sync + 'static {
    /// Takes one of what `rate` allows to whom `key` names. A call whose reply was lost may count twice.
    async fn take(&self, key: LimitKey, rate: Rate) -> Result<Taken, StoreError>;

    /// Gives one back that was taken. A call whose reply was lost may count twice.
    async fn give_back(&self, key: LimitKey, rate: Rate) -> Result<(), StoreError>;
}

/// Keeps what sites are still to be told of their logins. A notice comes with a write of its scene ([`Write::notice`]), and is taken
/// from here by whoever sends it, on any replica.
#[async_trait]
pub trait NoticeStore: Send + Sync + 'static {
    /// Takes notices that are due, about `most` of them, and of one site about `most_of_one`, so that one of which much is due leaves room
    /// for the others: until `lease` is over nobody else takes those.
    async fn claim_notices(
        &self,
        claim: WriteId,
        lease: Duration,
        most: usize,
        most_of_one: usize,
    ) -> Result<Due, StoreError>;

    /// Keeps `text` in a claimed notice's place, due again after `wait`.
    async fn put_off_notice(
        &self,
        id: &SceneId,
        claim: WriteId,
        text: &[u8],
        wait: Duration,
    ) -> Result<Ended, StoreError>;

    /// Drops a claimed notice; leaves one that somebody else has claimed since. A call whose reply was lost may find it absent.
    async fn drop_notice(&self, id: &SceneId, claim: WriteId) -> Result<Ended, StoreError>;
}

/// What a site is to be told of a scene. There is one of each scene at most; a later one takes the place of an earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Which site.
    pub client_id: String,
    /// What it is to be told, in whatever form.
    pub text: Vec<u8>,
    /// For how long it is claimed by whoever wrote it, under the `write_id` of that write.
    pub lease: Duration,
    /// How many the site may have waiting, about: beyond, this one is not kept.
    pub most: usize,
}

/// What [`NoticeStore::claim_notices`] took.
#[derive(Debug, Default)]
pub struct Due {
    /// Of which scene, and its text.
    pub claimed: Vec<(SceneId, Vec<u8>)>,
    /// How many there are of all sites, whether due or not.
    pub waiting: usize,
}

/// How a claim of a notice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As asked for.
    Done,
    /// Somebody else has claimed it since.
    Taken,
    /// It is not there.
    Absent,
}

/// Whose doing is counted, and of what kind. Nothing of it can be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// The kind.
    pub rule: &'static str,
    /// Who: a hash.
    pub subject: [u8; 16],
}

/// What [`SceneStore::find`] answers for one id.
pub type Found = Result<Option<Stored>, StoreError>;

/// What [`SceneStore::create`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Kept.
    New,
    /// There was one of that id already, and it stays.
    Exists,
}

/// The least time before a deadline.
const MOMENT: Duration = Duration::from_millis(1);

/// A record and what was left of its life when it was read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The record.
    pub scene: Scene,
    life: Life,
    read_at: Instant,
}

impl Stored {
    /// A record just read.
    #[must_use]
    pub fn now(scene: Scene, life: Life) -> Self {
        Self {
            scene,
            life,
            read_at: Instant::now(),
        }
    }

    /// When it was read.
    #[must_use]
    pub fn read_at(&self) -> Instant {
        self.read_at
    }

    /// What is left of its life now, by the monotonic clock since it was read.
    ///
    /// Only the store says that a deadline is past: until it has, a moment is left, however long ago the record was read. Somebody
    /// may have written it in its last moment.
    #[must_use]
    pub fn life(&self) -> Life {
        let left = self.life.after(self.read_at.elapsed());
        if self.life.until_deadline().is_zero() {
            left
        } else {
            left.max(Life(GRACE + MOMENT))
        }
    }
}

/// One write of [`SceneStore::replace`].
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// What to write; its `write_id` is new.
    pub next: &'a Scene,
    /// Whether it counts only once a replica of the store has it too, where the store has replicas.
    pub durable: bool,
    /// What happens to the access token kept beside the scene.
    pub grant: Grant<'a>,
    /// What the site is to be told of this: kept if and only if this is written, and there is room. Without room it is written all the
    /// same.
    pub notice: Option<&'a Notice>,
}

/// The access token for `/userinfo`, which lives beside its scene and is written in the same step.
#[derive(Debug, Clone, Copy)]
pub enum Grant<'a> {
    /// Stays as it is.
    Keep,
    /// This is kept, for this long.
    Put(&'a [u8], Duration),
    /// None any more.
    Delete,
}

/// What [`SceneStore::replace`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// Written.
    Written,
    /// Somebody else wrote since `seen` was read.
    Stale,
    /// The deadline is past.
    Late,
    /// The record is gone.
    Absent,
    /// Written here, but no replica has it in time.
    Unreplicated,
}

impl std::fmt::Debug for Durability<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ordinary => "Ordinary",
            Self::Durable => "Durable",
            Self::WithGrant(..) => "WithGrant",
        })
    }
}

/// What [`BlobStore::picture`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// The bytes.
    Ready(Bytes),
    /// Somebody else is making it.
    Making,
    /// You make it.
    Yours,
}

/// Counts the tokens of one Mini Program; never falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// A sealed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// What only a holder of the AppSecret can open.
    pub sealed: Vec<u8>,
    /// Which token it is.
    pub generation: Generation,
    /// What is left of its life.
    pub left: Duration,
}

/// What a store tells the hub.
#[derive(Debug, Clone)]
pub enum News {
    /// A watched scene changed: a hint, lost now and then, never the truth.
    Changed(SceneId, PublicState),
    /// News of these scenes may have been missed; they are watched again, so read them now.
    Lost(Vec<SceneId>),
}

/// A store failed; nothing is known of what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or can't answer for now. Trying again later helps.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It takes nothing new; what is under way goes on.
    #[error("the store is full")]
    Full,
    /// A record can't be read. Trying again does not help.
    #[error("a record can't be read: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same request may go better later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Full => true,
            Self::Corrupt(_) => false,
        }
    }
}

/// Why [`apply`] did not.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// No such scene.
    #[error("no such scene")]
    NotFound,
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Written; and the rules say no all the same.
    #[error("{1}")]
    Mistaken(Box<Applied>, #[source] Refused),
    /// Written, but no replica confirmed it in time. What was written, for whoever wants to take it back.
    #[error("written, but no replica of the store confirmed it in time")]
    Unreplicated(Box<Applied>),
    /// The store failed while it wrote this: it may have been written, or be written yet.
    #[error("{1}")]
    Unknown(Box<Applied>, #[source] StoreError),
    /// The store failed before anything was written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What [`apply`] did, and to what.
#[derive(Debug)]
pub struct Applied {
    /// The record before.
    pub before: Stored,
    /// The scene now.
    pub scene: Scene,
    /// Whether this call changed anything, or repeated what had been done.
    pub changed: bool,
    /// What [`Durability::WithGrant`] made of it.
    pub granted: Vec<u8>,
    /// What was written with it for the site.
    pub notice: Option<Notice>,
}

impl Applied {
    /// To a scene that stays as it is.
    fn nothing(seen: Stored) -> Self {
        Self {
            scene: seen.scene.clone(),
            before: seen,
            changed: false,
            granted: Vec::new(),
            notice: None,
        }
    }
}

/// How [`apply`] writes.
#[derive(Clone, Copy)]
pub enum Durability<'a> {
    /// A write that a fail-over may lose: then the login falls back.
    Ordinary,
    /// A write that counts only once a replica has it.
    Durable,
    /// The same, with an access token made from the very scene that is written and its life, kept for this long.
    WithGrant(&'a MakeGrant<'a>, Duration),
}

/// Makes what is kept for the bearer of an access token.
pub type MakeGrant<'a> = dyn Fn(&Scene, Life) -> Result<Vec<u8>, StoreError> + Sync + 'a;

/// Makes what the site is told of the very scene that is written.
pub type MakeNotice<'a> = dyn Fn(&Scene) -> Option<Notice> + Sync + 'a;

/// How often a lost race is read and decided again before the store counts as unavailable.
const ATTEMPTS: usize = 16;

/// Lets the rules decide what `action` makes of `seen`, and writes it; reads and decides again when somebody else wrote meanwhile.
///
/// `action` may be called several times. A repeated durable action is written again, so that waiting for a replica behind it means
/// something; unchanged and as the same write, which whoever made it, and has not heard of it, still knows for its own.
///
/// # Errors
/// [`ApplyError`]
pub async fn apply<'a>(
    store: &dyn SceneStore,
    seen: Stored,
    durability: Durability<'_>,
    rng: &mut (impl CryptoRng + Send),
    action: impl Fn() -> Action<'a>,
) -> Result<Applied, ApplyError> {
    apply_and_tell(store, seen, durability, rng, action, &|_| None).await
}

/// As [`apply`]; with it is written what `notice` makes of what changes.
///
/// # Errors
/// [`ApplyError`]
pub async fn apply_and_tell<'a>(
    store: &dyn SceneStore,
    mut seen: Stored,
    durability: Durability<'_>,
    rng: &mut (impl CryptoRng + Send),
    action: impl Fn() -> Action<'a>,
    notice: &MakeNotice<'_>,
) -> Result<Applied, ApplyError> {
    let durable = !matches!(durability, Durability::Ordinary);
    for _ in 0..ATTEMPTS {
        let (next, mistaken, changed) = match seen.scene.apply(action(), seen.life(), rng) {
            Err(refused) => {
                let write_id = seen.scene.write_id;
                seen = Box::pin(certain(store, seen)).await?.ok_or(ApplyError::NotFound)?;
                if seen.scene.write_id == write_id {
                    return Err(refused.into());
                }
                continue;
            }
            Ok(Outcome::Visible(next) | Outcome::Hidden(next)) => (next, None, true),
            Ok(Outcome::Mistaken(next, refused)) => (next, Some(refused), true),
            // Its reply may have been lost before it counted.
            Ok(Outcome::Repeated) if durable && seen.scene.is_unsettled() => (seen.scene.clone(), None, false),
            Ok(Outcome::Repeated) => return Ok(Applied::nothing(seen)),
        };
        let (granted, grant_life) = match durability {
            Durability::Ordinary | Durability::Durable => (Vec::new(), None),
            Durability::WithGrant(make, life) => (make(&next, seen.life())?, Some(life)),
        };
        // What is written once more had its notice.
        let notice = changed.then(|| notice(&next)).flatten();
        let write = Write {
            next: &next,
            durable,
            notice: notice.as_ref(),
            grant: grant_life.map_or(Grant::Keep, |life| Grant::Put(&granted, life)),
        };
        let replaced = store.replace(&seen, write).await;
        let applied = Applied {
            before: seen,
            scene: next,
            changed,
            granted,
            notice,
        };
        match replaced {
            Ok(Replaced::Written) => {
                return match mistaken {
                    None => Ok(applied),
                    Some(refused) => Err(ApplyError::Mistaken(Box::new(applied), refused)),
                };
            }
            Ok(Replaced::Unreplicated) => return Err(ApplyError::Unreplicated(Box::new(applied))),
            Ok(Replaced::Late) => return Err(Refused::Expired.into()),
            Ok(Replaced::Absent) => return Err(ApplyError::NotFound),
            Err(error) => return Err(ApplyError::Unknown(Box::new(applied), error)),
            Ok(Replaced::Stale) => {
                let id = applied.scene.id;
                seen = find_one(store, &id).await?.ok_or(ApplyError::NotFound)?;
            }
        }
    }
    Err(StoreError::Unavailable("the scene is being written by too many at once".to_owned()).into())
}

/// What anybody may be told of what was found: a confirm only once it counts.
///
/// # Errors
/// As [`SceneStore::settle`]; also while it does not count.
pub async fn settled(store: &dyn SceneStore, found: Stored) -> Found {
    if !found.scene.is_unsettled() {
        return Ok(Some(found));
    }
    match store.settle(&found).await? {
        Replaced::Written => Ok(Some(found)),
        Replaced::Unreplicated => Err(not_settled()),
        // Redeemed meanwhile, or gone.
        Replaced::Stale | Replaced::Late | Replaced::Absent => find_one(store, &found.scene.id).await,
    }
}

/// What somebody may be refused for: no state that a server tells which is not primary any more, and no confirm that may be lost.
async fn certain(store: &dyn SceneStore, seen: Stored) -> Found {
    match store.refresh(seen).await? {
        Some(fresh) => settled(store, fresh).await,
        None => Ok(None),
    }
}

/// Of a confirm that does not count yet: it is not told, and asked for again.
pub(crate) fn not_settled() -> StoreError {
    StoreError::Unavailable("the confirm does not count yet".to_owned())
}

/// One scene of [`SceneStore::find`].
///
/// # Errors
/// As `find`.
pub async fn find_one(store: &dyn SceneStore, id: &SceneId) -> Result<Option<Stored>, StoreError> {
    store
        .find(std::slice::from_ref(id))
        .await
        .into_iter()
        .next()
        .unwrap_or(Ok(None))
}
