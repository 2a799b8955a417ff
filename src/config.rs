//! What an operator sets: flags, environment, one optional file; checked once, before anything starts.
//!
//! Flag beats environment beats file beats default. `--help` is the reference: every setting is one field of [`Settings`].

mod environment;
mod file;

use std::ffi::OsString;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::http::PublicUrl;
use crate::hub::StreamLimits;
use crate::login::{Client, Clients};
use crate::oidc::SigningKeys;
use crate::store::redis::{RedisSettings, Wait};
use crate::wechat::access_token::TokenMode;
use crate::wechat::client::{API_BASE, CodeSettings, FAIL_OVER_BASE, Rgb};
use crate::wechat::simulator::serve::SimulateArgs;
use crate::wechat::{EnvVersion, MiniProgram};

/// The AppID and the AppSecret that stand for real ones towards a simulator, which accepts any.
const SIMULATED: &str = "wxsimulated0000000";

/// Scan with WeChat to log in: for any website, through a Mini Program, on any number of replicas.
///
/// Without any setting: an embedded store, a simulated WeChat and a demo site on http://127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(version, name = "scanlogin", max_term_width = 120)]
pub struct Cli {
    /// What to run; the service when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Of the service.
    #[command(flatten)]
    pub settings: Settings,
}

/// What else than the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A simulated WeChat for several replicas, tests and staging.
    Simulate(SimulateArgs),
    /// Signing keys for id_tokens.
    Keys {
        /// What to do with them.
        #[command(subcommand)]
        command: KeysCommand,
    },
}

/// About signing keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Prints a new private JWK Set for SCANLOGIN_SIGNING_KEYS_FILE.
    New {
        /// What it signs with.
        #[arg(long, value_enum, default_value = "ES256")]
        alg: Alg,
        /// Write it there with mode 0600 instead; a file that is there already stays as it is.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// A signature algorithm (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Alg {
    /// ECDSA with P-256 and SHA-256.
    Es256,
}

/// Every setting of the service.
#[derive(Debug, Args)]
pub struct Settings {
    /// A TOML file with the settings below, named without SCANLOGIN_ and in lower case, and with [[client]] and [[mini_program]] tables.
    #[arg(long, env = "SCANLOGIN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where browsers and phones are served.
    #[arg(long, env = "SCANLOGIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// Where probes and metrics are served; not for the public.
    #[arg(long, env = "SCANLOGIN_OPS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9090", value_parser = address)]
    ops_listen: SocketAddr,
    /// The origin under which browsers and phones reach the service. Default: http:// and the address bound.
    #[arg(long, env = "SCANLOGIN_PUBLIC_URL", value_name = "ORIGIN", value_parser = origin)]
    public_url: Option<PublicUrl>,
    /// Networks (CIDR, comma separated) of the proxies whose X-Forwarded-For is believed.
    #[arg(long, env = "SCANLOGIN_TRUSTED_PROXIES", value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Vec<IpNet>,

