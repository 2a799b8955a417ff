//! What WeChat's servers do at times.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::Injector;
use crate::support::proxy::Proxy;
use crate::upstream::Wechat;
use crate::world::caller;

/// What a thrifty service waits at most, and a little.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(45);
/// After it was asked for, the delay and the machine's own included.
const GIVEN_WITHIN: Duration = Duration::from_secs(6);
/// In the request that puts a token, and in no other: behind the token's key stands that of the lease.
const PUTS_TOKEN: &str = "}:access_token\r\n$39\r\nscanlogin:{wx:wx0123456789abcdef}:lease";
const CALLS: [&str; 3] = ["stable_token", "jscode2session", "getwxacodeunlimit"];

pub(super) fn slow() -> Value {
    json!({ "delay_ms": 15_000 })
}

pub(super) fn down() -> Value {
    json!({ "status": 503 })
}

pub(super) fn resets() -> Value {
    json!({ "reset": true })
}

pub(super) fn garbage() -> Value {
    json!({ "body": "<html><body>Oops" })
}

/// "System is busy".
pub(super) fn busy() -> Value {
    json!({ "errcode": -1 })
}

/// Half of what it would say, as if that were all.
pub(super) fn truncated() -> Value {
    json!({ "truncate": true })
}

/// What each call may be refused for: a quota used up, too many calls, and a code that is wrong, used, or of a person who is blocked.
const REFUSALS: [(&str, &[i64]); 2] = [
    ("getwxacodeunlimit", &[45_009, 45_011]),
    ("jscode2session", &[40_029, 40_163, 40_226, 45_011]),
];

impl Injector<'_> {
    pub(super) async fn refuse(&mut self) {
        let wechat = self.world.upstream.wechat.clone();
        for (call, errcodes) in REFUSALS {
            let errcode = errcodes.choose(self.rng).expect("there are some");
            wechat.misbehave(call, json!({ "errcode": errcode })).await;
        }
        self.hold(2_000, 4_000).await;
        wechat.behave().await;
    }

    /// The token ends, and what is given instead has no life.
    pub(super) async fn deny_token(&mut self) -> u64 {
        let answers = [
            json!({ "body": r#"{"access_token":"good-for-nothing-at-all","expires_in":0}"# }),
            json!({ "body": r#"{"access_token":"good-for-nothing-at-all","expires_in":-1}"# }),
            json!({ "body": r#"{"access_token":"good-for-nothing-at-all"}"# }),
        ];
        let answer = answers.choose(self.rng).expect("there are some").clone();
        let wechat = self.world.upstream.wechat.clone();
        wechat.misbehave("stable_token", answer).await;
        wechat.revoke().await;
        self.hold(1_000, 2_500).await;
        self.behave_until_drawn().await
    }

    /// Heals, and waits for the next picture: else the next fault would be blamed for what this one leaves behind.
    async fn behave_until_drawn(&mut self) -> u64 {
        let wechat = self.world.upstream.wechat.clone();
        wechat.behave().await;
        let healed = self.recorder.now();
        until_drawn(&wechat).await;
        healed
    }

    /// One kind of call, or all.
    pub(super) async fn misbehave(&mut self, how: Value) {
        let wechat = self.world.upstream.wechat.clone();
        let one = [*CALLS.choose(self.rng).expect("there are some")];
        let calls = [&one[..], &CALLS]
            .choose(self.rng)
            .copied()
            .expect("there are some")
            .to_vec();
        for call in calls {
            wechat.misbehave(call, how.clone()).await;
        }
        self.hold(2_000, 4_000).await;
        wechat.behave().await;
    }

    /// Each access_token is as good as the one before: refused.
    pub(super) async fn refuse_token(&mut self) {
        let wechat = self.world.upstream.wechat.clone();
        wechat
            .misbehave("getwxacodeunlimit", json!({ "errcode": 40_001 }))
            .await;
        self.hold(500, 2_000).await;
        wechat.behave().await;
    }

    /// The next one takes a while, so that whoever needs one asks for it at the same time.
    pub(super) async fn revoke_token(&mut self) -> u64 {
        let wechat = self.world.upstream.wechat.clone();
        wechat.misbehave("stable_token", json!({ "delay_ms": 1_000 })).await;
        wechat.revoke().await;
        self.hold(2_000, 3_000).await;
        self.behave_until_drawn().await
    }

    /// A replica falls asleep with a token that it has just been given, until the others have had its lease and a newer one.
    pub(super) async fn freeze_lease_holder(&mut self) {
        let wechat = self.world.upstream.wechat.clone();
        wechat.misbehave("stable_token", json!({ "delay_ms": 1_000 })).await;
        wechat.revoke().await;
        let Ok(holder) = timeout(ASKED_AGAIN_WITHIN, self.world.upstream.asked_for_token()).await else {
            println!("            nobody asks for a token");
            return wechat.behave().await;
        };
        let links = self.world.redis.links();
        for link in &links {
            link.detain(caller(holder), PUTS_TOKEN);
        }
        let detained = select_all(links.iter().map(|link| link.detained().boxed()));
        if timeout(GIVEN_WITHIN, detained).await.is_err() {
            // As one does that could not ask Redis for the lease.
            println!("            replica {holder} keeps its token to itself");
            links.into_iter().for_each(Proxy::release);
            return wechat.behave().await;
        }
        self.world.replicas[holder].signal(Signal::STOP);
        // Else the others would be given the same one.
        wechat.revoke().await;
        wechat.behave().await;
        until_drawn(&wechat).await;
        links.into_iter().for_each(Proxy::release);
        // It is still asleep when the late token comes to Redis.
        self.hold(500, 2_000).await;
        self.world.replicas[holder].signal(Signal::CONT);
    }
}

/// Waits for the next picture.
async fn until_drawn(wechat: &Wechat) {
    let drew_at = wechat.drew_at().await;
    let until_drawn = async {
        while wechat.drew_at().await == drew_at {
            sleep(Duration::from_millis(200)).await;
        }
    };
    // Without logins nobody asks for a token.
    let _ = timeout(ASKED_AGAIN_WITHIN, until_drawn).await;
}
