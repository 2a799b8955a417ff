//! What no setting shows by itself: files, and settings that must fit each other.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::file::Tables;
use super::values::{collector, headers, web_address};
use super::warnings::{of_clients, of_file, of_links, of_redis, of_traces, of_wechat};
use super::{Config, ConfigError, SIMULATED, Settings, WeChat, wrong};
use crate::audit::{AuditSettings, Names};
use crate::http::{Places, PublicUrl};
use crate::hub::StreamLimits;
use crate::limits::Counts;
use crate::login::entry::{EntryScenes, Verdict, Way};
use crate::login::{Client, Subject, WebhookSettings};
use crate::oidc::{Algorithm, SigningKeys};
use crate::store::redis::RedisSettings;
use crate::telemetry::TraceSettings;
use crate::webhook::Webhook;
use crate::wechat::MiniProgram;
use crate::wechat::access_token::TokenMode;
use crate::wechat::client::{API_BASE, CodeSettings, FAIL_OVER_BASE};

/// The least length of a secret that names of people are made with, in bytes.
const LONG_SECRET: usize = 32;

impl Settings {
    /// Checks everything together.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn check(self, tables: &Tables) -> Result<Config, ConfigError> {
        let redis = self.redis()?;
        self.check_token_mode(redis.is_some())?;
        let mut mini_programs = self.mini_programs(tables)?;
        let wechat = self.wechat(mini_programs.is_empty(), redis.is_some())?;
        let simulated = !matches!(&wechat, WeChat::Server { simulator: false, .. });
        if mini_programs.is_empty() {
            mini_programs.push(MiniProgram {
                appid: SIMULATED.to_owned(),
                name: None,
                secret: SIMULATED.into(),
                code: self.code(),
                link_prefix: None,
                link_file: None,
            });
        }
        let (clients, demo) = self.clients(tables, &mini_programs)?;
        let signing_keys = signing_keys(self.signing_keys_file.as_deref(), redis.is_some(), &clients, tables)?;
        let mut warnings = self.warnings(tables, simulated);
        warnings.extend(of_clients(&clients, simulated));
        warnings.extend(redis.iter().flat_map(of_redis).chain(of_wechat(&wechat)));
        let limits = self.counts();
        let connections_per_address = self.connections_per_address();
        let files = self.read_again(tables);
        let (webhooks, audit, traces) = (self.webhooks(), self.audit()?, self.traces(&mut warnings)?);
        warnings.extend(of_links(&mini_programs, self.public_url.as_ref()));
        Ok(Config {
            listen: self.listen,
            ops_listen: self.ops_listen,
            public_url: self.public_url,
            trusted_proxies: self.trusted_proxies,
            forwarded_header: self.forwarded_header,
            places: self.places_file.as_deref().map(places).transpose()?,
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
            limits,
            limits_off: self.limits == "off",
            streams: StreamLimits {
                total: count(self.limit_streams),
                per_address: count(self.limit_streams_per_address),
                per_scene: count(self.limit_streams_per_scene),
            },
            connections_per_address,
            webhooks,
            audit,
            traces,
            log_json: self.log == "json",
            warnings,
            files,
            fixed: BTreeMap::new(),
        })
    }

    /// Where a service with these settings reaches its own ops listener.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn own_ops_address(&self) -> Result<SocketAddr, ConfigError> {
        let mut own = self.ops_listen;
        if own.port() == 0 {
            return Err(wrong(
                "SCANLOGIN_OPS_LISTEN leaves the port open, so that it can't be known from here; give one, such as 127.0.0.1:9090",
            ));
        }
        match own.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => own.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => own.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Ok(own)
    }

    fn check_token_mode(&self, with_redis: bool) -> Result<(), ConfigError> {
        if with_redis && self.wechat_token_mode == TokenMode::Classic && !self.wechat_allow_token_with_redis {
            return Err(wrong(
                "SCANLOGIN_WECHAT_TOKEN_MODE=token with Redis: replicas that fetch at the same time end each other's access_token. \
                 Use stable_token, or accept that with SCANLOGIN_WECHAT_ALLOW_TOKEN_WITH_REDIS=true",
            ));
        }
        Ok(())
    }

    /// The files of what is read again.
    pub(super) fn read_again(&self, tables: &Tables) -> Vec<PathBuf> {
        let own = [
            &self.config,
            &self.client_secret_file,
            &self.client_webhook_secret_file,
            &self.signing_keys_file,
            &self.pairwise_secret_file,
            &self.wechat_secret_file,
        ];
        let own = own.into_iter().flatten().cloned();
        own.chain(tables.secret_files().map(|(_, path)| path.to_owned()))
            .chain(tables.plain_files().map(Path::to_owned))
            .collect()
    }

    fn traces(&self, warnings: &mut Vec<String>) -> Result<Option<TraceSettings>, ConfigError> {
        let setting = "SCANLOGIN_OTLP_HEADERS";
        let given = secret(self.otlp_headers.as_ref(), self.otlp_headers_file.as_deref(), setting)?;
        let Some(endpoint) = &self.otlp_endpoint else {
            return match given {
                Some(_) => Err(wrong(format!(
                    "{setting} is set, but not SCANLOGIN_OTLP_ENDPOINT, such as http://127.0.0.1:4318"
                ))),
                None => Ok(None),
            };
        };
        let headers = given.map(|given| headers(given.expose_secret())).transpose();
        let settings = TraceSettings {
            // What is wrong is not repeated: a password may stand in it.
            endpoint: collector(endpoint).map_err(|problem| wrong(format!("SCANLOGIN_OTLP_ENDPOINT: {problem}")))?,
            headers: headers
                .map_err(|problem| wrong(format!("{setting}: {problem}")))?
                .unwrap_or_default(),
            ratio: self.traces_ratio,
        };
        warnings.extend(of_traces(&settings));
        Ok(Some(settings))
    }

    fn webhooks(&self) -> WebhookSettings {
        WebhookSettings {
            retries: self.webhook_retries.iter().copied().map(Duration::from_secs).collect(),
            timeout: Duration::from_secs(self.webhook_timeout),
            waiting_max: count(self.limit_webhooks),
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            scenes_per_address: self.limit_scenes_per_address,
            scenes_per_client: self.limit_scenes_per_client,
            unknown_per_address: self.limit_unknown_per_address,
            scans_per_address: self.limit_scans_per_address,
            scans_per_scene: self.limit_scans_per_scene,
            failed_redemptions: self.limit_failed_redemptions,
            short_codes_per_address: self.limit_short_codes_per_address,
            wrong_short_codes: self.limit_wrong_short_codes,
            pictures: self.limit_pictures,
            code2session: self.limit_code2session,
            token_calls: self.limit_token_calls,
            force_refreshes: self.limit_force_refreshes,
        }
    }

    /// Enough for the streams of an address, and for all that its people ask besides.
    fn connections_per_address(&self) -> usize {
        let enough = || self.limit_streams_per_address.saturating_mul(2).max(2_000);
        count(self.limit_connections_per_address.unwrap_or_else(enough))
    }

    /// What is unsafe, and does not stop the start.
    fn warnings(&self, tables: &Tables, simulated: bool) -> Vec<String> {
        let own = [
            ("SCANLOGIN_REDIS_URL_FILE", &self.redis_url_file),
            (
                "SCANLOGIN_REDIS_SENTINEL_PASSWORD_FILE",
                &self.redis_sentinel_password_file,
            ),
            ("SCANLOGIN_WECHAT_SECRET_FILE", &self.wechat_secret_file),
            ("SCANLOGIN_CLIENT_SECRET_FILE", &self.client_secret_file),
            ("SCANLOGIN_CLIENT_WEBHOOK_SECRET_FILE", &self.client_webhook_secret_file),
            ("SCANLOGIN_SIGNING_KEYS_FILE", &self.signing_keys_file),
            ("SCANLOGIN_PAIRWISE_SECRET_FILE", &self.pairwise_secret_file),
            ("SCANLOGIN_AUDIT_KEY_FILE", &self.audit_key_file),
            ("SCANLOGIN_OTLP_HEADERS_FILE", &self.otlp_headers_file),
        ];
        let own = own
            .into_iter()
            .filter_map(|(setting, path)| Some((setting, path.as_deref()?)));
        let config = self.config.as_deref().filter(|_| tables.hold_secret());
        let files = own
            .chain(config.map(|path| ("SCANLOGIN_CONFIG", path)))
            .chain(tables.secret_files());
        let mut warnings: Vec<String> = files.filter_map(|(setting, path)| of_file(path, setting)).collect();
        if let Some(url) = &self.public_url
            && !(simulated || url.is_https() || url.is_loopback())
        {
            warnings.push(
                "SCANLOGIN_PUBLIC_URL is http: whoever is on the way can take over every login. Let a proxy speak https, and say so here"
                    .to_owned(),
            );
        }
        if !self.ops_listen.ip().is_loopback() {
            warnings.push(format!(
                "SCANLOGIN_OPS_LISTEN is {}, which is not on loopback: whoever reaches it reads the metrics, and what is wrong here. \
                 Listen on 127.0.0.1, or let nobody but your probes and your metrics reach it",
                self.ops_listen
            ));
        }
        warnings
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

    fn mini_programs(&self, tables: &Tables) -> Result<Vec<MiniProgram>, ConfigError> {
        let code = self.code();
        let mut all = tables.mini_programs(&code)?;
        let (setting, twin) = ("SCANLOGIN_WECHAT_SECRET", "SCANLOGIN_WECHAT_APPID");
        let appsecret = secret(self.wechat_secret.as_ref(), self.wechat_secret_file.as_deref(), setting)?;
        match (self.wechat_appid.clone(), appsecret) {
            (Some(appid), Some(secret)) => all.push(MiniProgram {
                appid,
                name: None,
                secret,
                code,
                link_prefix: None,
                link_file: None,
            }),
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
        if !self.simulator && !self.listen.ip().is_loopback() {
            return Err(wrong(
                "no Mini Program is configured, and SCANLOGIN_LISTEN is not on loopback: set SCANLOGIN_WECHAT_APPID and \
                 SCANLOGIN_WECHAT_SECRET, or say SCANLOGIN_SIMULATOR=true to let anybody log in as anybody",
            ));
        }
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
    fn clients(&self, tables: &Tables, programs: &[MiniProgram]) -> Result<(Vec<Client>, bool), ConfigError> {
        let mut clients = tables.clients(programs, self.pairwise()?.as_ref())?;
        let own = self.own_client(programs, clients.is_empty())?;
        let demo = own.as_ref().is_some_and(|(_, demo)| *demo);
        clients.extend(own.map(|(client, _)| client));
        Ok((clients, demo))
    }

    /// Whoever knows it can tell people of different sites to be the same.
    fn pairwise(&self) -> Result<Option<SecretString>, ConfigError> {
        let file = self.pairwise_secret_file.as_deref();
        long_secret(self.pairwise_secret.as_ref(), file, "SCANLOGIN_PAIRWISE_SECRET")
    }

    fn audit(&self) -> Result<Option<AuditSettings>, ConfigError> {
        let file = self.audit_key_file.as_deref();
        let key = long_secret(self.audit_key.as_ref(), file, "SCANLOGIN_AUDIT_KEY")?;
        let Some(path) = &self.audit_log else {
            // Whoever made a key counts on what is made with it.
            return if key.is_none() {
                Ok(None)
            } else {
                Err(wrong(
                    "SCANLOGIN_AUDIT_KEY is for an audit log, and SCANLOGIN_AUDIT_LOG is missing: a file, or - for standard output",
                ))
            };
        };
        let names = match (&*self.audit_names, key) {
            ("plain", None) => Names::Plain,
            // As above.
            ("plain", Some(_)) => {
                return Err(wrong(
                    "SCANLOGIN_AUDIT_KEY is for hashed names, and SCANLOGIN_AUDIT_NAMES is plain: take one of them away",
                ));
            }
            (_, Some(key)) => Names::hashed(&key),
            (_, None) => {
                return Err(wrong(
                    "SCANLOGIN_AUDIT_LOG needs SCANLOGIN_AUDIT_KEY, which people's names in it are made with, such as `openssl rand -base64 32` \
                     makes; or SCANLOGIN_AUDIT_NAMES=plain, and they are called by their openid",
                ));
            }
        };
        let file = (path.as_os_str() != "-").then(|| path.clone());
        Ok(Some(AuditSettings { file, names }))
    }

    /// The one client that settings alone describe; or, where there is no other, the demo site.
    fn own_client(&self, programs: &[MiniProgram], alone: bool) -> Result<Option<(Client, bool)>, ConfigError> {
        if !alone {
            return self.check_own_client_left_out().map(|()| None);
        }
        let setting = "SCANLOGIN_CLIENT_SECRET";
        let client_secret = secret(self.client_secret.as_ref(), self.client_secret_file.as_deref(), setting)?;
        let webhook = self.own_webhook()?;
        let named = client_secret.is_some() || self.client_name.is_some() || webhook.is_some();
        let described = named || !self.client_redirect_uris.is_empty() || !self.client_origins.is_empty();
        let mini_program = only(programs).ok_or_else(|| {
            wrong("several Mini Programs are configured: clients must be [[client]] tables that name theirs in mini_program")
        })?;
        let (id, name) = if described {
            let id = self.client_id.as_deref().unwrap_or("default");
            (id, id)
        } else {
            ("demo", "scanlogin demo")
        };
        let entry_scenes = self.client_entry_scenes.clone().unwrap_or_default();
        let short_codes = self.client_short_codes.unwrap_or(!described);
        if self.client_short_codes.is_some() && refuses_typed(short_codes, &entry_scenes) {
            return Err(wrong(format!(
                "SCANLOGIN_CLIENT_SHORT_CODES {TYPED_IS_REFUSED} (it is SCANLOGIN_CLIENT_ENTRY_SCENES)"
            )));
        }
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
            avatar_hosts: super::file::avatar_hosts(),
            entry_scenes,
            number_matching: self.client_number_matching.unwrap_or_default(),
            short_codes,
            env_versions: Vec::new(),
            subject: Subject::Public,
            id_token_alg: Algorithm::default(),
            webhook,
        };
        Ok(Some((client, !described)))
    }

    fn own_webhook(&self) -> Result<Option<Webhook>, ConfigError> {
        let (url, setting) = ("SCANLOGIN_CLIENT_WEBHOOK_URL", "SCANLOGIN_CLIENT_WEBHOOK_SECRET");
        let file = self.client_webhook_secret_file.as_deref();
        let secret = secret(self.client_webhook_secret.as_ref(), file, setting)?;
        webhook(self.client_webhook_url.as_ref(), secret.as_ref(), url, setting).map_err(|(_, error)| error)
    }

    /// Nothing that was set is left out without a word, and nobody gets a site more than they wrote down.
    fn check_own_client_left_out(&self) -> Result<(), ConfigError> {
        let set = [
            ("ID", "client_id = \"blog\"", self.client_id.is_some()),
            ("SECRET", "client_secret = \"…\"", self.client_secret.is_some()),
            (
                "SECRET_FILE",
                "client_secret_file = \"/run/secrets/blog\"",
                self.client_secret_file.is_some(),
            ),
            ("NAME", "name = \"My Blog\"", self.client_name.is_some()),
            (
                "REDIRECT_URIS",
                "redirect_uris = [\"https://blog.example/callback\"]",
                !self.client_redirect_uris.is_empty(),
            ),
            (
                "ORIGINS",
                "origins = [\"https://blog.example\"]",
                !self.client_origins.is_empty(),
            ),
            (
                "NUMBER_MATCHING",
                "number_matching = \"on\"",
                self.client_number_matching.is_some(),
            ),
            (
                "ENTRY_SCENES",
                "entry_scenes = { 1048 = \"refuse\" }",
                self.client_entry_scenes.is_some(),
            ),
            ("SHORT_CODES", "short_codes = true", self.client_short_codes.is_some()),
            (
                "WEBHOOK_URL",
                "webhook_url = \"https://blog.example/webhook\"",
                self.client_webhook_url.is_some(),
            ),
            (
                "WEBHOOK_SECRET",
                "webhook_secret = \"whsec_…\"",
                self.client_webhook_secret.is_some(),
            ),
            (
                "WEBHOOK_SECRET_FILE",
                "webhook_secret_file = \"/run/secrets/webhook\"",
                self.client_webhook_secret_file.is_some(),
            ),
        ];
        match set.into_iter().find(|(_, _, is_set)| *is_set) {
            None => Ok(()),
            Some((setting, such_as, _)) => Err(wrong(format!(
                "SCANLOGIN_CLIENT_{setting} is of the client that settings alone describe, and there are [[client]] tables: write what it \
                 says into the table of its site, such as {such_as}, and leave it out"
            ))),
        }
    }
}

/// What is wrong where [`refuses_typed`].
pub(super) const TYPED_IS_REFUSED: &str =
    "shows codes to type, and entry_scenes refuses whoever typed one; take one of them out";

/// Whether people are shown codes with which they would be turned away.
pub(super) fn refuses_typed(short_codes: bool, entry_scenes: &EntryScenes) -> bool {
    short_codes && entry_scenes.verdict(Way::Typed) == Verdict::Refuse
}

fn places(file: &Path) -> Result<Places, ConfigError> {
    Places::open(file).map_err(|error| {
        wrong(format!(
            "SCANLOGIN_PLACES_FILE: {} can't be used: {error}; it must be a MaxMind DB of cities or countries, such as GeoLite2-City.mmdb",
            file.display()
        ))
    })
}

fn signing_keys(
    file: Option<&Path>,
    redis: bool,
    clients: &[Client],
    tables: &Tables,
) -> Result<Option<SigningKeys>, ConfigError> {
    let setting = "SCANLOGIN_SIGNING_KEYS_FILE";
    match file {
        Some(path) => {
            let text = read_file(path, setting)?;
            let keys = SigningKeys::parse(&text).map_err(|error| {
                wrong(format!(
                    "{setting}: {} can't be used: {error}; `scanlogin keys new` makes one",
                    path.display()
                ))
            })?;
            let algorithms = keys.algorithms();
            if let Some(client) = clients.iter().find(|client| !algorithms.contains(&client.id_token_alg)) {
                let (id, alg) = (&client.client_id, client.id_token_alg.as_str());
                let problem = format!(
                    "its id_tokens are to be signed with {alg}, and {setting}: {} holds no key for that; `scanlogin keys new --alg {alg}` \
                     makes one, to be put beside the others",
                    path.display()
                );
                let in_table = tables.wrong_of_client(id, "id_token_signed_response_alg", &problem);
                return Err(in_table.unwrap_or_else(|| wrong(format!("client {id}: {problem}"))));
            }
            Ok(Some(keys))
        }
        None if redis => Err(wrong(format!(
            "{setting} is missing: replicas on one Redis must sign alike. Make it once with `scanlogin keys new --out keys.json` \
             and give the same file to every replica"
        ))),
        None => Ok(None),
    }
}

/// Of which of the two settings of a webhook something is wrong.
pub(super) enum WebhookPart {
    /// Where it is.
    Url,
    /// What its messages are signed with.
    Secret,
}

/// Where a site's server is told, of settings that are called so. An address may hold a secret of the site's, and is not repeated.
pub(super) fn webhook(
    url: Option<&SecretString>,
    secret: Option<&SecretString>,
    url_setting: &str,
    secret_setting: &str,
) -> Result<Option<Webhook>, (WebhookPart, ConfigError)> {
    let make = "make one with `echo whsec_$(openssl rand -base64 32)`, and give it to the site too";
    let such_as = "such as https://blog.example/webhook";
    let wrong_url = |problem: String| (WebhookPart::Url, wrong(format!("{problem}; {such_as}")));
    let wrong_secret = |problem: String| (WebhookPart::Secret, wrong(format!("{problem}; {make}")));
    let (url, secret) = match (url, secret) {
        (Some(url), Some(secret)) => (url.expose_secret(), secret.expose_secret()),
        // Of what is there, as what is missing has no line.
        (Some(_), None) => {
            let problem = format!("{secret_setting} is missing: {make}");
            return Err((WebhookPart::Url, wrong(problem)));
        }
        (None, Some(_)) => {
            let problem = format!("{secret_setting} is set, but not {url_setting}, {such_as}");
            return Err((WebhookPart::Secret, wrong(problem)));
        }
        (None, None) => return Ok(None),
    };
    web_address(url).map_err(|problem| wrong_url(format!("{url_setting} {problem}")))?;
    let none = |_| wrong_url(format!("{url_setting} is no address"));
    let url = url.parse().map_err(none)?;
    let webhook = Webhook::new(url, secret);
    webhook
        .map(Some)
        .map_err(|problem| wrong_secret(format!("{secret_setting} {problem}")))
}

pub(super) fn only<T>(all: &[T]) -> Option<&T> {
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

/// One that names of people are made with: whoever finds it by trying knows who they are.
fn long_secret(
    value: Option<&SecretString>,
    file: Option<&Path>,
    setting: &str,
) -> Result<Option<SecretString>, ConfigError> {
    let secret = secret(value, file, setting)?;
    let is_short = |secret: &SecretString| secret.expose_secret().len() < LONG_SECRET;
    if secret.as_ref().is_some_and(is_short) {
        return Err(wrong(format!(
            "{setting} is shorter than {LONG_SECRET} characters, so that it could be guessed; such as `openssl rand -base64 32` makes"
        )));
    }
    Ok(secret)
}

pub(super) fn secret_of(
    value: Option<&SecretString>,
    file: Option<&Path>,
    setting: &str,
    in_file: &str,
) -> Result<Option<SecretString>, ConfigError> {
    let secret: SecretString = match (value, file) {
        (Some(_), Some(_)) => return Err(wrong(format!("{setting} and {in_file} are both set; keep one"))),
        (Some(value), None) => value.clone(),
        (None, Some(path)) => return secret_in(path, in_file).map(Some),
        (None, None) => return Ok(None),
    };
    if secret.expose_secret().is_empty() {
        return Err(wrong(format!("{setting} is empty; leave it out or give it a value")));
    }
    Ok(Some(secret))
}

/// The only line of a file.
fn secret_in(path: &Path, setting: &str) -> Result<SecretString, ConfigError> {
    let text = read_file(path, setting)?;
    let problem = match text.trim() {
        "" => "is empty: it must hold the secret",
        secret if secret.contains(char::is_control) => "holds more than one line: it must hold the secret alone",
        secret => return Ok(secret.into()),
    };
    Err(wrong(format!("{setting}: {} {problem}", path.display())))
}

/// The text of a file that may hold secrets. What it is read into by others, such as TOML's values, is theirs to wipe.
pub(super) fn read_file(path: &Path, setting: &str) -> Result<Zeroizing<String>, ConfigError> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "give the path of a file that is there",
            ErrorKind::IsADirectory => "give the path of the file in it",
            ErrorKind::PermissionDenied => "let the user that this runs as read it",
            ErrorKind::InvalidData => "it must be text",
            _ => "give the path of another",
        };
        wrong(format!(
            "{setting}: {} can't be read: {error}; {remedy}",
            path.display()
        ))
    })
}

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