    /// Redis: redis://, rediss://, redis-cluster:// or redis-sentinel://. Without it everything is kept in this one process.
    #[arg(long, env = "SCANLOGIN_REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<SecretString>,
    /// A file that holds SCANLOGIN_REDIS_URL.
    #[arg(long, env = "SCANLOGIN_REDIS_URL_FILE", value_name = "FILE")]
    redis_url_file: Option<PathBuf>,
    /// What every Redis key and channel begins with.
    #[arg(
        long,
        env = "SCANLOGIN_REDIS_PREFIX",
        value_name = "PREFIX",
        default_value = "scanlogin"
    )]
    redis_prefix: String,
    /// Whether a confirm and a redemption wait for a Redis replica: auto, 0 or 1.
    #[arg(long, env = "SCANLOGIN_REDIS_WAIT", value_name = "WAIT", default_value = "auto")]
    redis_wait: Wait,
    /// The certificate authorities (PEM) that Redis's certificate must come from. Default: the system's.
    #[arg(long, env = "SCANLOGIN_REDIS_CA_FILE", value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,
    /// What the sentinels themselves want.
    #[arg(
        long,
        env = "SCANLOGIN_REDIS_SENTINEL_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    redis_sentinel_password: Option<SecretString>,
    /// A file that holds SCANLOGIN_REDIS_SENTINEL_PASSWORD.
    #[arg(long, env = "SCANLOGIN_REDIS_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    redis_sentinel_password_file: Option<PathBuf>,

    /// The Mini Program's AppID. Without it WeChat is simulated, where that is safe.
    #[arg(long, env = "SCANLOGIN_WECHAT_APPID", value_name = "APPID")]
    wechat_appid: Option<String>,
    /// The Mini Program's AppSecret.
    #[arg(long, env = "SCANLOGIN_WECHAT_SECRET", value_name = "SECRET", hide_env_values = true)]
    wechat_secret: Option<SecretString>,
    /// A file that holds SCANLOGIN_WECHAT_SECRET.
    #[arg(long, env = "SCANLOGIN_WECHAT_SECRET_FILE", value_name = "FILE")]
    wechat_secret_file: Option<PathBuf>,
    /// WeChat's API server. Default: https://api.weixin.qq.com.
    #[arg(long, env = "SCANLOGIN_WECHAT_API_BASE", value_name = "ORIGIN", value_parser = origin)]
    wechat_api_base: Option<PublicUrl>,
    /// WeChat's API server while the other can't be connected to. Default: https://api2.weixin.qq.com, or none with SCANLOGIN_WECHAT_API_BASE.
    #[arg(long, env = "SCANLOGIN_WECHAT_API_FAIL_OVER", value_name = "ORIGIN", value_parser = origin)]
    wechat_api_fail_over: Option<PublicUrl>,
    /// Which token call is used: stable_token, or token where another system of the same AppID needs that.
    #[arg(long, env = "SCANLOGIN_WECHAT_TOKEN_MODE", value_name = "CALL", default_value = "stable_token", value_parser = token_mode)]
    wechat_token_mode: TokenMode,
    /// Accepts SCANLOGIN_WECHAT_TOKEN_MODE=token with Redis, where two replicas that fetch at the same time end each other's token.
    #[arg(long, env = "SCANLOGIN_WECHAT_ALLOW_TOKEN_WITH_REDIS", value_name = "BOOL", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    wechat_allow_token_with_redis: bool,
    /// Says by name that what answers as WeChat is a simulator: anybody can log in as anybody.
    #[arg(long, env = "SCANLOGIN_SIMULATOR", value_name = "BOOL", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    simulator: bool,
    /// The Mini Program's page that a scan opens, without a leading slash.
    #[arg(
        long,
        env = "SCANLOGIN_CODE_PAGE",
        value_name = "PAGE",
        default_value = "pages/confirm/confirm"
    )]
    code_page: String,
    /// The edition that a scan opens: release, trial or develop.
    #[arg(long, env = "SCANLOGIN_CODE_ENV_VERSION", value_name = "EDITION", default_value = "release", value_parser = edition)]
    code_env_version: EnvVersion,
    /// Whether WeChat checks that the page is published: true or false. Default: true for release.
    #[arg(long, env = "SCANLOGIN_CODE_CHECK_PATH", value_name = "BOOL")]
    code_check_path: Option<bool>,
    /// The code's width in pixels.
    #[arg(long, env = "SCANLOGIN_CODE_WIDTH", value_name = "PIXELS", default_value_t = 430, value_parser = whole::<u16>(280, 1280, 430))]
    code_width: u16,
    /// The colour of the code's lines, such as 07c160. Default: black.
    #[arg(long, env = "SCANLOGIN_CODE_LINE_COLOR", value_name = "RRGGBB", value_parser = colour)]
    code_line_color: Option<Rgb>,
    /// Whether the code's background is transparent (a PNG then): true or false.
    #[arg(long, env = "SCANLOGIN_CODE_IS_HYALINE", value_name = "BOOL", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    code_is_hyaline: bool,
    /// Codes that each replica keeps ready. Default: 20, or 0 with a simulator.
    #[arg(long, env = "SCANLOGIN_CODE_POOL", value_name = "CODES", value_parser = whole::<u16>(0, 1_000, 20))]
    code_pool: Option<u16>,

    /// The private JWK Set that signs id_tokens (`scanlogin keys new`). Needed with Redis, drawn at start without.
    #[arg(long, env = "SCANLOGIN_SIGNING_KEYS_FILE", value_name = "FILE")]
    signing_keys_file: Option<PathBuf>,

    /// The only client's client_id. With no client at all, the built-in demo site is the only one.
    #[arg(long, env = "SCANLOGIN_CLIENT_ID", value_name = "ID", default_value = "default")]
    client_id: String,
    /// Its secret; a client without one is public and must use PKCE.
    #[arg(long, env = "SCANLOGIN_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true)]
    client_secret: Option<SecretString>,
    /// A file that holds SCANLOGIN_CLIENT_SECRET.
    #[arg(long, env = "SCANLOGIN_CLIENT_SECRET_FILE", value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// Its name towards people.
    #[arg(long, env = "SCANLOGIN_CLIENT_NAME", value_name = "NAME")]
    client_name: Option<String>,
    /// Where it may send people back to (comma separated, exact).
    #[arg(
        long,
        env = "SCANLOGIN_CLIENT_REDIRECT_URIS",
        value_name = "URLS",
        value_delimiter = ','
    )]
    client_redirect_uris: Vec<String>,
    /// The other origins whose pages may call (comma separated).
    #[arg(long, env = "SCANLOGIN_CLIENT_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    client_origins: Vec<PublicUrl>,

    /// How long a code may be scanned and confirmed, in seconds.
    #[arg(long, env = "SCANLOGIN_SCENE_TTL", value_name = "SECONDS", default_value_t = 120, value_parser = whole::<u64>(1, 900, 120))]
    scene_ttl: u64,
    /// How often a silent event stream carries a comment, in seconds; below the idle timeout of every proxy on the way.
    #[arg(long, env = "SCANLOGIN_HEARTBEAT", value_name = "SECONDS", default_value_t = 15, value_parser = whole::<u64>(1, 300, 15))]
    heartbeat: u64,
    /// How long everything is still served after SIGTERM, while load balancers take notice, in seconds.
    #[arg(long, env = "SCANLOGIN_DRAIN_DELAY", value_name = "SECONDS", default_value_t = 3, value_parser = whole::<u64>(0, 300, 3))]
    drain_delay: u64,
    /// Event streams of one scene on one replica; a further one replaces the oldest.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS_PER_SCENE", value_name = "STREAMS", default_value_t = 3, value_parser = whole::<u32>(1, u32::MAX, 3))]
    limit_streams_per_scene: u32,
    /// Event streams of one address (a /64 for IPv6) on one replica.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS_PER_ADDRESS", value_name = "STREAMS", default_value_t = 1_000, value_parser = whole::<u32>(1, u32::MAX, 1_000))]
    limit_streams_per_address: u32,
    /// Event streams on one replica.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS", value_name = "STREAMS", default_value_t = 50_000, value_parser = whole::<u32>(1, u32::MAX, 50_000))]
    limit_streams: u32,
    /// Live scenes in the embedded store.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCENES", value_name = "SCENES", default_value_t = 100_000, value_parser = whole::<u32>(1, u32::MAX, 100_000))]
    limit_scenes: u32,
    /// The log's form: text or json. Its level comes from RUST_LOG.
    #[arg(long, env = "SCANLOGIN_LOG", value_name = "FORM", default_value = "text", value_parser = ["text", "json"])]
    log: String,
}

