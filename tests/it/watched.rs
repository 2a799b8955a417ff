//! Thousands of watched scenes while Redis changes hands: every stream has its scene's newest state soon after.
//!
//! The re-read that covers whatever nobody thought of is switched off, so that it can't hide that anybody is deaf.

mod watch;

use std::time::Duration;

use scanlogin::scene::SceneId;
use scanlogin::store::redis::RedisSettings;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use self::watch::{Step, Watch};
use crate::conformance::backend::settings;
use crate::support::cluster::Cluster;
use crate::support::redis::Frozen;
use crate::support::sentinel::Sentinels;

/// How many scenes: ten thousand in `scripts/test --all`, and else as many as fit into a minute.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the program")]
fn scenes() -> usize {
    std::env::var("TEST_WATCHED_SCENES").map_or(1_000, |scenes| scenes.parse().expect("a number of scenes"))
}

/// After Redis has replaced a primary: the client library may ask the one that is gone first.
const REACHED: Duration = Duration::from_secs(3);
/// How long some of them are being scanned, while Redis changes hands.
const SCANS: Duration = Duration::from_secs(2);
/// After the last write, where every server answers.
const TOLD: Duration = Duration::from_secs(2);

/// While every server answers: told within two seconds of the last write. How many acknowledged writes the change lost.
async fn a_planned_change(settings: &RedisSettings, change: impl AsyncFnOnce()) -> usize {
    let mut watch = Watch::start(settings).await;
    let scans = watch.begin(Step::Scan, scenes() / 4, SCANS);
    sleep(Duration::from_millis(200)).await;
    change().await;
    let written = scans.await.unwrap();
    watch.is_told("meanwhile", &written, Instant::now() + TOLD).await;
    let lost = watch.lost(&written).await;
    watch.goes_on().await;
    lost
}

/// A primary is gone: its scenes are written and told again within three seconds of the moment when it has been replaced, which is
/// when `broken` returns; what that returns stays so until the end.
async fn a_primary_gone<T>(
    settings: &RedisSettings,
    is_concerned: impl Fn(&SceneId) -> bool,
    broken: impl AsyncFnOnce() -> T,
) {
    let mut watch = Watch::start(settings).await;
    let scans = watch.begin(Step::Scan, scenes() / 4, SCANS);
    sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let _broken = broken().await;
    let replaced = Instant::now();
    let written = scans.await.unwrap();
    watch.is_told("meanwhile", &written, Instant::now() + TOLD).await;
    watch.lost(&written).await;
    let concerned = watch
        .logins
        .iter()
        .zip(&written)
        .filter(|(login, _)| is_concerned(login.id()));
    let mut times: Vec<Instant> = concerned.map(|(_, written)| written.at).collect();
    // On a busy machine none may have been written before.
    times.push(began);
    times.sort_unstable();
    let gap = times.windows(2).max_by_key(|pair| pair[1] - pair[0]).unwrap();
    let (silence, late) = (gap[1] - gap[0], gap[1].saturating_duration_since(replaced));
    println!("replaced after {:?}, nothing written for {silence:?}", replaced - began);
    assert!(silence > Duration::from_secs(1), "it happened before the last write");
    assert!(late < REACHED, "written again only {late:?} after it had been replaced");
    watch.goes_on().await;
}

fn slot(id: &SceneId) -> u16 {
    fred::util::redis_keyslot(id.hash_tag().as_bytes())
}

/// Of the Cluster's first primary.
fn of_the_first(id: &SceneId) -> bool {
    slot(id) <= 5_460
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_under_sentinel_leaves_nobody_deaf() {
    let sentinels = Sentinels::start().await;
    let settings = settings(&sentinels.url());
    // The sentinels do not stop the old primary's writes before they make another one, so some may be lost.
    a_planned_change(&settings, async || {
        let before = sentinels.masters();
        sentinels.fail_over().await;
        sentinels.until_replaced(&before).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_under_sentinel_leaves_nobody_deaf() {
    let mut sentinels = Sentinels::start().await;
    let settings = settings(&sentinels.url());
    a_primary_gone(
        &settings,
        |_| true,
        async || {
            let before = sentinels.masters();
            sentinels.kill_primary();
            sentinels.until_replaced(&before).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_primary_under_sentinel_leaves_nobody_deaf() {
    let sentinels = Sentinels::start().await;
    let settings = settings(&sentinels.url());
    a_primary_gone(
        &settings,
        |_| true,
        async || {
            let before = sentinels.masters();
            let frozen = Frozen::new(sentinels.primary().server.pid());
            sentinels.until_replaced(&before).await;
            frozen
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_of_a_cluster_leaves_nobody_deaf() {
    let cluster = Cluster::start().await;
    let lost = a_planned_change(&settings(&cluster.url()), async || {
        cluster.fail_over_to(3);
        cluster.until_owner(3).await;
    })
    .await;
    assert_eq!(lost, 0, "the old primary hands over all it has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_of_a_cluster_leaves_nobody_deaf() {
    let mut cluster = Cluster::start().await;
    let settings = settings(&cluster.url());
    a_primary_gone(&settings, of_the_first, async || {
        cluster.kill(0);
        cluster.until_owner(3).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_primary_of_a_cluster_leaves_nobody_deaf() {
    let cluster = Cluster::start().await;
    a_primary_gone(&settings(&cluster.url()), of_the_first, async || {
        let frozen = Frozen::new(cluster.nodes()[0].server.pid());
        cluster.until_owner(3).await;
        frozen
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_away_and_back_leave_nobody_deaf() {
    let cluster = Cluster::start().await;
    let lost = a_planned_change(&settings(&cluster.url()), async || {
        for (from, to) in [(0, 1), (1, 0)] {
            block_in_place(|| cluster.move_slots(from, to, 0..2_000));
        }
    })
    .await;
    assert_eq!(lost, 0, "a record moves with its slot");
}
