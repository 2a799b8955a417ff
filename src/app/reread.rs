//! Reads sites, Mini Programs and signing keys again while the service runs, when a file of theirs changed or SIGHUP asks for it.
//!
//! All of it is taken or nothing is: a file that can't be used leaves everything as it was, and the log says why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::Metadata;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::parts::Workshop;
use crate::config::{self, Config, Reading};
use crate::http::AppState;
use crate::login::{Pairwise, Sites};
use crate::oidc::keys::{ID_TOKEN_LIFE, SigningKeys};

/// Reads and checks all settings.
pub type Reader = Arc<dyn Fn() -> Reading + Send + Sync>;

/// How often files are looked at. Whoever writes one is given as long to finish.
const LOOK: Duration = Duration::from_secs(2);

/// What stays as it was at the start.
pub(super) struct Settled {
    wechat: config::WeChat,
    fixed: BTreeMap<String, u64>,
}

impl Settled {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            wechat: config.wechat.clone(),
            fixed: config.fixed.clone(),
        }
    }
}

/// What takes in what was read again.
pub(super) struct Rereading {
    pub(super) state: AppState,
    pub(super) workshop: Workshop,
    pub(super) settled: Settled,
}

impl Rereading {
    /// Goes on until `stop`.
    pub(super) fn run(
        self,
        read: Reader,
        files: Vec<PathBuf>,
        stop: CancellationToken,
    ) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        // Heard from now on: without this, SIGHUP would end the process.
        let hangup = signal(SignalKind::hangup())?;
        let rereading = self.reread(read, files, hangup);
        Ok(async move {
            stop.run_until_cancelled(rereading).await;
        })
    }

    async fn reread(self, read: Reader, mut files: Vec<PathBuf>, mut hangup: Signal) {
        let mut seen = Traces::of(&files).await;
        let mut known = Known {
            pairwise: self.state.login.sites().pairwise().cloned(),
            signed: Signed::default(),
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = seen.changed(&files) => {}
            }
            // Before it is read: what changes from here on is another change.
            seen = Traces::of(&files).await;
            let reading = Arc::clone(&read);
            let reading = spawn_blocking(move || reading()).await.context("reading broke off");
            let (named, config) = match reading {
                Ok(reading) => (reading.files, reading.config.map_err(anyhow::Error::from)),
                Err(error) => (Vec::new(), Err(error)),
            };
            let now = match config.and_then(|config| self.take(&config, &mut known)) {
                Ok(()) => named,
                Err(error) => {
                    self.count("refused");
                    tracing::error!("settings were read again and can't be used, so nothing was changed: {error:#}");
                    // What is to be mended may be in a file that was named only now; what is in use stays so.
                    let mut both = files.clone();
                    both.extend(named.into_iter().filter(|file| !files.contains(file)));
                    both
                }
            };
            seen = seen.and_new(&files, &now).await;
            files = now;
        }
    }

    fn take(&self, config: &Config, known: &mut Known) -> anyhow::Result<()> {
        if config.wechat != self.settled.wechat {
            bail!("who answers as WeChat would be another one: that takes a restart");
        }
        let state = &self.state;
        let before = state.login.sites();
        // Before anything is set to work for it.
        if config.demo && before.demo().is_none() {
            let files = config.files.iter().map(|file| file.display().to_string());
            bail!(
                "{}: no site is left in the settings, and the demo site never takes the place of real ones: that takes a restart",
                files.collect::<Vec<_>>().join(", ")
            );
        }
        let sites = self.workshop.sites(config, Some(&before))?;
        if let (Some(now), Some(then)) = (sites.pairwise(), &known.pairwise)
            && !now.shares_secret(then)
        {
            bail!(
                "SCANLOGIN_PAIRWISE_SECRET is another, which would make strangers of all people of pairwise sites: it never changes"
            );
        }
        let ids = |sites: &Sites| sites.client_ids().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
        let (now, then) = (ids(&sites), ids(&before));
        let strangers: Vec<_> = now
            .iter()
            .filter(|id| makes_strangers(&before, &sites, id))
            .cloned()
            .collect();
        let keys = sites.keys().clone();
        known.pairwise = sites.pairwise().cloned().or(known.pairwise.take());
        state.login.set_sites(sites);
        self.count("taken");
        let (added, removed): (Vec<_>, Vec<_>) = (now.difference(&then).collect(), then.difference(&now).collect());
        let mini_programs = config.mini_programs.len();
        tracing::info!(
            clients = now.len(),
            ?added,
            ?removed,
            mini_programs,
            "settings were read again"
        );
        if !strangers.is_empty() {
            tracing::warn!(
                clients = ?strangers,
                "mini_program, subject_type or sector is another: whoever comes back to these sites has another sub, and is a stranger there"
            );
        }
        known.signed.change(before.keys(), &keys, Instant::now());
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let fixed = &self.settled.fixed;
        let names = config.fixed.keys().chain(fixed.keys()).collect::<BTreeSet<_>>();
        let changed: Vec<_> = names
            .into_iter()
            .filter(|name| config.fixed.get(*name) != fixed.get(*name))
            .collect();
        if !changed.is_empty() {
            tracing::warn!(?changed, "these settings take a restart, and stay as they were");
        }
        Ok(())
    }

    fn count(&self, outcome: &str) {
        let metrics = &self.state.metrics;
        metrics.settings_read_again_total.with_label_values(&[outcome]).inc();
    }
}