/// A checked configuration: everything that can be found wrong before the start has been looked at.
#[derive(Debug)]
pub struct Config {
    /// The public listener.
    pub listen: SocketAddr,
    /// The ops listener.
    pub ops_listen: SocketAddr,
    /// Unless it follows from the address bound.
    pub public_url: Option<PublicUrl>,
    /// Whose word on an address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Where everything is kept; in this process when absent.
    pub redis: Option<RedisSettings>,
    /// Scenes that the embedded store takes on.
    pub scenes_max: usize,
    /// Who answers as WeChat.
    pub wechat: WeChat,
    /// Which token call is used.
    pub token_mode: TokenMode,
    /// The Mini Programs.
    pub mini_programs: Vec<MiniProgram>,
    /// Codes that each replica keeps ready of each of them.
    pub code_pool: usize,
    /// What signs id_tokens.
    pub signing_keys: SigningKeys,
    /// The sites.
    pub clients: Clients,
    /// Whether the demo site is the only one.
    pub demo: bool,
    /// How long a scene may be scanned and confirmed.
    pub scene_ttl: Duration,
    /// How often a silent stream carries a comment.
    pub heartbeat: Duration,
    /// How long everything is still served after SIGTERM.
    pub drain_delay: Duration,
    /// Of this replica.
    pub streams: StreamLimits,
    /// Whether the log is JSON.
    pub log_json: bool,
}

