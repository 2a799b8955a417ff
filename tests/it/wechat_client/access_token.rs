//! The thrift with tokens: how many calls to WeChat it takes to keep many replicas calling.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use scanlogin::limits::{Counts, Limits, Rule};
use scanlogin::store::memory::MemoryLimits;
use scanlogin::wechat::access_token::TokenMode;
use scanlogin::wechat::client::Error;
use tokio::time::{Instant, timeout};

use super::store::{Shared, Sleepy};
use super::upstream::{PICTURE, Reply, STABLE_TOKEN, TOKEN, WeChat};
use super::{Replica, SECRET, pass};
use crate::support::eventually;

const MINUTE: Duration = Duration::from_mins(1);

/// Uses the token for a call that WeChat checks it in.
pub(super) async fn use_token(replica: &Replica) -> Result<(), Error> {
    let settings = &scanlogin::wechat::client::CodeSettings::new("page", scanlogin::wechat::EnvVersion::Release);
    let scene = &"0123456789abcdef0123456789abcdef".parse().unwrap();
    let using = replica.tokens.with_token(|token| async move {
        replica
            .client
            .getwxacodeunlimit(&token, scene, settings, &|| ready(true).boxed())
            .await
    });
    using.await.map(drop)
}

async fn replicas<const N: usize>() -> (WeChat, Arc<Shared>, [Replica; N]) {
    let wechat = WeChat::start().await;
    let store = Shared::new();
    let replicas = std::array::from_fn(|_| Replica::new(&wechat, &store));
    (wechat, store, replicas)
}

#[tokio::test]
async fn three_hundred_cold_requests_on_three_replicas_fetch_one_token_and_one_more_after_it_was_revoked() {
    let (wechat, _store, replicas) = replicas::<3>().await;
    let crowd = || join_all((0..300).map(|n| use_token(&replicas[n % 3])));
    for result in crowd().await {
        result.unwrap();
    }
    assert_eq!(wechat.calls(STABLE_TOKEN), 1);
    wechat.revoke();
    for result in crowd().await {
        result.unwrap();
    }
    assert_eq!(wechat.calls(STABLE_TOKEN), 2);
    for asked in wechat.asked(STABLE_TOKEN) {
        assert_eq!(asked.body["force_refresh"], false);
    }
}

#[tokio::test]
async fn each_refusal_of_a_token_heals_by_one_fetch_and_one_more_try() {
    for errcode in [40001, 40014, 42001, 41001] {
        let (wechat, _store, [replica]) = replicas::<1>().await;
        use_token(&replica).await.unwrap();
        wechat.once(PICTURE, Reply::errcode(errcode));
        wechat.renew();
        use_token(&replica).await.unwrap();
        assert_eq!((wechat.calls(STABLE_TOKEN), wechat.calls(PICTURE)), (2, 3), "{errcode}");
    }
}

#[tokio::test]
async fn a_stable_token_is_refreshed_in_its_last_five_minutes_while_the_old_one_serves() {
    let (wechat, _store, [one, two]) = replicas().await;
    use_token(&one).await.unwrap();
    use_token(&two).await.unwrap();
    pass(Duration::from_secs(115 * 60 - 5)).await;
    use_token(&one).await.unwrap();
    assert_eq!(
        wechat.calls(STABLE_TOKEN),
        1,
        "before the last five minutes WeChat would give the same one"
    );
    pass(MINUTE + Duration::from_secs(10)).await;
    wechat.renew();
    wechat.once(STABLE_TOKEN, Reply::Hang);
    use_token(&one).await.unwrap();
    assert_eq!(
        wechat.asked(PICTURE).last().unwrap().query["access_token"],
        "canary_access_token_1"
    );
    wechat.until_calls(STABLE_TOKEN, 2).await;
    // That refresh never ends: its deadline and its lease pass.
    pass(Duration::from_secs(31)).await;
    use_token(&one).await.unwrap();
    pass(Duration::from_secs(41)).await;
    use_token(&one).await.unwrap();
    wechat.until_calls(STABLE_TOKEN, 3).await;
    eventually("the new token in use, on both", || async {
        use_token(&one).await.unwrap();
        use_token(&two).await.unwrap();
        let asked = wechat.asked(PICTURE);
        let is_new = |n: usize| asked[asked.len() - n].query["access_token"] == "canary_access_token_2";
        (is_new(1) && is_new(2)).then_some(())
    })
    .await;
    assert_eq!(wechat.calls(STABLE_TOKEN), 3, "the other replica found it in the store");
}

