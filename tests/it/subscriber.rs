//! The connection that listens, against real servers that restart, freeze, fail over and hand slots to each other.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::types::Builder;
use fred::types::config::{ClusterDiscoveryPolicy, Config, ReconnectPolicy, ServerConfig};
use futures_util::future::join_all;
use scanlogin::entropy::os_rng;
use scanlogin::scene::{EventId, Profile, PublicState, SceneId, StateName};
use scanlogin::store::redis::servers::Servers;
use scanlogin::store::redis::subscriber::{Listen, Subscriber};
use scanlogin::store::{News, StoreError};
use scanlogin::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::cli::{cli, cli_ok};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::sentinel::Sentinels;

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
    let frozen = Frozen::process(server.pid());
    let began = Instant::now();
    while listener.losses("timeout") == 0 {
        assert!(began.elapsed() < Duration::from_secs(2), "not noticed");
        sleep(Duration::from_millis(10)).await;
    }
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
    let mut listener = Listener::start_with(listen(&server.url()), 1, Vec::new());
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
    let began = Instant::now();
    let refused = listener.subscriber.watch(&id).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_millis(2_500));
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
    let mut listen = listen(&server.url());
    listen.username = Some("listener".to_owned());
    listen.password = Some("opensesame".to_owned().into());
    let mut listener = Listener::start_with(listen, 1_024, Vec::new());

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

    cli_ok(server.addr(), &["ACL", "SETUSER", "listener", "allchannels"]);
    listener.lost(&forbidden).await;
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

#[tokio::test]
async fn a_planned_failover_of_a_cluster_is_followed() {
    let cluster = Cluster::start().await;
    let commands = client(&cluster.url()).await;
    let mut listener = Listener::start_with(listen(&cluster.url()), 8_192, vec![commands.clone()]);
    let ids = scenes(1_000);
    listener.watch_all(&ids).await;
    publish_all(&commands, &ids).await;
    listener.changed(&ids).await;

    let concerned = ids.iter().filter(|id| slot(id) <= 5_460).copied().collect::<Vec<_>>();
    cluster.fail_over_to(3);
    let told = listener.lost(&concerned).await;
    assert!(told < Duration::from_secs(2), "{told:?}");
    publish_all(&commands, &ids).await;
    listener.changed(&ids).await;
    assert!(listener.losses("unsubscribed") + listener.losses("moved") > 0);
}

#[tokio::test]
async fn a_killed_master_of_a_cluster_is_replaced() {
    let mut cluster = Cluster::start().await;
    let commands = client(&cluster.url()).await;
    let mut listener = Listener::start_with(listen(&cluster.url()), 8_192, vec![commands.clone()]);
    let ids = scenes(1_000);
    listener.watch_all(&ids).await;
    let (concerned, others): (Vec<_>, Vec<_>) = ids.iter().partition(|id| slot(id) <= 5_460);
    cluster.kill(0);
    // Other shards go on meanwhile.
    publish_by_cli(&cluster.addrs()[1..3], &others[..20]);
    listener.changed(&others[..20]).await;
    listener.lost(&concerned).await;
    publish_all(&commands, &ids).await;
    listener.changed(&ids).await;
}

#[tokio::test]
async fn slots_that_move_away_and_back_take_their_channels_along() {
    let cluster = Cluster::start().await;
    let commands = client(&cluster.url()).await;
    let mut listener = Listener::start_with(listen(&cluster.url()), 8_192, vec![commands.clone()]);
    let ids = scenes(2_000);
    listener.watch_all(&ids).await;
    let slots = ids
        .iter()
        .map(slot)
        .filter(|slot| *slot <= 5_460)
        .collect::<HashSet<_>>();
    let concerned = ids
        .iter()
        .filter(|id| slots.contains(&slot(id)))
        .copied()
        .collect::<Vec<_>>();
    for (from, to) in [(0, 1), (1, 0)] {
        cluster.move_slots(from, to, slots.iter().copied());
        listener.lost(&concerned).await;
        publish_all(&commands, &ids).await;
        listener.changed(&ids).await;
    }
}

