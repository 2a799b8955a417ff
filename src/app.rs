//! Builds every part once, runs them, and ends them in order.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parts;
mod reread;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::AuditLog;
use crate::config::Config;
use crate::http::ops::{self, OpsState};
use crate::http::serve::{Door, Share, serve};
use crate::http::{self, AppState, DRAIN_SPREAD, Lifecycle, Load, Memory, Parts, PublicUrl, Router, TrustedProxies};
use crate::login::{Login, Webhooks};
use crate::store::Store;
use crate::store::redis::FatalError;
use crate::telemetry::{Export, Logs};
use crate::wechat::simulator::Simulator;

use parts::{Ground, Kept, WeChat, limits};
pub use reread::Reader;
use reread::{Rereading, Settled};

/// What requests under way get beyond the time that streams take to end.
const CLOSE: Duration = Duration::from_millis(1500);

/// One replica, started.
#[derive(Debug)]
pub struct App {
    lifecycle: Lifecycle,
    drain_delay: Duration,
    /// Tasks that serve requests.
    serving: TaskTracker,
    /// What they stand on, and what ends last.
    ground: Ground,
    fatal: Option<mpsc::Receiver<FatalError>>,
    /// Ended when nobody has anything to tell any more.
    audit_log: Option<AuditLog>,
}

impl App {
    /// Binds the listeners and starts connecting; requests are answered from here on.
    ///
    /// # Errors
    /// A port that is taken, files that can't be used.
    ///
    /// `read` reads the settings again, for as long as the service runs.
    pub async fn start(config: Config, read: Reader, logs: &Logs, export: Option<Export>) -> anyhow::Result<Self> {
        let ground = Ground::new(logs, export)?;
        let listener = bind(config.listen, "SCANLOGIN_LISTEN").await?;
        let ops_listener = bind(config.ops_listen, "SCANLOGIN_OPS_LISTEN").await?;
        let public_url = config.public_url.clone().map_or_else(|| own_address(&listener), Ok)?;

        let (lifecycle, serving) = (Lifecycle::default(), TaskTracker::new());
        let (connections_per_address, drain_delay) = (config.connections_per_address, config.drain_delay);
        let files = config.files.clone();
        let wired = wire(config, public_url, &listener, &ground, lifecycle.clone()).await?;
        let state = wired.state;
        let rereading = wired.rereading.run(read, files, ground.stop.clone())?;
        ground.spawn(rereading);
        let (public, ops) = (listener.local_addr()?, ops_listener.local_addr()?);
        let version = env!("CARGO_PKG_VERSION");
        let public_url = state.public_url.clone();
        tracing::info!(public_url = public_url.as_str(), listen = %public, ops_listen = %ops, version, "listening");
        let ops = ops::router(OpsState {
            store: wired.store,
            tasks: ground.tasks.clone(),
            login: state.login.clone(),
            started: wired.started,
            public_url,
            lifecycle: lifecycle.clone(),
            metrics: ground.metrics.clone(),
        });
        let door = Door::new(state, connections_per_address);
        let closing = lifecycle.closing.clone();
        serving.spawn(serve(
            listener,
            wired.router,
            Share::Most(door),
            closing,
            serving.clone(),
        ));
        ground.serve(ops_listener, ops);
        Ok(Self {
            lifecycle,
            drain_delay,
            serving,
            ground,
            fatal: wired.fatal,
            audit_log: wired.audit_log,
        })
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
                self.ground.stop.cancel();
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
            ground,
            audit_log,
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
        ground.end().await;
        drop(audit_log);
        tracing::info!("ended");
    }
}

/// The service behind its public listener, and what else than the public asks of its parts.
struct Wired {
    state: AppState,
    router: Router,
    store: Arc<dyn Store>,
    started: Arc<AtomicBool>,
    fatal: Option<mpsc::Receiver<FatalError>>,
    rereading: Rereading,
    audit_log: Option<AuditLog>,
}

async fn wire(
    config: Config,
    public_url: PublicUrl,
    listener: &TcpListener,
    ground: &Ground,
    lifecycle: Lifecycle,
) -> anyhow::Result<Wired> {
    // One provider of cryptography for every TLS connection of this process; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wechat = WeChat::connect(&config, &public_url, listener, ground).await?;
    let open = |settings| AuditLog::open(settings, wechat.simulated, &ground.metrics);
    let audit_log = config.audit.as_ref().map(open).transpose()?;
    let audit = audit_log.as_ref().map(AuditLog::audit).unwrap_or_default();
    let kept = Kept::start(&config, ground, audit.clone())?;
    let limits = limits(&config, &kept.store, ground);
    let workshop = wechat.workshop(&config, &kept.store, &limits, ground)?;
    let settled = Settled::of(&config);
    let webhooks = Webhooks::new(config.webhooks.clone(), ground.stop.clone())?;
    let state = AppState::new(Parts {
        login: Login::new(
            Arc::clone(&kept.store),
            workshop.sites(&config, None)?,
            limits,
            ground.metrics.clone(),
            config.scene_ttl,
            wechat.simulated,
            webhooks,
            audit,
            ground.tasks.clone(),
        ),
        hub: kept.hub,
        public_url,
        trusted_proxies: TrustedProxies::new(config.trusted_proxies, config.forwarded_header),
        places: config.places,
        load: watched_load(ground),
        heartbeat: config.heartbeat,
        lifecycle,
        simulated_phone: wechat.simulated_phone,
        metrics: ground.metrics.clone(),
    });
    ground.spawn(state.login.clone().send_notices());
    let simulator = wechat.simulator.as_ref().map(Simulator::control_router);
    Ok(Wired {
        router: http::router(state.clone(), simulator),
        rereading: Rereading {
            state: state.clone(),
            workshop,
            settled,
        },
        state,
        store: kept.store,
        started: kept.started,
        fatal: kept.fatal,
        audit_log,
    })
}

/// What is under way, refused earlier where the system bounds our memory.
fn watched_load(ground: &Ground) -> Load {
    let load = Load::new(ground.metrics.clone());
    if let Some(memory) = Memory::under(Path::new("/")) {
        let watching = memory.watch(load.clone());
        let stop = ground.stop.clone();
        ground.spawn(async move {
            stop.run_until_cancelled(watching).await;
        });
    }
    load
}

fn as_of_setting(error: FatalError) -> anyhow::Error {
    let setting = error.setting();
    anyhow::Error::new(error).context(setting)
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        let free = SocketAddr::new(address.ip(), address.port().checked_add(100).unwrap_or(8080));
        format!("{setting}: {address} can't be listened on; give a free one, such as {free}")
    })
}

/// Where a listener can be reached from this machine.
fn own_address(listener: &TcpListener) -> anyhow::Result<PublicUrl> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    PublicUrl::parse(&format!("http://{address}")).map_err(anyhow::Error::msg)
}
