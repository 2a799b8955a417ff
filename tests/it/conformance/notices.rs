//! What every store promises of what sites are still to be told.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use scanlogin::scene::{Life, SceneId, WriteId};
use scanlogin::store::{Created, Due, Ended, Notice, Replaced, Store, Write};

use super::backend::{Backend, Login, TTL, changed, notice_text, tell, tell_with};
use super::owner;
use crate::support::eventually;

const LEASE: Duration = Duration::from_mins(1);

async fn claim(store: &dyn Store, claim: WriteId) -> Due {
    store.claim_notices(claim, LEASE, 10_000, 10_000).await.unwrap()
}

/// The claim under which the only notice is taken, once it is due.
async fn claimed(store: &dyn Store, id: &SceneId, text: &[u8]) -> WriteId {
    let mine = owner();
    let due = eventually("it is due", || async {
        let due = claim(store, mine).await;
        assert_eq!(due.waiting, 1);
        (!due.claimed.is_empty()).then_some(due)
    })
    .await;
    assert_eq!(due.claimed, [(*id, text.to_vec())]);
    mine
}

pub(super) async fn a_notice_is_taken_by_one_replica_when_its_claim_ends(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.here).await;
    let lease = Duration::from_millis(1_500);
    assert_eq!(
        tell_with(&*backend.here, &seen, lease, 10).await.unwrap(),
        Replaced::Written
    );
    let early = claim(&*backend.there, owner()).await;
    assert_eq!((early.claimed.len(), early.waiting), (0, 1), "it is whose who wrote it");
    claimed(&*backend.there, login.id(), &notice_text(login.id())).await;
    let again = claim(&*backend.here, owner()).await;
    assert_eq!((again.claimed.len(), again.waiting), (0, 1), "it is taken");
}

pub(super) async fn a_notice_that_is_put_off_comes_again_and_one_that_is_dropped_does_not(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life::of_new(TTL)).await;
    let (id, seen) = (login.id(), login.stored(&*backend.here).await);
    tell(&*backend.here, &seen).await.unwrap();
    let first = claimed(&*backend.there, id, &notice_text(id)).await;
    let put_off = async |claim, wait| {
        backend
            .there
            .put_off_notice(id, claim, b"once more", wait)
            .await
            .unwrap()
    };
    assert_eq!(put_off(owner(), Duration::ZERO).await, Ended::Taken);
    assert_eq!(put_off(first, LEASE).await, Ended::Done);
    assert!(claim(&*backend.here, owner()).await.claimed.is_empty(), "it waits");
    // As a call is repeated whose reply was lost.
    assert_eq!(put_off(first, Duration::ZERO).await, Ended::Done);
    let second = claimed(&*backend.here, id, b"once more").await;
    let not_mine = backend.there.drop_notice(id, first).await.unwrap();
    let left = claim(&*backend.there, owner()).await.waiting;
    assert_eq!((not_mine, left), (Ended::Taken, 1), "it is somebody else's by now");
    for expected in [Ended::Done, Ended::Absent] {
        assert_eq!(backend.here.drop_notice(id, second).await.unwrap(), expected);
    }
    assert_eq!(claim(&*backend.there, owner()).await.waiting, 0);
    assert_eq!(put_off(second, Duration::ZERO).await, Ended::Absent);
}

/// One at this site; all of them share a hash tag.
async fn login_at(store: &dyn Store, client_id: &str) -> Login {
    let mut login = Login::new();
    login.scene.id = format!("3f{}", &login.id().to_string()[2..]).parse().unwrap();
    client_id.clone_into(&mut login.scene.client_id);
    let created = store.create(&login.scene, Life::of_new(TTL)).await.unwrap();
    assert_eq!(created, Created::New);
    login
}