#[tokio::test]
async fn a_sentinel_failover_is_followed_and_told_when_commands_follow_too() {
    let sentinels = Sentinels::start().await;
    let commands = client(&sentinels.url()).await;
    let mut listener = Listener::start_with(listen(&sentinels.url()), 8_192, vec![commands.clone()]);
    let ids = scenes(300);
    listener.watch_all(&ids).await;
    publish_all(&commands, &ids).await;
    listener.changed(&ids).await;

    let old = sentinels.masters();
    sentinels.fail_over().await;
    let told = listener.lost(&ids).await;
    let new = sentinels.masters();
    assert_ne!(old, new);
    let connected = commands
        .active_connections()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert!(
        new.contains(&connected[0]),
        "commands go to {connected:?}, the master is {new:?}, told after {told:?}"
    );
    publish_all(&commands, &ids).await;
    listener.changed(&ids).await;
}

/// A subscriber and what it tells.
struct Listener {
    subscriber: Subscriber,
    news: mpsc::Receiver<News>,
    metrics: Metrics,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Listener {
    fn start(url: &str) -> Self {
        Self::start_with(listen(url), 8_192, Vec::new())
    }

    fn start_with(listen: Listen, capacity: usize, commands: Vec<Client>) -> Self {
        let (sender, news) = mpsc::channel(capacity);
        let (metrics, tracker, stop) = (Metrics::new().unwrap(), TaskTracker::new(), CancellationToken::new());
        let subscriber = Subscriber::start(listen, sender, commands, metrics.clone(), &tracker, stop.clone());
        Self {
            subscriber,
            news,
            metrics,
            tracker,
            stop,
        }
    }

    async fn watch_all(&self, ids: &[SceneId]) {
        for outcome in join_all(ids.iter().map(|id| self.subscriber.watch(id))).await {
            outcome.unwrap();
        }
    }

    /// Waits until a change of each was told; says how many were told of any.
    async fn changed(&mut self, ids: &[SceneId]) -> usize {
        let mut awaited = ids.iter().collect::<HashSet<_>>();
        let mut told = 0;
        while !awaited.is_empty() {
            match timeout(Duration::from_secs(10), self.news.recv()).await {
                Ok(Some(News::Changed(id, _))) => {
                    awaited.remove(&id);
                    told += 1;
                }
                Ok(Some(News::Lost(_))) => {}
                Ok(None) => panic!("it ended"),
                Err(_) => panic!("deaf for {} of {}", awaited.len(), ids.len()),
            }
        }
        told
    }

    /// Waits until the loss of each was told; says how long that took.
    async fn lost(&mut self, ids: &[SceneId]) -> Duration {
        let began = Instant::now();
        let mut awaited = ids.iter().collect::<HashSet<_>>();
        while !awaited.is_empty() {
            match timeout(Duration::from_secs(10), self.news.recv()).await {
                Ok(Some(News::Lost(lost))) => lost.iter().for_each(|id| drop(awaited.remove(id))),
                Ok(Some(News::Changed(..))) => {}
                Ok(None) => panic!("it ended"),
                Err(_) => panic!("the loss of {} of {} is not told", awaited.len(), ids.len()),
            }
        }
        began.elapsed()
    }

    fn losses(&self, cause: &str) -> u64 {
        self.metrics.store_lost_total.with_label_values(&[cause]).get()
    }

    fn no_losses(&self) -> bool {
        !self.metrics.render().unwrap().contains("store_lost_total{")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn listen(url: &str) -> Listen {
    Listen {
        servers: Servers::from(&Config::from_url(url).unwrap().server),
        username: None,
        password: None,
        tls: None,
        prefix: "scanlogin".to_owned(),
    }
}

fn scene() -> SceneId {
    SceneId::random(&mut os_rng())
}

fn scenes(count: usize) -> Vec<SceneId> {
    std::iter::repeat_with(scene).take(count).collect()
}

fn channel(id: &SceneId) -> String {
    format!("scanlogin:{{{}}}:{id}", id.hash_tag())
}

fn slot(id: &SceneId) -> u16 {
    fred::util::redis_keyslot(id.hash_tag().as_bytes())
}

fn state_of_version(version: u64) -> PublicState {
    PublicState {
        version,
        event_id: EventId::NONE,
        state: StateName::Scanned,
        profile: Profile::default(),
        code_left_ms: 0,
    }
}

async fn client(url: &str) -> Client {
    let mut config = Config::from_url(url).unwrap();
    if let ServerConfig::Clustered { policy, .. } = &mut config.server {
        *policy = ClusterDiscoveryPolicy::UseCache;
    }
    let client = Builder::from_config(config)
        .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(1))
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(1);
            connection.internal_command_timeout = Duration::from_secs(1);
        })
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    client.init().await.unwrap();
    client
}

