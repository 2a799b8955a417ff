//! Two people at one code, at the same moment.

use futures_util::future::{join, join3};
use rand::SeedableRng;
use rand::rngs::StdRng;
use scanlogin::scene::ConfirmToken;

use crate::redemption::races;
use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

#[tokio::test]
async fn t14_of_two_people_who_scan_at_once_one_logs_in_and_only_by_the_last_token() {
    let redis = RedisServer::start();
    let first = Service::builder().redis(&redis).start().await;
    let replicas = [first.replica().start().await, first.replica().start().await, first];
    for race in 0..races() {
        let [a, b, c] = [0, 1, 2].map(|n| &replicas[(race + n) % 3]);
        let browser = Browser::start(a).await;
        let scene = &browser.scene;
        let (mut alice, mut mallory) = (
            Phone::of(&format!("alice-{race}")),
            Phone::of(&format!("mallory-{race}")),
        );
        let (of_alice, of_mallory) = join(alice.scan(b, scene), mallory.scan(c, scene)).await;
        let (winner, loser, refused) = match (of_alice.status, of_mallory.status) {
            (200, 409) => (alice, mallory, of_mallory),
            (409, 200) => (mallory, alice, of_alice),
            both => panic!("race {race}: {both:?}"),
        };
        refused.problem(409, "scanned_by_another");

        // The first confirms, scans again, and somebody else confirms with a token of his own making, all at once.
        let mut again = winner.clone();
        let forger = Phone {
            token: ConfirmToken::random(&mut StdRng::seed_from_u64(race as u64))
                .expose()
                .to_string(),
            ..loser.clone()
        };
        let (confirmed, rescanned, guessed) =
            join3(winner.confirm(a, scene), again.scan(b, scene), forger.confirm(c, scene)).await;
        // Before the confirm, or after it.
        assert!(guessed.status == 401, "race {race}: {}", guessed.text());
        match (confirmed.status, rescanned.status) {
            (200, 409) => {}
            (401, 200) => {
                // The old token died with the new scan, whoever has it.
                winner.confirm(c, scene).await.problem(401, "confirm_token_required");
                winner.decline(c, scene).await.problem(401, "confirm_token_required");
                again.confirm(c, scene).await.ok();
            }
            both => panic!("race {race}: {both:?}"),
        }
        let late = Phone::of(&loser.openid).scan(b, scene).await;
        late.problem(409, "already_finished");
        let code = browser.at(b).status().await["code"]
            .as_str()
            .expect("a code")
            .to_owned();
        let redeemed = Site::demo().redeem(c, &code).await.ok();
        let identity = Site::verified(a, redeemed["id_token"].as_str().unwrap()).await;
        assert_eq!(identity["sub"], winner.openid.as_str(), "race {race}");
    }
}