#[tokio::test]
async fn a_classic_token_is_refreshed_in_its_last_tenth() {
    let wechat = WeChat::start().await;
    let replica = Replica::with(&wechat, Shared::new(), TokenMode::Classic);
    use_token(&replica).await.unwrap();
    pass(Duration::from_secs(108 * 60 - 5)).await;
    use_token(&replica).await.unwrap();
    assert_eq!(wechat.calls(TOKEN), 1);
    pass(MINUTE * 3).await;
    use_token(&replica).await.unwrap();
    wechat.until_calls(TOKEN, 2).await;
    assert_eq!(wechat.calls(STABLE_TOKEN), 0);
}

/// One to begin with, and then as many as the lives that end in a day, each a little early.
#[tokio::test]
async fn a_day_of_five_replicas_takes_thirteen_tokens_of_two_hours() {
    let (wechat, _store, replicas) = replicas::<5>().await;
    let began = Instant::now();
    while began.elapsed() < MINUTE * 60 * 24 {
        let used = replicas
            .iter()
            .map(|replica| replica.tokens.with_token(|_| async { Ok(()) }));
        for used in join_all(used).await {
            used.unwrap();
        }
        // Who refreshes it does so behind the back of whoever uses it.
        eventually("no call is under way", || async {
            replicas.iter().all(|replica| replica.tasks.is_empty()).then_some(())
        })
        .await;
        pass(MINUTE).await;
    }
    assert_eq!(wechat.calls(STABLE_TOKEN), 13);
}

#[tokio::test]
async fn a_token_is_kept_fresh_while_nobody_asks_for_it() {
    let (wechat, _store, [replica]) = replicas().await;
    replica.tasks.spawn(replica.tokens.clone().keep_fresh());
    wechat.until_calls(STABLE_TOKEN, 1).await;
    eventually("the gauge", || async {
        let text = replica.metrics.render().unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("scanlogin_access_token_left_seconds{"))?;
        let left: u32 = line.split(' ').next_back()?.parse().ok()?;
        (7100..=7200).contains(&left).then_some(())
    })
    .await;
    pass(MINUTE * 117).await;
    wechat.until_calls(STABLE_TOKEN, 2).await;
    replica.shutdown.cancel();
    replica.tasks.close();
    tokio::time::timeout(Duration::from_secs(1), replica.tasks.wait())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_replica_that_slept_through_its_lease_does_not_overwrite_the_newer_token() {
    let (wechat, store, [awake]) = replicas().await;
    let sleepy = Sleepy::new(&store);
    let sleeper = Replica::with(&wechat, Arc::clone(&sleepy) as _, TokenMode::Stable);
    let (late, ()) = tokio::join!(use_token(&sleeper), async {
        sleepy.asleep.acquire().await.unwrap().forget();
        pass(Duration::from_secs(11)).await;
        wechat.revoke();
        use_token(&awake).await.unwrap();
        sleepy.awake.add_permits(1);
    });
    late.unwrap();
    // The sleeper's own token was refused by nobody: it took the newer one out of the store instead.
    let tokens: Vec<_> = wechat
        .asked(PICTURE)
        .iter()
        .map(|asked| asked.query["access_token"].clone())
        .collect();
    assert_eq!(tokens, ["canary_access_token_2", "canary_access_token_2"]);
    assert_eq!(wechat.calls(STABLE_TOKEN), 2);
    let cold = Replica::new(&wechat, &store);
    use_token(&cold).await.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 2);
}

