//! The connection that listens, against a real server that restarts, freezes, or talks nonsense.

mod link;
mod listener;
mod topologies;

use std::time::Duration;

use futures_util::future::join_all;
use scanlogin::store::{News, StoreError};
use tokio::time::{sleep, timeout};

use self::link::Link;
use self::listener::{Listener, access, channel, client, publish, publish_all, scene, scenes, state_of_version};
use crate::support::cli::{cli, cli_ok};
use crate::support::eventually;
use crate::support::redis::{Frozen, RedisServer, free_addr};
use crate::support::stopwatch::Stopwatch;

#[tokio::test]
async fn what_is_published_after_watch_returned_is_never_missed() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&server.url());
    for _ in 0..1_000 {
        let id = scene();
        listener.subscriber.watch(&id).await.unwrap();
        publish(&publisher, &id).await;
        let Some(News::Changed(changed, state)) = listener.news.recv().await else {
            panic!("something else than the change");
        };
        assert_eq!((changed, state), (id, state_of_version(2)));
    }
}

#[tokio::test]
async fn thousands_of_scenes_are_watched_by_a_few_hundred_commands() {
    let server = RedisServer::start();
    let link = Link::to(server.addr()).await;
    let mut listener = Listener::start(&link.url());
    let ids = scenes(3_000);
    listener.watch_all(&ids).await;
    let stats = cli(server.addr(), &["INFO", "commandstats"]);
    let calls = stats
        .split_once("cmdstat_ssubscribe:calls=")
        .and_then(|(_, rest)| rest.split_once(','));
    let calls: usize = calls.unwrap().0.parse().unwrap();
    assert!(calls < 1_000, "{calls} commands for 3,000 scenes of 256 tags");
    let publisher = client(&server.url()).await;
    publish_all(&publisher, &ids).await;
    listener.changed(&ids).await;
}

#[tokio::test]
async fn an_unwatched_scene_is_no_longer_heard_of_and_its_channel_is_given_back() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&server.url());
    let ids = scenes(100);
    listener.watch_all(&ids).await;
    let (left, kept) = ids.split_at(50);
    join_all(left.iter().map(|id| listener.subscriber.unwatch(id))).await;
    eventually("the server holds only what is watched", || async {
        (cli(server.addr(), &["PUBSUB", "SHARDCHANNELS"]).lines().count() == 50).then_some(())
    })
    .await;
    publish_all(&publisher, &ids).await;
    assert_eq!(listener.changed(kept).await, kept.len(), "news of the others");

    listener.watch_all(left).await;
    publish_all(&publisher, left).await;
    listener.changed(left).await;
    assert!(listener.no_losses(), "unwatching is no loss");
}

#[tokio::test]
async fn unwatching_and_watching_again_at_once_ends_watched() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&server.url());
    let id = scene();
    for _ in 0..200 {
        listener.subscriber.watch(&id).await.unwrap();
        publish(&publisher, &id).await;
        listener.changed(&[id]).await;
        listener.subscriber.unwatch(&id).await;
    }
    assert!(listener.no_losses());
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again_and_the_loss_told() {
    let server = RedisServer::start();
    let link = Link::to(server.addr()).await;
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&link.url());
    let ids = scenes(300);
    listener.watch_all(&ids).await;
    for round in 1..=5 {
        assert_eq!(cli(server.addr(), &["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
        let told = listener.lost(&ids).await;
        assert!(told < Duration::from_secs(2), "{told:?}");
        assert_eq!(listener.losses("closed"), round);
        publish_all(&publisher, &ids).await;
        listener.changed(&ids).await;
    }
}

#[tokio::test]
async fn a_restarted_server_is_listened_to_again() {
    let mut server = RedisServer::start();
    let link = Link::to(server.addr()).await;
    let mut listener = Listener::start(&link.url());
    let ids = scenes(300);
    listener.watch_all(&ids).await;
    server.kill();
    sleep(Duration::from_millis(500)).await;
    server.restart();
    let told = listener.lost(&ids).await;
    assert!(told < Duration::from_secs(2), "{told:?}");
    let publisher = client(&server.url()).await;
    publish_all(&publisher, &ids).await;
    listener.changed(&ids).await;
}

#[tokio::test]
async fn a_frozen_server_is_noticed_within_two_seconds() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&server.url());
    let ids = scenes(100);
    listener.watch_all(&ids).await;
    let frozen = Frozen::new(server.pid());
    let began = Stopwatch::start();
    eventually("it is noticed", || async {
        (listener.losses("timeout") > 0).then_some(())
    })
    .await;
    began.took_less_than(Duration::from_secs(2));
    drop(frozen);
    listener.lost(&ids).await;
    publish_all(&publisher, &ids).await;
    listener.changed(&ids).await;
}

#[tokio::test]
async fn a_server_with_nothing_to_say_is_not_taken_for_dead() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start(&server.url());
    let ids = scenes(100);
    listener.watch_all(&ids).await;
    // Long enough for several PINGs and a comparison of counts.
    sleep(Duration::from_secs(5)).await;
    publish_all(&publisher, &ids).await;
    assert_eq!(listener.changed(&ids).await, ids.len());
    assert!(listener.no_losses());
}

