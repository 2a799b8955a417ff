//! What an operator sets: flags, environment, one optional file; checked once, before anything starts.
//!
//! Flag beats environment beats file beats default. `--help` is the reference: every setting is one field of [`Settings`].

mod check;
mod environment;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lines;
mod values;
mod warnings;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use ipnet::IpNet;
use secrecy::SecretString;

use self::values::{
    address, colour, edition, entry_scenes, forwarded_header, network, number_matching, origin, ratio,
    redirect_uri_setting, token_mode, whole,
};
use self::words::one_line;
use crate::audit::AuditSettings;
use crate::http::{ForwardedHeader, Places, PublicUrl};
use crate::hub::StreamLimits;
use crate::limits::Counts;
use crate::login::entry::{EntryScenes, NumberMatching};
use crate::login::{Client, WebhookSettings};
use crate::oidc::{Algorithm, SigningKeys};
use crate::store::redis::{RedisSettings, Wait};
use crate::telemetry::TraceSettings;
use crate::wechat::access_token::TokenMode;
use crate::wechat::client::Rgb;
use crate::wechat::simulator::serve::SimulateArgs;
use crate::wechat::{EnvVersion, MiniProgram};

/// The AppID and the AppSecret that stand for real ones towards a simulator, which accepts any.
const SIMULATED: &str = "wxsimulated0000000";

/// More than a million of something in a minute is no limit, and leaves no whole microsecond between two.
const MOST_IN_A_PERIOD: u32 = 1_000_000;

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
    /// What its arguments give away, in words for the log.
    #[arg(skip)]
    pub warnings: Vec<String>,
    /// As [`Config::fixed`].
    #[arg(skip)]
    pub fixed: BTreeMap<String, u64>,
}

