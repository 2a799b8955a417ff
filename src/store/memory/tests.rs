use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::scene::{Authorization, BrowserDescription, BrowserSecret, Caution, EventId, GRACE, State as SceneState};

const TTL: Duration = Duration::from_mins(2);

fn scene(rng: &mut StdRng) -> Scene {
    let secret = BrowserSecret::random(rng);
    Scene {
        id: SceneId::random(rng),
        write_id: WriteId::random(rng),
        version: 1,
        event_id: EventId::random(rng),
        client_id: "blog".to_owned(),
        created_at: 0,
        expires_at: 120,
        browser_secret: secret.digest(),
        code: secret.code().digest(),
        authorization: Authorization::default(),
        browser: BrowserDescription::default(),
        state: SceneState::Waiting,
        caution: Caution::default(),
        doubt: None,
        short_code: None,
        env_version: None,
        scanned_life_ms: None,
        traceparent: None,
        unknown: BTreeMap::new(),
    }
}

fn cancelled(scene: &Scene, rng: &mut StdRng) -> Scene {
    Scene {
        write_id: WriteId::random(rng),
        version: scene.version + 1,
        event_id: EventId::random(rng),
        state: SceneState::Cancelled(None),
        ..scene.clone()
    }
}

fn store(scenes_max: usize, news_max: usize) -> (MemoryStore, mpsc::Receiver<News>) {
    let (tx, rx) = mpsc::channel(news_max);
    let store = MemoryStore::start(scenes_max, tx, &TaskTracker::new(), &CancellationToken::new());
    (store, rx)
}

async fn replace(store: &MemoryStore, next: &Scene) -> Replaced {
    let seen = crate::store::find_one(store, &next.id).await.unwrap().unwrap();
    let write = Write {
        next,
        durable: false,
        grant: Grant::Keep,
        notice: None,
    };
    store.replace(&seen, write).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_scene_is_gone_the_moment_its_life_ends_swept_or_not() {
    let (store, _news) = store(10, 10);
    let scene = scene(&mut StdRng::seed_from_u64(1));
    store.create(&scene, Life::of_new(TTL)).await.unwrap();
    tokio::time::advance(TTL + GRACE).await;
    assert!(lock(&store.state).scenes.len() == 1, "not swept yet");
    assert!(matches!(store.find(&[scene.id]).await[..], [Ok(None)]));
    assert_eq!(lock(&store.state).scenes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn ended_scenes_make_room_for_new_ones() {
    let mut rng = StdRng::seed_from_u64(1);
    let (store, _news) = store(100, 10);
    for _ in 0..100 {
        store.create(&scene(&mut rng), Life::of_new(TTL)).await.unwrap();
    }
    let refused = store.create(&scene(&mut rng), Life::of_new(TTL)).await;
    assert!(matches!(refused, Err(StoreError::Full)));
    tokio::time::advance(TTL + GRACE).await;
    for _ in 0..100 {
        store.create(&scene(&mut rng), Life::of_new(TTL)).await.unwrap();
    }
}

#[tokio::test]
async fn news_that_found_no_room_are_told_as_lost_once_there_is_some() {
    let mut rng = StdRng::seed_from_u64(1);
    let (store, mut news) = store(10, 1);
    let scenes: Vec<Scene> = (0..3).map(|_| scene(&mut rng)).collect();
    for scene in &scenes {
        store.create(scene, Life::of_new(TTL)).await.unwrap();
        store.watch(&scene.id).await.unwrap();
        let next = cancelled(scene, &mut rng);
        assert_eq!(replace(&store, &next).await, Replaced::Written);
    }
    let Some(News::Changed(first, _)) = news.recv().await else {
        panic!("the first fits");
    };
    assert_eq!(first, scenes[0].id);
    let Some(News::Lost(lost)) = news.recv().await else {
        panic!("the others are lost");
    };
    let lost: HashSet<SceneId> = lost.into_iter().collect();
    assert_eq!(lost, scenes[1..].iter().map(|scene| scene.id).collect());
}

#[tokio::test(start_paused = true)]
async fn pictures_make_room_for_newer_ones_when_they_weigh_too_much() {
    let mut rng = StdRng::seed_from_u64(1);
    let (store, _news) = store(10, 10);
    let megabyte = Bytes::from(vec![0; 1 << 20]);
    let ids: Vec<SceneId> = (0..200).map(|_| SceneId::random(&mut rng)).collect();
    for id in &ids {
        store.put_picture(id, megabyte.clone(), TTL).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let claim = Duration::from_secs(20);
    assert_eq!(store.picture(&ids[0], claim).await.unwrap(), Picture::Yours);
    assert_eq!(store.picture(&ids[199], claim).await.unwrap(), Picture::Ready(megabyte));
    let too_much = Bytes::from(vec![0; PICTURES_BYTES_MAX]);
    let refused = store.put_picture(&ids[1], too_much, TTL).await;
    assert!(matches!(refused, Err(StoreError::Full)));
}

#[tokio::test(start_paused = true)]
async fn avatars_take_room_from_other_avatars_alone() {
    let mut rng = StdRng::seed_from_u64(1);
    let (store, _news) = store(10, 10);
    let (picture, claim) = (Bytes::from_static(b"picture"), Duration::from_secs(20));
    let [of_picture, of_claim] = [0; 2].map(|_| SceneId::random(&mut rng));
    store.put_picture(&of_picture, picture.clone(), TTL).await.unwrap();
    assert_eq!(store.picture(&of_claim, claim).await.unwrap(), Picture::Yours);

    let image = Bytes::from(vec![0; 64 << 10]);
    let others: Vec<(SceneId, AvatarId)> = (0..2_000)
        .map(|_| (SceneId::random(&mut rng), AvatarId::random(&mut rng)))
        .collect();
    for (scene, avatar) in &others {
        store.put_avatar(scene, *avatar, image.clone(), TTL * 5).await.unwrap();
    }
    let (scene, avatar) = others[1_999];
    assert_eq!(store.avatar(&scene, avatar).await.unwrap(), Some(image));
    let (scene, avatar) = others[0];
    assert_eq!(
        store.avatar(&scene, avatar).await.unwrap(),
        None,
        "the oldest made room"
    );
    assert_eq!(
        store.picture(&of_picture, claim).await.unwrap(),
        Picture::Ready(picture)
    );
    assert_eq!(store.picture(&of_claim, claim).await.unwrap(), Picture::Making);
}

#[tokio::test(start_paused = true)]
async fn a_generation_never_falls_even_after_its_token_ended() {
    let (store, _news) = store(1, 1);
    let owner = WriteId::random(&mut StdRng::seed_from_u64(1));
    let mut last = Generation(0);
    for _ in 0..3 {
        store.acquire_lease("wx1", owner, TTL).await.unwrap();
        assert!(store.put_token("wx1", owner, None, b"sealed", TTL).await.unwrap());
        let token = store.token("wx1").await.unwrap().unwrap();
        assert!(token.generation > last);
        last = token.generation;
        tokio::time::advance(TTL).await;
        assert!(store.token("wx1").await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_store_says_that_a_deadline_is_past() {
    let scene = scene(&mut StdRng::seed_from_u64(1));
    let open = Stored::now(scene.clone(), Life(GRACE + Duration::from_secs(1)));
    let past = Stored::now(scene, Life(GRACE));
    assert!(past.life().until_deadline().is_zero());
    tokio::time::advance(Duration::from_millis(900)).await;
    assert_eq!(open.life().until_deadline(), Duration::from_millis(100));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!open.life().until_deadline().is_zero());
}