#[tokio::test]
async fn a_hub_that_does_not_keep_up_slows_the_server_down_and_misses_nothing() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let mut listener = Listener::start_with(&access(&server.url()), 1);
    let ids = scenes(500);
    listener.watch_all(&ids).await;
    publish_all(&publisher, &ids).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(listener.changed(&ids).await, ids.len());
    assert!(listener.no_losses(), "waiting for room is not the server's silence");
}

#[tokio::test]
async fn a_server_that_comes_late_is_found_and_what_was_watched_is_told_to_be_read() {
    let addr = free_addr();
    let mut listener = Listener::start(&format!("redis://{addr}"));
    let id = scene();
    let began = Stopwatch::start();
    let refused = listener.subscriber.watch(&id).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    began.took_less_than(Duration::from_millis(2_500));
    let server = RedisServer::start();
    let _forwarding = Link::at(addr, server.addr()).await;
    listener.lost(&[id]).await;
    let publisher = client(&server.url()).await;
    publish(&publisher, &id).await;
    listener.changed(&[id]).await;
}

#[tokio::test]
async fn a_user_with_the_least_rights_suffices_and_a_forbidden_channel_harms_no_other() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let rights = "+ssubscribe +sunsubscribe +ping +hello +client|setname +client|info";
    let user = format!("ACL SETUSER listener on >opensesame resetchannels &scanlogin:{{?[0-7]}}:* -@all {rights}");
    cli_ok(server.addr(), &user.split(' ').collect::<Vec<_>>());
    let mut access = access(&server.url());
    access.username = Some("listener".to_owned());
    access.password = Some("opensesame".to_owned().into());
    let mut listener = Listener::start_with(&access, 1_024);

    let (allowed, forbidden): (Vec<_>, Vec<_>) = scenes(200)
        .into_iter()
        .partition(|id| id.hash_tag().as_bytes()[1] < b'8');
    let (watched, refused) = tokio::join!(
        listener.watch_all(&allowed),
        join_all(forbidden.iter().map(|id| listener.subscriber.watch(id)))
    );
    let () = watched;
    for outcome in refused {
        let Err(StoreError::Unavailable(reason)) = outcome else {
            panic!("watched: {outcome:?}");
        };
        assert!(reason.starts_with("NOPERM"), "{reason}");
    }
    // A comparison of counts is made meanwhile.
    sleep(Duration::from_secs(5)).await;
    publish_all(&publisher, &allowed).await;
    listener.changed(&allowed).await;
    assert!(listener.no_losses());
    assert_eq!(listener.unheard(), forbidden.len());

    cli_ok(server.addr(), &["ACL", "SETUSER", "listener", "allchannels"]);
    listener.lost(&forbidden).await;
    assert_eq!(listener.unheard(), 0);
    publish_all(&publisher, &forbidden).await;
    listener.changed(&forbidden).await;
}

#[tokio::test]
async fn a_server_that_talks_nonsense_loses_that_connection_and_no_more() {
    let server = RedisServer::start();
    let publisher = client(&server.url()).await;
    let hello = "%1\r\n+role\r\n+master\r\n";
    let of_another = "scanlogin:{00}:00000000000000000000000000000000";
    let nonsense = [
        "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
        "-ERR max number of clients reached\r\n".to_owned(),
        "%0\r\n".to_owned(),
        format!("{hello}\u{0}\u{1}\r\n"),
        format!("{hello}+PONG\r\n"),
        format!("{hello}-ERR out of nowhere\r\n"),
        format!("{hello}>3\r\n+ssubscribe\r\n+{of_another}\r\n:1\r\n"),
        format!("{hello}$2000000\r\n"),
        format!(
            "{hello}>3\r\n+smessage\r\n+c\r\n$1048570\r\n{}\r\n",
            "a".repeat(1_048_570)
        ),
        format!("{hello}{}", "*1\r\n".repeat(100_000)),
    ];
    for answer in nonsense {
        let shown = answer.chars().take(60).collect::<String>();
        let link = Link::lying_first(answer, server.addr()).await;
        let mut listener = Listener::start(&link.url());
        let id = scene();
        assert!(listener.subscriber.watch(&id).await.is_ok(), "{shown}");
        publish(&publisher, &id).await;
        listener.changed(&[id]).await;
    }
}

#[tokio::test]
async fn a_message_that_can_not_be_read_counts_as_missed() {
    let server = RedisServer::start();
    let mut listener = Listener::start(&server.url());
    let id = scene();
    listener.subscriber.watch(&id).await.unwrap();
    cli(server.addr(), &["SPUBLISH", &channel(&id), "{\"v\": \"two\"}"]);
    listener.lost(&[id]).await;
    assert_eq!(listener.losses("undecodable"), 1);
    publish(&client(&server.url()).await, &id).await;
    listener.changed(&[id]).await;
}

#[tokio::test]
async fn it_ends_when_told_to() {
    let server = RedisServer::start();
    let listener = Listener::start(&server.url());
    listener.watch_all(&scenes(10)).await;
    listener.stop.cancel();
    listener.tracker.close();
    timeout(Duration::from_secs(1), listener.tracker.wait())
        .await
        .expect("every task ends");
    let refused = listener.subscriber.watch(&scene()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}
