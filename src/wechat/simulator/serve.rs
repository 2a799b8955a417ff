//! `scanlogin simulate`: the simulator as a process of its own, shared by several replicas.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use rand::RngExt;
use reqwest::Url;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Simulator, SimulatorError, SimulatorSettings};
use crate::entropy::os_rng;
use crate::web;

/// How long open connections may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Runs the WeChat simulator by itself, for several replicas to share: SCANLOGIN_WECHAT_API_BASE names it.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// Address to listen on; WeChat's API and /simulator/ both answer there.
    #[arg(
        long,
        env = "SCANLOGIN_SIMULATE_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:8090"
    )]
    pub listen: String,
    /// Where the simulated phone reaches the service.
    #[arg(long, env = "SCANLOGIN_SIMULATE_SERVICE_URL", value_name = "URL")]
    pub service_url: String,
    /// Where phones reach the simulator; goes into the pictures. Default: the address bound.
    #[arg(long, env = "SCANLOGIN_SIMULATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// The chance, 0 to 1, that a call misbehaves by itself.
    #[arg(
        long,
        env = "SCANLOGIN_SIMULATE_FAULT_RATE",
        value_name = "RATE",
        default_value_t = 0.0
    )]
    pub fault_rate: f64,
    /// Repeats a run's misbehaviour; drawn and logged when absent.
    #[arg(long, env = "SCANLOGIN_SIMULATE_SEED", value_name = "N")]
    pub seed: Option<u64>,
    /// The only AppID to accept; default: any.
    #[arg(long, env = "SCANLOGIN_SIMULATE_APPID", value_name = "APPID")]
    pub appid: Option<String>,
    /// The only AppSecret to accept; default: any.
    #[arg(
        long,
        env = "SCANLOGIN_SIMULATE_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub secret: Option<SecretString>,
}

/// Why the simulator does not run; each is one line that names the flag.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// Not an address, taken, or not ours to take.
    #[error("--listen {addr}: {problem}; give a free one, such as 127.0.0.1:0, which is whichever is free")]
    Listen {
        /// As it was given.
        addr: String,
        /// What the system said.
        problem: io::Error,
    },
    /// Not an origin.
    #[error("{flag} {url}: {problem}; give an origin such as http://127.0.0.1:8080")]
    Url {
        /// `--service-url` or `--public-url`.
        flag: &'static str,
        /// As it was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Of the other flags.
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    /// Accepting ended.
    #[error("the listener failed: {0}")]
    Serve(io::Error),
}

/// Serves both routers on one listener until `shutdown`.
pub async fn run(args: SimulateArgs, shutdown: CancellationToken) -> Result<(), SimulateError> {
    let service_url = origin("--service-url", &args.service_url)?;
    let public_url = args
        .public_url
        .as_deref()
        .map(|url| origin("--public-url", url))
        .transpose()?;
    let in_listen = |problem| SimulateError::Listen {
        addr: args.listen.clone(),
        problem,
    };
    let listener = TcpListener::bind(&args.listen).await.map_err(in_listen)?;
    let bound = listener.local_addr().map_err(in_listen)?;
    let public_url = match public_url {
        Some(url) => url,
        None => origin("--public-url", &format!("http://{}", reachable(bound)))?,
    };
    let seed = args.seed.unwrap_or_else(|| os_rng().random());
    let simulator = Simulator::new(SimulatorSettings {
        public_url: public_url.clone(),
        service_url: service_url.clone(),
        appid: args.appid,
        secret: args.secret,
        fault_rate: args.fault_rate,
        seed,
    })?;
    tracing::info!(addr = %bound, %public_url, %service_url, fault_rate = args.fault_rate, seed, "simulating WeChat");
    let router = web::mark(simulator.wechat_router().merge(simulator.control_router()));
    serve(listener, router, shutdown).await.map_err(SimulateError::Serve)
}

/// Serves `router` until `shutdown`, and then lets open connections end for three seconds at most.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let drained_too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = serving => ended,
        () = drained_too_long => Ok(()),
    }
}

/// The address under which this machine reaches what is bound to all of its own.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn origin(flag: &'static str, text: &str) -> Result<Url, SimulateError> {
    let wrong = |problem: &str| SimulateError::Url {
        flag,
        url: text.to_owned(),
        problem: problem.to_owned(),
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it is not http or https"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a path, query or fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it names a user"));
    }
    Ok(url)
}
