//! A WeChat that is dead: whom that costs time, who is told at once, and how soon it is found to be back.

use std::time::Duration;

use futures_util::future::join_all;
use scanlogin::telemetry::Metrics;
use scanlogin::wechat::client::{Client, Error};
use tokio::time::Instant;

use super::access_token::use_token;
use super::store::Shared;
use super::upstream::{PICTURE, Reply, SESSION, STABLE_TOKEN, WeChat};
use super::{Replica, mini_program, pass};
use crate::support::stopwatch::Stopwatch;

/// So many in a row that fail open a circuit.
const FAILURES: usize = 5;
/// After this at the latest one call finds out whether WeChat is back.
const REST: Duration = Duration::from_secs(5);

async fn scan(client: &Client) -> Result<(), Error> {
    client
        .jscode2session(&mini_program(), "a-code-of-wx-login")
        .await
        .map(drop)
}

fn is_told_at_once(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::CircuitOpen { .. }))
}

async fn fail_until_open(wechat: &WeChat, client: &Client) {
    let before = wechat.calls(SESSION);
    for _ in 0..FAILURES {
        assert!(matches!(scan(client).await, Err(Error::Unavailable(_))));
    }
    assert!(is_told_at_once(&scan(client).await));
    assert_eq!(wechat.calls(SESSION), before + FAILURES);
}

#[tokio::test]
async fn a_dead_wechat_is_asked_by_one_after_each_rest_and_the_others_are_told_at_once() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    let client = &replica.client;
    wechat.always(SESSION, Reply::Status(503));
    fail_until_open(&wechat, client).await;
    let open = r#"scanlogin_wechat_circuit_open{call="jscode2session",host="primary"} "#;
    assert!(replica.metrics.render().unwrap().contains(&format!("{open}1")));
    use_token(&replica).await.expect("each kind of call stands for itself");

    pass(REST).await;
    let crowd = join_all((0..20).map(|_| scan(client))).await;
    assert_eq!(wechat.calls(SESSION), FAILURES + 1, "one finds out for all");
    assert_eq!(crowd.iter().filter(|result| is_told_at_once(result)).count(), 19);
    assert!(is_told_at_once(&scan(client).await), "it is still dead");

    wechat.behave();
    pass(REST).await;
    scan(client).await.unwrap();
    for result in join_all((0..20).map(|_| scan(client))).await {
        result.unwrap();
    }
    assert!(replica.metrics.render().unwrap().contains(&format!("{open}0")));
}

#[tokio::test]
async fn a_wechat_that_hangs_costs_only_the_first_callers_their_time() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    let client = &replica.client;
    wechat.always(SESSION, Reply::Hang);
    let first = join_all((0..FAILURES).map(|_| scan(client)));
    let (first, ()) = tokio::join!(first, async {
        wechat.until_calls(SESSION, FAILURES).await;
        tokio::time::pause();
    });
    assert!(first.iter().all(|result| *result == Err(Error::Timeout)), "{first:?}");
    let asked = Instant::now();
    let Err(Error::CircuitOpen { until }) = scan(client).await else {
        panic!("the next one is told at once");
    };
    assert!(asked.elapsed().is_zero());
    assert!(until > asked && until <= asked + REST);
    tokio::time::resume();
}

#[tokio::test]
async fn one_that_hangs_while_it_finds_out_keeps_nobody_from_finding_out_after_the_next_rest() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    wechat.always(PICTURE, Reply::Status(503));
    for _ in 0..FAILURES {
        use_token(&replica).await.unwrap_err();
    }
    wechat.always(PICTURE, Reply::Hang);
    pass(REST).await;
    let next = async {
        wechat.until_calls(PICTURE, FAILURES + 1).await;
        assert!(matches!(use_token(&replica).await, Err(Error::CircuitOpen { .. })));
        wechat.behave();
        pass(REST).await;
        use_token(&replica).await.expect("WeChat is back");
    };
    tokio::select! {
        _ = use_token(&replica) => panic!("it hangs"),
        () = next => {}
    }
}

