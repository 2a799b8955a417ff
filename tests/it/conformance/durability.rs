//! What no reply, no fail-over and no replica's absence takes from a caller that was told "written".

use std::pin::pin;
use std::time::Duration;

use fred::util::redis_keyslot;
use futures_util::future::join_all;
use scanlogin::scene::{GRACE, Life, StateName};
use scanlogin::store::redis::{RedisSettings, RedisStore, Wait};
use scanlogin::store::{BlobStore, Created, Picture, Replaced, SceneStore, TokenStore, find_one};
use tokio::time::{Instant, sleep};

use super::backend::{Login, TTL, changed, put, rewritten, settings};
use super::client::Client;
use super::{CLAIM, LEASE, owner};
use crate::support::cli::{cli, cli_ok};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::{Frozen, RedisServer};
use crate::support::sentinel::Sentinels;
use crate::support::stopwatch::Stopwatch;

#[tokio::test]
async fn a_lost_reply_to_a_write_is_known_again_and_counts() {
    let server = RedisServer::start();
    let _replica = server.replica().await;
    let proxy = Proxy::start(server.addr(), Duration::from_millis(1)).await;
    for wait in [Wait::Never, Wait::Always] {
        let store = Client::started(&waiting(&proxy.url(), wait)).await;
        for durable in [false, true] {
            let login = Login::created(&*store, Life::of_new(TTL)).await;
            let first = login.stored(&*store).await;
            assert_eq!(
                put(&*store, &first, &rewritten(&login.scene), false).await.unwrap(),
                Replaced::Written
            );
            // The server knows the script by now, so what is lost is not that it doesn't.
            let seen = login.stored(&*store).await;
            let next = changed(&login.scene);
            proxy.lose_reply_to(&next.write_id.to_string());
            let replaced = put(&*store, &seen, &next, durable).await.unwrap();
            assert!(
                matches!(replaced, Replaced::Written | Replaced::Unreplicated),
                "{replaced:?}"
            );
            assert!(proxy.has_lost());
            eventually("the replica has it as well", || async {
                let replaced = put(&*store, &seen, &next, durable).await.unwrap();
                (replaced == Replaced::Written).then_some(())
            })
            .await;
            assert_eq!(login.stored(&*store).await.scene, next);
        }
    }
}

#[tokio::test]
async fn a_confirm_in_the_middle_of_a_read_is_not_read_as_an_expiry() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr(), Duration::ZERO).await;
    let (slow, direct) = (
        Client::started(&settings(&proxy.url())).await,
        Client::started(&settings(&server.url())).await,
    );
    let life = Life(GRACE + Duration::from_millis(500));
    let login = Login::scanned(&*direct, life).await;
    let key = format!("scanlogin:{{{}}}:{}\r\n", login.id().hash_tag(), login.id());
    proxy.stall_behind(&key);
    let read = find_one(&*slow, login.id());
    let meanwhile = async {
        proxy.stalled().await;
        login.confirm(&*direct).await.unwrap();
        eventually("the deadline is past", || async {
            let pttl: u128 = cli(server.addr(), &["PTTL", key.trim_end()]).parse().unwrap();
            (pttl < GRACE.as_millis()).then_some(())
        })
        .await;
        proxy.heal();
    };
    let (read, ()) = tokio::join!(read, meanwhile);
    let read = read.unwrap().unwrap();
    assert_eq!(read.scene.state_name(read.life()), StateName::Confirmed);
}

