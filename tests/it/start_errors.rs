//! What surrounds a service and is not as it should be at its start: files, Redis, who vouches for whom. One line names the setting and
//! what to do; a start that can't succeed ends, and one that may yet goes on, and `/readyz` says why it is not ready.
//!
//! Values and names of settings are in `settings.rs`, with ports that are taken and files that are not there.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::support::cli::cli_ok;
use crate::support::eventually;
use crate::support::guard::certify;
use crate::support::process::Process;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::reply::Reply;
use crate::support::service::{Service, ServiceBuilder};
use crate::support::shape::{Security, Shape, Topology};
use crate::support::temporary_directory;

const CANARY: &str = "canary-7d1e02";

/// A start that ends by itself: its only line, which says all of `words`.
async fn ends(service: ServiceBuilder, words: &[&str]) {
    let (code, said) = service.rust_log("error").env("RUST_BACKTRACE", "1").refused().await;
    is_one_line(code, &said, words);
}

fn is_one_line(code: i32, said: &str, words: &[&str]) {
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(!said.contains(CANARY), "a secret: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

/// One that goes on: it says so in one line, is not ready, and says why.
async fn waits(service: ServiceBuilder, words: &[&str], why: &str) {
    const WAITS: &str = "redis is not usable yet";
    let service = service.start_unready().await;
    let line = service.log().line_with(&["WARN", WAITS]).await;
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
    eventually("it says why it is not ready", || async {
        let readyz = Reply::to(service.http.get(format!("{}/readyz", service.ops))).await;
        let told = readyz.json();
        assert_eq!((readyz.status, &told["status"]), (503, &json!("starting")), "{told}");
        told["checks"]["store"]["detail"].as_str()?.contains(why).then_some(())
    })
    .await;
    let lines = service.log().lines();
    let told: Vec<&str> = lines
        .iter()
        .filter_map(|line| Some(line.split_once(WAITS)?.1))
        .collect();
    let apart: HashSet<&str> = told.iter().filter_map(|line| line.split(" why=").next()).collect();
    assert_eq!(told.len(), apart.len(), "said again: {told:#?}");
}

#[tokio::test]
async fn a_file_of_a_secret_that_is_none_is_named_with_what_to_do() {
    let dir = temporary_directory();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let two = format!("{CANARY}\n{CANARY}\n");
    for (path, words) in [
        (
            dir.path().join("missing"),
            "can't be read: No such file or directory (os error 2); give the path of a file that is there",
        ),
        (
            dir.path().to_owned(),
            "can't be read: Is a directory (os error 21); give the path of the file in it",
        ),
        (
            file("bytes", b"\xff\xfecanary-7d1e02"),
            "can't be read: stream did not contain valid UTF-8; it must be text",
        ),
        (file("empty", b""), "is empty: it must hold the secret"),
        (file("newline", b" \n"), "is empty: it must hold the secret"),
        (
            file("two", two.as_bytes()),
            "holds more than one line: it must hold the secret alone",
        ),
    ] {
        for setting in ["CLIENT_SECRET_FILE", "PAIRWISE_SECRET_FILE", "WECHAT_SECRET_FILE"] {
            let words = format!("SCANLOGIN_{setting}: {} {words}", path.display());
            let mut service = Service::builder().with(setting, path.display());
            if setting == "WECHAT_SECRET_FILE" {
                service = service.with("WECHAT_APPID", "wx0123456789abcdef");
            }
            ends(service, &[&words]).await;
        }
    }
}

/// In a view of the system in which even root may read only what the file's mode says.
#[tokio::test]
async fn a_file_that_may_not_be_read_is_named_with_what_to_do() {
    let dir = temporary_directory();
    let path = dir.path().join("secret");
    fs::write(&path, CANARY).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new("unshare");
    command.env_clear().args(["--user", env!("CARGO_BIN_EXE_scanlogin")]);
    command
        .env("SCANLOGIN_LISTEN", "127.0.0.1:0")
        .env("SCANLOGIN_OPS_LISTEN", "127.0.0.1:0");
    let mut process = Process::start(command.env("SCANLOGIN_CLIENT_SECRET_FILE", &path));
    let (status, said) = process.said().await;
    let words = [
        "SCANLOGIN_CLIENT_SECRET_FILE",
        "Permission denied (os error 13); let the user that this runs as read it",
    ];
    is_one_line(status.code().unwrap(), &said.join("\n"), &words);
}

#[tokio::test]
async fn signing_keys_that_are_none_are_named_with_how_to_make_some() {
    let dir = temporary_directory();
    for (text, words) in [
        ("", "it is not a JSON Web Key Set"),
        ("{\"keys\": []}", "it holds no key"),
        (
            "{\"keys\": [{\"kty\": \"EC\", \"d\": \"canary-7d1e02\"",
            "it is not a JSON Web Key Set",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\ncanary-7d1e02\n",
            "it is not a JSON Web Key Set",
        ),
    ] {
        let path = dir.path().join("keys.json");
        fs::write(&path, text).unwrap();
        let service = Service::builder().with("SIGNING_KEYS_FILE", path.display());
        let words = ["SCANLOGIN_SIGNING_KEYS_FILE: ", words, "`scanlogin keys new` makes one"];
        ends(service, &words).await;
    }
}

#[tokio::test]
async fn a_redis_that_refuses_is_told_with_what_it_wants() {
    let redis = RedisServer::start();
    let rules = [
        "SETUSER",
        "poor",
        "on",
        ">canary-7d1e02",
        "~scanlogin:*",
        "&scanlogin:*",
        "+@all",
        "-evalsha",
    ];
    cli_ok(redis.addr(), &[&["ACL"][..], &rules[..]].concat());
    let rules = rules.map(|rule| match rule {
        "poor" => "unscripted",
        "-evalsha" => "-zadd",
        rule => rule,
    });
    cli_ok(redis.addr(), &[&["ACL"][..], &rules[..]].concat());
    let url = |credentials: &str, rest: &str| format!("redis://{credentials}{}{rest}", redis.addr());
    for (url, words) in [
        (
            url("poor:canary-7d1e02@", ""),
            ["NOPERM", "give its user the rights that docs/redis.md lists"],
        ),
        (
            url("unscripted:canary-7d1e02@", ""),
            [
                "The user executing the script",
                "`scanlogin doctor` names the one that is missing",
            ],
        ),
        (
            url("poor:another-canary-7d1e02@", ""),
            ["WRONGPASS", "give the user and the password that it has"],
        ),
        (url("", "/99"), ["DB index", "leave the number behind the / out"]),
        (
            url("", "").replace("redis:", "redis-cluster:"),
            ["cluster support disabled", "redis:// is for one server"],
        ),
    ] {
        let words = [&["SCANLOGIN_REDIS_URL: Redis refuses: "][..], &words[..]].concat();
        ends(Service::builder().redis_url(&url), &words).await;
    }
    let locked = RedisServer::start_with(&["--requirepass", CANARY]);
    let words = [
        "SCANLOGIN_REDIS_URL: ",
        "NOAUTH",
        "as in redis://user:password@host:6379",
    ];
    ends(Service::builder().redis_url(&locked.url()), &words).await;
}

/// Passes a server on as one of version 6.
async fn aged(server: SocketAddr, tasks: &TaskTracker) -> SocketAddr {
    const VERSION: &[u8] = b"redis_version:";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(server).await.unwrap();
            let ((mut asked, mut answers), (mut answered, mut asks)) = (near.into_split(), far.into_split());
            connections.spawn(async move { copy(&mut asked, &mut asks).await });
            connections.spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(length @ 1..) = answered.read(&mut bytes).await {
                    let told = &mut bytes[..length];
                    if let Some(at) = told.windows(VERSION.len()).position(|window| window == VERSION) {
                        told[at + VERSION.len()] = b'6';
                    }
                    if answers.write_all(told).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_told_with_the_version_that_it_says() {
    let (redis, tasks) = (RedisServer::start(), TaskTracker::new());
    let url = format!("redis://{}", aged(redis.addr(), &tasks).await);
    let words = ["SCANLOGIN_REDIS_URL: Redis 7.0 or later is needed, this server says 6."];
    ends(Service::builder().redis_url(&url), &words).await;
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_waited_for_with_what_it_wants() {
    let redis = RedisServer::start_with(&["--min-replicas-to-write", "1"]);
    let words = ["NOREPLICAS", "min-replicas-to-write says"];
    waits(Service::builder().redis(&redis), &words, "NOREPLICAS").await;
    let unowned = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let cluster = Service::builder().redis_url(&format!("redis-cluster://{}", unowned.addr()));
    let words = ["nobody says which server", "every slot must have an owner"];
    waits(cluster, &words, "nobody says which server").await;
}

/// Of which each command is refused in words of its own, and they take turns.
#[tokio::test]
async fn a_replica_where_a_primary_should_be_is_told_once() {
    let primary = RedisServer::start();
    let replica = primary.replica().await;
    let service = Service::builder().redis(&replica).start_unready().await;
    let words = [
        "redis is not usable yet",
        "it is a replica, which takes no writes: name its primary",
    ];
    service.log().line_with(&words).await;
    service.log().line_with(&["WARN", "redis does not do this"]).await;
    // As it is told ten times a second what came of a try.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lines = service.log().lines();
    let remedy = |line: &String| Some(line.split_once(words[0])?.1.split(" why=").next()?.to_owned());
    let told: Vec<String> = lines.iter().filter_map(remedy).collect();
    // On a machine that has much else to do, a server may seem to be none for a moment first; that is told once, too.
    let each: HashSet<&String> = told.iter().collect();
    assert_eq!(each.len(), told.len(), "{lines:#?}");
    assert_eq!(
        told.iter().filter(|told| told.contains(words[1])).count(),
        1,
        "{lines:#?}"
    );
}

#[tokio::test]
async fn what_is_no_sentinel_of_this_service_and_what_is_no_redis_is_told() {
    let shape = Shape::start(Topology::Sentinel, Security::Plain).await;
    let url = shape.url();
    let (url, _) = url.split_once("sentinelServiceName=").unwrap();
    let words = ["the sentinel knows no such service", "`sentinel monitor` has"];
    let service = Service::builder().redis_url(&format!("{url}sentinelServiceName=another"));
    waits(service, &words, "nobody says").await;

    let web = Service::builder().start().await;
    let words = ["what answers there does not speak as Redis does", "can't be reached"];
    let service = Service::builder().redis_url(&web.base.replace("http:", "redis:"));
    waits(service, &words, "can't be reached").await;
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_told_with_which_one_is_needed() {
    let dir = temporary_directory();
    let (_redis, tls) = guarded_by(&dir, "ca");
    let service = Service::builder().redis_url(&format!("rediss://{tls}"));
    let service = service.with("REDIS_CA_FILE", dir.path().join("ca.pem").display());
    let words = ["CaUsedAsEndEntity", "signed by an authority of SCANLOGIN_REDIS_CA_FILE"];
    ends(service, &words).await;
}

/// A Redis with TLS, by an authority that nobody trusts yet.
fn guarded(dir: &TempDir) -> (RedisServer, SocketAddr) {
    guarded_by(dir, "server")
}

/// With this one of the certificates.
fn guarded_by(dir: &TempDir, certificate: &str) -> (RedisServer, SocketAddr) {
    certify(dir.path(), "IP:127.0.0.1");
    let tls = free_addr();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (port, certificate, key, ca) = (
        tls.port().to_string(),
        file(&format!("{certificate}.pem")),
        file(&format!("{certificate}.key")),
        file("ca.pem"),
    );
    let args = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
    ];
    (
        RedisServer::start_with(&[&args[..], &["--tls-auth-clients", "no"]].concat()),
        tls,
    )
}

#[tokio::test]
async fn a_redis_that_can_not_be_reached_is_waited_for_with_what_may_be_wrong() {
    let nowhere = free_addr();
    let words = ["SCANLOGIN_REDIS_URL", "nothing listens there"];
    waits(
        Service::builder().redis_url(&format!("redis://{nowhere}")),
        &words,
        &nowhere.to_string(),
    )
    .await;

    let dir = temporary_directory();
    let (_redis, tls) = guarded(&dir);
    let without = Service::builder().redis_url(&format!("redis://{tls}"));
    waits(
        without,
        &["SCANLOGIN_REDIS_URL", "rediss:// is for a Redis with TLS"],
        "can't be reached",
    )
    .await;
}

#[tokio::test]
async fn a_redis_that_nobody_vouches_for_ends_the_start() {
    let dir = temporary_directory();
    let (_redis, tls) = guarded(&dir);
    let service = Service::builder().redis_url(&format!("rediss://{tls}"));
    let words = ["SCANLOGIN_REDIS_URL", "UnknownIssuer", "in SCANLOGIN_REDIS_CA_FILE"];
    ends(service.clone(), &words).await;
    // With that file it starts.
    service
        .with("REDIS_CA_FILE", dir.path().join("ca.pem").display())
        .start()
        .await;
}

#[tokio::test]
async fn a_wechat_that_nobody_vouches_for_is_told_with_what_may_be_wrong() {
    let dir = temporary_directory();
    let (_redis, tls) = guarded(&dir);
    let service = Service::builder()
        .with("WECHAT_APPID", "wx0123456789abcdef")
        .with("WECHAT_SECRET", CANARY)
        .with("WECHAT_API_BASE", format!("https://{tls}"));
    let service = service.start_unready().await;
    let line = service
        .log()
        .line_with(&["WARN", "there is no access_token", "UnknownIssuer"])
        .await;
    for word in ["ca-certificates", "SCANLOGIN_WECHAT_API_BASE"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
}

#[tokio::test]
async fn a_file_of_authorities_that_holds_none_is_named() {
    let dir = temporary_directory();
    let path = dir.path().join("ca.pem");
    for text in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&path, text).unwrap();
        let service = Service::builder().redis_url("rediss://127.0.0.1:1");
        let words = ["SCANLOGIN_REDIS_CA_FILE: ", &path.display().to_string()];
        ends(service.with("REDIS_CA_FILE", path.display()), &words).await;
    }
}
