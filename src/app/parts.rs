//! The parts that take some choosing: where everything is kept, and who answers as WeChat.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{as_of_setting, bind, own_address};
use crate::audit::Audit;
use crate::config::{self, Config};
use crate::http::serve::{Share, raise_limit, serve};
use crate::http::{PublicUrl, Router};
use crate::hub::Hub;
use crate::limits::Limits;
use crate::login::{Program, Sites};
use crate::oidc::{KeysError, SigningKeys};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::{FatalError, RedisStore};
use crate::telemetry::{Export, Logs, Metrics};
use crate::wechat::MiniProgram;
use crate::wechat::access_token::{AccessTokens, TokenMode};
use crate::wechat::client::{Client, Url};
use crate::wechat::code_pool::CodePool;
use crate::wechat::simulator::{Simulator, SimulatorSettings};

/// News on their way to the hub; beyond, the store waits.
const NEWS: usize = 4_096;

/// How often a watched scene is read although nothing says so.
const SLOW_REREAD: Duration = Duration::from_secs(15);

/// How long tasks get to end: to give back what they hold in the store, above all.
const TASKS_END: Duration = Duration::from_millis(1500);

/// How long the store gets then to close its connections.
const STORE_ENDS: Duration = Duration::from_millis(300);

/// How long the last spans get to their collector, where there is one: a little more than they take by themselves.
const EXPORT_ENDS: Duration = Duration::from_millis(1100);

/// What every part stands on.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) metrics: Metrics,
    /// Tasks behind those that serve requests.
    pub(super) tasks: TaskTracker,
    /// Ends them.
    pub(super) stop: CancellationToken,
    /// The store's own tasks, which all others stand on, and the hub's.
    store_tasks: TaskTracker,
    /// Ends these when the others have ended.
    stop_store: CancellationToken,
    /// What takes away the spans of all these.
    export_tasks: TaskTracker,
    stop_export: CancellationToken,
}

impl Ground {
    pub(super) fn new(logs: &Logs, export: Option<Export>) -> anyhow::Result<Self> {
        raise_limit();
        let metrics = Metrics::new()?;
        logs.count_in(&metrics)?;
        metrics.register_export(export.as_ref())?;
        let ground = Self::on(metrics);
        if let Some(export) = export {
            ground.export_tasks.spawn(export.run(ground.stop_export.clone()));
        }
        Ok(ground)
    }

    pub(super) fn on(metrics: Metrics) -> Self {
        Self {
            metrics,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            store_tasks: TaskTracker::new(),
            stop_store: CancellationToken::new(),
            export_tasks: TaskTracker::new(),
            stop_export: CancellationToken::new(),
        }
    }

    /// Ends everything, in time whatever it does.
    pub(super) async fn end(&self) {
        end(&self.stop, &self.tasks, TASKS_END).await;
        end(&self.stop_store, &self.store_tasks, STORE_ENDS).await;
        end(&self.stop_export, &self.export_tasks, EXPORT_ENDS).await;
    }

    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.tasks.spawn(task);
    }

    /// Serves on a listener that is not the public's.
    pub(super) fn serve(&self, listener: TcpListener, router: Router) {
        let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
        self.spawn(serve(listener, router, Share::reserved(), stop, tasks));
    }
}

async fn end(stop: &CancellationToken, tasks: &TaskTracker, most: Duration) {
    stop.cancel();
    tasks.close();
    if timeout(most, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "tasks that did not end are cut");
    }
}

/// The store, chosen here and nowhere else, and the hub that hears its news.
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    pub(super) hub: Hub,
    /// Whether the store was reached once.
    pub(super) started: Arc<AtomicBool>,
    /// Hears what no retry will change.
    pub(super) fatal: Option<mpsc::Receiver<FatalError>>,
}

