//! `scanlogin doctor`: that it finds what is wrong, each thing once with its own words, and nothing where nothing is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scanlogin::doctor::Check;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::simulator::Wechat;
use crate::support::cli::{cli, cli_lines, cli_ok};
use crate::support::clock::WallClock;
use crate::support::guard::{SERVICE, certify};
use crate::support::nginx::{Gathers, Nginx};
use crate::support::node::Node;
use crate::support::process::scanlogin;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::service::{Service, ServiceBuilder};
use crate::support::shape::{Security, Shape, Topology};
use crate::support::stopwatch::Stopwatch;
use crate::support::{canaries, eventually, temporary_directory};

const APPID: &str = "wx0123456789abcdef";
/// A minute at most, and what a busy machine takes besides.
const WHOLE: Duration = Duration::from_secs(75);

/// The file of snapshots, or a directory where it should be.
const IN_THE_WAY: &str = "in-the-way.rdb";

/// A slot of a Cluster that is none of the 256.
const UNUSED_SLOT: u16 = 1;

/// Nothing stands in their way on one machine.
const OK_WHERE_ALL_IS_WELL: [&str; 22] = [
    "redis.shape",
    "redis.reached",
    "redis.version",
    "redis.rights",
    "redis.writes",
    "redis.eviction",
    "redis.persistence",
    "redis.clock",
    "wechat.reached",
    "wechat.clock",
    "wechat.stable_token",
    "wechat.kept_token",
    "wechat.getwxacodeunlimit",
    "wechat.jscode2session",
    "wechat.env_version",
    "public_url.reached",
    "public_url.service",
    "public_url.version",
    "public_url.keys",
    "public_url.stream",
    "public_url.heartbeat",
    "settings.signing_keys",
];

/// What it printed, and how it ended.
#[derive(Debug)]
struct Examined {
    status: i32,
    findings: Vec<Value>,
}

impl Examined {
    /// All of these settings.
    async fn by(command: Command) -> Self {
        Self::waiting(command, "0").await
    }

    async fn waiting(mut command: Command, seconds: &str) -> Self {
        command.args(["doctor", "--json", "--wait", seconds]);
        let took = Stopwatch::start();
        let (status, printed, said) = run(command).await;
        took.took_less_than(WHOLE);
        let printed: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("no JSON: {printed}{said}"));
        assert_eq!(printed["version"], env!("CARGO_PKG_VERSION"));
        let findings = printed["findings"].as_array().unwrap().clone();
        for finding in &findings {
            let fields: Vec<_> = finding.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, ["check", "fix", "message", "result", "subject"], "{finding}");
            let is_known = Check::ALL.iter().any(|check| finding["check"] == check.name());
            assert!(is_known, "{finding}");
            // What failed says what to do.
            assert!(finding["result"] != "failed" || finding["fix"].is_string(), "{finding}");
        }
        let examined = Self { status, findings };
        assert_eq!(status, i32::from(examined.count("failed") > 0), "{examined:#?}");
        examined
    }

    fn of<'a>(&'a self, check: &'a str) -> impl Iterator<Item = &'a Value> {
        self.findings.iter().filter(move |finding| finding["check"] == check)
    }

    fn count(&self, result: &str) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding["result"] == result)
            .count()
    }

    /// Each finding of this check is so, and there is one.
    #[track_caller]
    fn is(&self, check: &str, result: &str) {
        assert!(self.of(check).count() > 0, "no {check}: {self:#?}");
        assert!(
            self.of(check).all(|finding| finding["result"] == result),
            "{check}: {self:#?}"
        );
    }

    /// One finding of this check is so, and has all of these words.
    #[track_caller]
    fn says(&self, check: &str, result: &str, words: &[&str]) {
        let has_all = |finding: &Value| {
            let told = finding.to_string();
            finding["result"] == result && words.iter().all(|word| told.contains(word))
        };
        assert!(self.of(check).any(has_all), "{check} {result} {words:?}: {self:#?}");
    }
}

