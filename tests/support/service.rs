//! The service as its operator runs it: a process with settings, a log, and addresses of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use reqwest::{Method, RequestBuilder, Url};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Log, Process, scanlogin, scanlogin_with, scanlogin_with_its_allocations_counted};
use super::redis::RedisServer;
use super::remains::{self, Written};
use super::reply::Reply;
use super::{canaries, eventually, temporary_directory};

/// A replica that is running. Dies with the test, which fails if a secret is in its metrics, in its log or in its audit log.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) http: reqwest::Client,
    /// Where it listens; requests go there.
    pub(crate) base: String,
    /// Where browsers are told that it is.
    pub(crate) public_url: String,
    pub(crate) ops: String,
    /// Looked at when the process has ended.
    _audit_log: Written,
    files: Arc<TempDir>,
    redis_url: Option<String>,
    simulator: Option<Arc<SimulatorProcess>>,
}

/// `scanlogin simulate`.
#[derive(Debug)]
struct SimulatorProcess {
    _process: Process,
    base: String,
}

/// Settings of a replica to start.
#[derive(Debug, Clone)]
pub(crate) struct ServiceBuilder {
    settings: Vec<(String, OsString)>,
    config: Option<String>,
    redis_url: Option<String>,
    simulator: Option<Arc<SimulatorProcess>>,
    /// How often the simulator misbehaves by itself, and from which seed.
    misbehaviour: (f64, u64),
    files: Arc<TempDir>,
    /// What is mounted over what.
    mounts: Vec<(PathBuf, PathBuf)>,
    /// Whether it says at its end how much memory it asked for.
    counts_allocations: bool,
    audit_log: Option<PathBuf>,
    /// A file that it writes to as its standard output.
    output: Option<PathBuf>,
}

impl Service {
    /// With the embedded store, the built-in simulator and the demo site.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn builder() -> ServiceBuilder {
        ServiceBuilder {
            settings: Vec::new(),
            config: None,
            redis_url: None,
            simulator: None,
            misbehaviour: (0.0, 1),
            files: Arc::new(temporary_directory()),
            mounts: Vec::new(),
            counts_allocations: false,
            audit_log: None,
            output: None,
        }
    }

    /// Another replica on the same Redis, with the same simulator and the same keys.
    pub(crate) fn replica(&self) -> ServiceBuilder {
        ServiceBuilder {
            settings: Vec::new(),
            config: None,
            redis_url: self.redis_url.clone(),
            simulator: self.simulator.clone(),
            misbehaviour: (0.0, 1),
            files: Arc::clone(&self.files),
            mounts: Vec::new(),
            counts_allocations: false,
            audit_log: None,
            output: None,
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.call(Method::POST, path).json(body)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Puts another settings file in the place of its own, as an editor or a mount does: whole, under the same name.
    pub(crate) fn rewrite_config(&self, text: &str) {
        if let Ok(file) = toml::from_str(text) {
            canaries::learn_from_settings(&file);
        }
        let path = self.files.path().join("scanlogin.toml");
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("the settings file");
        std::fs::rename(new, path).expect("the settings file");
    }

    pub(crate) fn log(&self) -> &Log {
        self.process.log()
    }

    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// The value of one metric, summed over the label sets that contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let series = self.series(name).await;
        series
            .iter()
            .filter(|(of, _)| of.contains(labels))
            .map(|(_, value)| value)
            .sum()
    }

    /// The series of this name, each by its labels.
    pub(crate) async fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let text = Reply::to(self.http.get(format!("{}/metrics", self.ops))).await.text();
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        });
        series.collect()
    }

    /// A request to the simulator's own calls, wherever it runs.
    pub(crate) fn simulator(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.simulator.as_ref().map_or(&self.base, |simulator| &simulator.base);
        self.http.request(method, format!("{base}/simulator/{path}"))
    }

    /// The next call(s) of WeChat misbehave so.
    pub(crate) async fn fault(&self, order: Value) {
        let reply = Reply::to(self.simulator(Method::POST, "faults").json(&order)).await;
        assert_eq!(reply.status, 204, "{order}: {}", reply.text());
    }

    /// How often WeChat was called so.
    pub(crate) async fn wechat_calls(&self, call: &str) -> usize {
        let calls = Reply::to(self.simulator(Method::GET, "calls")).await.json();
        let calls = calls.as_array().expect("a list");
        calls.iter().filter(|made| made["call"] == call).count()
    }

    /// A fresh `wx.login` code of this person's phone.
    pub(crate) async fn wx_code(&self, openid: &str) -> String {
        let asked = self.simulator(Method::POST, "login").json(&json!({ "openid": openid }));
        let given = Reply::to(asked).await.ok();
        let code = given["code"].as_str().expect("a code").to_owned();
        canaries::learn("a code of wx.login", &code);
        code
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        canaries::assert_none_in("the metrics", &remains::metrics(&self.ops));
    }
}