/// Who answers as WeChat.
#[derive(Debug)]
pub enum WeChat {
    /// The built-in simulator.
    Simulated,
    /// A server.
    Server {
        /// The nearest.
        base: PublicUrl,
        /// Another, for when that can't be reached.
        fail_over: Option<PublicUrl>,
        /// Whether it is a simulator, as the operator says.
        simulator: bool,
    },
}

/// One line that names the setting, the problem and what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting can't be used.
    #[error("{0}")]
    Wrong(String),
    /// Not an error: `--help` or `--version` was asked for, and this is it.
    #[error("{0}")]
    Asked(String),
}

fn wrong(text: impl Into<String>) -> ConfigError {
    ConfigError::Wrong(text.into())
}

/// A name that is none of `settings`, and the one of them that was most likely meant.
fn no_setting(name: &str, settings: &[&str]) -> String {
    // What all have in common tells nothing.
    let own = |name: &str| name.trim_start_matches(environment::PREFIX).to_owned();
    let likeness = |setting: &&str| strsim::jaro(&own(name), &own(setting));
    let nearest = settings
        .iter()
        .copied()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|nearest| likeness(nearest) > 0.7) {
        Some(nearest) => format!("{name:?} is no setting; did you mean {nearest:?}?"),
        None => format!("{name:?} is no setting; `scanlogin --help` lists them"),
    }
}

impl Cli {
    /// Reads arguments, environment and file.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<(Self, file::Tables), ConfigError> {
        let args: Vec<OsString> = args.into_iter().collect();
        let command = Self::command();
        // The file is one more source of defaults, so it has to be known before the rest is read.
        let first = command
            .clone()
            .ignore_errors(true)
            .try_get_matches_from(&args)
            .map_err(one_line)?;
        // After --help, but before what is missing: it may be what is misspelt.
        environment::check(&command, std::env::vars_os().map(|(name, _)| name))?;
        let (command, tables) = match first.get_one::<PathBuf>("config") {
            Some(path) => file::apply(command, path)?,
            None => (command, file::Tables::default()),
        };
        let matches = command.try_get_matches_from(&args).map_err(one_line)?;
        Ok((Self::from_arg_matches(&matches).map_err(one_line)?, tables))
    }
}

