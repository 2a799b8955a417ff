//! Scenes in Redis 7 or later: standalone, behind Sentinel, or Cluster.
//!
//! A record is one string, its write_id and then JSON; a write of it is one script, which compares, writes and announces. Who has
//! what is asked in one place ([`topology`]), and two go by it: commands, through clients of the library fred ([`nodes`]), and
//! listening, which is our own ([`subscriber`]).

mod blobs;
mod clocks;
mod commands;
mod fault;
mod keys;
mod limits;
mod link;
mod nodes;
mod notices;
mod record;
mod replication;
mod route;
mod script;
pub mod servers;
mod settings;
mod short_codes;
pub mod subscriber;
pub mod survey;
mod tokens;
pub mod topology;
mod trial;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::types::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::scene::{GRACE, Life, Scene, SceneId};
use crate::store::{Created, Found, Grant, News, Replaced, SceneStore, StoreError, Stored, Write};
use crate::telemetry::Metrics;
use commands::Commands;
pub use fault::remedy_of_writes;
use fault::{Fault, refusal};
use keys::{Keys, slot};
use nodes::Making;
use replication::{Copies, Kept, Reached, Replication};
use route::Command;
use script::Scripts;
use servers::Address;
use settings::ClientSettings;
pub use settings::{FatalError, RedisSettings, Wait};
use subscriber::Subscriber;
use topology::{Tenure, Topology};
use trial::{Start, Trial, fail};

/// How long a durable write waits for a replica, in milliseconds.
const WAIT_MS: i64 = 200;
/// For how long a replica is missed before a durable write comes to nothing, and the pause between two looks for it.
const MISSED: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(100);
/// How many scenes are read in one round trip.
const BATCH: usize = 200;

/// The store.
#[derive(Debug)]
pub struct RedisStore {
    commands: Arc<Commands>,
    replication: Arc<Replication>,
    scripts: Arc<Scripts>,
    keys: Keys,
    subscriber: Subscriber,
    tenure: Option<Tenure>,
    start: watch::Receiver<Start>,
    metrics: Metrics,
}

