//! Codes made ahead, and codes made while a page waits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use scanlogin::scene::SceneId;
use scanlogin::wechat::EnvVersion;
use scanlogin::wechat::code_pool::{CodePool, PictureError};
use scanlogin::wechat::errcode::Errcode;
use scanlogin::wechat::picture::CodePicture;

use super::store::Shared;
use super::upstream::{PICTURE, PNG, Reply, STABLE_TOKEN, WeChat};
use super::{Replica, mini_program, pass};
use crate::support::eventually;

const LIFE: Duration = Duration::from_mins(3);

fn pool(replica: &Replica, store: &Arc<Shared>, size: usize) -> CodePool {
    let pool = CodePool::new(
        mini_program(),
        size,
        replica.client.clone(),
        replica.tokens.clone(),
        Arc::clone(store) as _,
        replica.limits.clone(),
        replica.metrics.clone(),
        replica.tasks.clone(),
        replica.shutdown.clone(),
    );
    replica.tasks.spawn(pool.clone().refill());
    pool
}

fn scene(seed: u64) -> SceneId {
    SceneId::random(&mut StdRng::seed_from_u64(seed))
}

async fn picture(pool: &CodePool, id: SceneId) -> Result<CodePicture, PictureError> {
    pool.picture(id, EnvVersion::Release, LIFE).await
}

async fn until_ready(replica: &Replica, count: usize) {
    let line = format!("scanlogin_code_pool_ready {count}\n");
    eventually(&line, || async {
        replica.metrics.render().unwrap().contains(&line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn codes_made_ahead_are_given_out_once_each_with_their_picture_ready_and_made_up_for() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 5);
    let mut seen = HashSet::new();
    for _ in 0..3 {
        until_ready(&replica, 5).await;
        for _ in 0..5 {
            let id = pool.take().unwrap();
            assert!(seen.insert(id), "{id} was given out before");
            assert_eq!(picture(&pool, id).await.unwrap().bytes(), PNG);
            assert!(store.picture_left(id).unwrap() > Duration::from_mins(50));
        }
    }
    until_ready(&replica, 5).await;
    assert_eq!(wechat.calls(PICTURE), 15 + 5, "each code was made once");
}

#[tokio::test]
async fn a_pool_of_nothing_makes_nothing_ahead() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    assert_eq!(pool.take(), None);
    replica.tasks.close();
    replica.tasks.wait().await;
    assert_eq!((wechat.calls(PICTURE), wechat.calls(STABLE_TOKEN)), (0, 0));
}

#[tokio::test]
async fn a_code_made_too_long_ago_is_not_given_out() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 2);
    until_ready(&replica, 2).await;
    let first: HashSet<_> = wechat
        .asked(PICTURE)
        .iter()
        .map(|asked| asked.body["scene"].to_string())
        .collect();
    pass(Duration::from_mins(51)).await;
    let taken = eventually("a younger code", || async { pool.take() }).await;
    assert!(!first.contains(&format!("\"{taken}\"")));
}

#[tokio::test]
async fn codes_are_made_ahead_ever_more_slowly_while_wechat_refuses_and_again_when_it_does_not() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    wechat.always(PICTURE, Reply::errcode(45009));
    let pool = pool(&replica, &store, 20);
    wechat.until_calls(PICTURE, 4).await;
    for _ in 0..300 {
        pass(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    let calls = wechat.calls(PICTURE);
    assert!(calls <= 4 * 12, "{calls} calls in five minutes");
    wechat.behave();
    pass(Duration::from_mins(2)).await;
    until_ready(&replica, 20).await;
    assert!(pool.take().is_some());
}

#[tokio::test]
async fn however_many_load_one_code_on_two_replicas_it_is_made_once() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replicas = [Replica::new(&wechat, &store), Replica::new(&wechat, &store)];
    let pools = replicas.each_ref().map(|replica| pool(replica, &store, 0));
    for result in join_all((0..40).map(|n| picture(&pools[n % 2], scene(1)))).await {
        assert_eq!(result.unwrap().bytes(), PNG);
    }
    assert_eq!(wechat.calls(PICTURE), 1);
    assert!(store.picture_left(scene(1)).unwrap() <= LIFE);
}

#[tokio::test]
async fn a_picture_that_fails_is_told_and_the_next_try_is_free_at_once() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    wechat.once(PICTURE, Reply::errcode(41030));
    match picture(&pool, scene(1)).await {
        Err(PictureError::WeChat(error)) => assert_eq!(error.errcode(), Some(Errcode::InvalidPage)),
        other => panic!("{other:?}"),
    }
    picture(&pool, scene(1)).await.unwrap();
    assert_eq!(wechat.calls(PICTURE), 2);
}