impl Settings {
    /// Checks everything together.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn check(self, tables: &file::Tables) -> Result<Config, ConfigError> {
        let redis = self.redis()?;
        if redis.is_some() && self.wechat_token_mode == TokenMode::Classic && !self.wechat_allow_token_with_redis {
            return Err(wrong(
                "SCANLOGIN_WECHAT_TOKEN_MODE=token with Redis: replicas that fetch at the same time end each other's access_token. \
                 Use stable_token, or accept that with SCANLOGIN_WECHAT_ALLOW_TOKEN_WITH_REDIS=true",
            ));
        }
        let mut mini_programs = self.mini_programs(tables)?;
        let wechat = self.wechat(mini_programs.is_empty(), redis.is_some())?;
        let simulated = !matches!(&wechat, WeChat::Server { simulator: false, .. });
        if mini_programs.is_empty() {
            mini_programs.push(MiniProgram {
                appid: SIMULATED.to_owned(),
                secret: SIMULATED.into(),
                code: self.code(),
            });
        }
        let signing_keys = signing_keys(self.signing_keys_file.as_deref(), redis.is_some())?;
        let (clients, demo) = self.clients(tables, &mini_programs)?;
        Ok(Config {
            listen: self.listen,
            ops_listen: self.ops_listen,
            public_url: self.public_url,
            trusted_proxies: self.trusted_proxies,
            redis,
            scenes_max: count(self.limit_scenes),
            wechat,
            token_mode: self.wechat_token_mode,
            mini_programs,
            code_pool: self.code_pool.map_or(if simulated { 0 } else { 20 }, usize::from),
            signing_keys,
            clients,
            demo,
            scene_ttl: Duration::from_secs(self.scene_ttl),
            heartbeat: Duration::from_secs(self.heartbeat),
            drain_delay: Duration::from_secs(self.drain_delay),
            streams: StreamLimits {
                total: count(self.limit_streams),
                per_address: count(self.limit_streams_per_address),
                per_scene: count(self.limit_streams_per_scene),
            },
            log_json: self.log == "json",
        })
    }

    fn redis(&self) -> Result<Option<RedisSettings>, ConfigError> {
        let url = secret(
            self.redis_url.as_ref(),
            self.redis_url_file.as_deref(),
            "SCANLOGIN_REDIS_URL",
        )?;
        let password = &self.redis_sentinel_password;
        let password_file = self.redis_sentinel_password_file.as_deref();
        let sentinel_password = secret(password.as_ref(), password_file, "SCANLOGIN_REDIS_SENTINEL_PASSWORD")?;
        Ok(url.map(|url| RedisSettings {
            url,
            prefix: self.redis_prefix.clone(),
            wait: self.redis_wait,
            ca_file: self.redis_ca_file.clone(),
            sentinel_password,
        }))
    }

    /// How codes look and what they open.
    fn code(&self) -> CodeSettings {
        let code = CodeSettings::new(&self.code_page, self.code_env_version);
        CodeSettings {
            check_path: self.code_check_path.unwrap_or(code.check_path),
            width: self.code_width,
            line_color: self.code_line_color,
            is_hyaline: self.code_is_hyaline,
            ..code
        }
    }

    fn mini_programs(&self, tables: &file::Tables) -> Result<Vec<MiniProgram>, ConfigError> {
        let code = self.code();
        let mut all = tables.mini_programs(&code)?;
        let (setting, twin) = ("SCANLOGIN_WECHAT_SECRET", "SCANLOGIN_WECHAT_APPID");
        let appsecret = secret(self.wechat_secret.as_ref(), self.wechat_secret_file.as_deref(), setting)?;
        match (self.wechat_appid.clone(), appsecret) {
            (Some(appid), Some(secret)) => all.push(MiniProgram { appid, secret, code }),
            (Some(_), None) => return Err(wrong(format!("{twin} is set, but not {setting} (or {setting}_FILE)"))),
            (None, Some(_)) => {
                return Err(wrong(format!(
                    "{setting} is set, but not {twin}, such as wx0123456789abcdef"
                )));
            }
            (None, None) => {}
        }
        Ok(all)
    }

    /// Who answers as WeChat. A simulator, which lets anybody in as anybody, never by accident.
    fn wechat(&self, no_credentials: bool, redis: bool) -> Result<WeChat, ConfigError> {
        match &self.wechat_api_base {
            Some(base) => self.wechat_at(base, no_credentials),
            None if no_credentials => self.simulated(redis),
            None => self.real_wechat(),
        }
    }

    fn wechat_at(&self, base: &PublicUrl, no_credentials: bool) -> Result<WeChat, ConfigError> {
        self.check_origin(base, "SCANLOGIN_WECHAT_API_BASE")?;
        if no_credentials && !self.simulator {
            return Err(wrong(
                "SCANLOGIN_WECHAT_API_BASE is set, but no Mini Program: set SCANLOGIN_WECHAT_APPID and SCANLOGIN_WECHAT_SECRET, \
                 or, if a simulator answers there, SCANLOGIN_SIMULATOR=true",
            ));
        }
        Ok(WeChat::Server {
            base: base.clone(),
            fail_over: self.fail_over()?,
            simulator: self.simulator,
        })
    }

    fn real_wechat(&self) -> Result<WeChat, ConfigError> {
        if self.simulator {
            return Err(wrong(
                "SCANLOGIN_SIMULATOR=true contradicts SCANLOGIN_WECHAT_APPID and SCANLOGIN_WECHAT_SECRET: \
                 leave them out, or name the simulator in SCANLOGIN_WECHAT_API_BASE",
            ));
        }
        let real = |base| PublicUrl::parse(base).map_err(wrong);
        Ok(WeChat::Server {
            base: real(API_BASE)?,
            fail_over: Some(self.fail_over()?.map_or_else(|| real(FAIL_OVER_BASE), Ok)?),
            simulator: false,
        })
    }

    fn simulated(&self, redis: bool) -> Result<WeChat, ConfigError> {
        if redis {
            return Err(wrong(
                "SCANLOGIN_REDIS_URL is set, but no Mini Program, and replicas can't each simulate a WeChat of their own: \
                 set SCANLOGIN_WECHAT_APPID and SCANLOGIN_WECHAT_SECRET, or run `scanlogin simulate` once \
                 and name it in SCANLOGIN_WECHAT_API_BASE with SCANLOGIN_SIMULATOR=true",
            ));
        }
        if self.wechat_api_fail_over.is_some() {
            return Err(wrong(
                "SCANLOGIN_WECHAT_API_FAIL_OVER is set, but no Mini Program: set SCANLOGIN_WECHAT_APPID and SCANLOGIN_WECHAT_SECRET, \
                 or leave it out",
            ));
        }
        let loopback_http = self
            .public_url
            .as_ref()
            .is_none_or(|url| url.is_loopback() && !url.is_https());
        if !self.simulator && !loopback_http {
            return Err(wrong(
                "no Mini Program is configured, and SCANLOGIN_PUBLIC_URL is not http on loopback: set SCANLOGIN_WECHAT_APPID \
                 and SCANLOGIN_WECHAT_SECRET, or say SCANLOGIN_SIMULATOR=true to let anybody log in as anybody",
            ));
        }
        Ok(WeChat::Simulated)
    }

    fn fail_over(&self) -> Result<Option<PublicUrl>, ConfigError> {
        if let Some(url) = &self.wechat_api_fail_over {
            self.check_origin(url, "SCANLOGIN_WECHAT_API_FAIL_OVER")?;
        }
        Ok(self.wechat_api_fail_over.clone())
    }

    /// Secrets go there, so nobody may listen on the way.
    fn check_origin(&self, url: &PublicUrl, setting: &str) -> Result<(), ConfigError> {
        if url.is_https() || url.is_loopback() || self.simulator {
            return Ok(());
        }
        Err(wrong(format!(
            "{setting} must be https, or http on loopback; for a simulator elsewhere say SCANLOGIN_SIMULATOR=true"
        )))
    }

    /// The sites, and whether the demo site is the only one.
    fn clients(&self, tables: &file::Tables, programs: &[MiniProgram]) -> Result<(Clients, bool), ConfigError> {
        let mut clients = tables.clients(programs)?;
        let own = self.own_client(programs, clients.is_empty())?;
        let demo = own.as_ref().is_some_and(|(_, demo)| *demo);
        clients.extend(own.map(|(client, _)| client));
        let mut ids: Vec<&str> = clients.iter().map(|client| client.client_id.as_str()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids
            .windows(2)
            .find(|pair| pair.first() == pair.last())
            .and_then(|pair| pair.first())
        {
            return Err(wrong(format!(
                "two clients have the client_id {twice:?}; give each its own"
            )));
        }
        Ok((Clients::new(clients), demo))
    }

    /// The one client that settings alone describe; or, where there is no other, the demo site.
    fn own_client(&self, programs: &[MiniProgram], alone: bool) -> Result<Option<(Client, bool)>, ConfigError> {
        let setting = "SCANLOGIN_CLIENT_SECRET";
        let client_secret = secret(self.client_secret.as_ref(), self.client_secret_file.as_deref(), setting)?;
        let named = client_secret.is_some() || self.client_name.is_some();
        let described = named || !self.client_redirect_uris.is_empty() || !self.client_origins.is_empty();
        if !described && !alone {
            return Ok(None);
        }
        let mini_program = only(programs).ok_or_else(|| {
            wrong("several Mini Programs are configured: clients must be [[client]] tables that name theirs in mini_program")
        })?;
        let (id, name) = if described {
            (&*self.client_id, &*self.client_id)
        } else {
            ("demo", "scanlogin demo")
        };
        let client = Client {
            client_id: id.to_owned(),
            name: self.client_name.clone().unwrap_or_else(|| name.to_owned()),
            client_secret,
            logo_url: None,
            redirect_uris: self.client_redirect_uris.clone(),
            origins: self
                .client_origins
                .iter()
                .map(|origin| origin.as_str().to_owned())
                .collect(),
            mini_program: mini_program.appid.clone(),
            avatar_hosts: file::avatar_hosts(),
        };
        Ok(Some((client, !described)))
    }
}

