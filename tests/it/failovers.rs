//! While Redis fails over, and some replicas follow to the next primary before the others do.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{interval, sleep, timeout};

use crate::support::events::EventStream;
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::sentinel::Sentinels;
use crate::support::service::Service;

/// What a browser at one replica was told of a scene that others write to at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Of the scan.
    All,
    /// That it should come again, or nobody scanned.
    LittleForNow,
    /// That there is no such scene.
    Unknown,
    /// Nothing of the scan.
    Nothing,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_next_primary_has_is_missed_by_nobody_who_is_still_at_the_last_one() {
    let sentinels = Sentinels::start().await;
    sentinels.set("failover-timeout", "2500");
    let b = Service::builder().redis_url(&sentinels.url()).start().await;
    let (url, _links) = sentinels.hard_of_hearing(Duration::from_millis(80)).await;
    let a = b.replica().redis_url(&url).start().await;
    let mut probes = Vec::new();
    for _ in 0..3 {
        let before = sentinels.masters();
        sentinels.fail_over().await;
        let mut over = pin!(async {
            sentinels.until_replaced(&before).await;
            sleep(Duration::from_secs(2)).await;
        });
        let mut due = interval(Duration::from_millis(20));
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = &mut over => break,
                _ = due.tick() => under_way.push(probe(&a, &b)),
                Some(done) = under_way.next() => probes.extend(done),
            }
        }
        probes.extend(under_way.collect::<Vec<_>>().await.into_iter().flatten());
    }
    let mut missed = Vec::new();
    for (browser, told) in &probes {
        // What the last primary had alone is lost, and truly unknown.
        let status = Reply::to(browser.status_request("")).await;
        let knows = |state| status.status == 200 && status.json()["state"] == state;
        if *told == Told::Unknown && knows("waiting") || *told == Told::Nothing && knows("scanned") {
            missed.push(*told);
        }
    }
    println!("{} probes", probes.len());
    assert!(probes.len() > 100, "only {} probes", probes.len());
    let told_all = probes.iter().filter(|(_, told)| *told == Told::All).count();
    assert!(told_all > 30, "{told_all} of {} were told of a scan", probes.len());
    assert_eq!(missed, []);
}

/// It would be refused for good, and the login be in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_code_is_not_refused_by_who_is_still_at_the_last_primary() {
    let sentinels = Sentinels::start().await;
    let (url, a_asks) = sentinels.hard_of_hearing(Duration::from_millis(1)).await;
    let a = Service::builder().redis_url(&url).start().await;
    let (url, b_asks) = sentinels.hard_of_hearing(Duration::from_millis(1)).await;
    let b = a.replica().redis_url(&url).start().await;
    let browser = Browser::start(&a).await;
    let alice = Phone::that_scanned("alice", &a, &browser.scene).await;
    // Who confirms is waited for, and so is all that was written before.
    Browser::start(&a).await.code_of("bob", &a).await;
    a_asks[0].stall();
    b_asks[1..].iter().for_each(Proxy::stall);
    sentinels.part_with(&[2], 0, &[], &[]);
    eventually("the confirm counts at the next primary", || async {
        let confirmed = alice.confirm(&a, &browser.scene).await;
        (confirmed.status == 200).then_some(())
    })
    .await;
    let code = browser.status().await["code"].as_str().expect("a code").to_owned();
    let refused = Site::demo().redeem(&b, &code).await;
    refused.oauth_error(503, "temporarily_unavailable");
    sentinels.rejoin();
    b_asks[1..].iter().for_each(Proxy::heal);
    eventually("it follows to the next primary", || async {
        let redeemed = Site::demo().redeem(&b, &code).await;
        assert_ne!(redeemed.status, 400);
        (redeemed.status == 200).then_some(())
    })
    .await;
}

/// Starts and scans at `b`, and asks and listens at `a`.
async fn probe(a: &Service, b: &Service) -> Option<(Browser, Told)> {
    let browser = Browser::try_start(b).await?.at(a);
    let response = browser.events_request().send().await.expect("an answer");
    if response.status() != 200 {
        let is_unknown = response.status() == 404;
        return Some((browser, if is_unknown { Told::Unknown } else { Told::LittleForNow }));
    }
    let mut events = EventStream::new(response);
    let told = async {
        while let Some(event) = events.read().await {
            if event.event == "scanned" {
                return true;
            }
        }
        false
    };
    let scan = async {
        let scanned = Phone::of("alice").scan(b, &browser.scene).await;
        (scanned.status == 200).then_some(())
    };
    let told = timeout(Duration::from_secs(4), told);
    let (scanned, told) = tokio::join!(scan, told);
    let told = match (scanned, told) {
        (_, Ok(true)) => Told::All,
        (Some(()), Err(_)) => Told::Nothing,
        (None, _) | (_, Ok(false)) => Told::LittleForNow,
    };
    Some((browser, told))
}
