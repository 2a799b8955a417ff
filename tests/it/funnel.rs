//! What an operator is told of logins as a whole: how far they come, how they end, and how long people take.

use crate::stores::{Store, on_each_store};
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

on_each_store! {
    each_login_is_counted_as_far_as_it_came,
}

async fn steps(service: &Service, step: &str) -> f64 {
    service
        .metric("scanlogin_login_steps_total", &format!("step=\"{step}\""))
        .await
}

/// How many took a time to this step, and how many seconds all of them did.
async fn times(service: &Service, step: &str) -> (f64, f64) {
    let labels = format!("step=\"{step}\"");
    let of = async |what| {
        let name = format!("scanlogin_login_step_seconds_{what}");
        service.metric(&name, &labels).await
    };
    (of("count").await, of("sum").await)
}

#[expect(clippy::float_cmp, reason = "they count")]
async fn each_login_is_counted_as_far_as_it_came(store: Store) {
    let service = store.service().with("SCENE_TTL", 5).start().await;
    // Nobody ever watches the first.
    Browser::start(&service).await;
    let expiring = Browser::start(&service).await;
    let mut expires = expiring.events().await;

    let completed = Browser::start(&service).await;
    assert_eq!(completed.code_image().await.status, 200);
    let mut events = completed.events().await;
    events.next_is("waiting").await;
    let code = completed.code_of("alice", &service).await;
    Site::demo().redeem(&service, &code).await.ok();

    let refused = Browser::start(&service).await;
    let mallory = Phone::that_scanned("mallory", &service, &refused.scene).await;
    mallory.decline(&service, &refused.scene).await.ok();
    let given_up = Browser::start(&service).await;
    assert_eq!(given_up.cancel().await.status, 204);

    expires.next_is("waiting").await;
    expires.next_is("expired").await;
    let mut counted = Vec::new();
    for step in [
        "shown",
        "watched",
        "scanned",
        "confirmed",
        "redeemed",
        "declined",
        "cancelled",
        "expired",
    ] {
        counted.push((step, steps(&service, step).await));
    }
    let expected = [1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    assert_eq!(
        counted.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
        expected,
        "{counted:?}"
    );
    assert_eq!(service.metric("scanlogin_scenes_created_total", "").await, 5.0);
    for (step, count) in [
        ("scanned", 2.0),
        ("confirmed", 1.0),
        ("redeemed", 1.0),
        ("declined", 1.0),
        ("cancelled", 1.0),
    ] {
        let (counted, seconds) = times(&service, step).await;
        assert_eq!(counted, count, "{step}");
        assert!(seconds < 5.0 * count, "{step} took {seconds} s of a scene's five");
    }
}
