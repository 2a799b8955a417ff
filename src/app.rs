//! Builds every part once, runs them, and ends them in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, WeChat};
use crate::http::ops::{self, OpsState};
use crate::http::serve::serve;
use crate::http::{self, AppState, DRAIN_SPREAD, Lifecycle, Parts, PublicUrl, TrustedProxies};
use crate::hub::Hub;
use crate::login::{Login, Program};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::{FatalError, RedisStore};
use crate::telemetry::Metrics;
use crate::wechat::access_token::AccessTokens;
use crate::wechat::client::{Client, Url};
use crate::wechat::code_pool::CodePool;
use crate::wechat::simulator::{Simulator, SimulatorSettings};

/// News on their way to the hub; beyond, the store waits.
const NEWS: usize = 4_096;

/// How often a watched scene is read although nothing says so.
const SLOW_REREAD: Duration = Duration::from_secs(15);

/// What requests under way get beyond the time that streams take to end; and the tasks behind them afterwards.
const CLOSE: Duration = Duration::from_millis(1500);

/// One replica, started.
#[derive(Debug)]
pub struct App {
    public_url: PublicUrl,
    lifecycle: Lifecycle,
    drain_delay: Duration,
    /// Tasks that serve requests.
    serving: TaskTracker,
    /// Tasks behind them, which end last.
    background: TaskTracker,
    stop: CancellationToken,
    fatal: Option<mpsc::Receiver<FatalError>>,
}

impl App {
    /// Binds the listeners and starts connecting; requests are answered from here on.
    ///
    /// # Errors
    /// A port that is taken, files that can't be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // One provider of cryptography for every TLS connection of this process; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let metrics = Metrics::new()?;
        let (serving, background) = (TaskTracker::new(), TaskTracker::new());
        let (lifecycle, stop) = (Lifecycle::default(), CancellationToken::new());
        let listener = bind(config.listen, "SCANLOGIN_LISTEN").await?;
        let ops_listener = bind(config.ops_listen, "SCANLOGIN_OPS_LISTEN").await?;
        let public_url = match config.public_url.clone() {
            Some(url) => url,
            None => own_address(&listener)?,
        };

        let started = Arc::new(AtomicBool::new(false));
        let (news_tx, news_rx) = mpsc::channel(NEWS);
        let mut fatal = None;
        let store: Arc<dyn Store> = match &config.redis {
            None => {
                tracing::warn!("everything is kept in this one process: fine for one replica, lost at its end");
                started.store(true, Ordering::Release);
                Arc::new(MemoryStore::start(config.scenes_max, news_tx, &background, &stop))
            }
            Some(settings) => {
                let redis =
                    RedisStore::start(settings, news_tx, metrics.clone(), &background, &stop).map_err(as_of_setting)?;
                let redis = Arc::new(redis);
                fatal = Some(watch_start(Arc::clone(&redis), Arc::clone(&started), &background));
                redis
            }
        };
        let hub = Hub::new(Arc::clone(&store), metrics.clone(), config.streams, SLOW_REREAD);
        let running = hub.clone();
        let hub_stop = stop.clone();
        background.spawn(async move { running.run(news_rx, hub_stop).await });

        let wechat = connect_wechat(&config, &public_url, &listener, &background, &stop).await?;
        metrics.simulator.set(i64::from(wechat.simulated));
        let programs = programs(&config, &wechat, &store, &metrics, &background, &stop)?;
        let login = Login::new(
            Arc::clone(&store),
            Arc::new(config.clients),
            programs,
            metrics.clone(),
            config.scene_ttl,
            wechat.simulated,
        );
        let state = AppState::new(Parts {
            login,
            hub,
            keys: config.signing_keys,
            public_url: public_url.clone(),
            trusted_proxies: TrustedProxies::new(config.trusted_proxies),
            heartbeat: config.heartbeat,
            lifecycle: lifecycle.clone(),
            demo: config.demo,
            simulated_phone: wechat.simulator.is_some().then(|| "/simulator/phone".to_owned()),
            metrics: metrics.clone(),
        });
        tracing::info!(
            public_url = public_url.as_str(),
            listen = %listener.local_addr()?,
            ops_listen = %ops_listener.local_addr()?,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let router = http::router(state, wechat.simulator.as_ref().map(Simulator::control_router));
        serving.spawn(serve(listener, router, lifecycle.closing.clone(), serving.clone()));
        let ops_state = OpsState {
            store,
            started,
            lifecycle: lifecycle.clone(),
            metrics,
        };
        background.spawn(serve(
            ops_listener,
            ops::router(ops_state),
            stop.clone(),
            background.clone(),
        ));
        Ok(Self {
            public_url,
            lifecycle,
            drain_delay: config.drain_delay,
            serving,
            background,
            stop,
            fatal,
        })
    }

