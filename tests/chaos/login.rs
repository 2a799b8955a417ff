//! One login, as somebody lives it: what the browser, the phones and the site of it do.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::browser::{self, Shown};
use crate::client::Client;
use crate::history::ClientName;
use crate::phone::{self, Answer, Person};
use crate::recorder::Recorder;
use crate::site;
use crate::upstream::Wechat;

/// What a login needs of the run it is part of.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) http: reqwest::Client,
    pub(crate) base: String,
    pub(crate) recorder: Recorder,
    pub(crate) wechat: Wechat,
    pub(crate) seed: u64,
    pub(crate) scene_life: Duration,
}

/// How its page watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Stream,
    Polls,
    TwoTabs,
    Reloads,
}

/// What its people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    Answered(Answer),
    /// Nobody scans.
    Ignored,
    /// The browser gives up at some moment.
    Cancelled,
    /// A second person scans the same picture.
    Rivals,
}

impl Stage {
    /// A login of whatever kind the seed has for it.
    pub(crate) async fn any(self, number: u32) {
        let rng = &mut StdRng::seed_from_u64(self.seed ^ u64::from(number));
        let watch = match rng.random_range(0..8) {
            0 => Watch::Polls,
            1 => Watch::TwoTabs,
            2 => Watch::Reloads,
            _ => Watch::Stream,
        };
        let play = match rng.random_range(0..100) {
            0..5 => Play::Answered(Answer::No),
            5..10 => Play::Answered(Answer::Twice),
            10..13 => Play::Ignored,
            13..18 => Play::Cancelled,
            18..23 => Play::Rivals,
            _ => Play::Answered(Answer::Yes),
        };
        let redeems = if rng.random_bool(0.1) { 4 } else { 1 };
        self.play(number, watch, play, redeems, 0.03).await;
    }

    /// The login that everybody expects.
    pub(crate) async fn plain(self, number: u32) {
        self.play(number, Watch::Stream, Play::Answered(Answer::Yes), 1, 0.0)
            .await;
    }

    async fn play(self, number: u32, watch: Watch, play: Play, redeems: usize, flakiness: f64) {
        let client = |name, part: u64| {
            let seed = (self.seed ^ u64::from(number)).wrapping_mul(31).wrapping_add(part);
            let mut client = Client::new(&self.http, &self.base, &self.recorder, name, seed);
            client.flakiness = flakiness;
            client
        };
        let name = ClientName::Browser(number);
        let Some(shown) = browser::start(&mut client(name, 0), site::CLIENT_ID, self.scene_life).await else {
            return;
        };
        let people = async {
            if play == Play::Ignored {
                return;
            }
            let Some(scene) = browser::picture(&mut client(name, 1), &shown).await else {
                return;
            };
            let phone = |part: u32, answer| {
                let person = Person {
                    openid: format!("openid-{}-{number}-{part}", self.seed),
                    nickname: format!("nickname-{}-{number}-{part}", self.seed),
                };
                let mut client = client(ClientName::Phone(number * 2 + part), u64::from(2 + part));
                let (wechat, scene) = (&self.wechat, scene.clone());
                async move {
                    client.dawdle(20, 500).await;
                    phone::answer(&mut client, wechat, &scene, &person, answer).await;
                }
            };
            match play {
                Play::Answered(answer) => phone(0, answer).await,
                Play::Rivals => drop(tokio::join!(phone(0, Answer::Yes), phone(1, Answer::Yes))),
                Play::Ignored | Play::Cancelled => phone(0, Answer::Yes).await,
            }
        };
        let cancelling = async {
            if play == Play::Cancelled {
                let mut client = client(name, 4);
                client.dawdle(100, 1_500).await;
                browser::cancel(&mut client, &shown).await;
            }
        };
        let site = async |code: Option<String>, part: u64| {
            let Some(code) = code else { return };
            let tries = (0..redeems).map(|n| {
                let mut client = client(ClientName::Site(number), part + u64::try_from(n).unwrap());
                let code = code.clone();
                async move { site::redeem(&mut client, &code).await }
            });
            futures_util::future::join_all(tries).await;
        };
        let watching = async {
            let tab = |part, reload| watched(client(name, part), shown.clone(), reload);
            match watch {
                Watch::Stream => site(tab(5, None).await, 10).await,
                Watch::Reloads => site(tab(5, Some(Duration::from_millis(700))).await, 10).await,
                Watch::TwoTabs => {
                    let second = async {
                        sleep(Duration::from_millis(300)).await;
                        site(tab(6, None).await, 20).await;
                    };
                    let first = async { site(tab(5, None).await, 10).await };
                    tokio::join!(first, second);
                }
                Watch::Polls => site(browser::poll(&mut client(name, 5), &shown).await, 10).await,
            }
        };
        tokio::join!(people, cancelling, watching);
    }
}

async fn watched(mut client: Client, shown: Shown, reload: Option<Duration>) -> Option<String> {
    browser::follow(&mut client, &shown, reload).await
}