#[tokio::test]
async fn the_rest_counts_from_when_one_was_sent_to_find_out_not_from_when_it_was_lost() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    let client = &replica.client;
    wechat.always(SESSION, Reply::Status(503));
    fail_until_open(&wechat, client).await;
    wechat.behave();
    wechat.once(SESSION, Reply::Hang);
    pass(REST).await;
    let (lost, ()) = tokio::join!(scan(client), async {
        wechat.until_calls(SESSION, FAILURES + 1).await;
        tokio::time::pause();
    });
    tokio::time::resume();
    assert_eq!(lost, Err(Error::Timeout));
    scan(client).await.expect("WeChat is back");
}

#[tokio::test]
async fn calls_that_hung_since_before_wechat_came_back_do_not_count_against_it() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    let client = &replica.client;
    wechat.always(SESSION, Reply::Hang);
    let hanging = join_all((0..2 * FAILURES).map(|_| scan(client)));
    let (lost, ()) = tokio::join!(hanging, async {
        wechat.until_calls(SESSION, 2 * FAILURES).await;
        wechat.behave();
        scan(client).await.unwrap();
        tokio::time::pause();
    });
    tokio::time::resume();
    assert!(lost.iter().all(|result| *result == Err(Error::Timeout)), "{lost:?}");
    scan(client).await.expect("it answered after all of them began");
}

#[tokio::test]
async fn what_wechat_answers_and_what_fails_now_and_then_opens_no_circuit() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    for reply in [Reply::errcode(-1), Reply::errcode(40029), Reply::Status(429)] {
        wechat.always(SESSION, reply);
        for _ in 0..2 * FAILURES {
            assert!(!is_told_at_once(&scan(&replica.client).await));
        }
    }
    wechat.behave();
    for _ in 0..3 {
        for _ in 1..FAILURES {
            wechat.once(SESSION, Reply::Status(503));
            scan(&replica.client).await.unwrap_err();
        }
        scan(&replica.client).await.unwrap();
    }
}

#[tokio::test]
async fn who_gives_up_finding_out_leaves_it_to_the_next() {
    let wechat = WeChat::start().await;
    let replica = Replica::new(&wechat, &Shared::new());
    let client = &replica.client;
    wechat.always(SESSION, Reply::Status(503));
    fail_until_open(&wechat, client).await;
    wechat.behave();
    wechat.once(SESSION, Reply::Hang);
    pass(REST).await;
    tokio::select! {
        _ = scan(client) => panic!("it hangs"),
        () = wechat.until_calls(SESSION, FAILURES + 1) => {}
    }
    scan(client).await.unwrap();
}

#[tokio::test]
async fn a_host_that_answers_nobody_is_left_for_the_other_and_no_caller_pays_for_looking_back() {
    let (primary, fail_over) = (WeChat::start().await, WeChat::start().await);
    let metrics = Metrics::new().unwrap();
    let client = &Client::new(primary.base(), Some(fail_over.base()), metrics).unwrap();
    primary.always(SESSION, Reply::Status(503));
    for _ in 0..FAILURES {
        scan(client).await.unwrap_err();
    }
    for _ in 0..3 {
        scan(client).await.unwrap();
        pass(REST).await;
    }
    assert_eq!((primary.calls(SESSION), fail_over.calls(SESSION)), (FAILURES, 3));

    primary.behave();
    fail_over.always(SESSION, Reply::Status(503));
    for _ in 0..FAILURES {
        scan(client).await.unwrap_err();
    }
    scan(client).await.expect("the first one is back");
}

#[tokio::test]
async fn when_one_replica_finds_wechat_back_all_serve_within_five_seconds() {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replicas = [(); 3].map(|()| Replica::new(&wechat, &store));
    let served = async || {
        let tries = replicas.iter().map(|replica| async {
            use_token(replica).await?;
            scan(&replica.client).await
        });
        join_all(tries).await.iter().filter(|result| result.is_ok()).count()
    };
    for path in [STABLE_TOKEN, PICTURE, SESSION] {
        wechat.always(path, Reply::Status(503));
    }
    for _ in 0..180 {
        assert_eq!(served().await, 0);
        pass(Duration::from_secs(1)).await;
    }
    wechat.behave();
    let back = Instant::now();
    while served().await == 0 {
        assert!(back.elapsed() < Duration::from_secs(35), "nobody finds out");
        pass(Duration::from_millis(500)).await;
    }
    let found = Stopwatch::start();
    while served().await < replicas.len() {
        found.took_less_than(Duration::from_secs(5));
        pass(Duration::from_millis(500)).await;
    }
}