impl ServiceBuilder {
    /// One setting, named without `SCANLOGIN_`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that tests pass numbers and words alike"
    )]
    pub(crate) fn with(self, name: &str, value: impl ToString) -> Self {
        self.env(&format!("SCANLOGIN_{name}"), value.to_string())
    }

    /// How much is logged.
    pub(crate) fn rust_log(self, filter: &str) -> Self {
        self.env("RUST_LOG", filter)
    }

    /// A variable of its environment, whatever its name.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// The settings file.
    pub(crate) fn config_toml(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Where it looks for this file or directory of the system's it finds another. Nobody else does.
    pub(crate) fn in_place_of(mut self, systems: &str, other: &Path) -> Self {
        self.mounts.push((other.to_owned(), systems.into()));
        self
    }

    /// It says at its end how much memory it asked for, and takes its time.
    pub(crate) fn counting_allocations(mut self) -> Self {
        self.counts_allocations = true;
        self
    }

    /// In place of the one that it shares with its replicas.
    pub(crate) fn audit_log(mut self, path: &Path) -> Self {
        self.audit_log = Some(path.to_owned());
        self
    }

    /// Where its standard output goes.
    pub(crate) fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Where it writes down who logs in.
    fn audited_in(&self) -> PathBuf {
        let own = self.audit_log.clone().or_else(|| self.output.clone());
        own.unwrap_or_else(|| self.files.path().join("audit.log"))
    }

    /// On Redis, with a simulator and keys that its replicas will share.
    pub(crate) fn redis(self, redis: &RedisServer) -> Self {
        self.redis_url(&redis.url())
    }

    /// With a simulator that misbehaves by itself with this chance, the same way for the same seed.
    pub(crate) fn misbehaving(mut self, chance: f64, seed: u64) -> Self {
        self.misbehaviour = (chance, seed);
        self
    }

    /// As [`Self::redis`], for one that a link stands before.
    pub(crate) fn redis_url(mut self, url: &str) -> Self {
        self.redis_url = Some(url.to_owned());
        self
    }

    /// The process with these settings; a simulator and keys are made if they are wanted and not there yet.
    pub(crate) async fn command(&mut self) -> Command {
        let mut command = if self.counts_allocations {
            scanlogin_with_its_allocations_counted()
        } else {
            scanlogin_with(&self.mounts)
        };
        command
            .env("SCANLOGIN_LISTEN", "127.0.0.1:0")
            .env("SCANLOGIN_OPS_LISTEN", "127.0.0.1:0")
            .env("SCANLOGIN_DRAIN_DELAY", "0")
            // All come from one address, and some tests in crowds.
            .env("SCANLOGIN_LIMITS", "off")
            .env("SCANLOGIN_LIMIT_PICTURES", "1000000")
            .env("SCANLOGIN_LIMIT_CODE2SESSION", "1000000");
        let is_secret = |name: &str| ["SECRET", "PASSWORD", "KEY"].iter().any(|end| name.ends_with(end));
        for (name, value) in &self.settings {
            if let Some(secret) = value.to_str().filter(|_| is_secret(name)) {
                canaries::learn("a secret of the settings", secret);
            }
        }
        if let Some(text) = &self.config {
            // Some tests have files that can't be read.
            if let Ok(file) = toml::from_str(text) {
                canaries::learn_from_settings(&file);
            }
            let path = self.files.path().join("scanlogin.toml");
            std::fs::write(&path, text).expect("the settings file");
            command.env("SCANLOGIN_CONFIG", path);
        }
        if let Some(url) = &self.redis_url {
            if self.simulator.is_none() {
                self.simulator = Some(Arc::new(SimulatorProcess::start(self.misbehaviour).await));
            }
            let keys = self.files.path().join("keys.json");
            let made = scanlogin().args(["keys", "new", "--out"]).arg(&keys).output();
            assert!(made.expect("it runs").status.success(), "no signing keys");
            canaries::learn_from_keys(&keys);
            if let Some(password) = Url::parse(url).ok().as_ref().and_then(Url::password) {
                canaries::learn("a password of Redis", password);
            }
            command
                .env("SCANLOGIN_REDIS_URL", url)
                .env("SCANLOGIN_SIGNING_KEYS_FILE", keys);
        }
        if let Some(simulator) = &self.simulator {
            command
                .env("SCANLOGIN_WECHAT_API_BASE", &simulator.base)
                .env("SCANLOGIN_SIMULATOR", "true");
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The same, which writes down who logs in.
    async fn audited_command(&mut self) -> Command {
        let mut command = self.command().await;
        match &self.output {
            Some(_) => command.env("SCANLOGIN_AUDIT_LOG", "-"),
            None => command.env("SCANLOGIN_AUDIT_LOG", self.audited_in()),
        };
        if !self.settings.iter().any(|(name, _)| name == "SCANLOGIN_AUDIT_NAMES") {
            command.env("SCANLOGIN_AUDIT_NAMES", "plain");
        }
        command
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Service {
        let service = self.start_unready().await;
        eventually("the service is ready", || async {
            let ready = service.http.get(format!("{}/readyz", service.ops)).send().await;
            ready.ok().filter(|ready| ready.status().is_success())
        })
        .await;
        service
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start_unready(mut self) -> Service {
        let output = self.output.as_ref().map_or_else(Stdio::null, |path| {
            Stdio::from(File::create(path).expect("a file for the output"))
        });
        let mut process = Process::start_with_output_to(&mut self.audited_command().await, output);
        let log = process.log().clone();
        let line = eventually("a line `listening` in the log", || {
            let line = log.lines().into_iter().find(|line| line.contains("listening"));
            let ended = process.has_ended();
            assert!(line.is_some() || !ended, "ended at its start: {:?}", log.lines());
            async move { line }
        })
        .await;
        Service {
            base: format!("http://{}", field(&line, "listen")),
            public_url: field(&line, "public_url"),
            ops: format!("http://{}", field(&line, "ops_listen")),
            _audit_log: Written {
                what: "the audit log",
                path: self.audited_in(),
            },
            process,
            http: http_client(),
            files: self.files,
            redis_url: self.redis_url,
            simulator: self.simulator,
        }
    }

    /// Expects it to end by itself: its exit code, and what it wrote.
    pub(crate) async fn refused(mut self) -> (i32, String) {
        let mut process = Process::start(&mut self.audited_command().await);
        let (status, said) = process.said().await;
        (status.code().expect("an exit code"), said.join("\n"))
    }
}

impl SimulatorProcess {
    async fn start((chance, seed): (f64, u64)) -> Self {
        // The simulated phone's page, which alone forwards to the service, is not of these tests.
        let process = Process::start(scanlogin().args([
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--service-url",
            "http://127.0.0.1:9",
            "--fault-rate",
            &chance.to_string(),
            "--seed",
            &seed.to_string(),
        ]));
        let line = process.log().line_with(&["simulating WeChat"]).await;
        Self {
            base: format!("http://{}", field(&line, "addr")),
            _process: process,
        }
    }
}

/// One that shows redirects and goes through no proxy.
pub(crate) fn http_client() -> reqwest::Client {
    // An error means that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// A field of a log line, of either form.
fn field(line: &str, name: &str) -> String {
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        return fields[name].as_str().expect("a string").to_owned();
    }
    let (_, rest) = line
        .split_once(&format!(" {name}="))
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    let value = rest.split(' ').next().unwrap_or_default();
    value.trim_matches('"').to_owned()
}
