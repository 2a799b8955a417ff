//! Primaries that are replaced, and slots on their way to another one.

use std::iter;
use std::time::Duration;

use fred::util::redis_keyslot;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use scanlogin::scene::Life;
use scanlogin::store::redis::RedisStore;
use scanlogin::store::{Replaced, SceneStore, find_one};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::backend::{Login, TTL, changed, put, settings};
use super::client::{Client, in_time};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::redis::Frozen;
use crate::support::sentinel::Sentinels;

/// What has moved already is read, written and created at its new place; nobody gets the answer to another's request.
#[tokio::test(flavor = "multi_thread")]
async fn scenes_in_slots_on_their_way_go_on_where_they_are() {
    let cluster = Cluster::start().await;
    // A replica that takes over knows nothing of slots on their way.
    cluster.be_patient();
    let store = Client::started(&settings(&cluster.url())).await;
    let logins = created(&store, 600).await;
    let slots: Vec<u16> = (0..500).collect();
    let is_moving = |login: &&Login| slots.contains(&redis_keyslot(login.id().hash_tag().as_bytes()));
    assert!(logins.iter().any(|login| is_moving(&login)), "none moves");
    block_in_place(|| cluster.begin_to_move(0, 1, &slots));
    let goes_on = async |login: &Login| {
        let seen = find_one(&*store, login.id())
            .await
            .expect("an answer")
            .expect("the scene");
        assert_eq!(seen.scene, login.scene);
        login.scan(&*store).await.expect("it is scanned");
        let seen = find_one(&*store, login.id())
            .await
            .expect("an answer")
            .expect("the scene");
        let replaced = put(&*store, &seen, &changed(&seen.scene), true).await;
        assert_eq!(replaced.expect("an answer"), Replaced::Written);
    };
    // A few at a time, as a busy machine would otherwise not answer the last of them in time.
    stream::iter(&logins).for_each_concurrent(32, goes_on).await;
    let created = created(&store, 300).await;
    assert!(
        created.iter().any(|login| is_moving(&login)),
        "none is created where slots move"
    );
    block_in_place(|| cluster.finish_moving(0, 1, &slots));
    // Some may be told to come again: the library learns of each slot's new owner anew.
    let is_there = async |login: &Login| {
        eventually("it is read", || async {
            let found = find_one(&*store, login.id()).await.ok()?;
            let found = found.expect("the scene").scene.browser_secret;
            assert_eq!(found, login.scene.browser_secret);
            Some(())
        })
        .await;
    };
    join_all(logins.iter().chain(&created).map(is_there)).await;
}

async fn created(store: &RedisStore, count: usize) -> Vec<Login> {
    let creations = (0..count).map(|_| Login::created(store, Life::of_new(TTL)));
    stream::iter(creations).buffer_unordered(32).collect().await
}

#[tokio::test]
async fn a_frozen_primary_is_left_for_the_one_the_sentinels_chose_even_under_load() {
    let sentinels = Sentinels::start().await;
    let store = Client::started(&settings(&sentinels.url())).await;
    let before = sentinels.masters();
    let _frozen = Frozen::new(sentinels.primary().server.pid());
    goes_on(&store).await;
    assert_ne!(sentinels.masters()[0], before[0]);
}

#[tokio::test]
async fn a_frozen_primary_of_a_cluster_is_left_for_its_replica_even_under_load() {
    let cluster = Cluster::start().await;
    let store = Client::started(&settings(&cluster.url())).await;
    let _frozen = Frozen::new(cluster.nodes()[0].server.pid());
    goes_on(&store).await;
}

#[tokio::test]
async fn a_killed_primary_of_a_cluster_is_left_for_its_replica() {
    let mut cluster = Cluster::start().await;
    let store = Client::started(&settings(&cluster.url())).await;
    cluster.kill(0);
    goes_on(&store).await;
}

/// Where the Cluster itself does not refuse everything meanwhile.
#[tokio::test]
async fn a_primary_that_is_dead_or_frozen_disturbs_no_other_shard() {
    for is_killed in [true, false] {
        let mut cluster = Cluster::start().await;
        for node in cluster.nodes() {
            node.cli_ok(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
        }
        let store = Client::started(&settings(&cluster.url())).await;
        let _frozen = if is_killed {
            cluster.kill(0);
            None
        } else {
            Some(Frozen::new(cluster.nodes()[0].server.pid()))
        };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(6) {
            let of_others = |login: &Login| redis_keyslot(login.id().hash_tag().as_bytes()) > 5_460;
            let login = iter::repeat_with(Login::new)
                .find(of_others)
                .expect("one of other shards");
            let asked = Instant::now();
            store
                .create(&login.scene, Life::of_new(TTL))
                .await
                .expect("it is created");
            let seen = login.stored(&*store.store).await;
            let written = put(&*store, &seen, &changed(&login.scene), true).await;
            assert_eq!(written.expect("an answer"), Replaced::Written);
            let took = asked.elapsed();
            assert!(
                took < Duration::from_secs(1),
                "it took {took:?}, {:?} after",
                began.elapsed()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Under load all the time, until scenes of all shards are created again, and then durably written.
async fn goes_on(store: &RedisStore) {
    let load = async {
        loop {
            let reads = join_all((0..32).map(|_| async { in_time(find_one(store, Login::new().id())).await }));
            tokio::join!(reads, sleep(Duration::from_millis(20)));
        }
    };
    let created = || async {
        let login = Login::new();
        in_time(store.create(&login.scene, Life::of_new(TTL))).await.ok()?;
        Some(login)
    };
    let written = || async {
        let login = created().await?;
        let seen = in_time(find_one(store, login.id())).await.ok()??;
        let replaced = in_time(put(store, &seen, &changed(&login.scene), true)).await.ok()?;
        (replaced == Replaced::Written).then_some(())
    };
    let again = async {
        let since = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 64 {
            in_a_row = created().await.map_or(0, |_| in_a_row + 1);
            assert!(since.elapsed() < Duration::from_secs(12), "no scenes are created");
        }
        // A shard whose only replica became its primary takes durable writes again ten seconds after.
        while in_a_row < 128 {
            in_a_row = written().await.map_or(64, |()| in_a_row + 1);
            assert!(since.elapsed() < Duration::from_secs(20), "nothing is durably written");
        }
    };
    tokio::select! {
        () = load => {}
        () = again => {}
    }
}
