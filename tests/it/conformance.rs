//! What every store promises, tried on each: in memory, and in Redis of every shape, over slow links.
//!
//! Each promise takes two replicas over one truth, so that what one writes is what the other finds. What a Redis
//! in trouble must not do to anybody is in [`durability`], [`outages`], [`successions`] and [`start`].

pub(crate) mod backend;
mod client;
mod durability;
mod notices;
mod outages;
mod shared;
mod start;
mod successions;
mod versions;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use scanlogin::entropy::os_rng;
use scanlogin::rate::{Rate, Taken};
use scanlogin::scene::{
    Action, AuthorizationCode, AvatarId, GRACE, GrantFault, Life, Redemption, Refused, Scene, SceneId, ShortCodeTag,
    StateName, WriteId,
};
use scanlogin::store::{
    ApplyError, Created, Durability, Generation, Grant, LimitKey, News, Picture, Replaced, Store, StoreError,
    StoredToken, Write, apply, find_one,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::eventually;
use crate::support::shape::{Security, Topology};
use crate::support::stopwatch::Stopwatch;
use backend::{Backend, Login, TTL, changed, put, rewritten};
use notices::{
    a_notice_is_taken_by_one_replica_when_its_claim_ends,
    a_notice_that_is_put_off_comes_again_and_one_that_is_dropped_does_not,
    however_much_is_due_of_one_site_anothers_is_taken_and_in_the_end_all,
    of_a_site_so_many_notices_wait_and_its_logins_go_on,
    what_is_not_written_leaves_no_notice_and_what_is_repeated_no_second_one,
};

macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        promises!(memory, Backend::memory(); $($promise),*);
        promises!(standalone, Backend::redis(Topology::Standalone, Security::Plain); $($promise),*);
        promises!(standalone_acl_tls, Backend::redis(Topology::Standalone, Security::AclTls); $($promise),*);
        promises!(sentinel, Backend::redis(Topology::Sentinel, Security::Plain); $($promise),*);
        promises!(sentinel_acl_tls, Backend::redis(Topology::Sentinel, Security::AclTls); $($promise),*);
        promises!(cluster, Backend::redis(Topology::Cluster, Security::Plain); $($promise),*);
        promises!(cluster_acl_tls, Backend::redis(Topology::Cluster, Security::AclTls); $($promise),*);
    };
    ($shape:ident, $backend:expr; $($promise:ident),*) => {
        mod $shape {
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(&$backend.await).await;
                }
            )*
        }
    };
}

promises![
    a_new_scene_is_found_with_the_life_it_was_given,
    a_scene_is_created_once_and_the_first_stays,
    scenes_are_found_together_in_the_order_asked,
    a_scene_is_gone_when_its_life_ends,
    a_write_over_another_write_is_stale,
    a_write_leaves_the_scene_the_life_it_had,
    a_write_that_is_repeated_is_the_same_success,
    a_repeated_confirm_leaves_others_their_writes,
    nothing_is_confirmed_after_the_deadline,
    a_code_is_redeemed_after_the_deadline_too,
    of_64_racing_redemptions_exactly_one_wins,
    of_many_racing_scans_every_one_is_decided_by_the_rules,
    a_grant_is_written_and_deleted_with_its_scene,
    a_grant_ends_by_itself,
    a_grant_is_made_of_the_very_scene_that_is_written,
    after_watch_returned_every_visible_change_is_told,
    what_is_told_is_found_by_a_read,
    hidden_changes_are_not_told,
    one_of_50_makes_the_picture,
    a_claim_on_a_picture_ends_by_itself_or_is_given_back,
    a_picture_made_ahead_is_kept_for_its_scene,
    an_avatar_is_found_under_its_own_name_alone,
    a_short_code_leads_to_one_scene_until_it_is_dropped_or_ends,
    what_is_given_back_may_be_taken_again_and_no_more,
    the_lease_is_one_replicas_alone_until_it_is_given_back_or_lapses,
    a_token_is_kept_by_the_holder_of_the_lease_alone,
    an_older_answer_never_replaces_a_newer_token,
    generations_rise_over_dropped_tokens,
    a_full_store_refuses_new_scenes_and_goes_on_with_old_ones,
    what_is_limited_is_counted_by_all_together,
    a_notice_is_taken_by_one_replica_when_its_claim_ends,
    a_notice_that_is_put_off_comes_again_and_one_that_is_dropped_does_not,
    however_much_is_due_of_one_site_anothers_is_taken_and_in_the_end_all,
    of_a_site_so_many_notices_wait_and_its_logins_go_on,
    what_is_not_written_leaves_no_notice_and_what_is_repeated_no_second_one,
    a_store_that_answers_is_ready,
];

