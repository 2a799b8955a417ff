//! How much memory the hot paths ask for. It is the same each time and on every machine, other than how long they take: what grows
//! here has become slower everywhere.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;

/// What a path may ask for beside what is written down, in parts of that.
const LEEWAY: f64 = 0.1;

/// How often memory was asked for, and how many bytes of it, in a debug build.
#[derive(Debug, Clone, Copy)]
struct Asked {
    times: f64,
    bytes: f64,
}

/// A path, and what it asked for when this was last looked at. Whoever makes it less writes that down.
const BASELINE: [(Path, Asked); 3] = [
    (
        Path::Start,
        Asked {
            times: 162.0,
            bytes: 51_000.0,
        },
    ),
    (
        Path::Stream,
        Asked {
            times: 396.0,
            bytes: 155_000.0,
        },
    ),
    (
        Path::Login,
        Asked {
            times: 1_725.0,
            bytes: 945_000.0,
        },
    ),
];

#[derive(Debug, Clone, Copy)]
enum Path {
    /// A scene.
    Start,
    /// A scene that is watched.
    Stream,
    /// A whole login, picture, redemption and `/userinfo` included.
    Login,
}

impl Path {
    /// How often it is gone, so that what happens besides counts for little.
    fn times(self) -> u32 {
        match self {
            Self::Start => 300,
            Self::Stream => 100,
            Self::Login => 40,
        }
    }

    async fn goes(self, service: &Service, number: u32) {
        let browser = Browser::start(service).await;
        if let Self::Start = self {
            return;
        }
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        if let Self::Stream = self {
            return;
        }
        assert_eq!(browser.code_image().await.status, 200);
        let phone = Phone::that_scanned(&format!("person-{number}"), service, &browser.scene).await;
        events.next_is("scanned").await;
        phone.confirm(service, &browser.scene).await.ok();
        let confirmed = events.next_is("confirmed").await;
        let code = confirmed.data["code"].as_str().unwrap();
        let redeemed = Site::demo().redeem(service, code).await.ok();
        Site::userinfo(service, redeemed["access_token"].as_str().unwrap())
            .await
            .ok();
    }
}

/// One of the two.
type Of = fn(&Asked) -> f64;

/// What a process asked for in all its life, and how long that was since it was ready.
struct Life {
    asked: Asked,
    lasted: Duration,
}

/// The life of one that did this after each path's first time.
async fn life(doing: impl AsyncFnOnce(&Service)) -> Life {
    let redis = RedisServer::start();
    let mut service = Service::builder().redis(&redis).counting_allocations().start().await;
    let ready = Instant::now();
    for path in [Path::Start, Path::Stream, Path::Login] {
        path.goes(&service, 0).await;
    }
    doing(&service).await;
    let lasted = ready.elapsed();
    service.terminate();
    let (status, said) = service.process.said().await;
    assert!(status.success(), "{said:#?}");
    let total = said
        .iter()
        .find_map(|line| Some(line.split_once("total heap usage: ")?.1))
        .unwrap();
    let number = |unit: &str| {
        let before = total.split_once(unit).unwrap().0;
        before
            .split(' ')
            .next_back()
            .unwrap()
            .replace(',', "")
            .parse::<f64>()
            .unwrap()
    };
    let asked = Asked {
        times: number(" allocs"),
        bytes: number(" bytes allocated"),
    };
    Life { asked, lasted }
}

#[tokio::test]
async fn hot_paths_ask_for_no_more_memory_than_they_did() {
    let short = life(async |_| {}).await;
    // Servers are watched, for as long as it takes.
    let idle = life(async |_| sleep(Duration::from_secs(10)).await).await;
    let besides = |of: Of, lasted: Duration| {
        let each_second =
            (of(&idle.asked) - of(&short.asked)) / (idle.lasted.as_secs_f64() - short.lasted.as_secs_f64());
        of(&short.asked) + each_second * (lasted.as_secs_f64() - short.lasted.as_secs_f64())
    };
    let mut wrong = Vec::new();
    for (path, before) in BASELINE {
        let own = life(async |service| {
            for number in 0..path.times() {
                path.goes(service, number).await;
            }
        });
        let own = own.await;
        let kinds: [(Of, &str); 2] = [(|asked| asked.times, "allocations"), (|asked| asked.bytes, "bytes")];
        for (of, what) in kinds {
            let now = (of(&own.asked) - besides(of, own.lasted)) / f64::from(path.times());
            let before = of(&before);
            println!("{path:?}: {now:.0} {what}, and {before:.0} before");
            if (now / before - 1.0).abs() > LEEWAY {
                wrong.push(format!("{path:?}: {now:.0} {what}, and {before:.0} before"));
            }
        }
    }
    assert!(wrong.is_empty(), "find out why, or write it down: {wrong:#?}");
}