#[tokio::test]
async fn a_lost_reply_never_takes_from_a_caller_what_it_got() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.addr(), Duration::from_millis(1)).await;
    let store = Client::started(&settings(&proxy.url())).await;

    let login = Login::new();
    proxy.lose_reply_to(&login.scene.write_id.to_string());
    assert_eq!(
        store.create(&login.scene, Life::of_new(TTL)).await.unwrap(),
        Created::New
    );
    assert!(proxy.has_lost());

    proxy.lose_reply_to("making ");
    assert_eq!(store.picture(login.id(), CLAIM).await.unwrap(), Picture::Yours);
    assert!(proxy.has_lost());

    let holder = owner();
    proxy.lose_reply_to(&holder.to_string());
    assert!(store.acquire_lease("wx1", holder, LEASE).await.unwrap());
    assert!(proxy.has_lost());

    // The server knows the script by now, so what is lost is not that it doesn't.
    assert!(!store.put_token("wx2", holder, None, b"another", TTL).await.unwrap());
    proxy.lose_reply_to("a sealed token");
    assert!(
        store
            .put_token("wx1", holder, None, b"a sealed token", TTL)
            .await
            .unwrap()
    );
    assert!(proxy.has_lost());
}

#[tokio::test]
async fn a_durable_write_waits_for_its_replica_and_goes_on_when_it_stays_away() {
    let server = RedisServer::start();
    let replica = server.replica().await;
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    eventually("a write is replicated", || async {
        (write_once(&store, &login).await == Replaced::Written).then_some(())
    })
    .await;
    assert_eq!(store.waits("replicated"), 1);
    assert_eq!(store.waits("not_asked"), 0);

    let unreplicated = store.waits("unreplicated");
    let frozen = Frozen::new(replica.pid());
    let since = Stopwatch::start();
    let (seen, next) = (login.stored(&*store).await, rewritten(&login.scene));
    assert_eq!(put(&*store, &seen, &next, true).await.unwrap(), Replaced::Unreplicated);
    since.took_less_than(Duration::from_secs(1));
    assert_eq!(store.waits("unreplicated"), unreplicated + 1);
    while write_once(&store, &login).await == Replaced::Unreplicated {
        assert!(since.elapsed() < Duration::from_secs(20), "it never goes on");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        since.elapsed() > Duration::from_secs(9),
        "it went on after {:?}",
        since.elapsed()
    );
    assert_eq!(store.waits("not_asked"), 1);

    drop(frozen);
    eventually("the replica counts again", || async {
        let replicated = store.waits("replicated");
        write_once(&store, &login).await;
        (store.waits("replicated") > replicated).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_write_that_was_not_replicated_counts_when_it_is_repeated_and_is() {
    let server = RedisServer::start();
    let replica = server.replica().await;
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let (seen, next) = (login.stored(&*store).await, changed(&login.scene));
    let frozen = Frozen::new(replica.pid());
    assert_eq!(put(&*store, &seen, &next, true).await.unwrap(), Replaced::Unreplicated);
    drop(frozen);
    eventually("the same write is replicated", || async {
        let replaced = put(&*store, &seen, &next, true).await.unwrap();
        (replaced == Replaced::Written).then_some(())
    })
    .await;
    assert!(store.waits("replicated") > 0);
}

#[tokio::test]
async fn who_wants_to_wait_always_or_never_does() {
    let server = RedisServer::start();
    let auto = Client::started(&settings(&server.url())).await;
    let always = Client::started(&waiting(&server.url(), Wait::Always)).await;
    let login = Login::created(&*auto, Life::of_new(TTL)).await;
    assert_eq!(
        write_once(&auto, &login).await,
        Replaced::Written,
        "there never was a replica"
    );
    assert_eq!(auto.waits("not_asked"), 1);
    assert_eq!(write_once(&always, &login).await, Replaced::Unreplicated);

    let replica = server.replica().await;
    let _frozen = Frozen::new(replica.pid());
    let never = Client::started(&waiting(&server.url(), Wait::Never)).await;
    assert_eq!(write_once(&never, &login).await, Replaced::Written);
    assert_eq!((never.waits("not_wanted"), never.waits("not_asked")), (1, 0));
}

/// Each has no replica to wait for, and blocks its connection until its time is over.
#[tokio::test]
async fn waiting_for_a_replica_holds_up_nobody_else() {
    const WAITERS: usize = 8;
    let server = RedisServer::start();
    let store = Client::started(&waiting(&server.url(), Wait::Always)).await;
    let store: &RedisStore = &store;
    let waits = join_all((0..WAITERS).map(|_| async {
        let login = Login::created(store, Life::of_new(TTL)).await;
        loop {
            assert_eq!(write_once(store, &login).await, Replaced::Unreplicated);
        }
    }));
    let reads = async {
        let login = Login::created(store, Life::of_new(TTL)).await;
        eventually("all wait at once", || async {
            let clients = cli(server.addr(), &["INFO", "clients"]);
            clients.contains(&format!("blocked_clients:{WAITERS}\r")).then_some(())
        })
        .await;
        let asked = Instant::now();
        for _ in 0..20 {
            login.stored(store).await;
        }
        asked.elapsed()
    };
    let took = tokio::select! {
        _ = waits => unreachable!("they go on for ever"),
        took = reads => took,
    };
    // Each of them behind one that waits, they would take four seconds; behind several, more.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// As many as wait for it would take all connections that may.
#[tokio::test]
async fn a_shard_without_its_replica_holds_up_no_other_shards_writes() {
    let cluster = Cluster::start().await;
    let client = Client::started(&settings(&cluster.url())).await;
    let store: &RedisStore = &client;
    let logins = join_all((0..200).map(|_| Login::created(store, Life::of_new(TTL)))).await;
    let (concerned, others): (Vec<_>, Vec<_>) =
        (logins.into_iter()).partition(|login| redis_keyslot(login.id().hash_tag().as_bytes()) <= 5_460);
    let _frozen = Frozen::new(cluster.nodes()[3].server.pid());
    let unreplicated = join_all((0..200).map(|n| {
        let login = &concerned[n % concerned.len()];
        async move {
            let seen = login.stored(store).await;
            let _ = put(store, &seen, &rewritten(&seen.scene), true).await;
        }
    }));
    let replicated = async {
        sleep(Duration::from_millis(100)).await;
        join_all(others.iter().take(20).map(|login| write_once(store, login))).await
    };
    let mut unreplicated = pin!(unreplicated);
    let (began, mut replicated) = (Stopwatch::start(), pin!(replicated));
    let written = tokio::select! {
        written = &mut replicated => written,
        _ = &mut unreplicated => replicated.await,
    };
    assert!(
        written.iter().all(|replaced| *replaced == Replaced::Written),
        "{written:?}"
    );
    began.took_less_than(Duration::from_millis(1_500));
}

/// The sentinel that does not answer may be about to promote the one that left.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joins_never_stands_in_for_one_that_left() {
    let sentinels = Sentinels::start().await;
    let (primary, left) = (sentinels.primary(), &sentinels.nodes()[0]);
    primary.cli_ok(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let (url, links) = sentinels.hard_of_hearing(Duration::from_millis(1)).await;
    let store = Client::started(&settings(&url)).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let joining = RedisServer::start();
    let (host, port) = (
        primary.link.addr().ip().to_string(),
        primary.link.addr().port().to_string(),
    );
    let joined = format!("port={},state=online", joining.addr().port());
    // On a busy machine it may take longer to join than the other is missed.
    for round in 0.. {
        assert!(round < 5, "it never joins in time");
        eventually("a write is replicated", || async {
            (write_once(&store, &login).await == Replaced::Written).then_some(())
        })
        .await;
        links[0].stall();
        left.cli_ok(&["REPLICAOF", "NO", "ONE"]);
        cli_ok(joining.addr(), &["REPLICAOF", &host, &port]);
        let (since, mut has_joined) = (Instant::now(), false);
        while since.elapsed() < Duration::from_millis(2_500) && !has_joined {
            has_joined = primary.cli(&["INFO", "replication"]).contains(&joined);
            assert_eq!(write_once(&store, &login).await, Replaced::Unreplicated);
        }
        if has_joined {
            return;
        }
        links[0].heal();
        left.cli_ok(&["REPLICAOF", &host, &port]);
        cli_ok(joining.addr(), &["REPLICAOF", "NO", "ONE"]);
    }
}

/// It might be the one that most sentinels, who can't be asked, are about to promote.
#[tokio::test(flavor = "multi_thread")]
async fn who_starts_while_a_replica_and_most_sentinels_are_away_takes_no_durable_write() {
    let sentinels = Sentinels::start().await;
    let (primary, left) = (sentinels.primary(), &sentinels.nodes()[0]);
    let (url, links) = sentinels.hard_of_hearing(Duration::from_millis(1)).await;
    left.cli_ok(&["REPLICAOF", "NO", "ONE"]);
    eventually("it has left", || async {
        let info = primary.cli(&["INFO", "replication"]);
        info.contains("connected_slaves:1").then_some(())
    })
    .await;
    links[1..].iter().for_each(Proxy::stall);
    let store = Client::started(&settings(&url)).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(write_once(&store, &login).await, Replaced::Unreplicated);
    }
    links[1..].iter().for_each(Proxy::heal);
    eventually("they vouch for the primary", || async {
        (write_once(&store, &login).await == Replaced::Written).then_some(())
    })
    .await;
}

/// Its primary would list it for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_is_not_waited_for_although_a_sentinel_is_away() {
    let sentinels = Sentinels::start().await;
    let (store, login, links) = written_under(&sentinels).await;
    links[0].stall();
    let _frozen = Frozen::new(sentinels.nodes()[0].server.pid());
    assert_eq!(write_once(&store, &login).await, Replaced::Written);
}

/// The sentinel that is away may be promoting it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_gone_while_a_sentinel_is_away_is_given_up_after_a_while() {
    let mut sentinels = Sentinels::start().await;
    let (store, login, links) = written_under(&sentinels).await;
    links[0].stall();
    sentinels.nodes_mut()[0].server.kill();
    assert_eq!(write_once(&store, &login).await, Replaced::Unreplicated);
    let since = Stopwatch::start();
    eventually("it is not counted any more", || async {
        (write_once(&store, &login).await == Replaced::Written).then_some(())
    })
    .await;
    since.took_less_than(Duration::from_secs(6));
}

async fn written_under(sentinels: &Sentinels) -> (Client, Login, Vec<Proxy>) {
    let (url, links) = sentinels.hard_of_hearing(Duration::from_millis(1)).await;
    let store = Client::started(&settings(&url)).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    eventually("a write is replicated", || async {
        (write_once(&store, &login).await == Replaced::Written).then_some(())
    })
    .await;
    (store, login, links)
}

/// Nobody else knows yet, and until it stops by itself it takes whatever it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_from_its_cluster_takes_no_durable_write_however_long_it_goes_on() {
    let cluster = Cluster::start().await;
    cluster.be_patient();
    let store = Client::started(&settings(&cluster.url())).await;
    let login = loop {
        let login = Login::created(&*store, Life::of_new(TTL)).await;
        if redis_keyslot(login.id().hash_tag().as_bytes()) <= 5_460 {
            break login;
        }
    };
    let is_written = || {
        eventually("a write is replicated", || async {
            (write_once(&store, &login).await == Replaced::Written).then_some(())
        })
    };
    is_written().await;
    cluster.part(0);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(16) {
        let replaced = write_once(&store, &login).await;
        // What was under way may have been replicated.
        assert!(
            replaced == Replaced::Unreplicated || since.elapsed() < Duration::from_secs(1),
            "{:?} after it was cut off",
            since.elapsed()
        );
    }
    cluster.rejoin();
    is_written().await;
}

fn waiting(url: &str, wait: Wait) -> RedisSettings {
    RedisSettings { wait, ..settings(url) }
}

/// A durable write that changes nothing.
async fn write_once(store: &RedisStore, login: &Login) -> Replaced {
    let mut unheard = 0;
    loop {
        let seen = login.stored(store).await;
        match put(store, &seen, &rewritten(&seen.scene), true).await {
            Ok(Replaced::Stale) => {}
            Ok(replaced) => return replaced,
            // A machine that is busy enough keeps an answer back for longer than the store waits for one.
            Err(error) => {
                unheard += 1;
                assert!(unheard < 5, "{error}");
            }
        }
    }
}