#[tokio::test]
async fn a_token_lies_sealed_in_the_store_and_opens_only_for_the_same_appsecret() {
    let (wechat, store, [replica]) = replicas().await;
    use_token(&replica).await.unwrap();
    for canary in ["canary", SECRET] {
        assert!(!store.dump().contains(canary), "{}", store.dump());
    }
    assert!(
        store.dump().contains(super::APPID),
        "the dump shows what the store holds"
    );
    let mut reset = super::mini_program();
    reset.secret = "another0secret0after0a0reset0000".into();
    let reset = Replica::of(reset, &wechat, Arc::clone(&store) as _, TokenMode::Stable);
    use_token(&reset).await.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 2, "what does not open counts as absent");
    use_token(&replica).await.unwrap();
    assert_eq!(
        wechat.calls(STABLE_TOKEN),
        2,
        "and the other secret's replicas serve on"
    );
}

#[tokio::test]
async fn a_wechat_that_refuses_every_token_it_gives_is_not_asked_for_ever_new_ones() {
    let (wechat, _store, replicas) = replicas::<5>().await;
    wechat.always(PICTURE, Reply::errcode(40001));
    let started = Instant::now();
    while started.elapsed() < MINUTE * 10 {
        let hundred = replicas
            .iter()
            .flat_map(|replica| (0..20).map(move |_| use_token(replica)));
        for used in join_all(hundred).await {
            used.unwrap_err();
        }
        pass(Duration::from_secs(1)).await;
    }
    let asked = wechat.asked(STABLE_TOKEN);
    let forced = asked.iter().filter(|asked| asked.body["force_refresh"] == true).count();
    assert!(asked.len() <= 20, "{} token calls in ten minutes", asked.len());
    assert_eq!(forced, 1);
    wechat.behave();
    pass(Duration::from_secs(40)).await;
    for result in join_all(replicas.iter().map(use_token)).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_wechat_takes_again_serves_everybody_though_no_other_may_be_asked_for() {
    let (wechat, _store, replicas) = replicas::<3>().await;
    wechat.always(PICTURE, Reply::errcode(40001));
    for _ in 0..10 {
        for replica in &replicas {
            use_token(replica).await.unwrap_err();
        }
        pass(Duration::from_secs(1)).await;
    }
    let asked = wechat.calls(STABLE_TOKEN);
    wechat.behave();
    pass(Duration::from_secs(3)).await;
    // Nobody has used it yet when it is looked after.
    let looks = replicas
        .iter()
        .map(|replica| timeout(Duration::from_millis(100), replica.tokens.clone().keep_fresh()));
    join_all(looks).await;
    // One on each replica finds out.
    for result in join_all(replicas.iter().map(use_token)).await {
        result.unwrap();
    }
    let everybody = replicas
        .iter()
        .flat_map(|replica| (0..10).map(move |_| use_token(replica)));
    for result in join_all(everybody).await {
        result.unwrap();
    }
    assert_eq!(wechat.calls(STABLE_TOKEN), asked);
}

/// A replica whose token WeChat refused, with no other to be had, a little later: the refused one is worth a try.
async fn with_a_refused_token() -> (WeChat, Replica) {
    let (wechat, _store, [replica]) = replicas().await;
    wechat.always(PICTURE, Reply::errcode(40001));
    for _ in 0..10 {
        use_token(&replica).await.unwrap_err();
        pass(Duration::from_secs(1)).await;
    }
    pass(Duration::from_secs(3)).await;
    (wechat, replica)
}

#[tokio::test]
async fn a_refused_token_is_tried_by_one_of_all_who_wait_and_not_before_that_one_knows_by_the_others() {
    let (wechat, replica) = with_a_refused_token().await;
    let before = wechat.calls(PICTURE);
    for result in join_all((0..50).map(|_| use_token(&replica))).await {
        result.unwrap_err();
    }
    assert_eq!(wechat.calls(PICTURE), before + 1);
}

#[tokio::test]
async fn a_refused_token_is_not_believed_in_because_a_call_with_it_was_left_undone() {
    let (wechat, replica) = with_a_refused_token().await;
    let before = wechat.calls(PICTURE);
    let pictures = Limits::new(
        Arc::new(MemoryLimits::default()),
        Counts {
            pictures: 1,
            ..Counts::DEFAULT
        },
        false,
        MINUTE,
        replica.metrics.clone(),
    );
    pictures.take(Rule::Pictures, b"").await.unwrap();
    let limited = pictures.take(Rule::Pictures, b"").await.unwrap_err();
    let undone = replica
        .tokens
        .with_token(|_| async { Err::<(), _>(Error::Limited(limited)) })
        .await;
    assert_eq!(undone, Err(Error::Limited(limited)));
    use_token(&replica).await.unwrap_err();
    assert_eq!(
        wechat.calls(PICTURE),
        before,
        "it has been refused, and nobody has seen it taken"
    );
}

#[tokio::test]
async fn a_wrong_appsecret_is_not_tried_more_than_twice_a_minute_by_all_replicas() {
    let (wechat, _store, replicas) = replicas::<5>().await;
    wechat.always(STABLE_TOKEN, Reply::errcode(40125));
    let started = Instant::now();
    while started.elapsed() < MINUTE * 10 {
        for replica in &replicas {
            use_token(replica).await.unwrap_err();
        }
        pass(Duration::from_secs(1)).await;
    }
    let calls = wechat.calls(STABLE_TOKEN);
    assert!((10..=20).contains(&calls), "{calls} token calls in ten minutes");
    wechat.behave();
    pass(Duration::from_secs(35)).await;
    use_token(&replicas[0]).await.unwrap();
}

#[tokio::test]
async fn a_dead_wechat_is_tried_ever_more_seldom_and_within_half_a_minute_of_its_return() {
    let (wechat, _store, [replica]) = replicas().await;
    wechat.always(STABLE_TOKEN, Reply::Status(503));
    let mut calls_in = Vec::new();
    for _ in 0..4 {
        let before = wechat.calls(STABLE_TOKEN);
        for _ in 0..60 {
            assert!(matches!(use_token(&replica).await, Err(Error::Unavailable(_))));
            pass(Duration::from_secs(1)).await;
        }
        calls_in.push(wechat.calls(STABLE_TOKEN) - before);
    }
    assert!(
        calls_in[0] <= 6 && calls_in[1..].iter().all(|calls| (1..=2).contains(calls)),
        "{calls_in:?}"
    );
    wechat.behave();
    pass(Duration::from_secs(33)).await;
    use_token(&replica).await.unwrap();
}

#[tokio::test]
async fn while_the_store_is_away_the_local_copy_serves_and_then_one_call_a_minute() {
    let (wechat, store, [warm, cold]) = replicas().await;
    use_token(&warm).await.unwrap();
    store.set_away(true);
    pass(MINUTE * 118).await;
    use_token(&warm).await.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 1, "the local copy serves to its end");
    pass(MINUTE * 3).await;
    use_token(&warm).await.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 2);

    wechat.always(PICTURE, Reply::errcode(42001));
    for _ in 0..180 {
        use_token(&cold).await.unwrap_err();
        pass(Duration::from_secs(1)).await;
    }
    let calls = wechat.calls(STABLE_TOKEN) - 2;
    assert!((2..=3).contains(&calls), "{calls} calls in three minutes");
    assert!(
        wechat
            .asked(STABLE_TOKEN)
            .iter()
            .all(|asked| asked.body["force_refresh"] == false)
    );

    wechat.behave();
    store.set_away(false);
    pass(Duration::from_secs(3)).await;
    use_token(&cold).await.unwrap();
}