    /// Where browsers reach it.
    #[must_use]
    pub fn public_url(&self) -> &PublicUrl {
        &self.public_url
    }

    /// Serves until `shutdown`, then ends in good order: nothing that was answered is undone, nobody is kept waiting.
    ///
    /// # Errors
    /// When Redis answers what no retry will change.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let fatal = async {
            match &mut self.fatal {
                Some(fatal) => fatal.recv().await,
                None => None,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            Some(error) = fatal => {
                self.stop.cancel();
                return Err(as_of_setting(error));
            }
        }
        self.drain().await;
        Ok(())
    }

    async fn drain(self) {
        let Self {
            lifecycle,
            drain_delay,
            serving,
            background,
            stop,
            ..
        } = self;
        tracing::info!(
            delay_seconds = drain_delay.as_secs(),
            "draining: not ready any more, still serving"
        );
        lifecycle.draining.cancel();
        sleep(drain_delay).await;
        lifecycle.ending.cancel();
        // A connection with a stream closes when its stream has ended, any other at once.
        lifecycle.closing.cancel();
        serving.close();
        if timeout(DRAIN_SPREAD + CLOSE, serving.wait()).await.is_err() {
            tracing::warn!(connections = serving.len(), "connections that did not end are cut");
        }
        stop.cancel();
        background.close();
        if timeout(CLOSE, background.wait()).await.is_err() {
            tracing::warn!(tasks = background.len(), "tasks that did not end are cut");
        }
        tracing::info!("ended");
    }
}

/// WeChat, or what stands for it.
struct Connected {
    base: Url,
    fail_over: Option<Url>,
    simulated: bool,
    /// When it is in this process.
    simulator: Option<Simulator>,
}

async fn connect_wechat(
    config: &Config,
    public_url: &PublicUrl,
    listener: &TcpListener,
    background: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Connected> {
    match &config.wechat {
        WeChat::Server {
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
            let fail_over = fail_over.as_ref().map(|url| url.as_str().parse()).transpose()?;
            Ok(Connected {
                base: base.as_str().parse()?,
                fail_over,
                simulated: *simulator,
                simulator: None,
            })
        }
        WeChat::Simulated => {
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
            background.spawn(serve(wire, simulator.wechat_router(), stop.clone(), background.clone()));
            Ok(Connected {
                base,
                fail_over: None,
                simulated: true,
                simulator: Some(simulator),
            })
        }
    }
}

fn programs(
    config: &Config,
    wechat: &Connected,
    store: &Arc<dyn Store>,
    metrics: &Metrics,
    background: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<HashMap<String, Program>> {
    let client = Client::new(wechat.base.clone(), wechat.fail_over.clone(), metrics.clone())?;
    let program = |mini_program: &crate::wechat::MiniProgram| {
        let tokens = AccessTokens::new(
            mini_program.clone(),
            config.token_mode,
            client.clone(),
            Arc::<dyn Store>::clone(store),
            metrics.clone(),
            background.clone(),
            stop.clone(),
        );
        let codes = CodePool::new(
            mini_program.clone(),
            config.code_pool,
            client.clone(),
            tokens.clone(),
            Arc::<dyn Store>::clone(store),
            metrics.clone(),
            background.clone(),
            stop.clone(),
        );
        background.spawn(tokens.keep_fresh());
        background.spawn(codes.clone().refill());
        (
            mini_program.appid.clone(),
            Program {
                mini_program: mini_program.clone(),
                client: client.clone(),
                codes,
            },
        )
    };
    Ok(config.mini_programs.iter().map(program).collect())
}

/// Marks the process started once Redis has answered, and hands on what no retry will change.
fn watch_start(
    redis: Arc<RedisStore>,
    started: Arc<AtomicBool>,
    background: &TaskTracker,
) -> mpsc::Receiver<FatalError> {
    let (tell, fatal) = mpsc::channel(1);
    background.spawn(async move {
        match redis.started().await {
            Ok(()) => started.store(true, Ordering::Release),
            Err(error) => drop(tell.send(error).await),
        }
    });
    fatal
}

fn as_of_setting(error: FatalError) -> anyhow::Error {
    let setting = error.setting();
    anyhow::Error::new(error).context(setting)
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: {address} can't be listened on; give a free one, such as 127.0.0.1:8080"))
}

/// Where a listener can be reached from this machine.
fn own_address(listener: &TcpListener) -> anyhow::Result<PublicUrl> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    PublicUrl::parse(&format!("http://{address}")).map_err(anyhow::Error::msg)
}