fn signing_keys(file: Option<&Path>, redis: bool) -> Result<SigningKeys, ConfigError> {
    let setting = "SCANLOGIN_SIGNING_KEYS_FILE";
    match file {
        Some(path) => {
            let text = Zeroizing::new(read_file(path, setting)?);
            SigningKeys::parse(&text).map_err(|error| {
                wrong(format!(
                    "{setting}: {} can't be used: {error}; `scanlogin keys new` makes one",
                    path.display()
                ))
            })
        }
        None if redis => Err(wrong(format!(
            "{setting} is missing: replicas on one Redis must sign alike. Make it once with `scanlogin keys new --out keys.json` \
             and give the same file to every replica"
        ))),
        None => SigningKeys::ephemeral().map_err(|error| wrong(error.to_string())),
    }
}

fn only<T>(all: &[T]) -> Option<&T> {
    all.first().filter(|_| all.len() == 1)
}

/// A secret given itself or in a file, but not both.
fn secret(
    value: Option<&SecretString>,
    file: Option<&Path>,
    setting: &str,
) -> Result<Option<SecretString>, ConfigError> {
    secret_of(value, file, setting, &format!("{setting}_FILE"))
}

fn secret_of(
    value: Option<&SecretString>,
    file: Option<&Path>,
    setting: &str,
    in_file: &str,
) -> Result<Option<SecretString>, ConfigError> {
    let secret: SecretString = match (value, file) {
        (Some(_), Some(_)) => return Err(wrong(format!("{setting} and {in_file} are both set; keep one"))),
        (Some(value), None) => value.clone(),
        (None, Some(path)) => read_file(path, in_file)?.trim().into(),
        (None, None) => return Ok(None),
    };
    if secret.expose_secret().is_empty() {
        return Err(wrong(format!("{setting} is empty; leave it out or give it a value")));
    }
    Ok(Some(secret))
}

