//! What the operator sets, and what a wrong setting is answered: one line that says which, why, and what to write instead.

mod environment;
mod lines;
mod weak;

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use scanlogin::scene::s256;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{Process, scanlogin};
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Site, VERIFIER};
use crate::support::service::Service;

/// In the place of every secret.
const CANARY: &str = "canary-2f7c9a";

/// A start that must fail: arguments, environment, settings file, and what its one line must say.
struct Case(
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static [&'static str],
);

const ADDRESS: &str = "it must be an IP address and a port, such as 127.0.0.1:8080";
const REDIS: (&str, &str) = ("SCANLOGIN_REDIS_URL", "redis://127.0.0.1:1");
const CLASSIC: (&str, &str) = ("SCANLOGIN_WECHAT_TOKEN_MODE", "token");
const SIMULATED: (&str, &str) = ("SCANLOGIN_SIMULATOR", "true");
const API_BASE: (&str, &str) = ("SCANLOGIN_WECHAT_API_BASE", "http://127.0.0.1:1");

/// One value each that can't be used.
const VALUES: &[Case] = &[
    Case(
        &["--trusted-proxies", "0.0.0.0/0"],
        &[],
        "",
        &["SCANLOGIN_TRUSTED_PROXIES", "not everybody's"],
    ),
    Case(
        &["--trusted-proxies", "10.0.0.0/8,::/0"],
        &[],
        "",
        &["SCANLOGIN_TRUSTED_PROXIES", "not everybody's"],
    ),
    Case(
        &["--trusted-proxies", "0.0.0.0/1,128.0.0.0/1"],
        &[],
        "",
        &["SCANLOGIN_TRUSTED_PROXIES", "not everybody's"],
    ),
    Case(
        &["--forwarded-header", "x-real-ip"],
        &[],
        "",
        &["SCANLOGIN_FORWARDED_HEADER", "x-forwarded-for or forwarded"],
    ),
    Case(
        &["--limit-pictures", "0"],
        &[],
        "",
        &["SCANLOGIN_LIMIT_PICTURES", "such as 4000"],
    ),
    Case(
        &["--limit-scenes-per-address", "1000001"],
        &[],
        "",
        &["SCANLOGIN_LIMIT_SCENES_PER_ADDRESS", "from 1 to 1000000"],
    ),
    Case(
        &["--webhook-retries", "5,0"],
        &[],
        "",
        &["SCANLOGIN_WEBHOOK_RETRIES", "from 1 to 86400, such as 5"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_WEBHOOK_URL", "https://blog.example/canary-2f7c9a")],
        "",
        &["SCANLOGIN_CLIENT_WEBHOOK_SECRET is missing", "openssl rand -base64 32"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_WEBHOOK_SECRET", "canary-2f7c9a")],
        "",
        &["SCANLOGIN_CLIENT_WEBHOOK_URL", "such as https://blog.example/webhook"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nwebhook_url = \"http://blog.example/canary-2f7c9a\"\nwebhook_secret = \"x\"",
        &[
            "client blog: webhook_url must be https, or http on this machine",
            "such as https",
        ],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nwebhook_url = \"https://blog.example/\"\nwebhook_secret = \"whsec_canary-2f7c9a\"",
        &[
            "client blog: webhook_secret must be whsec_ and the base64 of 24 to 64 random bytes",
            "openssl rand -base64 32",
        ],
    ),
    Case(&["--limits", "maybe"], &[], "", &["SCANLOGIN_LIMITS", "on, off"]),
    Case(
        &["--audit-names", "none"],
        &[],
        "",
        &["SCANLOGIN_AUDIT_NAMES", "hashed, plain"],
    ),
    Case(
        &["--audit-log", "-"],
        &[],
        "",
        &[
            "SCANLOGIN_AUDIT_LOG needs SCANLOGIN_AUDIT_KEY",
            "`openssl rand -base64 32`",
            "or SCANLOGIN_AUDIT_NAMES=plain",
        ],
    ),
    Case(
        &["--audit-log", "-"],
        &[("SCANLOGIN_AUDIT_KEY", "canary-2f7c9a")],
        "",
        &["SCANLOGIN_AUDIT_KEY", "shorter than 32", "openssl rand"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_AUDIT_KEY", "canary-2f7c9a-0d4be18356canary77")],
        "",
        &["SCANLOGIN_AUDIT_KEY", "SCANLOGIN_AUDIT_LOG is missing"],
    ),
    Case(
        &["--audit-log", "-", "--audit-names", "plain"],
        &[("SCANLOGIN_AUDIT_KEY", "canary-2f7c9a-0d4be18356canary77")],
        "",
        &[
            "SCANLOGIN_AUDIT_KEY is for hashed names",
            "SCANLOGIN_AUDIT_NAMES is plain",
        ],
    ),
    Case(
        &["--audit-log", "-"],
        &[("SCANLOGIN_AUDIT_KEY_FILE", "/nowhere/key")],
        "",
        &["SCANLOGIN_AUDIT_KEY_FILE", "/nowhere/key can't be read"],
    ),
    Case(
        &["--audit-log", "/nowhere/audit.log", "--audit-names", "plain"],
        &[],
        "",
        &[
            "SCANLOGIN_AUDIT_LOG: /nowhere/audit.log can't be written",
            "a file that this user may append to, or - for standard output",
            "No such file or directory",
        ],
    ),
    Case(
        &["--audit-log", "/dev", "--audit-names", "plain"],
        &[],
        "",
        &["SCANLOGIN_AUDIT_LOG: /dev can't be written", "Is a directory"],
    ),
    Case(
        &["--client-redirect-uris", "https://*.blog.example/callback"],
        &[],
        "",
        &[
            "--client-redirect-uris (SCANLOGIN_CLIENT_REDIRECT_URIS)",
            "redirect_uris are matched exactly",
            "such as https://blog.example/callback",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_REDIRECT_URIS", "http://blog.example/callback")],
        "",
        &[
            "SCANLOGIN_CLIENT_REDIRECT_URIS",
            "must be https, or http on this machine",
        ],
    ),
    Case(
        &["--listen", "nonsense"],
        &[],
        "",
        &["--listen (SCANLOGIN_LISTEN)", "nonsense", ADDRESS],
    ),
    Case(
        &[],
        &[("SCANLOGIN_LISTEN", "localhost")],
        "",
        &["--listen (SCANLOGIN_LISTEN)", ADDRESS],
    ),
    Case(&["--listen"], &[], "", &["--listen (SCANLOGIN_LISTEN)", "missing"]),
    Case(
        &["--ops-listen", "1.2.3.4"],
        &[],
        "",
        &["SCANLOGIN_OPS_LISTEN", ADDRESS],
    ),
    Case(
        &["--public-url", "nope"],
        &[],
        "",
        &["SCANLOGIN_PUBLIC_URL", "such as https://login.example"],
    ),
    Case(
        &["--public-url", "https://a.example/path"],
        &[],
        "",
        &["SCANLOGIN_PUBLIC_URL", "no path", "such as https://login.example"],
    ),
    Case(
        &["--trusted-proxies", "10.0.0.0/99"],
        &[],
        "",
        &["SCANLOGIN_TRUSTED_PROXIES", "such as 10.0.0.0/8"],
    ),
    Case(
        &["--scene-ttl", "0"],
        &[],
        "",
        &["SCANLOGIN_SCENE_TTL", "from 1 to 900, such as 120"],
    ),
    Case(
        &["--scene-ttl", "901"],
        &[],
        "",
        &["SCANLOGIN_SCENE_TTL", "from 1 to 900, such as 120"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_SCENE_TTL", "abc")],
        "",
        &["SCANLOGIN_SCENE_TTL", "from 1 to 900, such as 120"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_SCENE_TTL", "")],
        "",
        &["SCANLOGIN_SCENE_TTL", "from 1 to 900, such as 120"],
    ),
    Case(
        &["--heartbeat", "0"],
        &[],
        "",
        &["SCANLOGIN_HEARTBEAT", "from 1 to 300, such as 15"],
    ),
    Case(
        &["--drain-delay=-1"],
        &[],
        "",
        &["SCANLOGIN_DRAIN_DELAY", "from 0 to 300, such as 3"],
    ),
    Case(
        &["--limit-streams", "0"],
        &[],
        "",
        &["SCANLOGIN_LIMIT_STREAMS", "such as 50000"],
    ),
    Case(
        &["--limit-connections-per-address", "0"],
        &[],
        "",
        &["SCANLOGIN_LIMIT_CONNECTIONS_PER_ADDRESS", "such as 2000"],
    ),
    Case(
        &["--code-width", "10"],
        &[],
        "",
        &["SCANLOGIN_CODE_WIDTH", "from 280 to 1280, such as 430"],
    ),
    Case(
        &["--code-pool", "many"],
        &[],
        "",
        &["SCANLOGIN_CODE_POOL", "from 0 to 1000, such as 20"],
    ),
    Case(
        &["--code-line-color", "red"],
        &[],
        "",
        &["SCANLOGIN_CODE_LINE_COLOR", "such as 07c160"],
    ),
    Case(
        &["--code-env-version", "prod"],
        &[],
        "",
        &["SCANLOGIN_CODE_ENV_VERSION", "release, trial or develop"],
    ),
    Case(&["--log", "xml"], &[], "", &["SCANLOGIN_LOG", "text, json"]),
    Case(
        &["--simulator", "maybe"],
        &[],
        "",
        &["SCANLOGIN_SIMULATOR", "true, false"],
    ),
    Case(
        &["--redis-wait", "2"],
        &[],
        "",
        &["SCANLOGIN_REDIS_WAIT", "`auto`, `0` or `1`"],
    ),
    Case(
        &["--wechat-api-base", "ftp://a.example"],
        &[],
        "",
        &["SCANLOGIN_WECHAT_API_BASE", "http:// or https://"],
    ),
    Case(
        &["--wechat-token-mode", "old"],
        &[],
        "",
        &["SCANLOGIN_WECHAT_TOKEN_MODE", "stable_token or token"],
    ),
    Case(
        &["--client-origins", "a.example"],
        &[],
        "",
        &["SCANLOGIN_CLIENT_ORIGINS", "such as https://login.example"],
    ),
    Case(
        &["--client-number-matching", "sometimes"],
        &[],
        "",
        &[
            "SCANLOGIN_CLIENT_NUMBER_MATCHING",
            "\"sometimes\"",
            "off, on or on_warning",
        ],
    ),
    Case(
        &["--client-entry-scenes", "1047"],
        &[],
        "",
        &[
            "SCANLOGIN_CLIENT_ENTRY_SCENES",
            "\"1047\" must be allow, warn or refuse; such as 1048=refuse",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ENTRY_SCENES", "1047=block")],
        "",
        &[
            "SCANLOGIN_CLIENT_ENTRY_SCENES",
            "\"1047\" must be allow, warn or refuse, and not \"block\"; such as",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ENTRY_SCENES", "camera=allow")],
        "",
        &[
            "SCANLOGIN_CLIENT_ENTRY_SCENES",
            "\"camera\" is neither one of WeChat's numbers",
            "such as 1048=refuse",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ENTRY_SCENES", "1047=allow,1047=warn")],
        "",
        &["SCANLOGIN_CLIENT_ENTRY_SCENES", "\"1047\" is there twice"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ENTRY_SCENES", "")],
        "",
        &["SCANLOGIN_CLIENT_ENTRY_SCENES", "such as 1048=refuse"],
    ),
    Case(&["--nonsense"], &[], "", &["--nonsense", "`scanlogin --help`"]),
    Case(&["nonsense"], &[], "", &["nonsense", "`scanlogin --help`"]),
    Case(&[], &[("RUST_LOG", "=%")], "", &["RUST_LOG", "such as info"]),
];

/// What can't be together, or not alone.
const TOGETHER: &[Case] = &[
    Case(
        &["--client-number-matching", "on"],
        &[],
        "[[client]]\nclient_id = \"blog\"",
        &["SCANLOGIN_CLIENT_NUMBER_MATCHING", "number_matching = \"on\""],
    ),
    Case(
        &[],
        &[
            ("SCANLOGIN_CLIENT_NAME", "My Shop"),
            ("SCANLOGIN_CLIENT_REDIRECT_URIS", "https://shop.example/callback"),
        ],
        "[[client]]\nclient_id = \"blog\"",
        &[
            "SCANLOGIN_CLIENT_NAME is of the client that settings alone describe",
            "[[client]]",
            "name = \"My Blog\"",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ID", "blog")],
        "[[client]]\nclient_id = \"blog\"",
        &["SCANLOGIN_CLIENT_ID", "[[client]]"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_SECRET_FILE", "/run/secrets/shop")],
        "[[client]]\nclient_id = \"blog\"",
        &["SCANLOGIN_CLIENT_SECRET_FILE", "client_secret_file = "],
    ),
    Case(
        &["--client-short-codes", "--client-entry-scenes", "typed=refuse"],
        &[],
        "",
        &[
            "SCANLOGIN_CLIENT_SHORT_CODES",
            "SCANLOGIN_CLIENT_ENTRY_SCENES",
            "refuses whoever typed one",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_ENTRY_SCENES", "other=refuse")],
        "[[client]]\nclient_id = \"blog\"",
        &["SCANLOGIN_CLIENT_ENTRY_SCENES", "[[client]]"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_LISTEN", "0.0.0.0:0")],
        "",
        &["SCANLOGIN_LISTEN is not on loopback", "SCANLOGIN_SIMULATOR=true"],
    ),
    Case(
        &["--listen", "[::]:0"],
        &[],
        "",
        &["SCANLOGIN_LISTEN is not on loopback", "SCANLOGIN_SIMULATOR=true"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_PUBLIC_URL", "https://login.example")],
        "",
        &[
            "SCANLOGIN_PUBLIC_URL",
            "SCANLOGIN_WECHAT_APPID",
            "SCANLOGIN_SIMULATOR=true",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_PUBLIC_URL", "http://192.0.2.1:8080")],
        "",
        &["SCANLOGIN_PUBLIC_URL", "SCANLOGIN_SIMULATOR=true"],
    ),
    Case(
        &[],
        &[REDIS],
        "",
        &[
            "SCANLOGIN_REDIS_URL",
            "`scanlogin simulate`",
            "SCANLOGIN_WECHAT_API_BASE",
        ],
    ),
    Case(
        &[],
        &[REDIS, SIMULATED, API_BASE],
        "",
        &["SCANLOGIN_SIGNING_KEYS_FILE", "`scanlogin keys new --out keys.json`"],
    ),
    Case(
        &[],
        &[REDIS, SIMULATED, API_BASE, CLASSIC],
        "",
        &[
            "SCANLOGIN_WECHAT_TOKEN_MODE=token",
            "stable_token",
            "SCANLOGIN_WECHAT_ALLOW_TOKEN_WITH_REDIS=true",
        ],
    ),
    // Acknowledged, it stops the start no longer; what does is the next thing missing.
    Case(
        &["--wechat-allow-token-with-redis"],
        &[REDIS, SIMULATED, API_BASE, CLASSIC],
        "",
        &["SCANLOGIN_SIGNING_KEYS_FILE is missing"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_WECHAT_API_FAIL_OVER", "https://wechat.example")],
        "",
        &["SCANLOGIN_WECHAT_API_FAIL_OVER", "SCANLOGIN_WECHAT_APPID"],
    ),
    Case(
        &[],
        &[
            ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef"),
            ("SCANLOGIN_WECHAT_SECRET", CANARY),
            ("SCANLOGIN_WECHAT_API_FAIL_OVER", "http://192.0.2.1"),
        ],
        "",
        &["SCANLOGIN_WECHAT_API_FAIL_OVER", "https, or http on loopback"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef")],
        "",
        &["SCANLOGIN_WECHAT_APPID", "SCANLOGIN_WECHAT_SECRET"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_WECHAT_SECRET", CANARY)],
        "",
        &[
            "SCANLOGIN_WECHAT_SECRET",
            "SCANLOGIN_WECHAT_APPID",
            "such as wx0123456789abcdef",
        ],
    ),
    Case(
        &[],
        &[
            ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef"),
            ("SCANLOGIN_WECHAT_SECRET", CANARY),
            ("SCANLOGIN_WECHAT_API_BASE", "http://192.0.2.1"),
        ],
        "",
        &[
            "SCANLOGIN_WECHAT_API_BASE",
            "https, or http on loopback",
            "SCANLOGIN_SIMULATOR=true",
        ],
    ),
    Case(
        &[],
        &[API_BASE],
        "",
        &["SCANLOGIN_WECHAT_API_BASE", "SCANLOGIN_WECHAT_APPID"],
    ),
    Case(
        &[],
        &[
            SIMULATED,
            ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef"),
            ("SCANLOGIN_WECHAT_SECRET", CANARY),
        ],
        "",
        &["SCANLOGIN_SIMULATOR=true contradicts", "SCANLOGIN_WECHAT_APPID"],
    ),
    Case(
        &[],
        &[
            ("SCANLOGIN_CLIENT_SECRET", CANARY),
            ("SCANLOGIN_CLIENT_SECRET_FILE", "/dev/null"),
        ],
        "",
        &["SCANLOGIN_CLIENT_SECRET and SCANLOGIN_CLIENT_SECRET_FILE"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_SECRET_FILE", "/dev/null")],
        "",
        &["SCANLOGIN_CLIENT_SECRET", "is empty"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_SECRET_FILE", "/nowhere/secret")],
        "",
        &["SCANLOGIN_CLIENT_SECRET_FILE", "/nowhere/secret can't be read"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_SIGNING_KEYS_FILE", "/nowhere/keys")],
        "",
        &["SCANLOGIN_SIGNING_KEYS_FILE", "/nowhere/keys can't be read"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_SIGNING_KEYS_FILE", "/dev/null")],
        "",
        &[
            "SCANLOGIN_SIGNING_KEYS_FILE",
            "/dev/null can't be used",
            "`scanlogin keys new`",
        ],
    ),
];

/// The settings file.
const FILES: &[Case] = &[
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\norigins = [\"null\"]",
        &["client blog: origins", "\"null\""],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\norigins = [\"https://blog.example/page\"]",
        &["client blog: origins", "no path"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"blog.example/callback\"]",
        &["client blog: redirect_uris", "such as https://blog.example/callback"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"http://blog.example/callback\"]",
        &["client blog: redirect_uris", "must be https, or http on this machine"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"javascript:alert(1)\"]",
        &["client blog: redirect_uris", "must be https"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"https://*.shop.example/callback\"]",
        &[
            "client blog: redirect_uris",
            "matched exactly, character by character: list each address",
        ],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"https://shop.example/*\"]",
        &["client blog: redirect_uris", "matched exactly"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"https://blog.example/#a\"]",
        &["client blog: redirect_uris", "no fragment"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nredirect_uris = [\"https://blog.example@evil.example/\"]",
        &["client blog: redirect_uris", "no user"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nlogo_url = \"data:image/png;base64,\"",
        &["client blog: logo_url", "must be https"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\navatar_hosts = [\"*.cn\"]",
        &["client blog: avatar_hosts", "such as *.qlogo.cn"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\navatar_hosts = [\"https://img.example\"]",
        &["client blog: avatar_hosts", "must be a host"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nnumber_matching = \"sometimes\"",
        &["SCANLOGIN_CONFIG", "`on_warning`"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nentry_scenes = { camera = \"allow\" }",
        &["client blog: entry_scenes", "\"camera\"", "1047"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nentry_scenes = { 1047 = \"block\" }",
        &["SCANLOGIN_CONFIG", "`block`", "`refuse`"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\norigins = \"https://blog.example\"",
        &["SCANLOGIN_CONFIG", "line 3: origins: it must be a list"],
    ),
    Case(
        &[],
        &[],
        "[client]\nclient_id = \"blog\"",
        &["SCANLOGIN_CONFIG", "line 1: it must be", "[[client]]"],
    ),
    Case(
        &[],
        &[],
        "scene_tll = 3",
        &[
            "SCANLOGIN_CONFIG",
            "scanlogin.toml",
            "\"scene_tll\" is no setting; did you mean \"scene_ttl\"?",
        ],
    ),
    Case(
        &[],
        &[],
        "log = \"json\"\nheartbeat = = 3",
        &["SCANLOGIN_CONFIG", "scanlogin.toml", "line 2"],
    ),
    Case(&[], &[], "scene_ttl = 0", &["SCANLOGIN_SCENE_TTL", "from 1 to 900"]),
    Case(
        &[],
        &[],
        "scene_ttl = 2026-08-31",
        &["SCANLOGIN_CONFIG", "\"scene_ttl\" must be a single value"],
    ),
    Case(
        &[],
        &[],
        "config = \"other.toml\"",
        &["SCANLOGIN_CONFIG", "\"config\" is no setting"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\n[[client]]\nclient_id = \"blog\"",
        &["line 4: two clients have the client_id \"blog\", the other in line 2; give each its own"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nid_token_signed_response_alg = \"HS256\"",
        &["SCANLOGIN_CONFIG", "line 3", "ES256", "RS256"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nsubject_type = \"pairwise\"\nredirect_uris = [\"https://blog.example/cb\"]",
        &["client blog", "SCANLOGIN_PAIRWISE_SECRET", "openssl rand"],
    ),
    Case(
        &[],
        &[(
            "SCANLOGIN_PAIRWISE_SECRET",
            "a-pairwise-secret-of-32-characters-or-more",
        )],
        "[[client]]\nclient_id = \"blog\"\nsubject_type = \"pairwise\"\nredirect_uris = [\"https://a.example/\", \"https://b.example/\"]",
        &["client blog", "2 hosts", "sector = \"blog.example\""],
    ),
    Case(
        &[],
        &[(
            "SCANLOGIN_PAIRWISE_SECRET",
            "a-pairwise-secret-of-32-characters-or-more",
        )],
        "[[client]]\nclient_id = \"blog\"\nsubject_type = \"pairwise\"\nsector = \"https://blog.example\"",
        &["client blog", "sector", "is no host"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nshort_codes = true\nentry_scenes = { typed = \"refuse\" }",
        &["client blog", "short_codes", "entry_scenes refuses whoever typed one"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CLIENT_SHORT_CODES", "true")],
        "[[client]]\nclient_id = \"blog\"",
        &["_SHORT_CODES", "[[client]]"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nenv_versions = [\"beta\"]",
        &["SCANLOGIN_CONFIG", "line 3", "release"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nsector = \"blog.example\"",
        &["client blog", "sector", "pairwise"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_PAIRWISE_SECRET", "canary-2f7c9a")],
        "",
        &["SCANLOGIN_PAIRWISE_SECRET", "shorter than 32", "openssl rand"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nnam = \"x\"",
        &["SCANLOGIN_CONFIG", "`nam`", "`name`"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nname = \"x\"",
        &["SCANLOGIN_CONFIG", "missing field `client_id`"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nclient_secret = \"canary-2f7c9a\"\nclient_secret_file = \"/dev/null\"",
        &["client blog: client_secret and client_secret_file are both set"],
    ),
    Case(
        &[],
        &[],
        "[[client]]\nclient_id = \"blog\"\nmini_program = \"wx1\"",
        &[
            "client blog: mini_program \"wx1\" is not configured",
            "[[mini_program]]",
        ],
    ),
    Case(
        &[],
        &[],
        "[[mini_program]]\nappid = \"wx1\"",
        &["mini_program wx1: secret is missing", "secret_file"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_CONFIG", "/nowhere/s.toml")],
        "",
        &["SCANLOGIN_CONFIG", "/nowhere/s.toml can't be read"],
    ),
];

/// The other commands.
const COMMANDS: &[Case] = &[
    Case(&["keys"], &[], "", &["`scanlogin keys new`"]),
    Case(&["keys", "new", "--alg", "XX"], &[], "", &["--alg", "ES256"]),
    Case(
        &["keys", "new", "--out", "/nowhere/keys.json"],
        &[],
        "",
        &["--out /nowhere/keys.json"],
    ),
    Case(&["simulate"], &[], "", &["--service-url", "missing"]),
    Case(
        &["simulate", "--service-url", "nope"],
        &[],
        "",
        &["--service-url", "such as http://127.0.0.1:8080"],
    ),
    Case(
        &["simulate", "--service-url", "http://127.0.0.1:1", "--listen", "nope"],
        &[],
        "",
        &["--listen nope", "such as 127.0.0.1:0"],
    ),
    Case(
        &[
            "simulate",
            "--service-url",
            "http://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--fault-rate",
            "2",
        ],
        &[],
        "",
        &["fault rate 2", "such as 0.05"],
    ),
    Case(
        &["simulate", "--service-url", "http://127.0.0.1:1", "--fault-rate", "x"],
        &[],
        "",
        &["--fault-rate (SCANLOGIN_SIMULATE_FAULT_RATE)", "\"x\""],
    ),
];

#[test]
fn a_wrong_value_stops_the_start_with_one_line_that_names_the_setting_and_an_example() {
    check(VALUES);
}

#[test]
fn settings_that_contradict_each_other_stop_the_start() {
    check(TOGETHER);
}

#[test]
fn a_wrong_settings_file_stops_the_start_and_is_named() {
    check(FILES);
}

/// What is no text, where there should be a secret: as it stands there, and as a number of another form would be told.
const NUMBERS: [&str; 6] = [
    "20770914",
    "2077.0914",
    "0x20770914",
    "20770914207709142077",
    "207709142077091420770914",
    "true",
];

#[test]
fn what_has_the_wrong_type_in_a_file_may_be_a_secret_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let others = [
        "2077-09-14",
        "[\"20770914\"]",
        "[20770914]",
        "{ \"20770914\" = 20770914 }",
    ];
    let tables = [
        ("[[client]]\nclient_id = \"blog\"\nclient_secret = ", "line 3"),
        ("[[mini_program]]\nappid = \"wx1\"\nsecret = ", "line 3"),
        ("client_secret = ", "\"client_secret\""),
        ("wechat_secret = ", "\"wechat_secret\""),
        ("redis_url = ", "\"redis_url\""),
        ("redis_sentinel_password = ", "\"redis_sentinel_password\""),
    ];
    let unlike_a_table = [
        ("client = ", "line 1"),
        ("mini_program = ", "line 1"),
        ("client = [", "line 1"),
    ];
    let texts = ["\"20770914\"", "20770914"].map(|text| format!("{text}]"));
    let wrong = NUMBERS.iter().chain(&others).map(|value| (*value).to_owned());
    let wrong = wrong.flat_map(|value| tables.map(|(before, words)| (format!("{before}{value}"), words)));
    let unlike = texts.iter().flat_map(|value| {
        unlike_a_table.map(|(before, words)| {
            let value = if before.ends_with('[') {
                value
            } else {
                value.trim_end_matches(']')
            };
            (format!("{before}{value}"), words)
        })
    });
    for (file, words) in wrong.chain(unlike) {
        let line = refused(stopped(&quiet(&dir, &file)));
        let (told, why) = line
            .split_once("scanlogin.toml: ")
            .unwrap_or_else(|| panic!("{file}: {line}"));
        assert!(
            told.contains("SCANLOGIN_CONFIG") && (why.contains(words) || why.contains("line 1: the number")),
            "{file}: {line}"
        );
        for value in ["20770914", "2077", "545720", "i64", "i128", "struct"] {
            assert!(!why.contains(value), "{file}: {line}");
        }
    }
    for keys in [
        "{\"keys\": \"20770914\"}",
        "{\"keys\": [{\"kty\": \"EC\",\n\"d\": 20770914}]}",
        "20770914",
    ] {
        let path = dir.path().join("keys.json");
        fs::write(&path, keys).unwrap();
        let line = refused(stopped(quiet(&dir, "").env("SCANLOGIN_SIGNING_KEYS_FILE", &path)));
        assert!(line.contains("see line") && !line.contains("2077"), "{keys}: {line}");
    }
}

#[test]
fn wrong_arguments_of_the_other_commands_are_one_line_too() {
    check(COMMANDS);
}

fn check(cases: &[Case]) {
    for Case(args, env, file, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut command = quiet(&dir, file);
        command.args(*args).envs(env.iter().copied());
        let line = refused(stopped(&command));
        for word in *words {
            assert!(
                line.contains(word),
                "{args:?} {env:?} {file:?}: {word:?} is not in {line:?}"
            );
        }
    }
}

/// What a start says that is to be stopped. One that goes on all the same is not waited for for ever.
fn stopped(command: &Command) -> Output {
    let mut bounded = Command::new("timeout");
    bounded.arg("30").arg(command.get_program()).args(command.get_args());
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    bounded.env_clear().envs(set).stdin(Stdio::null()).output().unwrap()
}

/// The program on ports of its own, which says nothing but errors.
fn quiet(dir: &TempDir, file: &str) -> Command {
    let mut command = scanlogin();
    command
        .env("SCANLOGIN_LISTEN", "127.0.0.1:0")
        .env("SCANLOGIN_OPS_LISTEN", "127.0.0.1:0")
        .env("RUST_LOG", "error")
        .stdin(Stdio::null());
    if !file.is_empty() {
        let path = dir.path().join("scanlogin.toml");
        fs::write(&path, file).unwrap();
        command.env("SCANLOGIN_CONFIG", path);
    }
    command
}

/// The one line of a start that failed.
fn refused(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.starts_with("scanlogin: ") && said.ends_with('\n'), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!said.contains(CANARY), "a secret was repeated: {said}");
    said
}

#[test]
fn a_port_that_is_taken_stops_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for setting in ["SCANLOGIN_LISTEN", "SCANLOGIN_OPS_LISTEN"] {
        let dir = tempfile::tempdir().unwrap();
        let line = refused(quiet(&dir, "").env(setting, &address).output().unwrap());
        for word in [setting, &address, "such as 127.0.0.1:", "in use"] {
            assert!(line.contains(word), "{word} is not in {line}");
        }
        assert!(!line.contains(&format!("such as {address}")), "{line}");
    }
    let mut simulate = scanlogin();
    simulate.args(["simulate", "--service-url", "http://127.0.0.1:1", "--listen", &address]);
    let line = refused(simulate.output().unwrap());
    for word in ["--listen", &address, "such as 127.0.0.1:0,", "in use"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
}

#[tokio::test]
async fn a_wrong_redis_password_ends_the_process_with_one_line_that_does_not_repeat_it() {
    let redis = RedisServer::start_with(&["--requirepass", "another"]);
    for url in [
        redis.url(),
        redis.url().replace("redis://", &format!("redis://:{CANARY}@")),
    ] {
        let service = Service::builder().redis_url(&url).rust_log("error");
        let (code, said) = service.refused().await;
        assert_eq!(code, 2, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("SCANLOGIN_REDIS_URL") && !said.contains(CANARY), "{said}");
    }
}

#[test]
fn a_redis_address_or_prefix_that_can_not_be_one_stops_the_start_and_repeats_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys_in(dir.path());
    let password = format!("redis://:{CANARY}@127.0.0.1:port");
    for (setting, value, words) in [
        ("SCANLOGIN_REDIS_URL", "nonsense", "an example: redis://"),
        ("SCANLOGIN_REDIS_URL", &password, "an example: redis://"),
        ("SCANLOGIN_REDIS_PREFIX", "a{b", "an example: scanlogin"),
        ("SCANLOGIN_REDIS_CA_FILE", "/nowhere/ca.pem", "/nowhere/ca.pem"),
    ] {
        let mut command = quiet(&dir, "");
        let redis = ("SCANLOGIN_REDIS_URL", "rediss://127.0.0.1:1");
        command
            .envs([redis, SIMULATED, API_BASE])
            .env("SCANLOGIN_SIGNING_KEYS_FILE", &keys);
        let line = refused(command.env(setting, value).output().unwrap());
        assert!(
            line.contains(setting) && line.contains(words),
            "{setting}={value}: {line}"
        );
    }
}

#[tokio::test]
async fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let service = Service::start().await;
    assert_eq!(service.public_url, service.base, "the default is the address bound");

    let dir = tempfile::tempdir().unwrap();
    let file = "public_url = \"http://127.0.0.1:1001\"";
    for (env, flag, wins) in [
        (None, None, 1001),
        (Some(1002), None, 1002),
        (Some(1002), Some(1003), 1003),
    ] {
        let mut command = quiet(&dir, file);
        command.env("RUST_LOG", "info");
        let url = |port| format!("http://127.0.0.1:{port}");
        if let Some(port) = env {
            command.env("SCANLOGIN_PUBLIC_URL", url(port));
        }
        if let Some(port) = flag {
            command.args(["--public-url", &url(port)]);
        }
        let process = Process::start(&mut command);
        let line = process.log().line_with(&["listening"]).await;
        assert!(line.contains(&url(wins)), "{line}");
    }
}

#[tokio::test]
async fn the_settings_file_names_sites_and_mini_programs() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), format!("{CANARY}\n")).unwrap();
    let secret = dir.path().join("secret").display().to_string();
    let toml = format!(
        "scene_ttl = 33\n\
         [[client]]\nclient_id = \"blog\"\nclient_secret_file = \"{secret}\"\nmini_program = \"wx1\"\n\
         [[client]]\nclient_id = \"shop\"\nmini_program = \"wx2\"\n\
         [[mini_program]]\nappid = \"wx1\"\nsecret = \"s1\"\n[[mini_program]]\nappid = \"wx2\"\nsecret_file = \"{secret}\"\n"
    );
    let service = Service::builder()
        .config_toml(&toml)
        .with("WECHAT_API_BASE", "http://127.0.0.1:1")
        .with("SIMULATOR", true)
        .start()
        .await;
    let started = Reply::to(service.post("/scenes", &serde_json::json!({ "client_id": "blog" }))).await;
    assert_eq!((started.status, &started.json()["expires_in"]), (201, &Value::from(33)));
    let unnamed = Reply::to(service.post("/scenes", &serde_json::json!({}))).await;
    unnamed.problem(400, "invalid_request");
    let unknown = Reply::to(service.post("/scenes", &serde_json::json!({ "client_id": "nobody" }))).await;
    unknown.problem(403, "unknown_client");
}

/// The example says all that the tables take, or a reader would not know of it.
#[tokio::test]
async fn the_settings_file_of_the_readme_starts_the_service() {
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name);
    let made = scanlogin()
        .args(["keys", "new", "--out"])
        .arg(at("signing-keys.json"))
        .output();
    assert!(made.unwrap().status.success());
    for (name, text) in [
        ("wechat", CANARY),
        ("site", CANARY),
        ("aBcDeFgHiJ.txt", "of WeChat's console"),
    ] {
        fs::write(at(name), text).unwrap();
    }
    // What stands there as a comment too.
    let whole = example.replace("# link_", "link_");
    let table: toml::Table = toml::from_str(&whole).unwrap();
    let keys = |name: &str| table[name][0].as_table().unwrap().len();
    assert!(keys("mini_program") >= 6 && keys("client") >= 14, "{table}");
    let directory = files.path().display().to_string();
    let here = whole
        .replace("/run/secrets", &directory)
        .replace("/etc/scanlogin", &directory);
    let service = Service::builder()
        .env(API_BASE.0, API_BASE.1)
        .env(SIMULATED.0, SIMULATED.1)
        .config_toml(&here);
    let service = service.start_unready().await;
    let start = json!({ "client_id": "site", "code_challenge": s256(VERIFIER), "env_version": "trial" });
    let started = Reply::to(service.post("/scenes", &start)).await;
    assert_eq!(started.status, 201, "{}", started.text());
    assert!(started.json()["short_code_url"].is_string());
}

/// What is in it is what a reader of the how-to has: sites of their own, and nothing of WeChat.
#[tokio::test]
async fn the_sites_of_the_how_to_are_tried_with_a_simulated_wechat() {
    let howto = include_str!("../../docs/howto.md");
    let (_, example) = howto
        .split_once("\n## Your own sites, with a simulated WeChat\n")
        .unwrap();
    let (_, example) = example.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let service = Service::builder().config_toml(example).start().await;
    service.log().line_with(&["WeChat is simulated in this process"]).await;
    for site in [Site::Basic("shop", "CLIENT-SECRET"), Site::Public("blog")] {
        let start = json!({ "client_id": site.client_id(), "code_challenge": s256(VERIFIER) });
        let browser = Browser::start_with(&service, start).await;
        let code = browser.code_of("alice", &service).await;
        let given = site
            .token(&service, &[("code", &code), ("code_verifier", VERIFIER)])
            .await;
        given.ok();
    }
}

#[test]
fn help_and_version_are_no_errors_and_show_no_secret() {
    let secrets = [
        "SCANLOGIN_REDIS_URL",
        "SCANLOGIN_REDIS_SENTINEL_PASSWORD",
        "SCANLOGIN_WECHAT_SECRET",
        "SCANLOGIN_CLIENT_SECRET",
        "SCANLOGIN_SIMULATE_SECRET",
    ];
    for args in [
        &["--help"][..],
        &["-h"],
        &["simulate", "--help"],
        &["keys", "new", "--help"],
        &["--version"],
    ] {
        let mut command = scanlogin();
        let output = command
            .args(args)
            .envs(secrets.map(|name| (name, CANARY)))
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!said.contains(CANARY), "{said}");
        assert!(said.contains("scanlogin") || args[0] == "keys", "{said}");
        if args == ["--help"] {
            for name in &secrets[..4] {
                assert!(said.contains(name), "{name} is not in the help");
            }
        }
    }
}

#[test]
fn new_keys_are_private_and_never_replace_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = keys_in(dir.path());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = fs::read(&path).unwrap();
    let again = |alg: &str| {
        let output = scanlogin().args(["keys", "new", "--alg", alg, "--out", &path]).output();
        let output = output.unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "an existing file stays as it is");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = again("ES256");
    assert_eq!(code, Some(0), "whoever makes keys at each start goes on");
    assert!(
        said.contains("exists already and is left as it is: no key was made"),
        "{said}"
    );
    let (code, said) = again("ES256,RS256");
    assert_eq!(code, Some(2));
    assert!(
        said.contains("holds no key for RS256: print one with `scanlogin keys new --alg RS256`"),
        "{said}"
    );

    let printed = scanlogin().args(["keys", "new"]).output().unwrap();
    assert!(printed.status.success() && printed.stderr.is_empty());
    let mut seen = HashSet::new();
    for set in [first, printed.stdout] {
        let set: Value = serde_json::from_slice(&set).unwrap();
        let key = &set["keys"][0];
        assert_eq!((&key["kty"], &key["crv"]), (&Value::from("EC"), &Value::from("P-256")));
        assert!(seen.insert(key["d"].as_str().expect("its private part").to_owned()));
        assert!(key["kid"].is_string());
    }
}

#[tokio::test]
async fn a_site_that_wants_rs256_needs_a_key_for_it_and_one_command_makes_both() {
    let dir = tempfile::tempdir().unwrap();
    let site = "[[client]]\nclient_id = \"blog\"\nid_token_signed_response_alg = \"RS256\"";
    let service = || Service::builder().config_toml(site);
    let es256 = keys_in(dir.path());
    let (code, said) = service().with("SIGNING_KEYS_FILE", es256).refused().await;
    assert_eq!(code, 2);
    for word in ["client blog", "RS256", "holds no key", "scanlogin keys new --alg RS256"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let both = scanlogin()
        .args(["keys", "new", "--alg", "ES256,RS256"])
        .output()
        .unwrap();
    let path = dir.path().join("both.json");
    fs::write(&path, both.stdout).unwrap();
    let service = service().with("SIGNING_KEYS_FILE", path.display()).start().await;
    let published = Reply::to(service.get("/jwks.json")).await.ok();
    let keys = published["keys"].as_array().unwrap().iter();
    assert_eq!(
        keys.map(|key| key["alg"].as_str().unwrap()).collect::<Vec<_>>(),
        ["ES256", "RS256"]
    );
}

fn keys_in(dir: &Path) -> String {
    let path = dir.join("keys.json").display().to_string();
    let made = scanlogin().args(["keys", "new", "--out", &path]).output().unwrap();
    assert!(made.status.success() && made.stdout.is_empty(), "{made:?}");
    path
}

/// All that is said until it listens.
async fn said_at_start(command: &mut Command) -> Vec<String> {
    let process = Process::start(command.env("RUST_LOG", "info"));
    process.log().line_with(&["listening"]).await;
    process.log().lines()
}

fn count(lines: &[String], words: &[&str]) -> usize {
    let has_all = |line: &&String| line.contains("WARN") && words.iter().all(|word| line.contains(word));
    lines.iter().filter(has_all).count()
}

#[tokio::test]
async fn a_secret_on_the_command_line_is_warned_about_and_not_repeated() {
    const WORDS: &str = "on the command line";
    let dir = tempfile::tempdir().unwrap();
    let redis = format!("redis://:{CANARY}@127.0.0.1:1");
    let secrets = [
        ("redis-url", &*redis),
        ("redis-sentinel-password", CANARY),
        ("wechat-secret", CANARY),
        ("client-secret", CANARY),
        ("audit-key", "canary-2f7c9a-0d4be18356canary77"),
    ];
    let twin = |name: &str| format!("SCANLOGIN_{}", name.to_uppercase().replace('-', "_"));
    let command = || {
        let mut command = quiet(&dir, "");
        command.envs([SIMULATED, API_BASE, ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef")]);
        command.env("SCANLOGIN_SIGNING_KEYS_FILE", keys_in(dir.path()));
        command
    };
    let mut by_flags = command();
    by_flags.env("SCANLOGIN_AUDIT_LOG", "-").args(
        secrets
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]),
    );
    let said = said_at_start(&mut by_flags).await;
    for (name, _) in secrets {
        let env = twin(name);
        assert_eq!(
            count(&said, &[WORDS, &format!("--{name} is"), &format!("{env}_FILE")]),
            1,
            "{said:#?}"
        );
    }
    assert!(!said.join("\n").contains(CANARY), "{said:#?}");

    let mut by_environment = command();
    by_environment.env("SCANLOGIN_AUDIT_LOG", "-");
    by_environment.envs(secrets.map(|(name, value)| (twin(name), value)));
    let said = said_at_start(&mut by_environment).await;
    assert_eq!(count(&said, &[WORDS]), 0, "{said:#?}");

    let mut no_secret = command();
    no_secret.env("SCANLOGIN_WECHAT_SECRET", CANARY);
    let said = said_at_start(no_secret.args(["--redis-url", "redis://127.0.0.1:1"])).await;
    assert_eq!(count(&said, &[WORDS]), 0, "{said:#?}");

    let mut simulator = scanlogin();
    simulator.args([
        "simulate",
        "--listen",
        "127.0.0.1:0",
        "--service-url",
        "http://127.0.0.1:9",
    ]);
    let process = Process::start(simulator.args(["--secret", CANARY]));
    let line = process.log().line_with(&["WARN", WORDS]).await;
    assert!(
        line.contains("SCANLOGIN_SIMULATE_SECRET") && !line.contains(CANARY),
        "{line}"
    );
}

#[tokio::test]
async fn a_secret_in_an_address_is_warned_about_once_by_its_name_alone() {
    const WORDS: [&str; 2] = ["WARN", "a secret into the address"];
    let service = Service::builder().rust_log("trace").start().await;
    let warnings = || {
        let lines = service.log().lines().into_iter();
        lines
            .filter(|line| WORDS.iter().all(|word| line.contains(word)))
            .collect::<Vec<_>>()
    };
    // What nobody has to do with, and what is no secret.
    for other in [
        "/?code=x",
        "/nothing?access_token=x",
        "/scenes/x?wait=1&after=code",
        "/scenes/x?state=x",
    ] {
        Reply::to(service.get(other)).await;
    }
    let mut told: Vec<String> = Vec::new();
    for (number, (path, names)) in [
        ("/scenes/x?wait=1&browser%5Fsecret=CANARY", &["browser_secret"][..]),
        ("/events/x?browser_secret=CANARY", &[]),
        ("/userinfo?access_token=CANARY", &["access_token"]),
        ("/token?code=CANARY&client_secret=CANARY", &["code", "client_secret"]),
        ("/scenes/x/confirm?code=CANARY&confirm_token=CANARY", &["confirm_token"]),
    ]
    .into_iter()
    .enumerate()
    {
        for _ in 0..3 {
            Reply::to(service.post(&path.replace("CANARY", CANARY), &serde_json::json!({}))).await;
        }
        let id = format!("after-{number}");
        Reply::to(service.get("/scenes/last").header("x-request-id", &id)).await;
        service.log().line_with(&[&id]).await;
        told.extend(names.iter().map(|name| format!("name=\"{name}\"")));
        let warnings = warnings();
        assert_eq!(warnings.len(), told.len(), "{path}: {warnings:#?}");
        for name in &told {
            assert_eq!(count(&warnings, &[name]), 1, "{path}: {warnings:#?}");
        }
    }
    assert!(!service.log().lines().join("\n").contains(CANARY));
}

/// A WeChat that is none of ours.
const REAL: [(&str, &str); 3] = [
    ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef"),
    ("SCANLOGIN_WECHAT_SECRET", "a-secret"),
    // Nobody is there, which is the worst that a test should do to the real one.
    API_BASE,
];

#[tokio::test]
async fn what_is_unsafe_but_may_be_meant_is_warned_about() {
    const REDIS_IN_THE_CLEAR: &[&str] = &["redis", "without TLS"];
    const PUBLIC_IN_THE_CLEAR: &[&str] = &["SCANLOGIN_PUBLIC_URL is http"];
    let dir = tempfile::tempdir().unwrap();
    let keys = keys_in(dir.path());
    for (name, value, words, warned) in [
        ("REDIS_URL", "redis://192.0.2.1:6379", REDIS_IN_THE_CLEAR, true),
        (
            "REDIS_URL",
            "redis-cluster://127.0.0.1:1?node=192.0.2.1:2",
            REDIS_IN_THE_CLEAR,
            true,
        ),
        ("REDIS_URL", "rediss://192.0.2.1:6379", REDIS_IN_THE_CLEAR, false),
        ("REDIS_URL", "redis://127.0.0.1:1", REDIS_IN_THE_CLEAR, false),
        ("REDIS_URL", "redis://localhost:1", REDIS_IN_THE_CLEAR, false),
        ("REDIS_URL", "redis://[::1]:1", REDIS_IN_THE_CLEAR, false),
        ("PUBLIC_URL", "http://login.example", PUBLIC_IN_THE_CLEAR, true),
        ("PUBLIC_URL", "https://login.example", PUBLIC_IN_THE_CLEAR, false),
        ("PUBLIC_URL", "http://127.0.0.1:8080", PUBLIC_IN_THE_CLEAR, false),
    ] {
        let mut command = quiet(&dir, "");
        command.envs(REAL).env("SCANLOGIN_SIGNING_KEYS_FILE", &keys);
        let said = said_at_start(command.env(format!("SCANLOGIN_{name}"), value)).await;
        assert_eq!(count(&said, words), usize::from(warned), "{value}: {said:#?}");
    }
    let mut simulated = quiet(&dir, "");
    simulated.envs([SIMULATED, ("SCANLOGIN_PUBLIC_URL", "http://login.example")]);
    assert_eq!(count(&said_at_start(&mut simulated).await, PUBLIC_IN_THE_CLEAR), 0);
}

#[tokio::test]
async fn a_file_of_secrets_that_others_can_read_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let keys = keys_in(dir.path());
    let (own, table) = (
        file("own", "a-pairwise-secret-of-32-characters-or-more"),
        file("table", "a-secret"),
    );
    let audit = file("audit", "an-audit-key-of-32-characters-or-more");
    let config = format!(
        "pairwise_secret_file = \"{own}\"\naudit_log = \"-\"\naudit_key_file = \"{audit}\"\n[[client]]\nclient_id = \"blog\"\nclient_secret = \"s3cret\"\n\
         [[mini_program]]\nappid = \"wx1\"\nsecret_file = \"{table}\"\n"
    );
    let mut command = quiet(&dir, &config);
    let config = dir.path().join("scanlogin.toml").display().to_string();
    command
        .envs([SIMULATED, API_BASE])
        .env("SCANLOGIN_SIGNING_KEYS_FILE", &keys);
    let files = [
        ("SCANLOGIN_SIGNING_KEYS_FILE", &keys),
        ("SCANLOGIN_PAIRWISE_SECRET_FILE", &own),
        ("SCANLOGIN_AUDIT_KEY_FILE", &audit),
        ("secret_file", &table),
        ("SCANLOGIN_CONFIG", &config),
    ];
    for (mode, who) in [
        (0o600, None),
        (0o400, None),
        (0o640, Some("its group")),
        (0o604, Some("everybody")),
        (0o644, Some("everybody")),
    ] {
        for (_, path) in files {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let said = said_at_start(&mut command).await;
        for (setting, path) in files {
            let words = [&format!("{setting}: {path} holds secrets"), who.unwrap_or_default()];
            assert_eq!(count(&said, &words), usize::from(who.is_some()), "{mode:o}: {said:#?}");
        }
    }
    // One without secrets may be read by anybody.
    let mut command = quiet(&dir, "scene_ttl = 60");
    assert_eq!(count(&said_at_start(&mut command).await, &["holds secrets"]), 0);
}

/// In a network of its own, where its addresses are free and nobody else listens.
#[tokio::test]
async fn t27_by_default_nobody_but_this_machine_reaches_a_listener() {
    for (given, public, ops) in [
        (None, "127.0.0.1:8080", "127.0.0.1:9090"),
        // Who opens the one has not opened the other.
        (Some("0.0.0.0:8080"), "0.0.0.0:8080", "127.0.0.1:9090"),
    ] {
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .envs([SIMULATED])
            .args(["--map-root-user", "--net", "sh", "-c"]);
        command.args(["ip link set lo up; exec \"$1\"", "sh", env!("CARGO_BIN_EXE_scanlogin")]);
        if let Some(address) = given {
            command.env("SCANLOGIN_LISTEN", address);
        }
        let process = Process::start(&mut command);
        let line = process.log().line_with(&["listening"]).await;
        assert!(line.contains(&format!(" listen={public} ops_listen={ops} ")), "{line}");
        // All that it listens on: the simulated WeChat too.
        let open: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
            .iter()
            .flat_map(|kind| open_sockets(&process, kind))
            .collect();
        assert_eq!(open.len(), 3, "{open:?}");
        let reached = open.iter().filter(|address| !address.starts_with("0100007F:"));
        assert_eq!(reached.collect::<Vec<_>>(), given.map(|_| "00000000:1F90").as_slice());
    }
}

/// The local addresses of sockets that wait for others, as the system writes them.
fn open_sockets(process: &Process, kind: &str) -> Vec<String> {
    const LISTENS: &str = "0A";
    let table = fs::read_to_string(format!("/proc/{}/net/{kind}", process.id())).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let waits = rows.filter(|row| row[3] == LISTENS || kind.starts_with("udp"));
    waits.map(|row| row[1].to_owned()).collect()
}

#[tokio::test]
async fn t17_a_simulator_runs_by_itself_only_where_this_machine_alone_reaches_it() {
    let elsewhere = [
        ("LISTEN", "0.0.0.0:0"),
        ("PUBLIC_URL", "https://login.example"),
        ("PUBLIC_URL", "http://login.example"),
    ];
    for (name, value) in elsewhere {
        let (code, said) = Service::builder().with(name, value).refused().await;
        assert_eq!((code, said.lines().count()), (2, 1), "{value}: {said}");
        assert!(said.contains("SCANLOGIN_SIMULATOR=true"), "{value}: {said}");
        let by_name = Service::builder()
            .with(name, value)
            .with("SIMULATOR", true)
            .start()
            .await;
        by_name.log().line_with(&["anybody can log in as anybody"]).await;
        assert!((by_name.metric("scanlogin_simulator", "").await - 1.0).abs() < f64::EPSILON);
    }
}
