//! Cluster and Sentinel: masters that are demoted, killed or frozen, and slots that move.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use scanlogin::scene::SceneId;
use tokio::time::sleep;

use super::listener::{Listener, access, channel, client, publish_all, scenes, state_of_version};
use crate::support::cli::{cli, cli_ok};
use crate::support::cluster::Cluster;
use crate::support::guard::certify;
use crate::support::redis::{Frozen, RedisServer, free_addr};
use crate::support::sentinel::Sentinels;

#[tokio::test]
async fn other_shards_are_heard_while_a_killed_master_is_replaced() {
    let mut cluster = Cluster::start().await;
    let mut listener = Listener::start(&cluster.url());
    let ids = scenes(1_000);
    listener.watch_all(&ids).await;
    let (concerned, others): (Vec<_>, Vec<_>) = ids.iter().partition(|id| slot(id) <= 5_460);
    cluster.kill(0);
    publish_by_cli(&cluster.addrs()[1..3], &others[..20]);
    listener.changed(&others[..20]).await;
    listener.lost(&concerned).await;
    publish_by_cli(&cluster.addrs()[1..4], &concerned[..20]);
    listener.changed(&concerned[..20]).await;
}

#[tokio::test]
async fn a_frozen_master_under_sentinel_is_left_for_its_successor_and_stays_left() {
    let sentinels = Sentinels::start().await;
    let mut listener = Listener::start(&sentinels.url());
    let ids = scenes(100);
    listener.watch_all(&ids).await;
    let frozen = Frozen::new(sentinels.primary().server.pid());
    listener.lost(&ids).await;
    let successor: SocketAddr = sentinels.masters()[0].parse().unwrap();
    publish_by_cli(&[successor], &ids);
    listener.changed(&ids).await;

    drop(frozen);
    // It calls itself master for another while; the sentinels are asked several times meanwhile.
    sleep(Duration::from_secs(1)).await;
    publish_by_cli(&[successor], &ids);
    listener.changed(&ids).await;
}

#[tokio::test]
async fn a_cluster_is_listened_to_over_tls_though_it_tells_addresses_and_its_certificates_names() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "DNS:localhost");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let addr = free_addr();
    let bus = free_addr().port().to_string();
    let server = RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-announce-ip",
        "127.0.0.1",
        "--tls-port",
        &addr.port().to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cluster",
        "yes",
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ]);
    let plain = server.addr();
    cli_ok(plain, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);

    let mut access = access(&format!("redis-cluster://localhost:{}", addr.port()));
    access.tls = Some(trusting(&dir.path().join("ca.pem")));
    let mut listener = Listener::start_with(&access, 1_024);
    let ids = scenes(100);
    listener.watch_all(&ids).await;
    publish_by_cli(&[plain], &ids);
    listener.changed(&ids).await;
}

#[tokio::test]
async fn slots_that_are_back_before_anybody_looked_are_not_left_deaf() {
    let cluster = Cluster::start().await;
    let commands = client(&cluster.url()).await;
    let mut listener = Listener::start(&cluster.url());
    let ids = scenes(500);
    listener.watch_all(&ids).await;
    let mut slots = ids
        .iter()
        .map(slot)
        .filter(|slot| *slot <= 5_460)
        .collect::<HashSet<_>>()
        .into_iter();
    for _ in 0..5 {
        let slot_of_round = slots.next().unwrap();
        let concerned = ids
            .iter()
            .filter(|id| slot(id) == slot_of_round)
            .copied()
            .collect::<Vec<_>>();
        cluster.move_slots(0, 1, [slot_of_round].into_iter());
        cluster.move_slots(1, 0, [slot_of_round].into_iter());
        let told = listener.lost(&concerned).await;
        assert!(told < Duration::from_secs(2), "{told:?}");
        publish_all(&commands, &concerned).await;
        listener.changed(&concerned).await;
    }
}

fn slot(id: &SceneId) -> u16 {
    fred::util::redis_keyslot(id.hash_tag().as_bytes())
}

fn publish_by_cli(masters: &[SocketAddr], ids: &[SceneId]) {
    let payload = serde_json::to_string(&state_of_version(2)).unwrap();
    for id in ids {
        let words = ["SPUBLISH", &channel(id), &payload];
        let owner = masters.iter().find(|addr| !cli(**addr, &words).starts_with("MOVED"));
        assert!(owner.is_some(), "none of {masters:?} owns {id:?}");
    }
}

fn trusting(authority: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}