async fn a_new_scene_is_found_with_the_life_it_was_given(backend: &Backend) {
    let login = Login::new();
    let created = backend.here.create(&login.scene, Life::of_new(TTL)).await.unwrap();
    assert_eq!(created, Created::New);
    let stored = login.stored(&*backend.there).await;
    assert_eq!(stored.scene, login.scene);
    let left = stored.life().until_deadline();
    assert!(left <= TTL && left + Duration::from_secs(5) > TTL, "{left:?}");
    sleep(Duration::from_millis(20)).await;
    assert!(stored.life().until_deadline() < left, "it passes");
}

async fn a_short_code_leads_to_one_scene_until_it_is_dropped_or_ends(backend: &Backend) {
    let Backend { here, there, .. } = backend;
    let (one, other) = (*Login::new().id(), *Login::new().id());
    let tag = |_| ShortCodeTag::random(&mut os_rng());
    let [kept, short, never] = [0, 1, 2].map(tag);
    assert!(here.put_short_code(kept, &one, TTL).await.unwrap());
    assert!(
        there.put_short_code(kept, &one, TTL).await.unwrap(),
        "the same once more"
    );
    assert!(!there.put_short_code(kept, &other, TTL).await.unwrap());
    assert_eq!(there.scene_of_short_code(kept).await.unwrap(), Some(one));
    assert_eq!(here.scene_of_short_code(never).await.unwrap(), None);
    there.drop_short_code(kept).await.unwrap();
    there.drop_short_code(kept).await.unwrap();
    assert_eq!(here.scene_of_short_code(kept).await.unwrap(), None);
    assert!(
        here.put_short_code(short, &other, Duration::from_millis(50))
            .await
            .unwrap()
    );
    eventually("it ends by itself", || async {
        let led = there.scene_of_short_code(short).await.unwrap();
        led.is_none().then_some(())
    })
    .await;
}

async fn what_is_given_back_may_be_taken_again_and_no_more(backend: &Backend) {
    let rate = Rate::once(3, Duration::from_mins(10));
    let key = LimitKey {
        rule: "given back",
        subject: [7; 16],
    };
    let taken = async |store: &dyn Store| matches!(store.take(key, rate).await.unwrap(), Taken::Yes(_));
    // What nobody took can't be given back.
    backend.here.give_back(key, rate).await.unwrap();
    for _ in 0..3 {
        assert!(taken(&*backend.here).await);
    }
    assert!(!taken(&*backend.there).await);
    for _ in 0..2 {
        backend.there.give_back(key, rate).await.unwrap();
        assert!(taken(&*backend.here).await);
        assert!(!taken(&*backend.there).await);
    }
    for _ in 0..5 {
        backend.here.give_back(key, rate).await.unwrap();
    }
    for _ in 0..3 {
        assert!(taken(&*backend.there).await);
    }
    assert!(!taken(&*backend.here).await);
}

