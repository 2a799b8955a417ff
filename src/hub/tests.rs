//! What a browser is told, in which order, and what it costs: with a clock that only the tests move.

mod members;
mod place;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::scene::{Life, State, StateName};
use crate::store::{News, Stored};
use place::{Login, Place, ROOMY, SLOW_REREAD, TTL, as_told, as_written, hint, next, silence};

/// Longer than any test: then nothing is read that the test did not cause.
const NEVER: Duration = Duration::from_hours(24);

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_the_snapshot_and_goes_on_with_what_is_newer() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    assert_eq!(as_told(stream.current()), as_written(&login));

    place.scan(&mut login).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    place.write(&mut login, State::Cancelled(None)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    silence(&mut stream, Duration::from_mins(10)).await;
    assert_eq!(place.store.finds().len(), 1, "hints cost no read");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_sees_the_newest_state_only() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    place.scan(&mut login).await;
    place.write(&mut login, State::Cancelled(None)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    silence(&mut stream, Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_the_first_read_is_under_way_is_in_the_snapshot() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(100);
    let hub = place.hub.clone();
    let (id, secret) = (login.scene.id, login.secret.clone());
    let open = async { hub.subscribe(id, &secret, [127, 0, 0, 1].into()).await };
    let change = async {
        sleep(Duration::from_millis(50)).await;
        place.scan(&mut login).await;
    };
    let (stream, ()) = futures_util::future::join(open, change).await;
    assert_eq!(as_told(stream.unwrap().current()), as_written(&login));
    assert_eq!(place.store.finds().len(), 2, "the overtaken read was made again");
}

#[tokio::test(start_paused = true)]
async fn a_hint_moves_only_forward() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let waiting = login.clone();
    place.scan(&mut login).await;
    let mut stream = place.open(&login).await.unwrap();

    let scan = place.scanned();
    let another = place.changed(&waiting.scene, State::Scanned(scan));
    place.tell(hint(&waiting.scene)).await;
    place.tell(hint(&login.scene)).await;
    place.tell(hint(&another)).await;
    silence(&mut stream, Duration::from_secs(30)).await;
    assert_eq!(as_told(stream.current()), as_written(&login));
}

#[tokio::test(start_paused = true)]
async fn a_read_is_believed_backwards_and_sideways_because_a_fail_over_may_lose_data() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let waiting = login.clone();
    place.scan(&mut login).await;
    let mut stream = place.open(&login).await.unwrap();

    let id = login.scene.id;
    place
        .store
        .instead
        .lock()
        .unwrap()
        .insert(id, Some(waiting.scene.clone()));
    place.tell_lost(std::slice::from_ref(&login)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&waiting));

    let scan = place.scanned();
    let another = place.changed(&waiting.scene, State::Scanned(scan));
    place
        .store
        .instead
        .lock()
        .unwrap()
        .insert(id, Some(login.scene.clone()));
    place.tell_lost(std::slice::from_ref(&login)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    place.store.instead.lock().unwrap().insert(id, Some(another.clone()));
    place.tell_lost(std::slice::from_ref(&login)).await;
    let told = next(&mut stream).await;
    assert_eq!(
        (told.version(), told.event_id()),
        (login.scene.version, another.event_id)
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_a_hint_overtook_is_made_again() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(100);
    place.store.forget_calls();
    place.tell_lost(std::slice::from_ref(&login)).await;
    sleep(Duration::from_millis(50)).await;
    place.scan(&mut login).await;
    assert_eq!(
        as_told(&next(&mut stream).await),
        as_written(&login),
        "a hint passes a read under way"
    );
    silence(&mut stream, Duration::from_secs(1)).await;
    assert_eq!(place.store.finds().len(), 2);
    assert_eq!(place.rereads("lost", "known"), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_everything_is_read_again_in_batches_and_who_is_being_asked_first() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut logins = place.start_many(900).await;
    for login in logins.iter_mut().step_by(30) {
        place.scan(login).await;
    }
    let scanned: HashSet<SceneId> = logins.iter().step_by(30).map(|login| login.scene.id).collect();
    let mut streams = place.open_all(&logins).await;

    place.store.deaf.store(true, SeqCst);
    for login in &mut logins {
        place.write(login, State::Cancelled(None)).await;
    }
    place.store.forget_calls();
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(10);
    place.tell_lost(&logins).await;
    let told = join_all(streams.iter_mut().map(next)).await;
    for (told, login) in told.iter().zip(&logins) {
        assert_eq!(as_told(told), as_written(login));
    }

    let finds = place.store.finds();
    assert!(finds.iter().all(|(_, ids)| ids.len() <= 200), "larger batches");
    assert_eq!(finds.len(), 5, "as few batches as that allows, and no scene twice");
    assert!(finds[0].1[..scanned.len()].iter().all(|id| scanned.contains(id)));
    assert!(place.store.finding_most.load(SeqCst) <= 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_the_store_was_away_is_told_once_it_is_back() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.deaf.store(true, SeqCst);
    place.store.away.store(true, SeqCst);
    place.scan(&mut login).await;
    place.tell_lost(std::slice::from_ref(&login)).await;
    place.store.forget_calls();
    silence(&mut stream, Duration::from_secs(10)).await;
    let tries = place.store.finds().len();
    assert!(
        (33..=101).contains(&tries),
        "every 100 to 300 ms, not {tries} times in 10 s"
    );

    place.store.away.store(false, SeqCst);
    let back = Instant::now();
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
    assert!(back.elapsed() < Duration::from_millis(400), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_said_only_once_the_store_agreed() {
    let mut place = Place::with(ROOMY, NEVER);
    let began = Instant::now();
    let login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.away.store(true, SeqCst);
    silence(&mut stream, Duration::from_secs(150)).await;

    place.store.away.store(false, SeqCst);
    let told = next(&mut stream).await;
    assert!(began.elapsed() < Duration::from_millis(150_500));
    assert_eq!((told.state(), told.reason()), (StateName::Expired, Some(Reason::Time)));
    assert_eq!(told.version(), login.scene.version, "no transition");
    assert_eq!(told.id(), format!("expired.{}", login.scene.event_id));
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_said_on_time() {
    let mut place = Place::new();
    let logins = place.start_many(300).await;
    let deadline = Instant::now() + TTL;
    let mut streams = place.open_all(&logins).await;
    let told = join_all(streams.iter_mut().map(|stream| async {
        while !matches!(stream.changed().await, Change::Told) {}
        (stream.current().reason(), Instant::now())
    }));
    for (reason, at) in told.await {
        assert_eq!(reason, Some(Reason::Time));
        assert!(
            at >= deadline && at - deadline < Duration::from_millis(50),
            "{:?}",
            at - deadline
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_of_the_last_second_that_nobody_told_is_found_in_the_place_of_the_expiry() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.deaf.store(true, SeqCst);
    sleep(TTL.saturating_sub(Duration::from_secs(1))).await;
    place.write(&mut login, State::Cancelled(None)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
}

#[tokio::test(start_paused = true)]
async fn a_confirm_while_the_last_read_before_the_deadline_was_under_way_is_not_told_as_an_expiry() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    place.scan(&mut login).await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.deaf.store(true, SeqCst);
    sleep(TTL.saturating_sub(Duration::from_millis(5))).await;

    // The store looked before the confirm, and its answer comes after the deadline.
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(50);
    place.tell_lost(std::slice::from_ref(&login)).await;
    sleep(Duration::from_millis(2)).await;
    place.write(&mut login, State::Cancelled(None)).await;
    assert_eq!(as_told(&next(&mut stream).await), as_written(&login));
}

#[tokio::test(start_paused = true)]
async fn of_two_reads_under_way_the_one_issued_first_takes_nothing_back() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    let waiting = login.clone();
    place.scan(&mut login).await;
    let mut stream = place.open(&login).await.unwrap();

    place.store.deaf.store(true, SeqCst);
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(100);
    let before = login.clone();
    place.write(&mut login, State::Cancelled(None)).await;
    let instead = |scene: &Login| {
        place
            .store
            .instead
            .lock()
            .unwrap()
            .insert(scene.scene.id, Some(scene.scene.clone()))
    };
    instead(&before);
    place.tell_lost(std::slice::from_ref(&login)).await;
    sleep(Duration::from_millis(10)).await;
    // Meanwhile a fail-over lost the scan, as the read of another stream finds.
    instead(&waiting);
    *place.store.find_takes.lock().unwrap() = Duration::ZERO;
    let second = place.open(&login).await.unwrap();
    assert_eq!(as_told(second.current()), as_written(&waiting));
    assert_eq!(as_told(&next(&mut stream).await), as_written(&waiting));
    silence(&mut stream, Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_found_nothing_counts_only_if_no_hint_overtook_it() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    place.store.instead.lock().unwrap().insert(login.scene.id, None);
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(100);
    let hub = place.hub.clone();
    let (id, secret) = (login.scene.id, login.secret.clone());
    let open = async { hub.subscribe(id, &secret, [127, 0, 0, 1].into()).await };
    let change = async {
        sleep(Duration::from_millis(50)).await;
        place.store.instead.lock().unwrap().clear();
        place.scan(&mut login).await;
    };
    let (stream, ()) = futures_util::future::join(open, change).await;
    assert_eq!(as_told(stream.unwrap().current()), as_written(&login));
}

#[tokio::test(start_paused = true)]
async fn scenes_on_servers_that_are_away_hold_up_no_other() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut logins = place.start_many(1_800).await;
    let mut streams = place.open_all(&logins).await;
    place.store.deaf.store(true, SeqCst);
    for login in &mut logins {
        place.scan(login).await;
    }
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(5);
    let away = |login: &Login| login.scene.id.hash_tag().as_str() < "80";
    let gone = logins.iter().filter(|login| away(login));
    let gone = gone.map(|login| (login.scene.id, StoreError::Unavailable("a shard is away".to_owned())));
    *place.store.unread.lock().unwrap() = gone.collect();
    place.store.forget_calls();
    place.tell_lost(&logins).await;

    let began = Instant::now();
    for (stream, login) in streams.iter_mut().zip(&logins).filter(|(_, login)| !away(login)) {
        assert_eq!(as_told(&next(stream).await), as_written(login));
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    sleep(Duration::from_secs(10)).await;
    let tries = place.store.finds().len();
    assert!((40..=250).contains(&tries), "{tries} reads in 10 s");

    place.store.unread.lock().unwrap().clear();
    let back = Instant::now();
    for (stream, login) in streams.iter_mut().zip(&logins).filter(|(_, login)| away(login)) {
        assert_eq!(as_told(&next(stream).await), as_written(login));
    }
    assert!(back.elapsed() < Duration::from_millis(400), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_those_who_are_being_asked_are_read_first() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut logins = place.start_many(1_400).await;
    for login in &mut logins[1_380..] {
        place.scan(login).await;
    }
    let scanned: HashSet<SceneId> = logins[1_380..].iter().map(|login| login.scene.id).collect();
    let _streams = place.open_all(&logins).await;
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(5);
    // Which scenes are tried while the store is away is a matter of chance, so more than one outage shows it.
    for _ in 0..8 {
        place.store.away.store(true, SeqCst);
        place.tell_lost(&logins).await;
        sleep(Duration::from_secs(5)).await;
        place.store.forget_calls();
        place.store.away.store(false, SeqCst);
        sleep(Duration::from_secs(1)).await;
        let finds = place.store.finds();
        // Two are under way at once before the store's answer to either is known.
        let early = finds.iter().take(3).flat_map(|(_, ids)| ids);
        let early: HashSet<SceneId> = early.filter(|id| scanned.contains(id)).copied().collect();
        assert_eq!(early, scanned, "of {} reads", finds.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_can_not_be_read_ends_its_streams_as_lost_instead_of_being_read_for_ever() {
    let mut place = Place::with(ROOMY, NEVER);
    let login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    let corrupt = StoreError::Corrupt("column 1".to_owned());
    place.store.unread.lock().unwrap().insert(login.scene.id, corrupt);
    place.store.forget_calls();
    place.tell_lost(std::slice::from_ref(&login)).await;
    assert_eq!(next(&mut stream).await.reason(), Some(Reason::Lost));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(place.store.finds().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_became_another_between_all_reads_is_unavailable_in_the_end() {
    let mut place = Place::with(ROOMY, NEVER);
    let login = place.start().await;
    *place.store.find_takes.lock().unwrap() = Duration::from_millis(10);
    let told = hint(&login.scene);
    let hinting = async {
        loop {
            place.tell(told.clone()).await;
            sleep(Duration::from_millis(2)).await;
        }
    };
    let opened = tokio::select! {
        opened = place.open(&login) => opened,
        () = hinting => unreachable!(),
    };
    assert!(matches!(opened, Err(OpenError::Store(StoreError::Unavailable(_)))));
    assert_eq!(place.store.finds().len(), READS);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_store_lost_ends_its_streams_as_lost() {
    let mut place = Place::with(ROOMY, NEVER);
    let login = place.start().await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.instead.lock().unwrap().insert(login.scene.id, None);
    place.tell_lost(std::slice::from_ref(&login)).await;
    let told = next(&mut stream).await;
    assert_eq!((told.state(), told.reason()), (StateName::Expired, Some(Reason::Lost)));
    assert_eq!(told.id(), format!("lost.{}", login.scene.event_id));
    assert!(matches!(place.open(&login).await, Err(OpenError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn a_finished_login_stays_finished_although_its_record_is_gone() {
    let mut place = Place::with(ROOMY, NEVER);
    let mut login = place.start().await;
    place.write(&mut login, State::Cancelled(None)).await;
    let mut stream = place.open(&login).await.unwrap();
    place.store.instead.lock().unwrap().insert(login.scene.id, None);
    place.tell_lost(std::slice::from_ref(&login)).await;
    silence(&mut stream, Duration::from_mins(1)).await;
    assert_eq!(stream.current().state(), StateName::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_became_somebody_elses_is_lost_to_the_old_browser_and_works_for_the_new() {
    let mut place = Place::with(ROOMY, NEVER);
    let old = place.start().await;
    let mut of_old = place.open(&old).await.unwrap();
    let mut new = place.start().await;
    new.scene.id = old.scene.id;
    place
        .store
        .instead
        .lock()
        .unwrap()
        .insert(old.scene.id, Some(new.scene.clone()));

    let mut of_new = place.open(&new).await.unwrap();
    assert_eq!(as_told(of_new.current()), as_written(&new));
    let told = next(&mut of_old).await;
    assert_eq!(
        (told.reason(), told.event_id()),
        (Some(Reason::Lost), old.scene.event_id)
    );
    assert!(matches!(place.open(&old).await, Err(OpenError::WrongSecret)));

    new.scene = place.changed(&new.scene, State::Cancelled(None));
    place.tell(hint(&new.scene)).await;
    assert_eq!(as_told(&next(&mut of_new).await), as_written(&new));
    assert_eq!(of_old.current().reason(), Some(Reason::Lost));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_told_is_found_within_fifteen_seconds_and_a_fifth() {
    let mut place = Place::new();
    place.store.deaf.store(true, SeqCst);
    let mut logins = place.start_many(300).await;
    let mut streams = place.open_all(&logins).await;
    for login in &mut logins {
        place.scan(login).await;
    }
    let began = Instant::now();
    let found = join_all(streams.iter_mut().map(|stream| async {
        let told = next(stream).await;
        (as_told(&told), began.elapsed())
    }));
    let mut moments = BTreeSet::new();
    for ((told, after), login) in found.await.into_iter().zip(&logins) {
        assert_eq!(told, as_written(login));
        assert!(
            (SLOW_REREAD.mul_f64(0.8)..SLOW_REREAD.mul_f64(1.2) + Duration::from_millis(5)).contains(&after),
            "{after:?}"
        );
        moments.insert(after);
    }
    assert!(moments.len() > 150, "spread, not {} at once", 300 - moments.len());

    sleep(Duration::from_mins(1)).await;
    let reads = place.rereads("slow", "known");
    assert!(
        (900..=1_800).contains(&reads),
        "{reads} slow re-reads of 300 scenes in a minute"
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_cost_no_task_of_their_own() {
    let mut place = Place::new();
    let logins = place.start_many(10_000).await;
    sleep(Duration::from_secs(1)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut streams = place.open_all(&logins).await;
    sleep(SLOW_REREAD.mul_f64(1.3)).await;
    assert_eq!(tasks(), before);
    assert_eq!(place.hub.streams(), 10_000);

    advance(TTL).await;
    let told = join_all(streams.iter_mut().map(next)).await;
    assert!(told.iter().all(|told| told.reason() == Some(Reason::Time)));
}

#[tokio::test(start_paused = true)]
async fn news_of_scenes_that_nobody_watches_change_nothing() {
    let mut place = Place::with(ROOMY, NEVER);
    let (watched, other) = (place.start().await, place.start().await);
    let mut stream = place.open(&watched).await.unwrap();
    place.store.forget_calls();
    let elsewhere = place.changed(&other.scene, State::Cancelled(None));
    let told = join3(
        place.tell(hint(&elsewhere)),
        place.tell(News::Lost(vec![other.scene.id])),
        silence(&mut stream, Duration::from_secs(5)),
    );
    told.await;
    assert_eq!(place.store.finds(), []);
}

/// As when one is answered late, by a server that is not primary any more.
#[tokio::test(start_paused = true)]
async fn a_read_is_not_believed_against_one_that_was_issued_later() {
    let mut place = Place::new();
    let login = place.start().await;
    let before = place.store.find(&[login.scene.id]).await.remove(0).unwrap().unwrap();
    let scan = place.scanned();
    let scanned = place.changed(&login.scene, State::Scanned(scan));
    let after = Stored::now(scanned, before.life());
    let mut topic = Topic::new();
    let first = topic.issue();
    assert_eq!(topic.believe(&after, first), Believed::New);
    let (late, later) = (topic.issue(), topic.issue());
    assert_eq!(topic.believe(&after, later), Believed::Known);
    assert_eq!(topic.believe(&before, late), Believed::Known);
    assert_eq!(topic.told().unwrap().state(), StateName::Scanned);
}

/// The moment it is due is also when the phone's last step is heard of: whichever comes first, the end is told in time.
#[tokio::test(start_paused = true)]
async fn what_is_heard_when_the_time_is_up_does_not_put_off_the_look() {
    let mut place = Place::new();
    let login = place.start().await;
    let read = place.store.find(&[login.scene.id]).await.remove(0).unwrap().unwrap();
    let scan = place.scanned();
    let scanned = place.changed(&login.scene, State::Scanned(scan));
    let mut topic = Topic::new();
    let issued = topic.issue();
    topic.believe(&read, issued);
    let next_due = |topic: &mut Topic| topic.next_due(Instant::now(), LINGER, NEVER);
    let due = next_due(&mut topic).unwrap();
    topic.set_due(Some(due));
    sleep(due - Instant::now()).await;
    topic.hint(scanned.public_state(Life::of_new(TTL)));
    assert_eq!(next_due(&mut topic), Some(due));
    // Once it was looked at, it is not looked at again for long.
    topic.set_due(None);
    assert!(next_due(&mut topic).unwrap() > due + TTL);
}
