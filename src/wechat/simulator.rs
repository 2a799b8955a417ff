//! WeChat for tests, staging and trying out: the calls this service needs, with WeChat's own checks, limits and oddities.
//!
//! It hides that no WeChat is there. [`Simulator::wechat_router`] speaks WeChat's wire; [`Simulator::control_router`]
//! is the other side: a phone to scan with, logins, faults to order, and a record of what was called. Anybody who
//! reaches it can be anybody, so it never runs unasked where people log in.

mod calls;
mod control;
mod errcode;
mod faults;
mod forward;
mod logins;
mod phone;
mod picture;
mod quota;
mod reply;
pub mod serve;
mod tokens;
mod wire;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use rand::distr::Bernoulli;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use calls::CallLog;
use faults::Faults;
use logins::Logins;
use tokens::Tokens;

/// Of how many Mini Programs the simulated phone is offered a choice, where any AppID is accepted.
const MINI_PROGRAMS_MAX: usize = 64;

/// What a simulator is told.
#[derive(Debug, Clone)]
pub struct SimulatorSettings {
    /// Where phones reach [`Simulator::control_router`]; it goes into the pictures.
    pub public_url: Url,
    /// The service that the simulated phone talks to.
    pub service_url: Url,
    /// The only AppID accepted; any, when absent.
    pub appid: Option<String>,
    /// The only AppSecret accepted; any, when absent.
    pub secret: Option<SecretString>,
    /// With what chance, 0 to 1, a call misbehaves by itself.
    pub fault_rate: f64,
    /// The same seed and the same calls in the same order misbehave in the same way.
    pub seed: u64,
}

/// Why there is no simulator.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// Not a chance.
    #[error("the fault rate {0} is not within 0 and 1; give one such as 0.05")]
    FaultRate(f64),
    /// No HTTP client for the service's URL, for instance an https one without any certificates on this machine.
    #[error("there is no HTTP client for the service's URL: {0}")]
    Client(reqwest::Error),
}

/// A WeChat of one's own. Clones share everything.
#[derive(Clone)]
pub struct Simulator {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SimulatorSettings,
    http: reqwest::Client,
    tokens: Mutex<Tokens>,
    logins: Mutex<Logins>,
    faults: Mutex<Faults>,
    calls: Mutex<CallLog>,
    callers: Mutex<BTreeSet<String>>,
}

impl Simulator {
    /// A simulator that has seen no call yet. It spawns nothing and listens nowhere.
    pub fn new(settings: SimulatorSettings) -> Result<Self, SimulatorError> {
        let rate = settings.fault_rate;
        let dice = Bernoulli::new(rate).map_err(|_| SimulatorError::FaultRate(rate))?;
        if rate > 0.0 {
            tracing::warn!(rate, seed = settings.seed, "the simulator misbehaves by itself");
        }
        let shared = Shared {
            http: forward::client(&settings.service_url).map_err(SimulatorError::Client)?,
            tokens: Mutex::default(),
            logins: Mutex::default(),
            faults: Mutex::new(Faults::new(dice, settings.seed)),
            calls: Mutex::default(),
            callers: Mutex::new(settings.appid.clone().into_iter().collect()),
            settings,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// WeChat's server API: what `SCANLOGIN_WECHAT_API_BASE` names. To be served, or merged, at the root.
    pub fn wechat_router(&self) -> Router {
        wire::router(self.clone())
    }

    /// Everything under `/simulator/`. To be merged at the root.
    pub fn control_router(&self) -> Router {
        control::router(self.clone())
    }

    fn settings(&self) -> &SimulatorSettings {
        &self.shared.settings
    }

    /// What a scan of the code for `scene` opens.
    fn phone_url(&self, scene: &str) -> String {
        let mut url = self.settings().public_url.clone();
        url.set_path("/simulator/phone");
        url.query_pairs_mut().clear().append_pair("scene", scene);
        url.into()
    }

    fn accepts_appid(&self, appid: &str) -> bool {
        self.settings().appid.as_deref().is_none_or(|own| own == appid)
    }

    fn accepts_secret(&self, secret: &str) -> bool {
        let own = self.settings().secret.as_ref();
        own.is_none_or(|own| own.expose_secret().as_bytes().ct_eq(secret.as_bytes()).into())
    }

    /// Whose server has called, so that the simulated phone can be in that Mini Program.
    fn remember(&self, appid: &str) {
        let mut callers = lock(&self.shared.callers);
        if callers.len() < MINI_PROGRAMS_MAX && !callers.contains(appid) {
            callers.insert(appid.to_owned());
        }
    }

    /// The AppIDs that are known, in the order of the alphabet.
    fn mini_programs(&self) -> Vec<String> {
        lock(&self.shared.callers).iter().cloned().collect()
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        lock(&self.shared.tokens)
    }

    fn logins(&self) -> MutexGuard<'_, Logins> {
        lock(&self.shared.logins)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.shared.faults)
    }

    fn call_log(&self) -> MutexGuard<'_, CallLog> {
        lock(&self.shared.calls)
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("settings", self.settings())
            .finish_non_exhaustive()
    }
}

/// Locks for the length of a map lookup; what a panic elsewhere left behind is still good enough here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