#[tokio::test]
async fn whoever_comes_while_another_replica_fetches_waits_for_its_token() {
    let (wechat, _store, [one, two]) = replicas().await;
    wechat.once(STABLE_TOKEN, Reply::errcode(-1));
    let (first, second) = tokio::join!(use_token(&one), use_token(&two));
    first.unwrap();
    second.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 2, "busy once, and good then");
}

#[tokio::test]
async fn a_fetch_goes_on_when_the_request_that_began_it_goes_away() {
    let (wechat, _store, [replica]) = replicas().await;
    wechat.once(STABLE_TOKEN, Reply::errcode(-1));
    tokio::select! {
        biased;
        _ = use_token(&replica) => panic!("too early"),
        () = wechat.until_calls(STABLE_TOKEN, 1) => {}
    }
    wechat.until_calls(STABLE_TOKEN, 2).await;
    use_token(&replica).await.unwrap();
    assert_eq!(wechat.calls(STABLE_TOKEN), 2);
}

#[tokio::test]
async fn a_token_without_a_believable_life_is_not_used() {
    for expires_in in [
        serde_json::json!(0),
        (-1).into(),
        "soon".into(),
        serde_json::Value::Null,
    ] {
        let (wechat, _store, [replica]) = replicas().await;
        wechat.grant_for(expires_in.clone());
        assert!(
            matches!(use_token(&replica).await, Err(Error::Invalid(_))),
            "{expires_in}"
        );
        assert_eq!(wechat.calls(PICTURE), 0);
    }
    for expires_in in [serde_json::json!("7200"), 300.into(), serde_json::json!(1e30)] {
        let (wechat, _store, [replica]) = replicas().await;
        wechat.grant_for(expires_in.clone());
        use_token(&replica).await.unwrap();
        use_token(&replica).await.unwrap();
        assert_eq!(wechat.calls(STABLE_TOKEN), 1, "{expires_in}");
    }
}