impl RedisStore {
    /// Begins to connect, and returns at once. Until [`Self::started`] says so requests fail with [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`FatalError`] of the settings themselves.
    pub fn start(
        settings: &RedisSettings,
        news: mpsc::Sender<News>,
        metrics: Metrics,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, FatalError> {
        let client_settings = ClientSettings::check(settings)?;
        if client_settings.is_in_the_clear() {
            tracing::warn!(
                "redis is not on this machine, and spoken to without TLS: use rediss://, or a network of its own"
            );
        }
        let (start_tx, start) = watch::channel(Start::Trying);
        let start_tx = Arc::new(start_tx);
        let refused = Arc::clone(&start_tx);
        let topology = Topology::observe(&client_settings.access, tasks, shutdown);
        let making = Making {
            settings: client_settings.clone(),
            waits: settings.wait != Wait::Never,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            on_end: move |error: &fred::error::Error| fail(&refused, refusal(error)),
            metrics: metrics.clone(),
        };
        let (nodes, owners) = making.follow(&topology);
        let commands = Arc::new(Commands::new(nodes, &topology, metrics.clone()));
        let subscriber = Subscriber::start(
            &client_settings.access,
            &settings.prefix,
            Topology {
                owners,
                ..topology.clone()
            },
            news,
            metrics.clone(),
            tasks,
            shutdown.clone(),
        );
        let replication = Arc::new(Replication::new(settings.wait, Arc::clone(&commands), &topology));
        let store = Self {
            commands: Arc::clone(&commands),
            replication: Arc::clone(&replication),
            scripts: Arc::new(Scripts::new()),
            keys: Keys::new(&settings.prefix),
            subscriber,
            tenure: topology.tenure,
            start,
            metrics,
        };
        let trial = Trial {
            commands,
            replication,
            scripts: Arc::clone(&store.scripts),
            key: store.keys.trial(),
            metrics: store.metrics.clone(),
        };
        tasks.spawn(trial.run(start_tx, shutdown.clone()));
        Ok(store)
    }

    /// Returns once Redis was reached and found fit, however long that takes.
    ///
    /// # Errors
    /// [`FatalError`] when trying on can't help: wrong credentials, missing rights, a server before Redis 7.
    pub async fn started(&self) -> Result<(), FatalError> {
        let mut start = self.start.clone();
        let reached = start.wait_for(|start| !matches!(start, Start::Trying)).await;
        match reached.map(|reached| reached.clone()) {
            Ok(Start::Failed(fatal)) => Err(fatal),
            Ok(Start::Trying | Start::Done) => Ok(()),
            // Only at shutdown does nobody tell any more.
            Err(_) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl SceneStore for RedisStore {
    async fn create(&self, scene: &Scene, life: Life) -> Result<Created, StoreError> {
        let key = &self.keys.scene(&scene.id);
        let record = &record::encode(scene)?;
        self.commands
            .run("create", |route| async move {
                let set = Command::set_new(key, record.clone(), millis(life.0));
                let found: Option<Bytes> = route.one(set).await?;
                // The very record means that an earlier attempt kept it and only its reply was lost.
                Ok(match found {
                    Some(found) if record::write_id(&found) != Some(scene.write_id) => Created::Exists,
                    _ => Created::New,
                })
            })
            .await
    }

    async fn find(&self, ids: &[SceneId]) -> Vec<Found> {
        let mut found = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH) {
            match self.read("find", batch, false).await {
                Ok(read) => found.extend(read),
                Err(error) => found.extend(batch.iter().map(|_| Err(error.clone()))),
            }
        }
        found
    }

    /// What a fail-over may undo is one script, which compares, writes and announces. What it may not takes three steps: the script,
    /// which announces nothing, with `WAIT` behind it on a connection of its own; the judgement whether all have it who may become
    /// primary ([`Replication::keeps`]); the announcement. Where any of them fails it does not count, and is done again, whole, by whoever
    /// asked for it.
    async fn replace(&self, seen: &Stored, write: Write<'_>) -> Result<Replaced, StoreError> {
        let id = &write.next.id;
        let (scene, grant, tag) = (self.keys.scene(id), self.keys.grant(id), id.hash_tag());
        let (due, notices) = (self.keys.notices_due(&tag), self.keys.notices(&tag));
        // While their slot moves, two keys of which one is missing are answered nowhere: what is not written is not named.
        let mut keys = vec![&*scene];
        if !matches!(write.grant, Grant::Keep) {
            keys.push(&grant);
        }
        if write.notice.is_some() {
            keys.extend([&*due, &*notices]);
        }
        let keys = &*keys;
        if write.durable
            && let Some(copies) = self.replication.copies(slot(&scene))
        {
            let args = &replace_args(seen, &write, None)?;
            let replaced = self.replace_kept(&scene, keys, args, &copies).await?;
            if replaced == Replaced::Written && is_news(seen, &write) {
                self.announce(&scene, seen, &write).await?;
            }
            return Ok(replaced);
        }
        let announcement = is_news(seen, &write).then(|| record::announcement(write.next, seen.life()));
        let args = &replace_args(seen, &write, announcement.transpose()?)?;
        let replaced = self
            .commands
            .run("replace", |route| async move {
                outcome(&self.scripts.replace.run::<String>(&route, keys, args).await?)
            })
            .await?;
        if write.durable && replaced == Replaced::Written {
            self.count_wait(self.replication.unasked());
        }
        Ok(replaced)
    }

    async fn settle(&self, seen: &Stored) -> Result<Replaced, StoreError> {
        if self
            .replication
            .copies(slot(&self.keys.scene(&seen.scene.id)))
            .is_none()
        {
            return Ok(Replaced::Written);
        }
        let again = Write {
            next: &seen.scene,
            durable: true,
            grant: Grant::Keep,
            notice: None,
        };
        self.replace(seen, again).await
    }

    /// A server that was primary, and does not know yet that another one is, answers with what was true before.
    async fn refresh(&self, seen: Stored) -> Found {
        if self.tenure.is_none() {
            return Ok(Some(seen));
        }
        let read = self.read("refresh", &[seen.scene.id], true).await?;
        read.into_iter().next().unwrap_or(Ok(None))
    }

    async fn grant(&self, id: &SceneId) -> Result<Option<Vec<u8>>, StoreError> {
        let key = &self.keys.grant(id);
        self.commands
            .run("grant", |route| async move {
                let grant: Option<Bytes> = route.one(Command::new("GET", key)).await?;
                if grant.is_none() {
                    self.check_primary(route.server_of(key)).await?;
                }
                Ok(grant.map(Vec::from))
            })
            .await
    }

    async fn watch(&self, id: &SceneId) -> Result<(), StoreError> {
        self.subscriber.watch(id).await
    }

    async fn unwatch(&self, id: &SceneId) {
        self.subscriber.unwatch(id).await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.commands.ping().await
    }

    fn trouble(&self) -> Option<String> {
        self.commands.trouble().or_else(|| self.replication.trouble())
    }
}

impl RedisStore {
    /// One batch, in one round trip to each node. Fails as a whole only if nothing of it could be read.
    /// What is absent is so at the primary that most sentinels name; with `is_sure` all of it.
    async fn read(&self, op: &'static str, ids: &[SceneId], is_sure: bool) -> Result<Vec<Found>, StoreError> {
        let keys = &ids.iter().map(|id| self.keys.scene(id)).collect::<Vec<_>>();
        let answers = self
            .commands
            .run(op, |route| async move {
                // Others may write between the two. A life read first makes a record look younger; read last it would say of a
                // scene that was confirmed in its last moment that it had expired unconfirmed.
                let both = |key: &String| [Command::new("PTTL", key), Command::new("GET", key)];
                let mut answers = route.each(keys.iter().flat_map(both).collect()).await.into_iter();
                let mut read = Vec::with_capacity(keys.len());
                while let (Some(life), Some(record)) = (answers.next(), answers.next()) {
                    read.push(life_and_record(life, record));
                }
                let is_checked = |answer: &Result<(_, Option<_>), _>| match answer {
                    Ok((_, record)) => is_sure || record.is_none(),
                    Err(_) => false,
                };
                if read.iter().any(is_checked)
                    && let Some(key) = keys.first()
                    && let Err(fault) = self.check_primary(route.server_of(key)).await
                {
                    let doubted = read.iter_mut().filter(|answer| is_checked(answer));
                    doubted.for_each(|answer| *answer = Err(fault.clone()));
                }
                Self::unless_none_answered(read)
            })
            .await?;
        let found = ids.iter().zip(answers).map(|(id, answer)| stored(id, answer?));
        Ok(found.collect())
    }

    /// What is not there, or old, may have been written to the next primary already: it is so only where the sentinels agree that
    /// `server`, which was asked, is the primary still.
    async fn check_primary(&self, server: Option<Address>) -> Result<(), Fault> {
        let Some(tenure) = &self.tenure else { return Ok(()) };
        let is_primary = match server {
            Some(server) => tenure.is_held_by(&server).await,
            None => false,
        };
        is_primary.then_some(()).ok_or(Fault::Doubted)
    }

    /// Of a batch that no server answered the whole is tried again; else who asked is told of each what became of it.
    fn unless_none_answered<T>(mut read: Vec<Result<T, Fault>>) -> Result<Vec<Result<T, Fault>>, Fault> {
        let passing = |answer: &Result<T, Fault>| answer.as_ref().is_err_and(Fault::may_pass);
        if read.iter().all(passing)
            && let Some(Err(fault)) = read.pop()
        {
            return Err(fault);
        }
        Ok(read)
    }

    /// Under Sentinel again and again for a while: a replica that joined is waited for too, one that is missed may come back at once,
    /// and another primary be named.
    async fn replace_kept(
        &self,
        scene: &str,
        keys: &[&str],
        args: &[Bytes],
        copies: &Copies,
    ) -> Result<Replaced, StoreError> {
        let (mut copies, deadline) = (copies.clone(), Instant::now() + MISSED);
        let mut written = None;
        let (replaced, kept) = loop {
            let (replaced, kept) = self
                .replace_replicated(scene, keys, args, &copies, &mut written, deadline)
                .await?;
            match kept {
                _ if Instant::now() >= deadline => break (replaced, kept),
                Some(Kept::Joined { count }) => {
                    copies.count = count;
                    written = None;
                }
                Some(Kept::Doubted) => sleep(PAUSE).await,
                _ => break (replaced, kept),
            }
        };
        if let Some(kept) = kept {
            self.count_wait(kept.as_str());
        }
        Ok(replaced)
    }

    /// The script and a WAIT behind it in one pipeline, on a connection that nobody else uses meanwhile; and what came of the wait.
    async fn replace_replicated(
        &self,
        scene: &str,
        keys: &[&str],
        args: &[Bytes],
        copies: &Copies,
        written: &mut Option<(Option<Address>, Instant)>,
        deadline: Instant,
    ) -> Result<(Replaced, Option<Kept>), StoreError> {
        let (replaced, count, info, server) = self
            .commands
            .run_waiting("replace", slot(scene), |route| async move {
                let server = route.server_of(scene);
                let script = self.scripts.replace.whole(keys, args);
                let wait = script.beside("WAIT").arg(copies.count).arg(WAIT_MS);
                let info = script.beside("INFO").arg("replication");
                let [script, wait, info] = route.together([script, wait, info]).await?;
                let replaced = outcome(&script?.convert::<String>()?)?;
                let (count, info) = match replaced {
                    Replaced::Written => (wait?.convert::<i64>()?, info?.convert::<String>()?),
                    _ => (0, String::new()),
                };
                Ok((replaced, count, info, server))
            })
            .await?;
        if replaced != Replaced::Written {
            return Ok((replaced, None));
        }
        // The connection is somebody else's by now.
        let info = &*info;
        let before = written.take().filter(|(before, _)| *before == server);
        let (_, since) = *written.insert(before.unwrap_or_else(|| (server.clone(), Instant::now())));
        let reached = Reached { count, server, info };
        let kept = self.replication.keeps(&reached, copies, since, deadline).await;
        let replaced = match kept {
            Kept::Replicated | Kept::Vouched => replaced,
            Kept::Joined { .. } | Kept::Doubted | Kept::Not => Replaced::Unreplicated,
        };
        Ok((replaced, Some(kept)))
    }

    /// What could be lost is announced only once it can't: a page that heard of it would be at its end with what counts for nothing.
    /// The record says so too from then on, for those who read. Fails where nobody may have heard, so that whoever wrote it writes it
    /// again.
    async fn announce(&self, scene: &str, seen: &Stored, write: &Write<'_>) -> Result<(), StoreError> {
        let life = seen.life();
        let written = Stored::now(write.next.clone(), life);
        let settled = write.next.settled(life);
        let again = Write {
            next: &settled,
            durable: false,
            grant: Grant::Keep,
            notice: None,
        };
        let args = &replace_args(&written, &again, Some(record::announcement(&settled, life)?))?;
        self.commands
            .run("announce", |route| async move {
                // Who wrote since has been told.
                self.scripts.replace.run::<String>(&route, &[scene], args).await?;
                Ok(())
            })
            .await
    }

    fn count_wait(&self, outcome: &str) {
        self.metrics.store_waits_total.with_label_values(&[outcome]).inc();
    }
}

/// Whether those who watch are to be told. A confirm that is written once more may not have been announced yet.
fn is_news(seen: &Stored, write: &Write<'_>) -> bool {
    let is_repeated = write.durable && write.next.write_id == seen.scene.write_id;
    write.next.version > seen.scene.version || is_repeated
}

/// The arguments of `lua/replace.lua`.
fn replace_args(seen: &Stored, write: &Write<'_>, announcement: Option<String>) -> Result<Vec<Bytes>, StoreError> {
    let least_life = if seen.scene.is_open() {
        millis(GRACE).to_string()
    } else {
        String::new()
    };
    let (grant_op, grant, grant_life) = match write.grant {
        Grant::Keep => ("keep", Bytes::new(), Duration::ZERO),
        Grant::Put(grant, life) => ("put", Bytes::copy_from_slice(grant), life),
        Grant::Delete => ("delete", Bytes::new(), Duration::ZERO),
    };
    let mut args = vec![
        seen.scene.write_id.to_string().into(),
        write.next.write_id.to_string().into(),
        record::encode(write.next)?,
        least_life.into(),
        announcement.unwrap_or_default().into(),
        grant_op.into(),
        grant,
        millis(grant_life).to_string().into(),
    ];
    if let Some(notice) = write.notice {
        args.extend(notices::args_of(write.next, notice));
    }
    Ok(args)
}

fn outcome(answer: &str) -> Result<Replaced, Fault> {
    match answer {
        "written" => Ok(Replaced::Written),
        "stale" => Ok(Replaced::Stale),
        "late" => Ok(Replaced::Late),
        "absent" => Ok(Replaced::Absent),
        _ => Err(Fault::Refused("an answer the script never gives".to_owned())),
    }
}

/// What PTTL and GET answered; `None` when the key was gone.
fn life_and_record(
    life: Result<Value, Fault>,
    record: Result<Value, Fault>,
) -> Result<(Option<Duration>, Option<Bytes>), Fault> {
    Ok((life_left(life?)?, record?.convert()?))
}

fn stored(id: &SceneId, (life, record): (Option<Duration>, Option<Bytes>)) -> Found {
    match (life, record) {
        (Some(life), Some(record)) => Ok(Some(Stored::now(record::decode(id, &record)?, Life(life)))),
        (None, _) | (_, None) => Ok(None),
    }
}

/// What PTTL answered; `None` when the key is gone.
fn life_left(pttl: Value) -> Result<Option<Duration>, Fault> {
    Ok(u64::try_from(pttl.convert::<i64>()?).ok().map(Duration::from_millis))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