#[tokio::test]
async fn a_picture_is_made_to_its_end_when_its_page_goes_away() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    wechat.once(PICTURE, Reply::errcode(-1));
    tokio::select! {
        biased;
        _ = picture(&pool, scene(1)) => panic!("too early"),
        () = wechat.until_calls(PICTURE, 1) => {}
    }
    assert_eq!(picture(&pool, scene(1)).await.unwrap().bytes(), PNG);
    assert_eq!(wechat.calls(PICTURE), 2, "busy once, and good then");
}

#[tokio::test]
async fn a_picture_that_hangs_is_given_up_in_time_by_its_maker_and_by_those_who_wait() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    // With a token at hand.
    picture(&pool, scene(2)).await.unwrap();
    wechat.always(PICTURE, Reply::Hang);
    let started = tokio::time::Instant::now();
    let (maker, ()) = tokio::join!(picture(&pool, scene(1)), async {
        wechat.until_calls(PICTURE, 2).await;
        tokio::time::pause();
    });
    let took = started.elapsed();
    tokio::time::resume();
    assert!(
        matches!(
            maker,
            Err(PictureError::WeChat(scanlogin::wechat::client::Error::Timeout))
        ),
        "{maker:?}"
    );
    assert!(took < Duration::from_secs(19), "{took:?}");
    wechat.behave();
    picture(&pool, scene(1)).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_maker_that_died_makes_it_after_its_claim_or_gives_up_in_time() {
    use scanlogin::store::BlobStore;

    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    store.picture(&scene(1), Duration::from_secs(20)).await.unwrap();
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let waited = picture(&pool, scene(1)).await;
    let took = started.elapsed();
    tokio::time::resume();
    assert!(matches!(waited, Err(PictureError::Timeout)), "{waited:?}");
    assert!(
        took <= Duration::from_secs(19) && took > Duration::from_secs(18),
        "{took:?}"
    );
    pass(Duration::from_secs(2)).await;
    picture(&pool, scene(1)).await.unwrap();
}

#[tokio::test]
async fn at_shutdown_a_picture_being_made_is_given_up_and_free_for_others() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let ending = pool(&replica, &store, 0);
    wechat.once(PICTURE, Reply::Hang);
    let (result, ()) = tokio::join!(picture(&ending, scene(1)), async {
        wechat.until_calls(PICTURE, 1).await;
        replica.shutdown.cancel();
    });
    assert!(matches!(result, Err(PictureError::ShuttingDown)), "{result:?}");
    let other = Replica::new(&wechat, &store);
    picture(&pool(&other, &store, 0), scene(1)).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_is_said_so_at_once() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    store.set_away(true);
    assert!(matches!(picture(&pool, scene(1)).await, Err(PictureError::Store(_))));
    store.set_away(false);
    picture(&pool, scene(1)).await.unwrap();
}

#[tokio::test]
async fn while_wechat_gives_no_token_those_who_wait_use_up_none_of_the_codes() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    wechat.always(STABLE_TOKEN, Reply::errcode(40013));
    for seed in 0..500 {
        let refused = picture(&pool, scene(seed)).await.unwrap_err();
        assert!(matches!(refused, PictureError::WeChat(_)), "{refused}");
    }
    assert_eq!(wechat.calls(PICTURE), 0);
}

#[tokio::test]
async fn whatever_is_asked_of_wechat_again_counts_as_well() {
    const AT_ONCE: u32 = 400;
    const APART: Duration = Duration::from_nanos(60_000_000_000 / 3_600);

    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replica = Replica::new(&wechat, &store);
    let pool = pool(&replica, &store, 0);
    // With a token at hand.
    picture(&pool, scene(1_000)).await.unwrap();
    wechat.always(PICTURE, Reply::errcode(-1));
    let started = tokio::time::Instant::now();
    // Nobody waits for the pauses between tries.
    tokio::time::pause();
    let refused = join_all((0..300).map(|seed| picture(&pool, scene(seed)))).await;
    let took = started.elapsed();
    tokio::time::resume();
    assert!(refused.iter().all(Result::is_err));
    let calls = u32::try_from(wechat.calls(PICTURE)).unwrap();
    assert!(
        APART * calls <= APART * (AT_ONCE + 1) + took,
        "{calls} calls in {took:?}"
    );
}