async fn what_is_limited_is_counted_by_all_together(backend: &Backend) {
    let rate = Rate::bursting(10, Duration::from_mins(1));
    let whose = |subject| LimitKey {
        rule: "scans",
        subject: [subject; 16],
    };
    let began = Instant::now();
    for n in 0..5 {
        for replica in [&backend.here, &backend.there] {
            let taken = replica.take(whose(1), rate).await.unwrap();
            assert!(
                matches!(taken, Taken::Yes(debt) if debt <= rate.apart() * (2 * n + 2)),
                "{taken:?}"
            );
        }
    }
    let Taken::NotFor(wait) = backend.there.take(whose(1), rate).await.unwrap() else {
        panic!("an eleventh in {:?}", began.elapsed());
    };
    assert!(
        wait <= rate.apart() && wait + began.elapsed() + Duration::from_millis(10) >= rate.apart(),
        "{wait:?}"
    );
    let other = backend.here.take(whose(2), rate).await.unwrap();
    assert!(matches!(other, Taken::Yes(_)), "each has a debt of its own");
    for _ in 0..4 {
        backend.here.take(whose(2), rate.sparing()).await.unwrap();
    }
    let spare = backend.there.take(whose(2), rate.sparing()).await.unwrap();
    assert!(matches!(spare, Taken::NotFor(_)), "half is left to others");
    assert!(matches!(
        backend.there.take(whose(2), rate).await.unwrap(),
        Taken::Yes(_)
    ));

    let quick = Rate::bursting(2, Duration::from_millis(400));
    while let Taken::Yes(_) = backend.here.take(whose(3), quick).await.unwrap() {}
    eventually("one comes in again", || async {
        let taken = backend.there.take(whose(3), quick).await.unwrap();
        matches!(taken, Taken::Yes(_)).then_some(())
    })
    .await;
}

async fn a_scene_is_created_once_and_the_first_stays(backend: &Backend) {
    let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
    let other = rewritten(&login.scene);
    let created = backend.there.create(&other, Life::of_new(TTL)).await.unwrap();
    assert_eq!(created, Created::Exists);
    assert_eq!(login.stored(&*backend.here).await.scene, login.scene);
}

async fn scenes_are_found_together_in_the_order_asked(backend: &Backend) {
    let logins: Vec<Login> = (0..450).map(|_| Login::new()).collect();
    let creations = logins
        .iter()
        .map(|login| backend.here.create(&login.scene, Life::of_new(TTL)));
    for created in join_all(creations).await {
        assert_eq!(created.unwrap(), Created::New);
    }
    let unknown = Login::new();
    let mut ids: Vec<SceneId> = logins.iter().map(|login| *login.id()).collect();
    ids.insert(250, *unknown.id());
    let found = backend.there.find(&ids).await;
    assert_eq!(found.len(), ids.len());
    for (id, stored) in ids.iter().zip(found) {
        assert_eq!(
            stored.unwrap().map(|stored| stored.scene.id),
            (id != unknown.id()).then_some(*id)
        );
    }
    assert!(backend.there.find(&[]).await.is_empty());
}

async fn a_scene_is_gone_when_its_life_ends(backend: &Backend) {
    let login = Login::created(&*backend.here, Life(Duration::from_millis(500))).await;
    let seen = login.stored(&*backend.here).await;
    eventually("the scene is gone", || async {
        let found = find_one(&*backend.there, login.id()).await.unwrap();
        found.is_none().then_some(())
    })
    .await;
    let replaced = put(&*backend.here, &seen, &changed(&login.scene), false).await.unwrap();
    assert_eq!(replaced, Replaced::Absent);
    assert!(matches!(login.scan(&*backend.here).await, Err(ApplyError::NotFound)));
}

async fn a_write_over_another_write_is_stale(backend: &Backend) {
    let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.here).await;
    let winner = rewritten(&login.scene);
    assert_eq!(
        put(&*backend.there, &seen, &winner, false).await.unwrap(),
        Replaced::Written
    );
    let late = changed(&login.scene);
    assert_eq!(put(&*backend.here, &seen, &late, false).await.unwrap(), Replaced::Stale);
    assert_eq!(put(&*backend.here, &seen, &late, true).await.unwrap(), Replaced::Stale);
    assert_eq!(login.stored(&*backend.here).await.scene, winner);
}

