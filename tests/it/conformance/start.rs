//! How a store begins: a Redis that is not there yet, or will never do; and what it may do and keep there.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use scanlogin::scene::{AvatarId, Life, SceneId};
use scanlogin::store::redis::{FatalError, RedisSettings, RedisStore};
use scanlogin::store::{BlobStore, Replaced, SceneStore, StoreError, TokenStore, find_one};
use tokio::time::timeout;

use super::backend::{Login, TTL, settings, tell};
use super::client::{Client, every_request, in_time};
use super::{LEASE, owner};
use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::guard::{Guard, certify};
use crate::support::redis::{RedisServer, free_addr};
use crate::support::shape::{Security, Shape, Topology};

#[tokio::test]
async fn a_redis_that_is_not_there_at_the_start_is_waited_for() {
    let mut server = RedisServer::start();
    server.kill();
    let store = Client::new(&settings(&server.url()));
    assert!(
        timeout(Duration::from_millis(500), store.started()).await.is_err(),
        "nothing to start with"
    );
    let refused = in_time(store.create(&Login::new().scene, Life::of_new(TTL))).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    server.restart();
    store.started().await.unwrap();
    Login::confirmed(&*store, Life::of_new(TTL)).await;
}

#[tokio::test]
async fn a_redis_that_will_always_refuse_is_fatal_in_one_line() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let addr = server.addr();
    let url = |credentials: &str| format!("redis://{credentials}{addr}");
    refused_for_ever(&url(":wrong@"), "WRONGPASS").await;
    refused_for_ever(&url(""), "NOAUTH").await;
    refused_for_ever(&format!("redis-cluster://:right@{addr}"), "cluster support disabled").await;
    refused_for_ever(
        &url(":right@").replace(&addr.to_string(), &format!("{addr}/99")),
        "DB index",
    )
    .await;
}

#[tokio::test]
async fn the_documented_rights_do_and_one_less_is_fatal_until_it_is_given() {
    let shape = Shape::start(Topology::Standalone, Security::AclTls).await;
    let store = Client::started(&shape.settings("scanlogin")).await;
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    login.redeem_for(&*store, b"grant", TTL).await.unwrap();
    store.watch(login.id()).await.unwrap();
    every_request_succeeds(&store, &login).await;
    store.unwatch(login.id()).await;
    assert_eq!(shape.nodes()[0].cli(&["ACL", "LOG"]), "");

    let not_tried = ["ssubscribe", "sunsubscribe", "client|info", "client|id"];
    for command in shape.commands() {
        if !not_tried.contains(&&*command) {
            is_needed(&shape, &format!("-{command}"), &format!("+{command}")).await;
        }
    }
    is_needed(&shape, "resetkeys", "~scanlogin:*").await;
    is_needed(&shape, "resetchannels", "&scanlogin:*").await;
}

#[tokio::test]
async fn a_cluster_needs_the_further_right_that_the_document_names() {
    let shape = Shape::start(Topology::Cluster, Security::AclTls).await;
    assert!(shape.commands().iter().any(|named| named == "cluster|nodes"));
    is_needed(&shape, "-cluster|nodes", "+cluster|nodes").await;
}

#[tokio::test]
async fn sentinels_are_asked_for_nothing_but_what_the_document_names_and_for_all_of_that() {
    let shape = Shape::start(Topology::Sentinel, Security::AclTls).await;
    let store = Client::started(&shape.settings("scanlogin")).await;
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    login.redeem_for(&*store, b"grant", TTL).await.unwrap();
    let sentinels = shape.sentinel_addrs();
    for addr in &sentinels {
        assert_eq!(cli(*addr, &["ACL", "LOG"]), "");
    }
    for command in Guard::sentinel_commands() {
        cli_ok(sentinels[0], &["ACL", "SETUSER", "default", &format!("-{command}")]);
        eventually("it is asked for what is not its right any more", || async {
            cli(sentinels[0], &["ACL", "LOG"]).contains(&command).then_some(())
        })
        .await;
        cli_ok(sentinels[0], &["ACL", "SETUSER", "default", &format!("+{command}")]);
    }
}

/// Without a right the start fails for good; a later one finds nothing of the failed one in its way.
async fn is_needed(shape: &Shape, less: &str, again: &str) {
    let settings = shape.settings("scanlogin");
    let set = |rule: &str| {
        for node in shape.nodes() {
            node.cli_ok(&["ACL", "SETUSER", "scanlogin", rule]);
        }
    };
    set(less);
    let store = Client::new(&settings);
    let refused = timeout(Duration::from_secs(5), store.started()).await;
    let Ok(Err(FatalError::Refused(why))) = refused else {
        panic!("{less}: {refused:?}");
    };
    assert!(!why.contains('\n'), "{why}");
    set(again);
    let started = timeout(Duration::from_secs(5), Client::started(&settings)).await;
    assert!(started.is_ok(), "{again}: it does not start");
}

