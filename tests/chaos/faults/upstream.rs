//! What WeChat's servers do at times.

use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::Injector;

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

impl Injector<'_> {
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
    pub(super) async fn revoke_token(&mut self) {
        let wechat = self.world.upstream.wechat.clone();
        wechat.misbehave("stable_token", json!({ "delay_ms": 1_000 })).await;
        wechat.revoke().await;
        self.hold(2_000, 3_000).await;
        wechat.behave().await;
    }
}