async fn a_write_leaves_the_scene_the_life_it_had(backend: &Backend) {
    let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
    let before = login.stored(&*backend.here).await;
    login.scan(&*backend.there).await.unwrap();
    login.confirm(&*backend.there).await.unwrap();
    let after = login.stored(&*backend.here).await;
    let (before, after) = (before.life().0, after.life().0);
    assert!(
        after.abs_diff(before) < Duration::from_millis(500),
        "{before:?} {after:?}"
    );
}

async fn a_write_that_is_repeated_is_the_same_success(backend: &Backend) {
    let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.here).await;
    let next = changed(&login.scene);
    for durable in [false, false, true] {
        assert_eq!(
            put(&*backend.here, &seen, &next, durable).await.unwrap(),
            Replaced::Written
        );
        assert_eq!(login.stored(&*backend.there).await.scene, next);
    }
}

/// Whoever wrote last, and has not heard of it, still finds it to be its own.
async fn a_repeated_confirm_leaves_others_their_writes(backend: &Backend) {
    let login = Login::confirmed(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.there).await;
    let next = rewritten(&seen.scene);
    let write = || async { put(&*backend.there, &seen, &next, true).await.unwrap() };
    assert_eq!(write().await, Replaced::Written);
    let repeated = login.confirm(&*backend.here).await.unwrap();
    assert!(!repeated.changed);
    assert_eq!(write().await, Replaced::Written);
    assert_eq!(login.stored(&*backend.here).await.scene, next);
}

async fn nothing_is_confirmed_after_the_deadline(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life(GRACE + Duration::from_millis(1_500))).await;
    let seen = login.stored(&*backend.here).await;
    past_deadline(backend, &login).await;
    let confirmed = login.confirm(&*backend.here).await;
    assert!(
        matches!(confirmed, Err(ApplyError::Refused(Refused::Expired))),
        "{confirmed:?}"
    );
    // Who read before the deadline, and decided by that, comes too late all the same.
    for durable in [false, true] {
        let late = put(&*backend.here, &seen, &changed(&seen.scene), durable)
            .await
            .unwrap();
        assert_eq!(late, Replaced::Late);
    }
    assert_eq!(login.stored(&*backend.there).await.scene, seen.scene);
}

async fn a_code_is_redeemed_after_the_deadline_too(backend: &Backend) {
    let login = Login::confirmed(&*backend.here, Life(GRACE + Duration::from_millis(1_500))).await;
    past_deadline(backend, &login).await;
    assert!(login.redeem(&*backend.there).await.unwrap().changed);
}

async fn past_deadline(backend: &Backend, login: &Login) {
    eventually("the deadline is past", || async {
        let life = login.stored(&*backend.there).await.life();
        life.until_deadline().is_zero().then_some(())
    })
    .await;
}

