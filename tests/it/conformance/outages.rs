//! Servers that die, freeze, load, forget or change places, and links that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use scanlogin::scene::Life;
use scanlogin::store::redis::RedisStore;
use scanlogin::store::{Created, SceneStore, StoreError, Stored, find_one};
use tokio::time::{sleep, timeout};

use super::backend::{Login, TTL, changed, put, settings};
use super::client::{Client, EVERY_REQUEST, every_request, in_time};
use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::stopwatch::Stopwatch;

/// How often connections are cut while requests go over them.
const CUTS: usize = 6;

#[tokio::test]
async fn connections_that_are_cut_again_and_again_cost_no_request() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr(), Duration::from_millis(1)).await;
    let store = Client::started(&settings(&proxy.url())).await;
    let connections = || {
        let stats = cli(server.addr(), &["INFO", "stats"]);
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<usize>().unwrap()
    };
    let (before, cuts) = (connections(), AtomicUsize::new(0));
    let requests = async {
        // In the round after the last cut too somebody connects again.
        let mut is_last = false;
        while !is_last {
            is_last = cuts.load(Ordering::Relaxed) >= CUTS;
            let logins = (0..20).map(|_| async {
                let login = Login::scanned(&*store, Life::of_new(TTL)).await;
                assert!(login.confirm(&*store).await.unwrap().changed);
                assert!(login.redeem(&*store).await.unwrap().changed);
            });
            join_all(logins).await;
        }
    };
    let cutting = async {
        loop {
            sleep(Duration::from_millis(700)).await;
            proxy.cut();
            cuts.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = requests => {}
        () = cutting => {}
    }
    let again = connections() - before;
    assert!(again >= CUTS, "connected again {again} times only");
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    for _ in 0..3 {
        cli_ok(server.addr(), &["SCRIPT", "FLUSH"]);
        login.scan(&*store).await.unwrap();
    }
    assert!(
        cli(server.addr(), &["INFO", "errorstats"]).contains("NOSCRIPT"),
        "it was met"
    );
}

#[tokio::test]
async fn after_a_restart_without_data_old_logins_are_gone_and_new_ones_begin() {
    let mut server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::scanned(&*store, Life::of_new(TTL)).await;
    server.restart();
    assert!(find_one(&*store, login.id()).await.unwrap().is_none());
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    assert!(login.redeem(&*store).await.unwrap().changed);
}

#[tokio::test]
async fn a_request_waits_for_a_server_that_is_soon_back() {
    let mut server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    server.kill();
    let back = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let login = Login::new();
    let (created, _server) = tokio::join!(store.create(&login.scene, Life::of_new(TTL)), back);
    assert_eq!(created.unwrap(), Created::New);
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_waited_for() {
    let mut server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let fill = "for i = 1, 500 do redis.call('SET', 'other:' .. i, i) end";
    cli(server.addr(), &["EVAL", fill, "0"]);
    server.restart_loading(Duration::from_secs(1)).await;
    assert!(
        cli(server.addr(), &["GET", "any"]).starts_with("LOADING"),
        "it has begun"
    );
    assert_eq!(login.stored(&*store).await.scene, login.scene);
}

#[tokio::test]
async fn writes_that_are_paused_for_a_moment_are_waited_for() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::scanned(&*store, Life::of_new(TTL)).await;
    cli_ok(server.addr(), &["CLIENT", "PAUSE", "1500", "WRITE"]);
    assert!(in_time(login.confirm(&*store)).await.unwrap().changed);
}

#[tokio::test]
async fn while_redis_is_away_every_request_ends_in_time_and_soon_at_once() {
    let mut server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let seen = login.stored(&*store).await;
    server.kill();
    every_request_fails_in_time(&store, &seen).await;
    let asked = Stopwatch::start();
    every_request_fails_in_time(&store, &seen).await;
    asked.took_less_than(Duration::from_millis(500));
    server.restart();
    eventually("it is back", || async { store.ready().await.ok() }).await;
    Login::confirmed(&*store, Life::of_new(TTL)).await;
}

#[tokio::test]
async fn what_a_server_goes_on_refusing_is_soon_refused_at_once_and_taken_as_soon_as_it_takes_it() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let kept = Login::created(&*store, Life::of_new(TTL)).await;
    cli_ok(server.addr(), &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let create = || async {
        let login = Login::new();
        in_time(store.create(&login.scene, Life::of_new(TTL))).await
    };
    create().await.unwrap_err();
    let asked = Stopwatch::start();
    for _ in 0..5 {
        create().await.unwrap_err();
        kept.stored(&*store).await;
    }
    asked.took_less_than(Duration::from_millis(500));
    cli_ok(server.addr(), &["CONFIG", "SET", "min-replicas-to-write", "0"]);
    assert_eq!(create().await.unwrap(), Created::New);
}

