//! What WeChat may do to this service, and what the service does then.

mod access_token;
mod calls;
mod circuit;
mod code_pool;
mod lease;
mod store;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use scanlogin::limits::{Counts, Limits};
use scanlogin::store::TokenStore;
use scanlogin::store::memory::MemoryLimits;
use scanlogin::telemetry::Metrics;
use scanlogin::wechat::access_token::{AccessTokens, TokenMode};
use scanlogin::wechat::client::{Client, CodeSettings};
use scanlogin::wechat::{EnvVersion, MiniProgram};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::store::Shared;
use self::upstream::WeChat;

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "canary0secret0123456789abcdef012";
const SCENE_TTL: Duration = Duration::from_mins(2);

fn mini_program() -> MiniProgram {
    MiniProgram {
        appid: APPID.to_owned(),
        name: None,
        secret: SECRET.into(),
        code: CodeSettings::new("pages/confirm/confirm", EnvVersion::Release),
        link_prefix: None,
        link_file: None,
    }
}

/// The part of a replica that talks to WeChat.
struct Replica {
    client: Client,
    tokens: AccessTokens,
    limits: Limits,
    metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Replica {
    fn new(wechat: &WeChat, store: &Arc<Shared>) -> Self {
        Self::with(wechat, Arc::clone(store) as _, TokenMode::Stable)
    }

    fn with(wechat: &WeChat, store: Arc<dyn TokenStore>, mode: TokenMode) -> Self {
        Self::of(mini_program(), wechat, store, mode)
    }

    fn of(mini_program: MiniProgram, wechat: &WeChat, store: Arc<dyn TokenStore>, mode: TokenMode) -> Self {
        let limits = Limits::new(
            Arc::new(MemoryLimits::default()),
            Counts::DEFAULT,
            false,
            SCENE_TTL,
            Metrics::new().unwrap(),
        );
        Self::limited(mini_program, wechat, store, mode, limits)
    }

    /// One that counts with these.
    fn limited(
        mini_program: MiniProgram,
        wechat: &WeChat,
        store: Arc<dyn TokenStore>,
        mode: TokenMode,
        limits: Limits,
    ) -> Self {
        let metrics = Metrics::new().unwrap();
        let client = Client::new(wechat.base(), None, metrics.clone()).unwrap();
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let tokens = AccessTokens::new(
            mini_program,
            mode,
            client.clone(),
            store,
            limits.clone(),
            metrics.clone(),
            tasks.clone(),
            shutdown.clone(),
        );
        Self {
            client,
            tokens,
            limits,
            metrics,
            tasks,
            shutdown,
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Lets time pass for everybody at once, without waiting for it. Only between calls: a clock that stands still while a call is under way
/// would jump to its deadline.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