async fn of_64_racing_redemptions_exactly_one_wins(backend: &Backend) {
    let login = Arc::new(Login::confirmed(&*backend.here, Life::of_new(TTL)).await);
    let mut racers = JoinSet::new();
    for racer in 0..64 {
        let (login, store) = (Arc::clone(&login), replica_of(backend, racer));
        racers.spawn(async move { login.redeem(&*store).await });
    }
    let mut won = 0;
    for outcome in racers.join_all().await {
        match outcome {
            Ok(applied) => won += usize::from(applied.changed),
            Err(ApplyError::Refused(Refused::InvalidGrant(GrantFault::Used))) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
}

async fn of_many_racing_scans_every_one_is_decided_by_the_rules(backend: &Backend) {
    let login = Arc::new(Login::created(&*backend.here, Life::of_new(TTL)).await);
    let mut racers = JoinSet::new();
    for racer in 0..8 {
        let (login, store) = (Arc::clone(&login), replica_of(backend, racer));
        racers.spawn(async move { login.scan(&*store).await });
    }
    // The same person each time, so every scan counts, and only the first is visible.
    for outcome in racers.join_all().await {
        assert!(outcome.unwrap().changed);
    }
    let stored = login.stored(&*backend.here).await;
    assert_eq!(
        (stored.scene.version, stored.scene.state_name(stored.life())),
        (2, StateName::Scanned)
    );
}

fn replica_of(backend: &Backend, racer: usize) -> Arc<dyn Store> {
    Arc::clone(if racer.is_multiple_of(2) {
        &backend.here
    } else {
        &backend.there
    })
}

async fn a_grant_is_written_and_deleted_with_its_scene(backend: &Backend) {
    let login = Login::confirmed(&*backend.here, Life::of_new(TTL)).await;
    assert_eq!(backend.there.grant(login.id()).await.unwrap(), None);
    let grant = b"who\0may see\xff".as_slice();
    login.redeem_for(&*backend.here, grant, TTL).await.unwrap();
    assert_eq!(backend.there.grant(login.id()).await.unwrap().as_deref(), Some(grant));

    let seen = login.stored(&*backend.there).await;
    let next = rewritten(&seen.scene);
    let write = |grant| Write {
        next: &next,
        durable: false,
        grant,
        notice: None,
    };
    assert_eq!(
        backend.there.replace(&seen, write(Grant::Keep)).await.unwrap(),
        Replaced::Written
    );
    assert!(backend.here.grant(login.id()).await.unwrap().is_some());
    assert_eq!(
        backend.there.replace(&seen, write(Grant::Delete)).await.unwrap(),
        Replaced::Written
    );
    assert_eq!(backend.here.grant(login.id()).await.unwrap(), None);

    let stale = put_grant(&*backend.here, &seen, &rewritten(&seen.scene)).await;
    assert_eq!(stale, Replaced::Stale);
    assert_eq!(
        backend.here.grant(login.id()).await.unwrap(),
        None,
        "nothing of a refused write is kept"
    );
}

async fn put_grant(store: &dyn Store, seen: &scanlogin::store::Stored, next: &Scene) -> Replaced {
    let grant = Grant::Put(b"refused", TTL);
    let write = Write {
        next,
        durable: false,
        grant,
        notice: None,
    };
    store.replace(seen, write).await.unwrap()
}

async fn a_grant_is_made_of_the_very_scene_that_is_written(backend: &Backend) {
    let login = Login::confirmed(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.here).await;
    let newer = Scene {
        created_at: seen.scene.created_at + 1,
        ..rewritten(&seen.scene)
    };
    let replaced = put(&*backend.there, &seen, &newer, false).await.unwrap();
    assert_eq!(replaced, Replaced::Written);

    let code = AuthorizationCode::derive(*login.id(), seen.scene.event_id, &login.browser);
    let redeem = || {
        Action::Redeem(Redemption {
            code: &code,
            client_id: "blog",
            redirect_uri: None,
            code_verifier: None,
        })
    };
    let make = |scene: &Scene, _| Ok(scene.created_at.to_string().into_bytes());
    let durability = Durability::WithGrant(&make, TTL);
    let applied = apply(&*backend.here, seen, durability, &mut os_rng(), redeem).await;
    let granted = newer.created_at.to_string().into_bytes();
    assert_eq!(applied.unwrap().granted, granted);
    assert_eq!(backend.there.grant(login.id()).await.unwrap(), Some(granted));
}

async fn a_grant_ends_by_itself(backend: &Backend) {
    let login = Login::confirmed(&*backend.here, Life::of_new(TTL)).await;
    let moment = Duration::from_millis(100);
    login.redeem_for(&*backend.here, b"for a moment", moment).await.unwrap();
    eventually("the grant has ended", || async {
        backend.there.grant(login.id()).await.unwrap().is_none().then_some(())
    })
    .await;
}

async fn after_watch_returned_every_visible_change_is_told(backend: &Backend) {
    for _ in 0..100 {
        let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
        backend.here.watch(login.id()).await.unwrap();
        backend.here.watch(login.id()).await.unwrap();
        let scene = login.scan(&*backend.there).await.unwrap().scene;
        let News::Changed(id, state) = backend.news().await else {
            panic!("nothing was lost");
        };
        assert_eq!(id, *login.id());
        assert_eq!(
            (state.version, state.event_id, state.state),
            (2, scene.event_id, StateName::Scanned)
        );
        backend.here.unwatch(login.id()).await;
    }
}

async fn what_is_told_is_found_by_a_read(backend: &Backend) {
    let login = Login::created(&*backend.here, Life::of_new(TTL)).await;
    backend.here.watch(login.id()).await.unwrap();
    let mut seen = login.stored(&*backend.there).await;
    for _ in 0..100 {
        let next = changed(&seen.scene);
        let written = put(&*backend.there, &seen, &next, false);
        let told = async {
            let News::Changed(_, state) = backend.news().await else {
                panic!("nothing was lost");
            };
            (state, login.stored(&*backend.here).await)
        };
        let (written, (state, found)) = tokio::join!(written, told);
        assert_eq!(written.unwrap(), Replaced::Written);
        assert_eq!(
            (state.version, state.event_id),
            (found.scene.version, found.scene.event_id)
        );
        seen = found;
    }
}

async fn hidden_changes_are_not_told(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life::of_new(TTL)).await;
    backend.here.watch(login.id()).await.unwrap();
    login.scan(&*backend.there).await.unwrap();
    let scene = login.confirm(&*backend.there).await.unwrap().scene;
    login.redeem(&*backend.there).await.unwrap();
    let News::Changed(_, state) = backend.news().await else {
        panic!("nothing was lost");
    };
    assert_eq!(
        (state.event_id, state.state),
        (scene.event_id, StateName::Confirmed),
        "the first told"
    );
    assert!(state.code_left_ms > 59_000, "{}", state.code_left_ms);
    let other = Login::created(&*backend.here, Life::of_new(TTL)).await;
    backend.here.watch(other.id()).await.unwrap();
    other.scan(&*backend.there).await.unwrap();
    let News::Changed(id, _) = backend.news().await else {
        panic!("nothing was lost");
    };
    assert_eq!(id, *other.id(), "the next told");
}

const CLAIM: Duration = Duration::from_secs(20);

async fn one_of_50_makes_the_picture(backend: &Backend) {
    let id = *Login::new().id();
    let mut asked = JoinSet::new();
    for asker in 0..50 {
        let store = replica_of(backend, asker);
        asked.spawn(async move { store.picture(&id, CLAIM).await.unwrap() });
    }
    let answers = asked.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Picture::Yours).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Picture::Making).count(), 49);

    let picture = Bytes::from_static(b"\x89PNG\0\xff making");
    backend.here.put_picture(&id, picture.clone(), TTL).await.unwrap();
    assert_eq!(
        backend.there.picture(&id, CLAIM).await.unwrap(),
        Picture::Ready(picture.clone())
    );
    backend.there.release_picture(&id).await.unwrap();
    assert_eq!(
        backend.here.picture(&id, CLAIM).await.unwrap(),
        Picture::Ready(picture),
        "a finished one stays"
    );
}