/// Publishes as the store does; through the seconds in which a client looks for its server.
async fn publish(client: &Client, id: &SceneId) {
    let payload = serde_json::to_string(&state_of_version(2)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let script = "return redis.call('SPUBLISH', KEYS[1], ARGV[1])";
        match client.eval::<i64, _, _, _>(script, channel(id), payload.as_str()).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "not published: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn publish_all(client: &Client, ids: &[SceneId]) {
    join_all(ids.iter().map(|id| publish(client, id))).await;
}

fn publish_by_cli(masters: &[SocketAddr], ids: &[SceneId]) {
    let payload = serde_json::to_string(&state_of_version(2)).unwrap();
    for id in ids {
        let words = ["SPUBLISH", &channel(id), &payload];
        let owner = masters.iter().find(|addr| !cli(**addr, &words).starts_with("MOVED"));
        assert!(owner.is_some(), "none of {masters:?} owns {id:?}");
    }
}

/// Stopped until dropped.
struct Frozen(rustix::process::Pid);

impl Frozen {
    fn process(pid: u32) -> Self {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// A way to a server on which every byte takes a millisecond each way: bare loopback hides faults.
struct Link {
    addr: SocketAddr,
    stop: CancellationToken,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        Self::forward((Ipv4Addr::LOCALHOST, 0).into(), server, None).await
    }

    async fn at(addr: SocketAddr, server: SocketAddr) -> Self {
        Self::forward(addr, server, None).await
    }

    /// The first connection is answered with `lie`, whatever it asks.
    async fn lying_first(lie: String, server: SocketAddr) -> Self {
        Self::forward((Ipv4Addr::LOCALHOST, 0).into(), server, Some(lie)).await
    }

    async fn forward(addr: SocketAddr, server: SocketAddr, mut lie: Option<String>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, stop, tasks) = (
            listener.local_addr().unwrap(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let (inner_tasks, inner_stop) = (tasks.clone(), stop.clone());
        let accept = async move {
            while let Ok((near, _)) = listener.accept().await {
                let lie = lie.take();
                let serve = async move {
                    match lie {
                        Some(lie) => speak(near, &lie).await,
                        None => join(near, server).await,
                    }
                };
                inner_tasks.spawn(inner_stop.clone().run_until_cancelled_owned(serve));
            }
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept));
        Self { addr, stop }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn speak(mut near: TcpStream, text: &str) {
    // Who is spoken to may hang up at any word.
    let _ = near.write_all(text.as_bytes()).await;
    let mut ignored = Vec::new();
    let _ = near.read_to_end(&mut ignored).await;
}

async fn join(near: TcpStream, server: SocketAddr) {
    let Ok(far) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = pump(near_read, far_write) => {}
        () = pump(far_read, near_write) => {}
    }
}

/// Hands on what comes, each piece a millisecond later.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut delayed) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(1);
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = delayed.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
