//! While Redis fails over, and some replicas follow to the next primary before the others do.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{interval, sleep, timeout};

use crate::support::events::EventStream;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Phone};
use crate::support::sentinel::Sentinels;
use crate::support::service::Service;

/// What a browser at one replica was told of a scene that others write to at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Enough,
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
    assert_eq!(missed, []);
}

/// Starts and scans at `b`, and asks and listens at `a`.
async fn probe(a: &Service, b: &Service) -> Option<(Browser, Told)> {
    let browser = Browser::try_start(b).await?.at(a);
    let response = browser.events_request().send().await.expect("an answer");
    if response.status() != 200 {
        let is_unknown = response.status() == 404;
        return Some((browser, if is_unknown { Told::Unknown } else { Told::Enough }));
    }
    let mut events = EventStream::new(response);
    let told = async {
        while let Some(event) = events.read().await {
            if event.event == "scanned" {
                break;
            }
        }
    };
    let scan = async {
        let scanned = Phone::of("alice").scan(b, &browser.scene).await;
        (scanned.status == 200).then_some(())
    };
    let told = timeout(Duration::from_secs(4), told);
    let (scanned, told) = tokio::join!(scan, told);
    let told = match (scanned, told) {
        (Some(()), Err(_)) => Told::Nothing,
        _ => Told::Enough,
    };
    Some((browser, told))
}