async fn a_claim_on_a_picture_ends_by_itself_or_is_given_back(backend: &Backend) {
    let id = *Login::new().id();
    assert_eq!(
        backend.here.picture(&id, Duration::from_millis(300)).await.unwrap(),
        Picture::Yours
    );
    eventually("the claim has lapsed", || async {
        (backend.there.picture(&id, CLAIM).await.unwrap() == Picture::Yours).then_some(())
    })
    .await;
    assert_eq!(backend.here.picture(&id, CLAIM).await.unwrap(), Picture::Making);
    backend.there.release_picture(&id).await.unwrap();
    assert_eq!(backend.here.picture(&id, CLAIM).await.unwrap(), Picture::Yours);
}

async fn a_picture_made_ahead_is_kept_for_its_scene(backend: &Backend) {
    let [kept, left, claimed] = [(); 3].map(|()| *Login::new().id());
    let picture = Bytes::from_static(b"\xff\xd8\xff");
    let short = Duration::from_millis(500);
    backend.here.put_picture(&kept, picture.clone(), short).await.unwrap();
    backend.here.keep_picture(&kept, TTL).await.unwrap();
    backend.here.put_picture(&left, picture.clone(), short).await.unwrap();
    assert_eq!(backend.here.picture(&claimed, short).await.unwrap(), Picture::Yours);
    backend.here.keep_picture(&claimed, TTL).await.unwrap();
    for id in [left, claimed] {
        eventually("what nobody keeps has ended", || async {
            (backend.there.picture(&id, CLAIM).await.unwrap() == Picture::Yours).then_some(())
        })
        .await;
    }
    assert_eq!(
        backend.there.picture(&kept, CLAIM).await.unwrap(),
        Picture::Ready(picture)
    );
}