fn read_file(path: &Path, setting: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| wrong(format!("{setting}: {} can't be read: {error}", path.display())))
}

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "it must be an IP address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

fn origin(text: &str) -> Result<PublicUrl, String> {
    PublicUrl::parse(text).map_err(|problem| format!("{problem}; such as https://login.example"))
}

fn network(text: &str) -> Result<IpNet, String> {
    let single = |ip: std::net::IpAddr| IpNet::from(ip);
    text.trim()
        .parse()
        .or_else(|_| text.trim().parse().map(single))
        .map_err(|_| "it must be networks such as 10.0.0.0/8,fd00::/8".to_owned())
}

fn edition(text: &str) -> Result<EnvVersion, String> {
    match text {
        "release" => Ok(EnvVersion::Release),
        "trial" => Ok(EnvVersion::Trial),
        "develop" => Ok(EnvVersion::Develop),
        _ => Err("it must be release, trial or develop".to_owned()),
    }
}

fn token_mode(text: &str) -> Result<TokenMode, String> {
    match text {
        "stable_token" => Ok(TokenMode::Stable),
        "token" => Ok(TokenMode::Classic),
        _ => Err("it must be stable_token or token".to_owned()),
    }
}

fn colour(text: &str) -> Result<Rgb, String> {
    let part = |at: usize| text.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    match (text.len(), part(0), part(2), part(4)) {
        (6, Some(r), Some(g), Some(b)) => Ok(Rgb { r, g, b }),
        _ => Err("it must be six hex digits, such as 07c160".to_owned()),
    }
}