#[tokio::test]
async fn a_frozen_server_lets_every_request_end_in_time_and_serves_once_it_wakes() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let seen = login.stored(&*store).await;
    let frozen = Frozen::new(server.pid());
    for _ in 0..3 {
        every_request_fails_in_time(&store, &seen).await;
    }
    drop(frozen);
    let woken = Stopwatch::start();
    eventually("it serves", || async { store.ready().await.ok() }).await;
    woken.took_less_than(EVERY_REQUEST);
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    assert!(login.redeem(&*store).await.unwrap().changed);
}

/// So many requests may be under way.
const IN_FLIGHT: usize = 8_192;

#[tokio::test]
async fn a_store_with_all_its_requests_under_way_refuses_further_ones_and_serves_again_once_they_have_ended() {
    const FURTHER: usize = 100;
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::scanned(&*store, Life::of_new(TTL)).await;
    let frozen = Frozen::new(server.pid());
    let crowd = (0..IN_FLIGHT + FURTHER).map(|_| find_one(&*store, login.id()));
    let answers = join_all(crowd).await.into_iter();
    let refused = answers.map(Result::unwrap_err).filter(|error| match error {
        StoreError::Unavailable(why) => why.contains("too many requests"),
        StoreError::Full | StoreError::Corrupt(_) => panic!("{error}"),
    });
    let refused = refused.count();
    // On a busy machine the first are given up before the last have come.
    assert!((1..=FURTHER).contains(&refused), "{refused}");
    drop(frozen);
    eventually("it serves", || async { find_one(&*store, login.id()).await.ok() }).await;
    assert!(login.confirm(&*store).await.unwrap().changed);
    assert!(login.redeem(&*store).await.unwrap().changed);
}

#[tokio::test]
async fn a_link_that_stalls_or_swallows_lets_every_request_end_in_time() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr(), Duration::from_millis(1)).await;
    let store = Client::started(&settings(&proxy.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let seen = login.stored(&*store).await;
    for break_it in [Proxy::stall, Proxy::blackhole] {
        break_it(&proxy);
        every_request_fails_in_time(&store, &seen).await;
        proxy.heal();
        eventually("it serves", || async { store.ready().await.ok() }).await;
        assert_eq!(login.stored(&*store).await.scene.id, *login.id());
    }
}

#[tokio::test]
async fn no_request_gets_the_answer_to_another_one() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr(), Duration::from_millis(1)).await;
    let store = Client::started(&settings(&proxy.url())).await;
    let logins = join_all((0..50).map(|_| Login::created(&*store, Life::of_new(TTL)))).await;
    let read = |login: &Login| {
        let (store, id) = (Arc::clone(&store.store), *login.id());
        async move {
            // Refused is fine, another scene's record is not; nor is one that gives up.
            let found = find_one(&*store, &id).await.ok()?;
            assert_eq!(found.unwrap().scene.id, id);
            Some(())
        }
    };
    for round in 0..6 {
        if round % 2 == 0 {
            proxy.stall();
        }
        let _ = timeout(Duration::from_millis(300), join_all(logins.iter().map(read))).await;
        proxy.heal();
        let answers = join_all(logins.iter().map(read)).await;
        let answered = answers.into_iter().flatten().count();
        assert!(answered > logins.len() / 2, "round {round}: {answered} answers");
    }
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_and_primary_again_is_written_to_again() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let seen = login.stored(&*store).await;
    let (host, port) = (other.addr().ip().to_string(), other.addr().port().to_string());
    cli_ok(server.addr(), &["REPLICAOF", &host, &port]);
    let refused = in_time(put(&*store, &seen, &changed(&login.scene), false)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    cli_ok(server.addr(), &["REPLICAOF", "NO", "ONE"]);
    eventually("it is written to", || async {
        store.create(&Login::new().scene, Life::of_new(TTL)).await.ok()
    })
    .await;
}

async fn every_request_fails_in_time(store: &RedisStore, seen: &Stored) {
    let requests = every_request(store, seen).into_iter().map(in_time);
    for (kind, answer) in join_all(requests).await.into_iter().enumerate() {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{kind}: {answer:?}");
    }
}
