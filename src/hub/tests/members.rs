//! Who may watch, how many, and what stays behind when they leave.

use std::net::IpAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::super::*;
use super::NEVER;
use super::place::{Call, Login, Place, ROOMY, as_told, as_written, next, silence};

const LIMITS: StreamLimits = StreamLimits {
    total: 5,
    per_address: 3,
    per_scene: 3,
};

async fn open_from(place: &Place, login: &Login, address: &str) -> Result<Subscription, OpenError> {
    let peer: IpAddr = address.parse().unwrap();
    place.hub.subscribe(login.scene.id, &login.secret, peer).await
}

fn scenes_watched(place: &Place) -> i64 {
    place.hub.shared.metrics.scenes_watched.get()
}

#[tokio::test(start_paused = true)]
async fn a_further_stream_of_a_scene_replaces_the_oldest() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut streams = place.open_all(&vec![login.clone(); 4]).await;
    let mut oldest = streams.remove(0);
    assert!(matches!(oldest.changed().await, Change::Replaced));
    for stream in &mut streams {
        silence(stream, Duration::from_secs(1)).await;
    }
    drop(oldest);
    place.scan(&mut login).await;
    for stream in &mut streams {
        assert_eq!(as_told(&next(stream).await), as_written(&login));
    }
    assert_eq!(place.hub.streams(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_only_photographed_the_code_takes_nobodys_place() {
    let mut place = Place::with(ROOMY, NEVER);
    let (login, stranger) = (place.start().await, place.start().await);
    let mut streams = place.open_all(&vec![login.clone(); 3]).await;
    for _ in 0..10 {
        let refused = place
            .hub
            .subscribe(login.scene.id, &stranger.secret, [127, 0, 0, 1].into())
            .await;
        assert!(matches!(refused, Err(OpenError::WrongSecret)));
    }
    for stream in &mut streams {
        silence(stream, Duration::from_secs(1)).await;
    }
    assert_eq!(place.hub.streams(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_address_has_so_many_streams_and_a_replica_too() {
    let mut place = Place::with(LIMITS, NEVER);
    let logins = place.start_many(6).await;
    let mut open = Vec::new();
    for login in &logins[..3] {
        open.push(open_from(&place, login, "192.0.2.1").await.unwrap());
    }
    let fourth = open_from(&place, &logins[3], "::ffff:192.0.2.1").await;
    assert!(matches!(fourth, Err(OpenError::AddressFull(2..))));
    for login in &logins[3..5] {
        open.push(open_from(&place, login, "2001:db8::1").await.unwrap());
    }
    let sixth = open_from(&place, &logins[5], "192.0.2.2").await;
    assert!(matches!(sixth, Err(OpenError::Full)));

    open.remove(0);
    open.push(open_from(&place, &logins[5], "2001:db8::ffff").await.unwrap());
    open.remove(0);
    let of_one_network = open_from(&place, &logins[0], "2001:db8::2").await;
    assert!(matches!(of_one_network, Err(OpenError::AddressFull(2..))));
    open.push(open_from(&place, &logins[0], "2001:db8:0:1::1").await.unwrap());
    assert_eq!(place.hub.streams(), 5);
    open.clear();
    assert_eq!(place.hub.streams(), 0);
    assert!(place.hub.shared.lock().addresses.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_could_not_be_opened_gives_its_place_back() {
    let mut place = Place::with(LIMITS, NEVER);
    let login = place.start().await;
    place.store.away.store(true, SeqCst);
    for _ in 0..10 {
        let failed = place.open(&login).await;
        assert!(matches!(failed, Err(OpenError::Store(StoreError::Unavailable(_)))));
    }
    place.store.away.store(false, SeqCst);
    *place.store.find_takes.lock().unwrap() = Duration::from_secs(1);
    for _ in 0..10 {
        let given_up = timeout(Duration::from_millis(10), place.open(&login)).await;
        assert!(given_up.is_err());
    }
    assert_eq!(place.hub.streams(), 0);
    sleep(Duration::from_secs(2)).await;
    assert!(place.hub.shared.lock().topics.is_empty());
    assert_eq!(scenes_watched(&place), 0);
}

#[tokio::test(start_paused = true)]
async fn a_browser_that_comes_back_within_a_second_finds_its_topic_still_there() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let id = login.scene.id;
    for _ in 0..5 {
        drop(place.open(&login).await.unwrap());
        sleep(Duration::from_millis(900)).await;
    }
    assert_eq!(place.store.watches(), [Call::Watch(id)]);
    let mut stream = place.open(&login).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    place.scan(&mut login).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));

    drop(stream);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(place.store.watches(), [Call::Watch(id), Call::Unwatched(id)]);
    assert_eq!(scenes_watched(&place), 0);
    let shared = place.hub.shared.lock();
    assert!(shared.topics.is_empty() && shared.schedule.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_joins_just_while_a_topic_is_left_is_not_deaf() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let id = login.scene.id;
    drop(place.open(&login).await.unwrap());
    *place.store.unwatch_takes.lock().unwrap() = Duration::from_millis(100);
    sleep(Duration::from_millis(1_050)).await;
    let joined_at = Instant::now();
    let mut stream = place.open(&login).await.unwrap();
    assert!(joined_at.elapsed() >= Duration::from_millis(40), "it was being left");
    assert_eq!(
        place.store.watches(),
        [Call::Watch(id), Call::Unwatched(id), Call::Watch(id)]
    );
    place.scan(&mut login).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_not_left_while_somebody_is_just_joining() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    drop(place.open(&login).await.unwrap());
    sleep(Duration::from_millis(950)).await;
    *place.store.find_takes.lock().unwrap() = Duration::from_secs(2);
    let mut stream = place.open(&login).await.unwrap();
    place.scan(&mut login).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    assert_eq!(place.store.watches(), [Call::Watch(login.scene.id)]);
}