/// A whole number within bounds, of which `such_as` is one.
fn whole<T>(least: T, most: T, such_as: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("it must be a whole number from {least} to {most}, such as {such_as}"))
    }
}

/// What clap says, in one line that names the flag and its environment twin. Values are repeated only where clap holds them,
/// which it does not for secrets: those take any text.
#[expect(clippy::needless_pass_by_value, reason = "called by map_err")]
fn one_line(error: clap::Error) -> ConfigError {
    let arg = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => Some(arg.clone()),
        Some(ContextValue::Strings(args)) => Some(args.join(", ")),
        _ => None,
    };
    match (error.kind(), arg) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, _) => ConfigError::Asked(error.render().to_string()),
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            wrong("a subcommand is missing, such as in `scanlogin keys new`")
        }
        (ErrorKind::MissingRequiredArgument, Some(args)) => {
            wrong(format!("{args} is missing; the command with --help says what it is"))
        }
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(arg)) => wrong(of_value(&error, &arg)),
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            let problem = first.trim_start_matches("error: ");
            wrong(format!("{problem}; `scanlogin --help` lists every setting"))
        }
    }
}

fn of_value(error: &clap::Error, arg: &str) -> String {
    let flag = arg.split(' ').next().unwrap_or_default();
    let twin = twin(flag).map(|twin| format!(" ({twin})")).unwrap_or_default();
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if !value.is_empty() => format!("{value:?}"),
        _ => "the value is missing".to_owned(),
    };
    let problem = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(problem), _) => problem.to_string(),
        (None, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            format!("it must be one of {}", values.join(", "))
        }
        (None, _) => "`scanlogin --help` says what it takes".to_owned(),
    };
    format!("{flag}{twin}: {value}: {problem}")
}

/// The environment variable of a flag.
fn twin(flag: &str) -> Option<String> {
    let command = Cli::command();
    let name = flag.trim_start_matches("--");
    let args = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let mut of_name = args.filter(|arg| arg.get_long() == Some(name));
    of_name
        .find_map(|arg| arg.get_env())
        .map(|env| env.to_string_lossy().into_owned())
}