/// Three replicas that count together, with the limits on what callers do off. How often WeChat was asked, and how often by force, by the
/// end of each of so many hours in which it takes none of the tokens that it gives.
async fn asked_by_hour(counts: Counts, hours: usize) -> Vec<(usize, usize)> {
    let (wechat, store) = (WeChat::start().await, Shared::new());
    let counted = Arc::new(MemoryLimits::default());
    let replicas: [Replica; 3] = std::array::from_fn(|_| {
        let metrics = scanlogin::telemetry::Metrics::new().unwrap();
        let limits = Limits::new(Arc::clone(&counted) as _, counts, true, MINUTE, metrics);
        let store = Arc::clone(&store) as _;
        Replica::limited(super::mini_program(), &wechat, store, TokenMode::Stable, limits)
    });
    wechat.always(PICTURE, Reply::errcode(40001));
    let mut by_hour = Vec::new();
    for _ in 0..hours {
        for minute in 0..60 {
            use_token(&replicas[minute % 3]).await.unwrap_err();
            pass(MINUTE).await;
        }
        let asked = wechat.asked(STABLE_TOKEN);
        let forced = asked.iter().filter(|asked| asked.body["force_refresh"] == true).count();
        by_hour.push((asked.len(), forced));
    }
    by_hour
}

#[tokio::test]
async fn t31_a_day_has_so_many_token_calls_and_forced_ones_for_all_replicas_together_whatever_else_is_limited() {
    let few_calls = Counts {
        token_calls: 12,
        ..Counts::DEFAULT
    };
    let by_hour = asked_by_hour(few_calls, 24).await;
    // Forced ones are calls as well.
    let (asked, _) = by_hour[23];
    assert!((10..=12).contains(&asked), "{by_hour:?}");
    let few_forced = Counts {
        token_calls: 100_000,
        force_refreshes: 2,
        ..Counts::DEFAULT
    };
    let by_hour = asked_by_hour(few_forced, 24).await;
    let (asked, forced) = by_hour[23];
    assert!((1..=2).contains(&forced), "{by_hour:?}");
    assert!(asked > 120, "nobody asks any more: {by_hour:?}");
}