impl Kept {
    pub(super) fn start(config: &Config, ground: &Ground, audit: Audit) -> anyhow::Result<Self> {
        let started = Arc::new(AtomicBool::new(false));
        let (news, heard) = mpsc::channel(NEWS);
        let (tasks, stop) = (&ground.store_tasks, &ground.stop_store);
        let (store, fatal): (Arc<dyn Store>, _) = match &config.redis {
            None => {
                tracing::warn!("everything is kept in this one process: fine for one replica, lost at its end");
                started.store(true, Ordering::Release);
                (Arc::new(MemoryStore::start(config.scenes_max, news, tasks, stop)), None)
            }
            Some(settings) => {
                let metrics = ground.metrics.clone();
                let redis = RedisStore::start(settings, news, metrics, tasks, stop);
                let redis = Arc::new(redis.map_err(as_of_setting)?);
                let fatal = watch_start(Arc::clone(&redis), Arc::clone(&started), ground);
                (redis, Some(fatal))
            }
        };
        let scenes: Arc<dyn Store> = Arc::clone(&store);
        let hub = Hub::new(scenes, ground.metrics.clone(), audit, config.streams, SLOW_REREAD);
        let (running, stop) = (hub.clone(), stop.clone());
        tasks.spawn(async move { running.run(heard, stop).await });
        Ok(Self {
            store,
            hub,
            started,
            fatal,
        })
    }
}

/// How often everybody may do what.
pub(super) fn limits(config: &Config, store: &Arc<dyn Store>, ground: &Ground) -> Limits {
    if config.limits_off {
        tracing::warn!(
            "SCANLOGIN_LIMITS is off: anybody may start, scan and redeem as often as they like; wrong short codes, and what WeChat counts, stay limited"
        );
    }
    Limits::new(
        Arc::<dyn Store>::clone(store),
        config.limits,
        config.limits_off,
        config.scene_ttl,
        ground.metrics.clone(),
    )
}

/// Marks the process started once Redis has answered, and hands on what no retry will change.
fn watch_start(redis: Arc<RedisStore>, started: Arc<AtomicBool>, ground: &Ground) -> mpsc::Receiver<FatalError> {
    let (tell, fatal) = mpsc::channel(1);
    let stop = ground.stop.clone();
    ground.spawn(async move {
        match stop.run_until_cancelled(redis.started()).await {
            Some(Ok(())) => started.store(true, Ordering::Release),
            Some(Err(error)) => drop(tell.send(error).await),
            None => {}
        }
    });
    fatal
}

/// WeChat, or what stands for it.
pub(super) struct WeChat {
    base: Url,
    fail_over: Option<Url>,
    /// Whether it is not the real one.
    pub(super) simulated: bool,
    /// When it is in this process.
    pub(super) simulator: Option<Simulator>,
    /// Where browsers find its phone, as far as is known.
    pub(super) simulated_phone: Option<String>,
}