/// What else than the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A simulated WeChat for several replicas, tests and staging.
    Simulate(SimulateArgs),
    /// Prints the HTTP contract as an OpenAPI 3.1 document.
    Openapi,
    /// Looks settings, Redis, WeChat and the public URL over, and says what is wrong and what to do: 0 if nothing is, else 1.
    Doctor {
        /// The same as JSON, for other programs.
        #[arg(long)]
        json: bool,
        /// For how long a heartbeat is waited for at the public URL, in seconds; 0 is not at all.
        #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = whole::<u64>(0, 60, 20))]
        wait: u64,
    },
    /// Asks the service that runs here with the same settings whether it is ready: 0 if so, 1 if not.
    Healthcheck,
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
        /// What it signs with; several, comma separated, make a key for each.
        #[arg(long, value_enum, default_value = "ES256", value_delimiter = ',')]
        alg: Vec<Algorithm>,
        /// Write it there with mode 0600 instead; a file that is there already stays as it is.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
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
    /// Networks (CIDR, comma separated) of the proxies that are believed on whom they pass on.
    #[arg(long, env = "SCANLOGIN_TRUSTED_PROXIES", value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Vec<IpNet>,
    /// The header in which they say so: x-forwarded-for or forwarded. The other one is the caller's own, and is not looked at.
    #[arg(long, env = "SCANLOGIN_FORWARDED_HEADER", value_name = "HEADER", default_value = "x-forwarded-for", value_parser = forwarded_header)]
    forwarded_header: ForwardedHeader,
    /// A MaxMind DB (.mmdb) of cities or countries, read at the start: where the browser's address is then stands on the phone's screen.
    #[arg(long, env = "SCANLOGIN_PLACES_FILE", value_name = "FILE")]
    places_file: Option<PathBuf>,

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
    /// What the names of people are made with for clients of subject_type pairwise: 32 characters or more, the same for ever.
    #[arg(
        long,
        env = "SCANLOGIN_PAIRWISE_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    pairwise_secret: Option<SecretString>,
    /// A file that holds SCANLOGIN_PAIRWISE_SECRET.
    #[arg(long, env = "SCANLOGIN_PAIRWISE_SECRET_FILE", value_name = "FILE")]
    pairwise_secret_file: Option<PathBuf>,

    /// The only client's client_id. Default: default. With no client at all, the built-in demo site is the only one. With [[client]] tables
    /// neither this nor another SCANLOGIN_CLIENT_ setting may be there.
    #[arg(long, env = "SCANLOGIN_CLIENT_ID", value_name = "ID")]
    client_id: Option<String>,
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
        value_delimiter = ',',
        value_parser = redirect_uri_setting
    )]
    client_redirect_uris: Vec<String>,
    /// The other origins whose pages may call (comma separated).
    #[arg(long, env = "SCANLOGIN_CLIENT_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    client_origins: Vec<PublicUrl>,
    /// When the browser shows a number that the person picks on the phone: off, on, or on_warning. The demo site takes it too.
    #[arg(long, env = "SCANLOGIN_CLIENT_NUMBER_MATCHING", value_name = "WHEN", value_parser = number_matching)]
    client_number_matching: Option<NumberMatching>,
    /// What becomes of a scan by how the phone came to the code, over the default: WeChat's numbers or other, each with allow, warn or
    /// refuse, such as 1048=refuse,other=warn. The demo site takes it too.
    #[arg(long, env = "SCANLOGIN_CLIENT_ENTRY_SCENES", value_name = "TABLE", value_parser = entry_scenes)]
    client_entry_scenes: Option<EntryScenes>,
    /// Where its server is told how each login ended (docs/webhooks.md).
    #[arg(
        long,
        env = "SCANLOGIN_CLIENT_WEBHOOK_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    client_webhook_url: Option<SecretString>,
    /// What those messages are signed with: whsec_ and base64; two with a space between while it is changed.
    #[arg(
        long,
        env = "SCANLOGIN_CLIENT_WEBHOOK_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    client_webhook_secret: Option<SecretString>,
    /// A file that holds SCANLOGIN_CLIENT_WEBHOOK_SECRET.
    #[arg(long, env = "SCANLOGIN_CLIENT_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    client_webhook_secret_file: Option<PathBuf>,

    /// The pauses, in seconds, before a message to a webhook that did not take it is sent again (comma separated). After the last it is given up.
    #[arg(long, env = "SCANLOGIN_WEBHOOK_RETRIES", value_name = "SECONDS", value_delimiter = ',', default_value = "5,30,120,600,1800,3600,7200,14400,28800,28800", value_parser = whole::<u64>(1, 86_400, 5))]
    webhook_retries: Vec<u64>,
    /// How long a webhook may take for its answer, in seconds.
    #[arg(long, env = "SCANLOGIN_WEBHOOK_TIMEOUT", value_name = "SECONDS", default_value_t = 15, value_parser = whole::<u64>(1, 60, 15))]
    webhook_timeout: u64,
    /// Messages that may wait for one webhook. Beyond, a message is sent once and not again.
    #[arg(long, env = "SCANLOGIN_LIMIT_WEBHOOKS", value_name = "COUNT", default_value_t = 20_000, value_parser = whole::<u32>(1, 1_000_000, 20_000))]
    limit_webhooks: u32,

    /// Whether browsers may show a short code to type in the Mini Program, for who has no camera. On the demo site they do.
    #[arg(long, env = "SCANLOGIN_CLIENT_SHORT_CODES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    client_short_codes: Option<bool>,

    /// How long a code may be scanned and confirmed, in seconds.
    #[arg(long, env = "SCANLOGIN_SCENE_TTL", value_name = "SECONDS", default_value_t = 120, value_parser = whole::<u64>(1, 900, 120))]
    scene_ttl: u64,
    /// How often a silent event stream carries a comment, in seconds; below the idle timeout of every proxy on the way.
    #[arg(long, env = "SCANLOGIN_HEARTBEAT", value_name = "SECONDS", default_value_t = 15, value_parser = whole::<u64>(1, 300, 15))]
    heartbeat: u64,
    /// How long everything is still served after SIGTERM, while load balancers take notice, in seconds.
    #[arg(long, env = "SCANLOGIN_DRAIN_DELAY", value_name = "SECONDS", default_value_t = 3, value_parser = whole::<u64>(0, 300, 3))]
    drain_delay: u64,
    /// The limits below but WeChat's own, and those on wrong short codes, streams and live scenes: on or off. Off is for benchmarks.
    #[arg(long, env = "SCANLOGIN_LIMITS", value_name = "SWITCH", default_value = "on", value_parser = ["on", "off"])]
    limits: String,
    /// Scenes that one address (a /64 for IPv6) may start in a minute.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCENES_PER_ADDRESS", value_name = "COUNT", default_value_t = Counts::DEFAULT.scenes_per_address, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.scenes_per_address))]
    limit_scenes_per_address: u32,
    /// Scenes of one client in a minute.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCENES_PER_CLIENT", value_name = "COUNT", default_value_t = Counts::DEFAULT.scenes_per_client, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.scenes_per_client))]
    limit_scenes_per_client: u32,
    /// Answers to one address, in a minute, that there is no such scene.
    #[arg(long, env = "SCANLOGIN_LIMIT_UNKNOWN_PER_ADDRESS", value_name = "COUNT", default_value_t = Counts::DEFAULT.unknown_per_address, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.unknown_per_address))]
    limit_unknown_per_address: u32,
    /// Scans of one address in a minute.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCANS_PER_ADDRESS", value_name = "COUNT", default_value_t = Counts::DEFAULT.scans_per_address, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.scans_per_address))]
    limit_scans_per_address: u32,
    /// Scans of one scene in its life.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCANS_PER_SCENE", value_name = "COUNT", default_value_t = Counts::DEFAULT.scans_per_scene, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.scans_per_scene))]
    limit_scans_per_scene: u32,
    /// Failed redemptions of one client from one address in a minute; right ones still succeed.
    #[arg(long, env = "SCANLOGIN_LIMIT_FAILED_REDEMPTIONS", value_name = "COUNT", default_value_t = Counts::DEFAULT.failed_redemptions, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.failed_redemptions))]
    limit_failed_redemptions: u32,
    /// Short codes that one address may type in a minute.
    #[arg(long, env = "SCANLOGIN_LIMIT_SHORT_CODES_PER_ADDRESS", value_name = "COUNT", default_value_t = Counts::DEFAULT.short_codes_per_address, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.short_codes_per_address))]
    limit_short_codes_per_address: u32,
    /// Wrong short codes typed in a minute in each Mini Program, by anybody; beyond, right ones are not taken either.
    #[arg(long, env = "SCANLOGIN_LIMIT_WRONG_SHORT_CODES", value_name = "COUNT", default_value_t = Counts::DEFAULT.wrong_short_codes, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.wrong_short_codes))]
    limit_wrong_short_codes: u32,
    /// Codes asked of WeChat in a minute, of each Mini Program; WeChat allows 5,000.
    #[arg(long, env = "SCANLOGIN_LIMIT_PICTURES", value_name = "COUNT", default_value_t = Counts::DEFAULT.pictures, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.pictures))]
    limit_pictures: u32,
    /// Scans shown to WeChat in a minute, of each Mini Program.
    #[arg(long, env = "SCANLOGIN_LIMIT_CODE2SESSION", value_name = "COUNT", default_value_t = Counts::DEFAULT.code2session, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.code2session))]
    limit_code2session: u32,
    /// Access tokens asked of WeChat in a day, of each Mini Program.
    #[arg(long, env = "SCANLOGIN_LIMIT_TOKEN_CALLS", value_name = "COUNT", default_value_t = Counts::DEFAULT.token_calls, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.token_calls))]
    limit_token_calls: u32,
    /// Access tokens forced in a day, of each Mini Program; WeChat allows 20.
    #[arg(long, env = "SCANLOGIN_LIMIT_FORCE_REFRESHES", value_name = "COUNT", default_value_t = Counts::DEFAULT.force_refreshes, value_parser = whole::<u32>(1, MOST_IN_A_PERIOD, Counts::DEFAULT.force_refreshes))]
    limit_force_refreshes: u32,
    /// Event streams of one scene on one replica; a further one replaces the oldest.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS_PER_SCENE", value_name = "STREAMS", default_value_t = 3, value_parser = whole::<u32>(1, u32::MAX, 3))]
    limit_streams_per_scene: u32,
    /// Event streams of one address (a /64 for IPv6) on one replica.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS_PER_ADDRESS", value_name = "STREAMS", default_value_t = 1_000, value_parser = whole::<u32>(1, u32::MAX, 1_000))]
    limit_streams_per_address: u32,
    /// Connections of one address (a /64 for IPv6) to one replica, trusted proxies apart. Default: 2000, or twice its streams if that is more.
    #[arg(long, env = "SCANLOGIN_LIMIT_CONNECTIONS_PER_ADDRESS", value_name = "CONNECTIONS", value_parser = whole::<u32>(1, u32::MAX, 2_000))]
    limit_connections_per_address: Option<u32>,
    /// Event streams on one replica.
    #[arg(long, env = "SCANLOGIN_LIMIT_STREAMS", value_name = "STREAMS", default_value_t = 50_000, value_parser = whole::<u32>(1, u32::MAX, 50_000))]
    limit_streams: u32,
    /// Live scenes in the embedded store.
    #[arg(long, env = "SCANLOGIN_LIMIT_SCENES", value_name = "SCENES", default_value_t = 100_000, value_parser = whole::<u32>(1, u32::MAX, 100_000))]
    limit_scenes: u32,
    /// The audit log, JSON lines of who logged in where and how it ended (docs/audit.md): a file, or - for standard output. None unless set.
    #[arg(long, env = "SCANLOGIN_AUDIT_LOG", value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// What people are called in it: hashed, by what SCANLOGIN_AUDIT_KEY makes of AppID and openid; or plain, by their openid.
    #[arg(long, env = "SCANLOGIN_AUDIT_NAMES", value_name = "HOW", default_value = "hashed", value_parser = ["hashed", "plain"])]
    audit_names: String,
    /// What their names are made with: 32 characters or more, the same at all replicas. With another key people have other names.
    #[arg(long, env = "SCANLOGIN_AUDIT_KEY", value_name = "SECRET", hide_env_values = true)]
    audit_key: Option<SecretString>,
    /// A file that holds SCANLOGIN_AUDIT_KEY.
    #[arg(long, env = "SCANLOGIN_AUDIT_KEY_FILE", value_name = "FILE")]
    audit_key_file: Option<PathBuf>,
    /// The OpenTelemetry collector that traces go to, by OTLP over HTTP, such as http://127.0.0.1:4318 (/v1/traces is added). Default: none.
    #[arg(long, env = "SCANLOGIN_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// What it wants to see besides: headers as name=value (comma separated, values percent-encoded), such as a key.
    #[arg(long, env = "SCANLOGIN_OTLP_HEADERS", value_name = "HEADERS", hide_env_values = true)]
    otlp_headers: Option<SecretString>,
    /// A file that holds SCANLOGIN_OTLP_HEADERS.
    #[arg(long, env = "SCANLOGIN_OTLP_HEADERS_FILE", value_name = "FILE")]
    otlp_headers_file: Option<PathBuf>,
    /// How many of the traces that begin here are recorded, from 0 to 1. Whoever calls with a traceparent decides for theirs.
    #[arg(long, env = "SCANLOGIN_TRACES_RATIO", value_name = "RATIO", default_value_t = 1.0, value_parser = ratio)]
    traces_ratio: f64,
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
    /// Where they say it.
    pub forwarded_header: ForwardedHeader,
    /// Where addresses are.
    pub places: Option<Places>,
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
    /// What signs id_tokens; drawn by this process where there is none.
    pub signing_keys: Option<SigningKeys>,
    /// The sites.
    pub clients: Vec<Client>,
    /// Whether the demo site is the only one.
    pub demo: bool,
    /// How long a scene may be scanned and confirmed.
    pub scene_ttl: Duration,
    /// How often a silent stream carries a comment.
    pub heartbeat: Duration,
    /// How long everything is still served after SIGTERM.
    pub drain_delay: Duration,
    /// Of all replicas.
    pub limits: Counts,
    /// Whether only what WeChat counts is limited.
    pub limits_off: bool,
    /// Of this replica.
    pub streams: StreamLimits,
    /// Of one address, to this replica.
    pub connections_per_address: usize,
    /// How sites' servers are told.
    pub webhooks: WebhookSettings,
    /// Where it is written down who logged in, if anywhere.
    pub audit: Option<AuditSettings>,
    /// Where traces go, if anywhere.
    pub traces: Option<TraceSettings>,
    /// Whether the log is JSON.
    pub log_json: bool,
    /// What is unsafe in it, in words for the log.
    pub warnings: Vec<String>,
    /// The files that what can be read again is in.
    pub files: Vec<PathBuf>,
    /// What can't, by setting: a trace of each value, to tell whether it was changed.
    pub fixed: BTreeMap<String, u64>,
}