async fn an_avatar_is_found_under_its_own_name_alone(backend: &Backend) {
    let id = *Login::new().id();
    let [mine, other] = [(); 2].map(|()| AvatarId::random(&mut os_rng()));
    let image = Bytes::from(vec![0xff; 64 * 1024]);
    backend.here.put_avatar(&id, mine, image.clone(), TTL).await.unwrap();
    assert_eq!(backend.there.avatar(&id, mine).await.unwrap(), Some(image.clone()));
    assert_eq!(backend.there.avatar(&id, other).await.unwrap(), None);
    backend.there.put_avatar(&id, other, image.clone(), TTL).await.unwrap();
    assert_eq!(backend.here.avatar(&id, other).await.unwrap(), Some(image));
    assert_eq!(
        backend.there.avatar(&id, mine).await.unwrap(),
        None,
        "a scene has one at a time"
    );
    assert_eq!(backend.there.avatar(Login::new().id(), mine).await.unwrap(), None);
}

const LEASE: Duration = Duration::from_secs(20);

fn owner() -> WriteId {
    WriteId::random(&mut os_rng())
}

async fn the_lease_is_one_replicas_alone_until_it_is_given_back_or_lapses(backend: &Backend) {
    let owners: Vec<WriteId> = (0..50).map(|_| owner()).collect();
    let asked = owners.iter().enumerate().map(|(asker, owner)| {
        let store = replica_of(backend, asker);
        async move {
            store
                .acquire_lease("wx1", *owner, LEASE)
                .await
                .unwrap()
                .then_some(*owner)
        }
    });
    let holders: HashSet<WriteId> = join_all(asked).await.into_iter().flatten().collect();
    let [holder] = holders.into_iter().collect::<Vec<_>>()[..] else {
        panic!("not one holder");
    };
    assert!(
        !backend.here.acquire_lease("wx1", holder, LEASE).await.unwrap(),
        "once is enough"
    );
    let other = owner();
    backend.there.release_lease("wx1", other).await.unwrap();
    assert!(
        !backend.here.acquire_lease("wx1", other, LEASE).await.unwrap(),
        "not another's to give back"
    );
    assert!(
        backend.here.acquire_lease("wx2", other, LEASE).await.unwrap(),
        "one for each Mini Program"
    );
    backend.here.release_lease("wx1", holder).await.unwrap();
    assert!(
        backend
            .there
            .acquire_lease("wx1", other, Duration::from_millis(300))
            .await
            .unwrap()
    );
    eventually("the lease has lapsed", || async {
        backend
            .here
            .acquire_lease("wx1", owner(), LEASE)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
}

async fn token(store: &dyn Store) -> Option<StoredToken> {
    store.token("wx1").await.unwrap()
}

async fn a_token_is_kept_by_the_holder_of_the_lease_alone(backend: &Backend) {
    let (slow, quick) = (owner(), owner());
    assert_eq!(token(&*backend.here).await, None);
    assert!(
        !backend
            .here
            .put_token("wx1", slow, None, b"no lease", TTL)
            .await
            .unwrap()
    );

    // The slow one holds the lease, sleeps until it has lapsed, and wakes up when the quick one is done.
    assert!(
        backend
            .here
            .acquire_lease("wx1", slow, Duration::from_millis(300))
            .await
            .unwrap()
    );
    eventually("the lease has lapsed", || async {
        backend
            .there
            .acquire_lease("wx1", quick, LEASE)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
    assert!(!backend.here.put_token("wx1", slow, None, b"slow", TTL).await.unwrap());
    assert!(
        backend
            .there
            .put_token("wx1", quick, None, b"quick\0\xff", TTL)
            .await
            .unwrap()
    );
    assert!(!backend.here.put_token("wx1", slow, None, b"slow", TTL).await.unwrap());

    let kept = token(&*backend.here).await.unwrap();
    assert_eq!(kept.sealed, b"quick\0\xff");
    assert!(
        kept.left <= TTL && kept.left + Duration::from_secs(5) > TTL,
        "{:?}",
        kept.left
    );
}

async fn an_older_answer_never_replaces_a_newer_token(backend: &Backend) {
    let holder = owner();
    assert!(backend.here.acquire_lease("wx1", holder, LEASE).await.unwrap());
    assert!(
        backend
            .here
            .put_token("wx1", holder, None, b"first", TTL)
            .await
            .unwrap()
    );
    let first = token(&*backend.there).await.unwrap().generation;
    let put = |seen, sealed: &'static [u8], life| backend.there.put_token("wx1", holder, seen, sealed, life);
    assert!(
        !put(None, b"unseen", TTL * 2).await.unwrap(),
        "the generation has moved from none"
    );
    assert!(
        !put(Some(first), b"older", TTL / 2).await.unwrap(),
        "what is kept lives longer"
    );
    assert!(put(Some(first), b"second", TTL * 2).await.unwrap());
    assert!(
        !put(Some(first), b"again", TTL * 3).await.unwrap(),
        "the generation has moved from the first"
    );
    let kept = token(&*backend.here).await.unwrap();
    assert_eq!(kept.sealed, b"second");
    assert!(kept.generation > first);
}

async fn generations_rise_over_dropped_tokens(backend: &Backend) {
    let holder = owner();
    assert!(backend.here.acquire_lease("wx1", holder, LEASE).await.unwrap());
    let mut last = Generation(0);
    for round in 0..5_u8 {
        let (sealed, seen) = ([round], Some(last).filter(|_| round % 2 == 1));
        // Whether it remembers the dropped one or has seen none: nobody has put another since.
        assert!(
            backend.here.put_token("wx1", holder, seen, &sealed, TTL).await.unwrap(),
            "round {round}"
        );
        let kept = token(&*backend.there).await.unwrap();
        assert_eq!(kept.sealed, sealed);
        assert!(kept.generation > last);
        backend.there.drop_token("wx1", last).await.unwrap();
        assert!(
            token(&*backend.here).await.is_some(),
            "another generation's is not dropped"
        );
        last = kept.generation;
        backend.there.drop_token("wx1", last).await.unwrap();
        assert_eq!(token(&*backend.here).await, None);
    }
}

async fn a_full_store_refuses_new_scenes_and_goes_on_with_old_ones(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life::of_new(TTL)).await;
    backend.fill().await;
    let refused = backend.there.create(&Login::new().scene, Life::of_new(TTL)).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    login.confirm(&*backend.there).await.unwrap();
    login.redeem_for(&*backend.there, b"grant", TTL).await.unwrap();
    assert!(backend.here.grant(login.id()).await.unwrap().is_some());
}

async fn a_store_that_answers_is_ready(backend: &Backend) {
    let asked = Stopwatch::start();
    backend.here.ready().await.unwrap();
    // Sooner than it is given up.
    asked.took_less_than(Duration::from_secs(2));
}