/// Whether a site knows people by other names now.
fn makes_strangers(before: &Sites, now: &Sites, id: &str) -> bool {
    let (Some(before), Some(now)) = (before.get(id), now.get(id)) else {
        return false;
    };
    let (before, now) = (&before.client, &now.client);
    before.mini_program != now.mini_program || !before.subject.names_like(&now.subject)
}

/// What was in use since the start, and counts still though the settings have it no more.
struct Known {
    /// A site may come back that people have names at.
    pairwise: Option<Pairwise>,
    signed: Signed,
}

/// Keys that sign no more, by `kid`, and when they were seen to.
#[derive(Default)]
struct Signed(BTreeMap<String, Instant>);

impl Signed {
    /// Says which keys there are now, and which are gone although somebody may still have to check what they signed.
    fn change(&mut self, then: &SigningKeys, now: &SigningKeys, at: Instant) {
        if then.kids().eq(now.kids()) {
            return;
        }
        let (published, signing): (Vec<_>, Vec<_>) = (now.kids().collect(), now.signing_kids().collect());
        tracing::info!(?published, ?signing, "the signing keys are others");
        self.0.retain(|_, last| at.duration_since(*last) < ID_TOKEN_LIFE);
        self.0.extend(then.signing_kids().map(|kid| (kid.to_owned(), at)));
        let gone: Vec<_> = self
            .0
            .keys()
            .filter(|kid| !published.contains(&&***kid))
            .cloned()
            .collect();
        if !gone.is_empty() {
            tracing::warn!(
                ?gone,
                "keys that signed within the last {} minutes are gone from the file: sites refuse the id_tokens that they signed; keep \
                 a key after the one that signs for as long",
                ID_TOKEN_LIFE.as_secs() / 60
            );
        }
        // Of each it is said once.
        self.0.retain(|kid, _| published.contains(&&**kid));
    }
}

/// What tells one content of a file from another, without reading it.
#[derive(PartialEq, Eq)]
struct Traces(Vec<Option<Trace>>);

#[derive(PartialEq, Eq)]
struct Trace {
    file: (u64, u64),
    changed: (i64, i64),
    length: u64,
}

impl Traces {
    async fn of(files: &[PathBuf]) -> Self {
        // The file that a link leads to: what mounts secrets changes the link.
        let trace = |file: Metadata| Trace {
            file: (file.dev(), file.ino()),
            changed: (file.mtime(), file.mtime_nsec()),
            length: file.len(),
        };
        let mut traces = Vec::with_capacity(files.len());
        for file in files {
            traces.push(tokio::fs::metadata(file).await.ok().map(trace));
        }
        Self(traces)
    }

    /// These of `known`, for `now`: what is new among them is traced as it is.
    async fn and_new(self, known: &[PathBuf], now: &[PathBuf]) -> Self {
        let mut known: HashMap<_, _> = known.iter().zip(self.0).collect();
        let mut traces = Vec::with_capacity(now.len());
        for file in now {
            let seen = match known.remove(file) {
                Some(seen) => seen,
                None => Self::of(std::slice::from_ref(file)).await.0.pop().flatten(),
            };
            traces.push(seen);
        }
        Self(traces)
    }

    /// Returns once a file has changed, and then stayed the same for a while: half a file may look like a whole one.
    async fn changed(&self, files: &[PathBuf]) {
        let mut last = None;
        loop {
            sleep(LOOK).await;
            let now = Self::of(files).await;
            if now != *self && last.as_ref() == Some(&now) {
                return;
            }
            last = Some(now);
        }
    }
}