impl WeChat {
    pub(super) async fn connect(
        config: &Config,
        public_url: &PublicUrl,
        listener: &TcpListener,
        ground: &Ground,
    ) -> anyhow::Result<Self> {
        match &config.wechat {
            config::WeChat::Server {
                base,
                fail_over,
                simulator,
            } => {
                if *simulator {
                    tracing::warn!(
                        base = base.as_str(),
                        "WeChat is simulated there: anybody can log in as anybody"
                    );
                }
                // Whether browsers reach a simulator is only certain when they and it are on this machine.
                let reached = *simulator && base.is_loopback() && public_url.is_loopback();
                let fail_over = fail_over.as_ref().map(|url| url.as_str().parse()).transpose()?;
                Ok(Self {
                    base: base.as_str().parse()?,
                    fail_over,
                    simulated: *simulator,
                    simulator: None,
                    simulated_phone: reached.then(|| format!("{}/simulator/phone", base.as_str())),
                })
            }
            config::WeChat::Simulated => {
                tracing::warn!("WeChat is simulated in this process: anybody can log in as anybody");
                // WeChat's own API is not for the public listener.
                let wire = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "the built-in simulator").await?;
                let base = format!("http://{}", wire.local_addr()?).parse()?;
                let simulator = Simulator::new(SimulatorSettings {
                    public_url: public_url.as_str().parse()?,
                    service_url: own_address(listener)?.as_str().parse()?,
                    appid: None,
                    secret: None,
                    fault_rate: 0.0,
                    seed: 0,
                })?;
                ground.serve(wire, simulator.wechat_router());
                Ok(Self {
                    base,
                    fail_over: None,
                    simulated: true,
                    simulator: Some(simulator),
                    simulated_phone: Some("/simulator/phone".to_owned()),
                })
            }
        }
    }

    /// What Mini Programs work with.
    pub(super) fn workshop(
        &self,
        config: &Config,
        store: &Arc<dyn Store>,
        limits: &Limits,
        ground: &Ground,
    ) -> anyhow::Result<Workshop> {
        ground.metrics.simulator.set(i64::from(self.simulated));
        Ok(Workshop {
            client: Client::new(self.base.clone(), self.fail_over.clone(), ground.metrics.clone())?,
            token_mode: config.token_mode,
            code_pool: config.code_pool,
            store: Arc::clone(store),
            limits: limits.clone(),
            ground: ground.clone(),
        })
    }
}

/// What signs by these settings; keys that this process drew for itself stay.
fn keys(config: &Config, before: &SigningKeys) -> Result<SigningKeys, KeysError> {
    let algorithms: BTreeSet<_> = config.clients.iter().map(|client| client.id_token_alg).collect();
    match &config.signing_keys {
        Some(keys) => Ok(keys.clone()),
        None => before.with_own(&algorithms),
    }
}

/// Sets Mini Programs to work.
pub(super) struct Workshop {
    client: Client,
    token_mode: TokenMode,
    code_pool: usize,
    store: Arc<dyn Store>,
    limits: Limits,
    ground: Ground,
}

impl Workshop {
    /// The sites of these settings. A Mini Program of `before` that is the same goes on as it is.
    pub(super) fn sites(&self, config: &Config, before: Option<&Sites>) -> anyhow::Result<Sites> {
        let program = |mini_program: &MiniProgram| {
            let same = before.and_then(|sites| sites.programs().get(&mini_program.appid));
            let same = same.filter(|program| program.mini_program == *mini_program);
            let program = same.map_or_else(|| self.set_to_work(mini_program), Arc::clone);
            (mini_program.appid.clone(), program)
        };
        let programs = config.mini_programs.iter().map(program).collect();
        let keys = keys(config, before.map_or(&SigningKeys::none(), Sites::keys))?;
        Ok(Sites::new(config.clients.iter().cloned(), programs, keys, config.demo)?)
    }

    fn set_to_work(&self, mini_program: &MiniProgram) -> Arc<Program> {
        let Ground { metrics, tasks, .. } = self.ground.clone();
        let stop = self.ground.stop.child_token();
        let tokens = AccessTokens::new(
            mini_program.clone(),
            self.token_mode,
            self.client.clone(),
            Arc::<dyn Store>::clone(&self.store),
            self.limits.clone(),
            metrics.clone(),
            tasks.clone(),
            stop.clone(),
        );
        let codes = CodePool::new(
            mini_program.clone(),
            // What we draw ourselves needs neither to be made ahead nor a token.
            if mini_program.link_prefix.is_some() {
                0
            } else {
                self.code_pool
            },
            self.client.clone(),
            tokens.clone(),
            Arc::<dyn Store>::clone(&self.store),
            self.limits.clone(),
            metrics,
            tasks,
            stop.clone(),
        );
        if mini_program.link_prefix.is_none() {
            self.ground.spawn(tokens.clone().keep_fresh());
        }
        self.ground.spawn(codes.clone().refill());
        Arc::new(Program {
            mini_program: mini_program.clone(),
            client: self.client.clone(),
            tokens,
            codes,
            working: stop.drop_guard(),
        })
    }
}
