//! How a store begins: a Redis is tried until it is reached and found fit, or found unfit for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::clocks;
use super::commands::Commands;
use super::fault::{ANY_REDIS, Unfit, remedy, untrusted};
use super::replication::Replication;
use super::script::Scripts;
use super::settings::FatalError;
use crate::telemetry::Metrics;

/// Between one try and the next: connecting takes a few milliseconds, and what takes longer may take long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// For how long a server that can't be used yet is nothing to tell: connecting takes a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long a start waits until it is known whom durable writes must wait for: sentinels ask the primary once a second.
const FIND_OUT: Duration = Duration::from_millis(2_500);

/// How far it has come.
#[derive(Debug, Clone)]
pub(super) enum Start {
    Trying,
    Done,
    Failed(FatalError),
}

/// What must be true of a Redis before it is used.
pub(super) struct Trial {
    pub(super) commands: Arc<Commands>,
    pub(super) replication: Arc<Replication>,
    pub(super) scripts: Arc<Scripts>,
    /// Where the rights are tried out.
    pub(super) key: String,
    pub(super) metrics: Metrics,
}

impl Trial {
    /// Tries until Redis is reached and found fit, or found unfit for ever; then keeps an eye on its replicas
    /// and its clock.
    pub(super) async fn run(self, start: Arc<watch::Sender<Start>>, shutdown: CancellationToken) {
        let (begun, mut told) = (Instant::now(), Told::default());
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_cancelled() && matches!(*start.borrow(), Start::Trying) {
            match self.once().await {
                Ok(()) => {
                    tracing::info!("redis is reached");
                    self.commands.warn_of_eviction().await;
                    start.send_replace(Start::Done);
                }
                Err(Unfit::Forever(fatal)) => fail(&start, Some(fatal)),
                Err(Unfit::Yet(why)) => {
                    // Of a connection that there is not, a command knows less.
                    let why = self.commands.trouble().unwrap_or(why);
                    if let Some(fatal) = untrusted(&why) {
                        fail(&start, Some(fatal));
                    } else if told.is_news(&why, begun.elapsed()) {
                        let remedy = remedy(&why).unwrap_or(ANY_REDIS);
                        tracing::warn!(
                            why,
                            "redis is not usable yet, and tried on: SCANLOGIN_REDIS_URL: {remedy}"
                        );
                    }
                }
            }
            let _ = timeout(pause, shutdown.cancelled()).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        let compared = clocks::compare(self.commands, self.metrics, shutdown.clone());
        tokio::join!(self.replication.watch(shutdown), compared);
    }

    async fn once(&self) -> Result<(), Unfit> {
        self.commands.check().await?;
        let route = self.commands.route();
        let keys = &[&*self.key];
        // In both ways in which scripts are sent, since a server that knows this one would hide that it forbids the other way.
        let () = route.one(self.scripts.trial.whole(keys, &[])).await?;
        let () = self.scripts.trial.run(&route, keys, &[]).await?;
        // Before the first durable write, which would otherwise wait for a replica that never was.
        if timeout(FIND_OUT, self.replication.find_out()).await.is_err()
            && let Some(why) = self.replication.trouble()
        {
            tracing::warn!(why, "it is not known whom a confirm and a redemption wait for");
        }
        Ok(())
    }
}

/// What was told of why a Redis can't be used. Tries of several commands, and of several servers, take turns in telling theirs.
#[derive(Default)]
struct Told {
    remedies: HashSet<&'static str>,
    /// Of those that are not known, but for their numbers: some tell the time.
    others: HashSet<String>,
}

impl Told {
    /// Whether it is time to tell it, and nothing like it was told. What has no remedy says nothing beside what has one, such as that
    /// there is no connection just after a server's refusal ended that; so it waits for longer.
    fn is_news(&mut self, why: &str, trying: Duration) -> bool {
        match remedy(why) {
            Some(remedy) => trying >= PATIENCE && self.remedies.insert(remedy),
            None if trying >= 3 * PATIENCE && self.remedies.is_empty() => {
                self.others.insert(why.replace(|c: char| c.is_ascii_digit(), ""))
            }
            None => false,
        }
    }
}

/// A store that once was up never fails: then even a refused password is an outage, which may pass.
pub(super) fn fail(start: &watch::Sender<Start>, fatal: Option<FatalError>) {
    start.send_if_modified(|start| match fatal {
        Some(fatal) if matches!(start, Start::Trying) => {
            *start = Start::Failed(fatal);
            true
        }
        _ => false,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_whoever_tells_it_and_when() {
        let (soon, late) = (PATIENCE / 2, 3 * PATIENCE);
        let readonly = "READONLY You can't write against a read only replica.";
        let mut told = Told::default();
        assert!(!told.is_news(readonly, soon) && !told.is_news("Failed to route command.", PATIENCE));
        assert!(told.is_news("at 10:59 it was strange", late));
        assert!(!told.is_news("at 11:00 it was strange", late));
        assert!(told.is_news(readonly, late));
        assert!(!told.is_news("ERR WAIT cannot be used with replica instances.", late));
        assert!(told.is_news("NOREPLICAS Not enough good replicas to write.", late));
        assert!(!told.is_news(&format!("acquire_lease: {readonly}"), late));
        assert!(!told.is_news("Failed to route command.", late));
    }
}