/// Scenes that share a hash tag share what the site may have waiting.
pub(super) async fn of_a_site_so_many_notices_wait_and_its_logins_go_on(backend: &Backend) {
    let store = &*backend.here;
    let mut logins = Vec::new();
    for _ in 0..4 {
        logins.push(login_at(store, "blog").await);
    }
    let most = 2 * backend.shares_of_what_waits();
    let told = async |login: &Login| {
        let seen = login.stored(store).await;
        assert_eq!(
            tell_with(store, &seen, Duration::ZERO, most).await.unwrap(),
            Replaced::Written
        );
    };
    for login in &logins[..3] {
        told(login).await;
    }
    // Another of the same scene takes the place of the first.
    told(&logins[0]).await;
    let mine = owner();
    let due = eventually("they are due", || async {
        let due = claim(store, mine).await;
        (!due.claimed.is_empty()).then_some(due)
    })
    .await;
    let mut ids: Vec<_> = due.claimed.iter().map(|(id, _)| *id).collect();
    ids.sort();
    let mut expected = [*logins[0].id(), *logins[1].id()];
    expected.sort();
    assert_eq!((&ids[..], due.waiting), (&expected[..], 2));
    assert_eq!(
        store.put_off_notice(logins[2].id(), mine, b"", LEASE).await.unwrap(),
        Ended::Absent
    );
    store.drop_notice(logins[0].id(), mine).await.unwrap();
    told(&logins[3]).await;
    assert_eq!(claim(store, owner()).await.waiting, 2, "there is room again");
}

pub(super) async fn what_is_not_written_leaves_no_notice_and_what_is_repeated_no_second_one(backend: &Backend) {
    let login = Login::scanned(&*backend.here, Life::of_new(TTL)).await;
    let seen = login.stored(&*backend.here).await;
    let next = changed(&seen.scene);
    let notice = Notice {
        client_id: "blog".to_owned(),
        text: b"told".to_vec(),
        lease: Duration::ZERO,
        most: 10,
    };
    let write = Write {
        next: &next,
        durable: true,
        grant: scanlogin::store::Grant::Keep,
        notice: Some(&notice),
    };
    assert_eq!(backend.here.replace(&seen, write).await.unwrap(), Replaced::Written);
    assert_eq!(tell(&*backend.there, &seen).await.unwrap(), Replaced::Stale);
    let mine = claimed(&*backend.there, login.id(), b"told").await;
    backend.there.drop_notice(login.id(), mine).await.unwrap();
    assert_eq!(backend.here.replace(&seen, write).await.unwrap(), Replaced::Written);
    assert_eq!(claim(&*backend.there, owner()).await.waiting, 0);
}

/// More than one look goes through, so that the other site's would never be seen behind them.
pub(super) async fn however_much_is_due_of_one_site_anothers_is_taken_and_in_the_end_all(backend: &Backend) {
    let store = &*backend.here;
    let told = async |client_id: &str| {
        let login = login_at(store, client_id).await;
        let seen = login.stored(store).await;
        let written = tell_with(store, &seen, Duration::ZERO, 1_000_000).await.unwrap();
        // On a busy machine one may wait too long for a replica's word.
        assert!(
            matches!(written, Replaced::Written | Replaced::Unreplicated),
            "{written:?}"
        );
        *login.id()
    };
    let mut of_one = HashSet::new();
    for _ in 0..30 {
        of_one.extend(join_all((0..10).map(|_| told("blog"))).await);
    }
    let of_other = told("shop").await;
    let shares = backend.shares_of_what_waits();
    let look = async || {
        let lease = Duration::from_millis(500);
        let due = store
            .claim_notices(owner(), lease, 8 * shares, 2 * shares)
            .await
            .unwrap();
        let taken = due.claimed.iter().map(|(id, _)| *id);
        (taken.collect::<HashSet<_>>(), due.waiting)
    };
    let (first, waiting) = look().await;
    assert_eq!((first.intersection(&of_one).count(), waiting), (2, 301));
    let (second, _) = look().await;
    assert!(first.contains(&of_other) || second.contains(&of_other));
    eventually("each is taken once its claim has ended", || async {
        let (mine, most) = (owner(), 100 * shares);
        let due = store.claim_notices(mine, LEASE, most, most).await.unwrap();
        for (id, _) in &due.claimed {
            store.drop_notice(id, mine).await.unwrap();
        }
        (due.waiting == 0).then_some(())
    })
    .await;
}