/// All settings, read once more, and the files that sites, Mini Programs and keys are in: of what is refused too, since to mend one of
/// them is to try again.
#[derive(Debug)]
pub struct Reading {
    /// As far as they are known: a settings file that is no TOML names none.
    pub files: Vec<PathBuf>,
    /// What they say.
    pub config: Result<Config, ConfigError>,
}

impl Config {
    /// Reads and checks everything.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Reading {
        match Cli::read(args) {
            Ok((cli, tables)) => Reading {
                files: cli.settings.read_again(&tables),
                config: cli.check(&tables),
            },
            Err(error) => Reading {
                files: Vec::new(),
                config: Err(error),
            },
        }
    }
}

/// Who answers as WeChat.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    // One line, whatever names and values stand in it.
    ConfigError::Wrong(text.into().replace(char::is_control, " "))
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

/// Settings of what is read again while the service runs.
const READ_AGAIN: [&str; 23] = [
    "client_id",
    "client_secret",
    "client_secret_file",
    "client_name",
    "client_redirect_uris",
    "client_origins",
    "client_number_matching",
    "client_entry_scenes",
    "client_short_codes",
    "client_webhook_url",
    "client_webhook_secret",
    "client_webhook_secret_file",
    "code_check_path",
    "code_env_version",
    "code_is_hyaline",
    "code_line_color",
    "code_page",
    "code_width",
    "pairwise_secret",
    "signing_keys_file",
    "wechat_appid",
    "wechat_secret",
    "wechat_secret_file",
];

/// A trace of the value of each setting that takes a restart.
fn traces(matches: &ArgMatches) -> BTreeMap<String, u64> {
    let ids = matches.ids().map(clap::Id::as_str);
    let fixed = ids.filter(|id| !READ_AGAIN.contains(id));
    let trace = |id: &str| {
        let mut hasher = DefaultHasher::new();
        for value in matches.try_get_raw(id).ok().flatten()? {
            value.hash(&mut hasher);
        }
        Some((id.to_owned(), hasher.finish()))
    };
    // What groups arguments has no value.
    fixed.filter_map(trace).collect()
}

impl Cli {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn check(self, tables: &file::Tables) -> Result<Config, ConfigError> {
        let config = self.settings.check(tables)?;
        Ok(Config {
            warnings: [self.warnings, config.warnings].concat(),
            fixed: self.fixed,
            ..config
        })
    }

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
        let matches = command.clone().try_get_matches_from(&args).map_err(one_line)?;
        let cli = Self {
            warnings: warnings::of_arguments(&command, &matches),
            fixed: traces(&matches),
            ..Self::from_arg_matches(&matches).map_err(one_line)?
        };
        Ok((cli, tables))
    }
}