/// Its status, what it printed and what it said; no secret is in either.
async fn run(mut command: Command) -> (i32, String, String) {
    let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = ran.expect("the program starts");
    for printed in [&output.stdout, &output.stderr] {
        canaries::assert_none_in("what doctor prints", printed);
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Settings that nobody runs with, beside a simulated WeChat of their own.
struct Patient {
    wechat: Wechat,
    files: TempDir,
    settings: Vec<(String, String)>,
}

impl Patient {
    async fn new() -> Self {
        let wechat = Wechat::start_with(|_| {}).await;
        let base = wechat.call(Method::GET, "/").build().unwrap();
        let patient = Self {
            wechat,
            files: temporary_directory(),
            settings: Vec::new(),
        };
        let secret = "an-appsecret-of-these-tests-alone";
        canaries::learn("an AppSecret", secret);
        patient
            .with("LISTEN", "127.0.0.1:0")
            .with("WECHAT_API_BASE", &base.url().origin().ascii_serialization())
            .with("SIMULATOR", "true")
            .with("WECHAT_APPID", APPID)
            .with("WECHAT_SECRET", secret)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((format!("SCANLOGIN_{name}"), value.to_owned()));
        self
    }

    fn redis(self, url: &str) -> Self {
        let keys = self.files.path().join("keys.json");
        let made = scanlogin().args(["keys", "new", "--out"]).arg(&keys).output();
        assert!(made.unwrap().status.success());
        canaries::learn_from_keys(&keys);
        self.with("REDIS_URL", url)
            .with("SIGNING_KEYS_FILE", &keys.display().to_string())
    }

    fn command(&self) -> Command {
        let mut command = scanlogin();
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn examined(&self) -> Examined {
        Examined::by(self.command()).await
    }

    async fn fault(&self, order: Value) {
        let armed = self.wechat.call(Method::POST, "/simulator/faults").json(&order).send();
        assert_eq!(armed.await.unwrap().status(), 204, "{order}");
    }
}

#[tokio::test]
async fn where_all_is_well_nothing_fails_and_both_forms_say_the_same() {
    let redis = RedisServer::start_with(&["--appendonly", "yes"]);
    let addr = free_addr();
    let nginx = Nginx::start(&[addr]).await;
    let service = Service::builder().redis(&redis).with("LISTEN", addr);
    let service = service
        .with("PUBLIC_URL", nginx.base())
        .with("HEARTBEAT", 1)
        .start()
        .await;
    eventually("it has an access_token", || async {
        (service.wechat_calls("stable_token").await > 0).then_some(())
    })
    .await;
    let same = || service.replica().with("PUBLIC_URL", nginx.base()).with("HEARTBEAT", 1);
    let examined = Examined::waiting(same().command().await, "5").await;
    assert_eq!((examined.status, examined.count("failed")), (0, 0), "{examined:#?}");
    for check in OK_WHERE_ALL_IS_WELL {
        examined.is(check, "ok");
    }
    examined.says("settings.simulator", "warning", &["anybody can log in as anybody"]);
    examined.says("public_url.proxies", "skipped", &["phone's screen"]);
    // It gave up what it had started.
    for (name, step) in [
        ("scenes_created_total", ""),
        ("login_steps_total", "step=\"cancelled\""),
    ] {
        let counted = service.metric(&format!("scanlogin_{name}"), step).await;
        assert!(counted > 0.0, "{name}: {counted}");
    }

    says_the_same_to_people(&examined, same().command().await).await;
}

async fn says_the_same_to_people(examined: &Examined, mut command: Command) {
    command.args(["doctor", "--wait", "0"]);
    let (status, printed, said) = run(command).await;
    assert_eq!((status, said.as_str()), (0, ""), "{printed}");
    for finding in examined
        .findings
        .iter()
        .filter(|finding| finding["check"] != "public_url.heartbeat")
    {
        let check = finding["check"].as_str().unwrap();
        let (area, what) = check.split_once('.').unwrap();
        let result = finding["result"].as_str().unwrap();
        let is_line = |line: &str| line.trim_start().starts_with(result) && line.contains(&format!(" {what} "));
        assert!(printed.lines().any(|line| line == area), "{area}: {printed}");
        assert!(printed.lines().any(is_line), "{check} {result}: {printed}");
    }
    assert!(!printed.contains('\u{1b}'), "colours are for terminals: {printed}");
    assert!(printed.contains(" 0 failed, "), "{printed}");
}

#[tokio::test]
async fn settings_that_can_not_be_read_end_it_with_one_line_as_they_end_the_service() {
    for (name, value) in [
        ("REDIS_URL", "redis://127.0.0.1:6379"),
        ("HEARTBEAT", "often"),
        ("HEARTBEET", "15"),
    ] {
        let mut command = scanlogin();
        command
            .args(["doctor", "--json"])
            .env(format!("SCANLOGIN_{name}"), value);
        let (status, printed, said) = run(command).await;
        assert_eq!(
            (status, printed.as_str(), said.lines().count()),
            (2, "", 1),
            "{name}: {said}"
        );
        assert!(said.contains(name), "{said}");
    }
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_told_from_one_that_has_no_name() {
    let nowhere = free_addr();
    let patient = Patient::new().await.redis(&format!("redis://{nowhere}"));
    let examined = patient.examined().await;
    let at = nowhere.to_string();
    examined.says("redis.reached", "failed", &[&at, "there is no connection", "Start it"]);
    assert_eq!(examined.of("redis.version").count(), 0, "{examined:#?}");
    examined.is("wechat.stable_token", "ok");

    let examined = Patient::new()
        .await
        .redis("redis://redis.invalid:6379")
        .examined()
        .await;
    examined.says(
        "redis.reached",
        "failed",
        &["redis.invalid:6379", "its name is not known here"],
    );
}

#[tokio::test]
async fn a_redis_that_does_not_know_the_password_and_one_that_wants_one_say_so() {
    let redis = RedisServer::start_with(&["--requirepass", "the-right-password-of-this-redis"]);
    canaries::learn("a password of Redis", "a-wrong-password-of-this-redis");
    for url in [
        format!("redis://:a-wrong-password-of-this-redis@{}", redis.addr()),
        redis.url(),
    ] {
        let examined = Patient::new().await.redis(&url).examined().await;
        examined.says(
            "redis.reached",
            "failed",
            &["Correct user and password in SCANLOGIN_REDIS_URL"],
        );
    }
}

/// Which are read from docs/redis.md: so none of them is forgotten, and under all of them nothing is missing.
#[tokio::test]
async fn each_right_that_is_missing_is_named_and_nothing_is_left_in_redis() {
    let shape = Shape::start(Topology::Standalone, Security::Acl).await;
    let addr = shape.nodes()[0].addr();
    let patient = Patient::new().await.redis(&shape.url());
    let size = || cli(addr, &["DBSIZE"]);
    assert_eq!(size(), "0");
    patient.examined().await.is("redis.rights", "ok");
    for right in shape.commands() {
        cli_ok(addr, &["ACL", "SETUSER", SERVICE, &format!("-{right}")]);
        let examined = patient.examined().await;
        let goes_on = ["sunsubscribe", "client|info", "client|id"].contains(&&*right);
        let result = if goes_on { "warning" } else { "failed" };
        let rule = format!("ACL SETUSER {SERVICE} +{right}, ");
        examined.says("redis.rights", result, &[&rule]);
        assert_eq!(examined.of("redis.rights").count(), 1, "{right}: {examined:#?}");
        if right == "info" {
            examined.is("redis.version", "skipped");
        }
        cli_ok(addr, &["ACL", "SETUSER", SERVICE, &format!("+{right}")]);
    }
    cli_ok(addr, &["ACL", "SETUSER", SERVICE, "resetkeys", "~other:*"]);
    patient
        .examined()
        .await
        .says("redis.rights", "failed", &["~scanlogin:*"]);
    cli_ok(addr, &["ACL", "SETUSER", SERVICE, "~scanlogin:*", "resetchannels"]);
    patient
        .examined()
        .await
        .says("redis.rights", "failed", &["&scanlogin:*"]);
    cli_ok(addr, &["ACL", "SETUSER", SERVICE, "&scanlogin:*"]);
    patient.examined().await.is("redis.rights", "ok");
    assert_eq!(size(), "0");
}

#[tokio::test]
async fn a_redis_that_evicts_and_one_that_is_alone_with_nothing_on_disk() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let patient = Patient::new().await.redis(&redis.url());
    let examined = patient.examined().await;
    examined.says(
        "redis.eviction",
        "failed",
        &["allkeys-lru", "CONFIG SET maxmemory-policy noeviction"],
    );
    examined.says("redis.persistence", "warning", &["Set appendonly yes"]);
    cli_ok(redis.addr(), &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    cli_ok(redis.addr(), &["CONFIG", "SET", "appendonly", "yes"]);
    let examined = patient.examined().await;
    examined.is("redis.eviction", "ok");
    examined.is("redis.persistence", "ok");
}

/// In every case everything else about it is well.
#[tokio::test]
async fn a_redis_that_refuses_writes_is_told_with_why() {
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--dbfilename", IN_THE_WAY]);
    let addr = redis.addr();
    let patient = Patient::new().await.redis(&redis.url());
    patient.examined().await.is("redis.writes", "ok");

    cli_ok(addr, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let examined = patient.examined().await;
    examined.says("redis.writes", "failed", &["NOREPLICAS", "min-replicas-to-write"]);
    examined.is("redis.rights", "ok");
    cli_ok(addr, &["CONFIG", "SET", "min-replicas-to-write", "0"]);

    let used = |field: &str| -> u64 {
        let told = cli(addr, &["INFO", "memory"]);
        let line = told
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().parse().unwrap()
    };
    cli_ok(addr, &["CONFIG", "SET", "maxmemory", "1mb"]);
    let examined = patient.examined().await;
    examined.says("redis.writes", "failed", &["OOM", "raise maxmemory"]);
    examined.is("redis.eviction", "ok");
    let nearly = (used("used_memory") * 100 / 96).to_string();
    cli_ok(addr, &["CONFIG", "SET", "maxmemory", &nearly]);
    let examined = patient.examined().await;
    examined.says("redis.writes", "warning", &["% of its maxmemory is used"]);
    cli_ok(addr, &["CONFIG", "SET", "maxmemory", "0"]);

    let examined = snapshots_fail(addr, &patient).await;
    examined.says("redis.persistence", "failed", &["takes no writes until one succeeds"]);
    examined.says("redis.writes", "failed", &["MISCONF", "look at the disk"]);
    cli_ok(addr, &["CONFIG", "SET", "save", ""]);
    let examined = patient.examined().await;
    examined.is("redis.writes", "ok");
    examined.says("redis.persistence", "warning", &["its last snapshot failed"]);
    assert_eq!(examined.status, 0, "{examined:#?}");
}

/// Where a snapshot can't be put, with a point at which one is to be made.
async fn snapshots_fail(addr: SocketAddr, patient: &Patient) -> Examined {
    let dir = cli(addr, &["CONFIG", "GET", "dir"]);
    std::fs::create_dir(Path::new(dir.lines().last().unwrap()).join(IN_THE_WAY)).unwrap();
    cli_ok(addr, &["CONFIG", "SET", "save", "3600 1"]);
    eventually("it could not be saved", || async {
        cli(addr, &["BGSAVE"]);
        let told = cli(addr, &["INFO", "persistence"]);
        told.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    patient.examined().await
}

#[tokio::test]
async fn a_cluster_that_stopped_takes_no_writes() {
    let shape = Shape::start(Topology::Cluster, Security::Plain).await;
    let patient = Patient::new().await.redis(&shape.url());
    let examined = patient.examined().await;
    examined.is("redis.writes", "ok");
    assert_eq!(examined.of("redis.writes").count(), 3, "{examined:#?}");
    for node in shape.nodes() {
        node.cli_ok(&["CONFIG", "SET", "min-replicas-to-write", "9"]);
    }
    let examined = patient.examined().await;
    examined.says("redis.writes", "failed", &["NOREPLICAS"]);
    let failed = examined
        .of("redis.writes")
        .filter(|finding| finding["result"] == "failed");
    assert_eq!(failed.count(), 3, "{examined:#?}");
    for node in shape.nodes() {
        node.cli_ok(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    }
    // One slot that no scene lives in is enough.
    for node in shape.nodes() {
        node.cli(&["CLUSTER", "DELSLOTS", &UNUSED_SLOT.to_string()]);
    }
    eventually("it stops", || async {
        let stopped = |node: &Node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:fail");
        shape.nodes().iter().all(stopped).then_some(())
    })
    .await;
    let examined = patient.examined().await;
    examined.says("redis.writes", "failed", &["CLUSTERDOWN", "redis-cli --cluster check"]);
}

/// A real one whose INFO is rewritten on the way, with a digit for a digit.
#[tokio::test]
async fn a_redis_before_7_is_too_old() {
    let redis = RedisServer::start();
    let (addr, _serving) = rewriting(redis.addr(), b"redis_version:7", b"redis_version:6").await;
    let examined = Patient::new().await.redis(&format!("redis://{addr}")).examined().await;
    examined.says(
        "redis.version",
        "failed",
        &["Redis 6.", "7.0 or later is needed", "Upgrade"],
    );
}

async fn rewriting(to: SocketAddr, from: &'static [u8], into: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async move {
        let mut links = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            links.spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let (mut asked, mut told) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        Ok(count) = near.read(&mut asked) => match count {
                            0 => break,
                            count => far.write_all(&asked[..count]).await.unwrap(),
                        },
                        Ok(count) = far.read(&mut told) => {
                            let told = &mut told[..count];
                            if let Some(at) = told.windows(from.len()).position(|window| window == from) {
                                told[at..at + into.len()].copy_from_slice(into);
                            }
                            near.write_all(told).await.unwrap();
                        }
                    }
                }
            });
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    (addr, tasks)
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_seen_at_redis_and_at_wechat() {
    let redis = RedisServer::start();
    let clock = WallClock::new("+300");
    let mut settings = clock.of(Service::builder().redis(&redis));
    let examined = Examined::by(settings.command().await).await;
    examined.says("redis.clock", "failed", &["+300", "ahead of Redis's", "NTP"]);
    // The simulator is another process, and goes by the right time.
    examined.says("wechat.clock", "warning", &["NTP"]);
}

#[tokio::test]
async fn sentinels_and_their_servers_are_found_by_tls_with_the_least_rights() {
    let shape = Shape::start(Topology::Sentinel, Security::AclTls).await;
    let examined = Examined::by(shape.tell(Service::builder()).command().await).await;
    let servers = shape.nodes().len();
    assert_eq!(examined.of("redis.rights").count(), servers, "{examined:#?}");
    for check in ["redis.reached", "redis.rights", "redis.version", "redis.clocks"] {
        examined.is(check, "ok");
    }
    let sentinels = shape.sentinel_addrs().len();
    let counted = format!("sentinels: {sentinels}, primary: ");
    assert!(
        examined
            .of("redis.shape")
            .any(|shape| shape.to_string().contains(&counted)),
        "{examined:#?}"
    );
    // Users are not replicated.
    let replica = shape
        .nodes()
        .iter()
        .find(|node| node.cli(&["ROLE"]).starts_with("slave"))
        .unwrap();
    replica.cli_ok(&["ACL", "SETUSER", SERVICE, "-spublish"]);
    let examined = Examined::by(shape.tell(Service::builder()).command().await).await;
    examined.says(
        "redis.rights",
        "failed",
        &[&replica.link.addr().to_string(), "+spublish"],
    );
    assert_eq!(
        examined
            .of("redis.rights")
            .filter(|finding| finding["result"] == "ok")
            .count(),
        servers - 1
    );
}

#[tokio::test]
async fn a_clusters_nodes_are_found_by_tls_with_the_least_rights() {
    let shape = Shape::start(Topology::Cluster, Security::AclTls).await;
    let examined = Examined::by(shape.tell(Service::builder()).command().await).await;
    assert_eq!(
        examined.of("redis.rights").count(),
        shape.nodes().len(),
        "{examined:#?}"
    );
    for check in [
        "redis.shape",
        "redis.reached",
        "redis.rights",
        "redis.version",
        "redis.clocks",
    ] {
        examined.is(check, "ok");
    }
    examined.says("redis.shape", "ok", &["Cluster, primaries: 3, replicas: "]);
    for node in shape.nodes() {
        node.cli_ok(&["ACL", "SETUSER", SERVICE, "-asking"]);
        assert_eq!(node.cli(&["DBSIZE"]), "0");
    }
    let examined = Examined::by(shape.tell(Service::builder()).command().await).await;
    examined.says("redis.rights", "warning", &["+asking"]);
    // One that trusts the system's authorities alone.
    let examined = Patient::new().await.redis(&shape.url()).examined().await;
    examined.says("redis.reached", "failed", &["TLS fails", "SCANLOGIN_REDIS_CA_FILE"]);
}

#[tokio::test]
async fn a_url_of_another_shape_than_its_redis_is_told_by_what_is_there() {
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let examined = Patient::new().await.redis(&redis.url()).examined().await;
    examined.says("redis.shape", "failed", &["node of a Cluster", "redis-cluster://"]);
    let alone = RedisServer::start();
    let examined = Patient::new()
        .await
        .redis(&format!("redis-cluster://{}", alone.addr()))
        .examined()
        .await;
    examined.says("redis.reached", "failed", &["no Cluster"]);
    let sentinels = format!("redis-sentinel://{}?sentinelServiceName=main", alone.addr());
    let examined = Patient::new().await.redis(&sentinels).examined().await;
    examined.says("redis.reached", "failed", &["no sentinel", "by their own port"]);
    let replica = alone.replica().await;
    let examined = Patient::new().await.redis(&replica.url()).examined().await;
    examined.says("redis.shape", "failed", &["it is a replica"]);
    examined.says(
        "redis.writes",
        "failed",
        &["READONLY", "It is a replica, which takes no writes"],
    );
}

#[tokio::test]
async fn a_service_that_no_sentinel_watches_is_told() {
    let shape = Shape::start(Topology::Sentinel, Security::Plain).await;
    let url = shape.url();
    let (sentinels, _) = url.split_once("sentinelServiceName=").unwrap();
    let another = format!("{sentinels}sentinelServiceName=another");
    let examined = Patient::new().await.redis(&another).examined().await;
    let words = ["watches no service of that name", "Give as sentinelServiceName"];
    examined.says("redis.reached", "failed", &words);
}

/// The keys are where the service has them, and it may go there.
#[tokio::test]
async fn the_database_that_the_url_names_is_the_one_that_is_looked_at() {
    let redis = RedisServer::start();
    let url = format!("{}/5", redis.url());
    let service = Service::builder().redis_url(&url).with("WECHAT_APPID", APPID);
    let service = service
        .with("WECHAT_SECRET", "an-appsecret-of-these-tests-alone")
        .start()
        .await;
    eventually("it keeps an access_token", || async {
        let key = format!("scanlogin:{{wx:{APPID}}}:access_token");
        let found = cli_lines(redis.addr(), &["SELECT 5".to_owned(), format!("EXISTS {key}")]);
        found.ends_with(&["1".to_owned()]).then_some(())
    })
    .await;
    let settings = service.replica().with("WECHAT_APPID", APPID);
    let settings = settings.with("WECHAT_SECRET", "an-appsecret-of-these-tests-alone");
    let examined = Examined::by(settings.clone().command().await).await;
    examined.is("wechat.kept_token", "ok");

    let rules = ["on", ">open-sesame", "~*", "&*", "+@all", "-select"];
    cli_ok(redis.addr(), &[&["ACL", "SETUSER", "poor"][..], &rules].concat());
    let poor = url.replace("redis://", "redis://poor:open-sesame@");
    let examined = Patient::new().await.redis(&poor).examined().await;
    examined.says("redis.rights", "failed", &["ACL SETUSER poor +select, "]);
    let examined = Patient::new()
        .await
        .redis(&format!("{}/99", redis.url()))
        .examined()
        .await;
    examined.says("redis.reached", "failed", &["DB index", "number behind the /"]);
}

#[tokio::test]
async fn each_error_of_wechats_is_explained_once() {
    let patient = Patient::new().await;
    let (token, code, session) = ("stable_token", "getwxacodeunlimit", "jscode2session");
    let page = "pages/confirm/confirm";
    for (call, errcode, words) in [
        (token, 40013, &["Compare SCANLOGIN_WECHAT_APPID"][..]),
        (token, 40125, &["AppSecret is wrong", "Compare SCANLOGIN_WECHAT_SECRET"]),
        (token, 40164, &["IP whitelist"]),
        (token, 40243, &["frozen", "Unfreeze"]),
        (token, 45009, &["quota", "clear_quota"]),
        (code, 40001, &["not the latest"]),
        (code, 40097, &["env_version", "SCANLOGIN_CODE_WIDTH"]),
        (
            code,
            41030,
            &[
                page,
                "env_version release",
                "Publish a version",
                "SCANLOGIN_CODE_ENV_VERSION=trial",
            ],
        ),
        (code, 45009, &["quota"]),
        (session, 40125, &["AppSecret is wrong"]),
        (session, 45011, &["too often"]),
    ] {
        patient.fault(json!({ "call": call, "errcode": errcode })).await;
        let examined = patient.examined().await;
        let number = format!("WeChat answered {errcode} (");
        examined.says(
            &format!("wechat.{call}"),
            "failed",
            &[words, &[&*number, APPID]].concat(),
        );
        if call == token {
            examined.says("wechat.getwxacodeunlimit", "skipped", &["no access_token"]);
        }
        assert_eq!(examined.count("failed"), 1, "{examined:#?}");
    }
    assert_eq!(patient.examined().await.status, 0);
    let whole = r#"{"errcode":40164,"errmsg":"invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 62b1c7e9-4b5a3e2f-3a9e0f1b"}"#;
    patient.fault(json!({ "call": token, "body": whole })).await;
    patient
        .examined()
        .await
        .says("wechat.stable_token", "failed", &["Add 203.0.113.7, "]);
}

/// A service that runs goes on with the token that it has, by the same number of calls as `stable_token` gives it again.
#[tokio::test]
async fn no_token_is_ended_and_the_older_call_is_not_made_at_all() {
    let patient = Patient::new().await.with("WECHAT_TOKEN_MODE", "token");
    let examined = patient.examined().await;
    examined.says("wechat.stable_token", "skipped", &["ends the token that is in use"]);
    examined.is("wechat.jscode2session", "ok");
    let calls: Vec<Value> = patient
        .wechat
        .call(Method::GET, "/simulator/calls")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(calls.iter().all(|made| made["call"] == "jscode2session"), "{calls:?}");
}

#[tokio::test]
async fn an_access_token_that_another_appsecret_sealed_is_told() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).with("WECHAT_APPID", APPID);
    let service = service
        .with("WECHAT_SECRET", "an-appsecret-that-was-reset-since")
        .start()
        .await;
    eventually("it keeps an access_token", || async {
        (cli(
            redis.addr(),
            &["EXISTS", &format!("scanlogin:{{wx:{APPID}}}:access_token")],
        ) == "1")
            .then_some(())
    })
    .await;
    let of = |secret: &'static str| {
        service
            .replica()
            .with("WECHAT_APPID", APPID)
            .with("WECHAT_SECRET", secret)
    };
    let examined = Examined::by(of("an-appsecret-that-was-reset-since").command().await).await;
    examined.is("wechat.kept_token", "ok");
    let examined = Examined::by(of("another-appsecret-of-the-same-appid").command().await).await;
    examined.says("wechat.kept_token", "warning", &["sealed with another AppSecret"]);
}

#[tokio::test]
async fn a_wechat_that_is_not_reached_is_told_by_how_far_one_comes() {
    let closed = free_addr().to_string();
    let (untrusted, _serving) = untrusted().await;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for (base, words) in [
        (
            "https://wechat.invalid".to_owned(),
            ["the name wechat.invalid is not known here", "DNS"],
        ),
        (format!("http://{closed}"), ["there is no connection", "firewalls"]),
        (format!("https://{untrusted}"), ["UnknownIssuer", "its whole chain"]),
        (
            format!("http://{}", silent.local_addr().unwrap()),
            ["there is no answer within", "on the way"],
        ),
    ] {
        let examined = Patient::new().await.with("WECHAT_API_BASE", &base).examined().await;
        examined.says("wechat.reached", "failed", &words);
        examined.says("wechat.stable_token", "skipped", &["WeChat is not reached"]);
        assert_eq!(examined.count("failed"), 1, "{base}: {examined:#?}");
    }
    let examined = Patient::new()
        .await
        .with("WECHAT_API_FAIL_OVER", &format!("http://{closed}"))
        .examined()
        .await;
    examined.says("wechat.reached", "failed", &["SCANLOGIN_WECHAT_API_FAIL_OVER"]);
    examined.is("wechat.stable_token", "ok");
}

/// A server with a certificate of an authority that nobody knows.
async fn untrusted() -> (SocketAddr, JoinSet<()>) {
    let dir = temporary_directory();
    certify(dir.path(), "IP:127.0.0.1");
    let chain = CertificateDer::pem_file_iter(dir.path().join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async move {
        while let Ok((link, _)) = listener.accept().await {
            let _ = acceptor.accept(link).await;
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    (addr, tasks)
}

#[tokio::test]
async fn a_proxy_that_holds_streams_back_is_found_and_one_that_does_not_is_fine() {
    let addr = free_addr();
    let mut nginx = Nginx::start(&[addr]).await;
    let of = |builder: ServiceBuilder| {
        builder
            .with("LISTEN", addr)
            .with("PUBLIC_URL", nginx.base())
            .with("HEARTBEAT", 1)
    };
    let service = of(Service::builder()).start().await;
    let settings = of(Service::builder());
    let examined = Examined::waiting(settings.clone().command().await, "3").await;
    examined.is("public_url.stream", "ok");
    examined.is("public_url.heartbeat", "ok");
    for gathers in [Gathers::AsItIs, Gathers::Compressed] {
        nginx.restart_gathering(gathers).await;
        let examined = Examined::waiting(settings.clone().command().await, "3").await;
        let words = ["holds the stream back", "proxy_buffering off"];
        examined.says("public_url.stream", "failed", &words);
    }
    let examined = Examined::waiting(settings.clone().command().await, "3").await;
    examined.says("public_url.heartbeat", "skipped", &["there is no stream"]);
    nginx.restart_cutting(Duration::from_secs(1)).await;
    let slower = settings.with("HEARTBEAT", 4);
    drop(service);
    let _service = slower.clone().start().await;
    let examined = Examined::waiting(slower.clone().command().await, "5").await;
    examined.says(
        "public_url.heartbeat",
        "failed",
        &["was cut after", "SCANLOGIN_HEARTBEAT"],
    );
    let examined = Examined::waiting(slower.clone().command().await, "3").await;
    examined.says("public_url.heartbeat", "skipped", &["longer than --wait"]);
}

#[tokio::test]
async fn a_public_url_that_leads_elsewhere_is_told_by_what_is_there() {
    let redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    let (untrusted, _serving) = untrusted().await;
    let patient = Patient::new().await;
    let simulator = patient.wechat.call(Method::GET, "/").build().unwrap();
    let simulator = simulator.url().origin().ascii_serialization();
    let elsewhere = service.base.replace("127.0.0.1", "localhost");
    for (url, check, words) in [
        (
            format!("http://{}", free_addr()),
            "public_url.reached",
            ["there is no connection", "firewalls"],
        ),
        (
            format!("https://{untrusted}"),
            "public_url.reached",
            ["UnknownIssuer", "whole chain"],
        ),
        (
            "https://login.invalid".to_owned(),
            "public_url.reached",
            ["login.invalid", "SCANLOGIN_PUBLIC_URL"],
        ),
        (
            simulator,
            "public_url.service",
            ["not as this service", "pass every path on"],
        ),
        (
            elsewhere,
            "public_url.service",
            ["calls itself http://127.0.0.1", "letter by letter"],
        ),
    ] {
        let examined = Examined::by(service.replica().with("PUBLIC_URL", &url).command().await).await;
        examined.says(check, "failed", &words);
        examined.is("public_url.stream", "skipped");
        let is_https = url.starts_with("https");
        examined.is("public_url.proxies", if is_https { "warning" } else { "skipped" });
        assert_eq!(examined.count("failed"), 1, "{url}: {examined:#?}");
    }
    // With keys of its own.
    let examined = patient
        .redis(&redis.url())
        .with("PUBLIC_URL", &service.base)
        .examined()
        .await;
    examined.says("public_url.keys", "failed", &["lacks ", "SCANLOGIN_SIGNING_KEYS_FILE"]);
}

#[tokio::test]
async fn what_sites_have_elsewhere_is_looked_for_and_no_message_is_sent() {
    let patient = Patient::new().await;
    let here = patient.wechat.call(Method::GET, "/").build().unwrap();
    let here = here.url().origin().ascii_serialization();
    let closed = free_addr();
    let table = |id: &str, hook: &str, logo: &str| {
        format!(
            "[[client]]\nclient_id = \"{id}\"\nname = \"{id}\"\nlogo_url = \"{logo}\"\nwebhook_url = \"{hook}\"\n\
             webhook_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\nredirect_uris = [\"https://{id}.example/\"]\n"
        )
    };
    let (moved, _serving) = answering("HTTP/1.1 301 Moved Permanently\r\nlocation: /elsewhere\r\n").await;
    let hidden = "hidden-in-the-address-of-a-webhook";
    canaries::learn("a secret in an address", hidden);
    let text = [
        table(
            "there",
            &format!("{here}/sns/jscode2session?key={hidden}"),
            "https://logo.invalid/logo.png",
        ),
        table(
            "closed",
            &format!("http://{closed}/{hidden}"),
            "https://logo.invalid/logo.png",
        ),
        table("lost", &format!("{here}/nothing-here"), "https://logo.invalid/logo.png"),
        table("moved", &format!("http://{moved}/"), "https://logo.invalid/logo.png"),
    ];
    let file = patient.files.path().join("scanlogin.toml");
    std::fs::write(&file, text.concat()).unwrap();
    let patient = patient.with("CONFIG", &file.display().to_string());
    let examined = patient.examined().await;
    examined.says("sites.webhook", "ok", &["there", "127.0.0.1"]);
    examined.says("sites.webhook", "failed", &["closed", "there is no connection"]);
    examined.says("sites.webhook", "warning", &["lost", "404"]);
    examined.says("sites.webhook", "warning", &["moved", "301", "follows nowhere"]);
    examined.says(
        "sites.logo",
        "warning",
        &["logo.invalid", "Let logo_url lead to a picture"],
    );
}

/// To everybody.
async fn answering(head: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async move {
        while let Ok((mut link, _)) = listener.accept().await {
            let mut asked = vec![0; 4_096];
            // One that only connects asks nothing.
            if link.read(&mut asked).await.is_ok_and(|count| count > 0) {
                let answer = format!("{head}content-length: 0\r\nconnection: close\r\n\r\n");
                link.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    (addr, tasks)
}

#[tokio::test]
async fn an_audit_log_that_can_not_be_written_is_told_and_one_that_can_is_not_made() {
    let of = |path: &Path| {
        let (path, patient) = (path.display().to_string(), Patient::new());
        async move {
            patient
                .await
                .with("AUDIT_LOG", &path)
                .with("AUDIT_NAMES", "plain")
                .examined()
                .await
        }
    };
    let dir = temporary_directory();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, words) in [
        (Path::new("/nowhere/audit.log"), "No such file or directory"),
        (dir.path(), "Is a directory"),
        (&pipe, "it is a named pipe"),
    ] {
        let examined = of(path).await;
        examined.says("settings.audit_log", "failed", &[words, "SCANLOGIN_AUDIT_LOG"]);
        assert_eq!(examined.count("failed"), 1, "{examined:#?}");
    }
    let file = dir.path().join("audit.log");
    of(&file).await.is("settings.audit_log", "ok");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_public_url_that_is_this_very_replica_proves_nothing_of_a_proxy() {
    let addr = free_addr();
    let of = || {
        Service::builder()
            .with("LISTEN", addr)
            .with("PUBLIC_URL", format!("http://{addr}"))
    };
    let _service = of().start().await;
    let examined = Examined::by(of().command().await).await;
    examined.says(
        "public_url.stream",
        "skipped",
        &["this replica itself", "no proxy was met"],
    );
    examined.says("public_url.heartbeat", "skipped", &["no proxy was met"]);
    examined.is("public_url.service", "ok");
}

/// As one of another WeChat is, and one that a stranger's call to `token` ended: replicas fetch another one by themselves.
#[tokio::test]
async fn a_kept_access_token_that_is_dead_is_no_failure() {
    let redis = RedisServer::start();
    let secret = "an-appsecret-of-these-tests-alone";
    let service = Service::builder().redis(&redis).with("WECHAT_APPID", APPID);
    let service = service.with("WECHAT_SECRET", secret).start().await;
    eventually("it keeps an access_token", || async {
        let key = format!("scanlogin:{{wx:{APPID}}}:access_token");
        (cli(redis.addr(), &["EXISTS", &key]) == "1").then_some(())
    })
    .await;
    drop(service);
    let patient = Patient::new().await.redis(&redis.url());
    let examined = patient.examined().await;
    examined.says("wechat.kept_token", "warning", &["is dead", "40001"]);
    examined.is("wechat.getwxacodeunlimit", "ok");
    assert_eq!(examined.count("failed"), 0, "{examined:#?}");
}

#[tokio::test]
async fn what_is_odd_about_wechat_and_no_failure_is_a_warning() {
    let patient = Patient::new().await.with("CODE_ENV_VERSION", "trial");
    patient.fault(json!({ "call": "jscode2session", "errcode": -1 })).await;
    let examined = patient.examined().await;
    examined.says(
        "wechat.env_version",
        "warning",
        &["the trial edition", "SCANLOGIN_CODE_ENV_VERSION=release"],
    );
    examined.says("wechat.jscode2session", "warning", &["WeChat answered -1", "busy"]);
    assert_eq!(examined.status, 0, "{examined:#?}");
    let anybody = r#"{"openid":"oAnybody0123456789abcdefghi","session_key":"c2Vzc2lvbi1rZXktMDEyMw=="}"#;
    patient
        .fault(json!({ "call": "jscode2session", "body": anybody }))
        .await;
    let examined = patient.examined().await;
    examined.says(
        "wechat.jscode2session",
        "failed",
        &["takes a made-up code", "SCANLOGIN_WECHAT_API_BASE"],
    );
}

#[test]
fn its_page_lists_every_check() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(name, _)| name).collect();
    let all: Vec<&str> = Check::ALL.iter().map(|check| check.name()).collect();
    assert_eq!(listed, all);
}