#[tokio::test]
async fn a_record_that_can_not_be_read_hides_no_other() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let logins = join_all((0..5).map(|_| Login::created(&*store, Life::of_new(TTL)))).await;
    let key = |login: &Login| format!("scanlogin:{{{}}}:{}", login.id().hash_tag(), login.id());
    cli_ok(server.addr(), &["SET", &key(&logins[1]), "nonsense", "KEEPTTL"]);
    cli(server.addr(), &["DEL", &key(&logins[3])]);
    cli(server.addr(), &["LPUSH", &key(&logins[3]), "of another type"]);
    for broken in [1, 3] {
        let found = find_one(&*store, logins[broken].id()).await;
        assert!(matches!(found, Err(StoreError::Corrupt(_))), "{found:?}");
    }
    let ids: Vec<_> = logins.iter().map(|login| *login.id()).collect();
    let found = store.find(&ids).await;
    for (which, found) in found.iter().enumerate() {
        match found {
            Ok(found) => assert!(found.is_some() && ![1, 3].contains(&which)),
            Err(error) => assert!(matches!(error, StoreError::Corrupt(_)) && [1, 3].contains(&which)),
        }
    }
}

#[tokio::test]
async fn everything_kept_has_its_name_and_an_end() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    login.redeem_for(&*store, b"grant", TTL).await.unwrap();
    every_request_succeeds(&store, &login).await;
    let mut names = HashSet::new();
    for key in cli(server.addr(), &["KEYS", "*"]).lines() {
        let left: i64 = cli(server.addr(), &["PTTL", key]).parse().unwrap();
        assert!(left > 0, "{key} lives for {left}");
        let (tag, name) = key.strip_prefix("scanlogin:{").unwrap().split_once("}:").unwrap();
        let mut parts = name.splitn(3, ':');
        let id = parts.next().unwrap();
        if id.parse::<SceneId>().is_ok() {
            assert!(id.starts_with(tag), "{key}");
            names.insert(format!("SCENE {}", parts.next().unwrap_or_default()));
        } else {
            names.insert(name.to_owned());
        }
    }
    let expected = [
        "SCENE ",
        "SCENE token",
        "SCENE picture",
        "SCENE avatar",
        "access_token",
        "lease",
        "notices",
        "notices:due",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[tokio::test]
async fn redis_is_reached_by_tls_with_the_authority_that_is_named_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "IP:127.0.0.1");
    let file = |name: &str| dir.path().join(name);
    let tls = free_addr();
    let port = tls.port().to_string();
    let args: Vec<String> = ["--tls-port", &port, "--tls-auth-clients", "no"]
        .map(str::to_owned)
        .into();
    let files = [
        ("--tls-cert-file", "server.pem"),
        ("--tls-key-file", "server.key"),
        ("--tls-ca-cert-file", "ca.pem"),
    ];
    let files = files
        .into_iter()
        .flat_map(|(arg, name)| [arg.to_owned(), file(name).display().to_string()]);
    let args: Vec<String> = args.into_iter().chain(files).collect();
    let _server = RedisServer::start_with(&args.iter().map(String::as_str).collect::<Vec<_>>());

    let url = format!("rediss://{tls}");
    let trusting = |name: &str| RedisSettings {
        ca_file: Some(file(name)),
        ..settings(&url)
    };
    let store = Client::started(&trusting("ca.pem")).await;
    Login::confirmed(&*store, Life::of_new(TTL)).await;
    let other = Client::new(&trusting("other.pem"));
    let ended = timeout(Duration::from_secs(10), other.started()).await;
    assert!(
        matches!(ended, Ok(Err(FatalError::Untrusted(_)))),
        "a stranger's certificate: {ended:?}"
    );
}

/// Leaves a login's every key behind.
async fn every_request_succeeds(store: &RedisStore, login: &Login) {
    let holder = owner();
    let image = Bytes::from_static(b"\xff\xd8\xff");
    assert!(store.acquire_lease("wx1", holder, LEASE).await.unwrap());
    assert!(store.put_token("wx1", holder, None, b"sealed", TTL).await.unwrap());
    store.put_picture(login.id(), image.clone(), TTL).await.unwrap();
    store.put_avatar(login.id(), AvatarId::NONE, image, TTL).await.unwrap();
    let seen = login.stored(store).await;
    for request in every_request(store, &seen) {
        request.await.unwrap();
    }
    let seen = login.stored(store).await;
    assert_eq!(tell(store, &seen).await.unwrap(), Replaced::Written);
}

async fn refused_for_ever(url: &str, why: &str) {
    let store = Client::new(&settings(url));
    let refused = timeout(Duration::from_secs(5), store.started()).await;
    let Ok(Err(fatal)) = refused else {
        panic!("{url}: {refused:?}");
    };
    let said = fatal.to_string();
    assert!(
        said.contains(why) && !said.contains('\n') && !said.contains(":right@"),
        "{said}"
    );
}
