//! One login, as somebody lives it: what the browser, the phones and the site of it do.

use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::browser::{self, Shown};
use crate::client::Client;
use crate::history::ClientName;
use crate::phone::{self, Answer, Person};
use crate::recorder::Recorder;
use crate::site;
use crate::upstream::Wechat;

/// When Redis may have another primary, that knows less.
const LATER: Duration = Duration::from_secs(3);

/// From there on they are numbered as browsers.
const STRANGERS: u32 = 1_000_000_000;

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
    /// The page is back just as the person taps.
    Late,
}

/// What its people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    Answered(Answer),
    /// Nobody scans.
    Ignored,
    /// The browser gives up at some moment.
    Cancelled,
    /// A second person scans the same picture, again and again.
    Rivals,
}

/// One login as it will be.
#[derive(Debug)]
struct Login {
    stage: Stage,
    number: u32,
    watch: Watch,
    play: Play,
    /// How often its code is redeemed: once at once, or, after a while, twice at once and the rest [`LATER`].
    redeems: u64,
    /// How often a connection of its clients goes away with an answer on it, 0 to 1.
    flakiness: f64,
    /// Whether somebody photographs the picture, and tries to listen too.
    is_photographed: bool,
    /// The person taps.
    tap: Notify,
}

impl Stage {
    /// A login of whatever kind the seed has for it.
    pub(crate) async fn any(self, number: u32) {
        let rng = &mut StdRng::seed_from_u64(self.seed ^ u64::from(number));
        let watch = match rng.random_range(0..9) {
            0 => Watch::Polls,
            1 => Watch::TwoTabs,
            2 => Watch::Reloads,
            3 => Watch::Late,
            _ => Watch::Stream,
        };
        let play = match rng.random_range(0..100) {
            0..5 => Play::Answered(Answer::No),
            5..10 => Play::Answered(Answer::Twice),
            10..13 => Play::Ignored,
            13..18 => Play::Cancelled,
            18..30 => Play::Rivals,
            _ => Play::Answered(Answer::Yes),
        };
        let login = Login {
            watch,
            play,
            is_photographed: rng.random_bool(0.05),
            redeems: if rng.random_bool(0.2) { 4 } else { 1 },
            flakiness: 0.03,
            ..self.expected(number)
        };
        login.run().await;
    }

    /// The login that everybody expects.
    pub(crate) async fn plain(self, number: u32) {
        self.expected(number).run().await;
    }

    fn expected(self, number: u32) -> Login {
        Login {
            stage: self,
            number,
            watch: Watch::Stream,
            play: Play::Answered(Answer::Yes),
            redeems: 1,
            is_photographed: false,
            flakiness: 0.0,
            tap: Notify::new(),
        }
    }
}

impl Login {
    async fn run(&self) {
        let life = self.stage.scene_life;
        if let Some(shown) = browser::start(&mut self.browser(0), site::CLIENT_ID, life).await {
            tokio::join!(
                self.people(&shown),
                self.cancelling(&shown),
                self.watching(&shown),
                self.stranger(&shown)
            );
        }
    }

    /// Each part of a login has dice of its own, so that what one does not do changes nothing for the others.
    fn client(&self, name: ClientName, part: u64) -> Client {
        let Stage {
            http,
            base,
            recorder,
            seed,
            ..
        } = &self.stage;
        let seed = (seed ^ u64::from(self.number)).wrapping_mul(31).wrapping_add(part);
        let mut client = Client::new(http, base, recorder, name, seed);
        client.flakiness = self.flakiness;
        client
    }

    fn browser(&self, part: u64) -> Client {
        self.client(ClientName::Browser(self.number), part)
    }

    async fn stranger(&self, shown: &Shown) {
        if self.is_photographed {
            let mut client = self.client(ClientName::Browser(STRANGERS + self.number), 8);
            client.flakiness = 0.0;
            client.dawdle(500, 2_500).await;
            let shown = shown.photographed(&mut client.rng);
            browser::listen_once(&mut client, &shown).await;
        }
    }

    async fn people(&self, shown: &Shown) {
        if self.play == Play::Ignored {
            return;
        }
        let Some(scene) = &browser::picture(&mut self.browser(1), shown).await else {
            return;
        };
        match self.play {
            Play::Answered(answer) => self.person(0, scene, answer).await,
            Play::Rivals => {
                tokio::join!(self.person(0, scene, Answer::Yes), self.person(1, scene, Answer::Yes));
            }
            Play::Ignored | Play::Cancelled => self.person(0, scene, Answer::Yes).await,
        }
    }

    async fn person(&self, which: u32, scene: &str, answer: Answer) {
        let name = format!("{}-{}-{which}", self.stage.seed, self.number);
        let person = Person {
            openid: format!("openid-{name}"),
            nickname: format!("nickname-{name}"),
        };
        let mut client = self.client(ClientName::Phone(self.number * 2 + which), u64::from(2 + which));
        client.dawdle(20, 500).await;
        phone::answer(&mut client, &self.stage.wechat, scene, &person, answer, &self.tap).await;
    }

    async fn cancelling(&self, shown: &Shown) {
        if self.play == Play::Cancelled {
            let mut client = self.browser(4);
            client.dawdle(100, 1_500).await;
            browser::cancel(&mut client, shown).await;
        }
    }

    async fn watching(&self, shown: &Shown) {
        match self.watch {
            Watch::Stream => self.tab(5, shown, None).await,
            Watch::Reloads => self.tab(5, shown, Some(Duration::from_millis(700))).await,
            Watch::TwoTabs => {
                let second = async {
                    sleep(Duration::from_millis(300)).await;
                    self.tab(6, shown, None).await;
                };
                tokio::join!(self.tab(5, shown, None), second);
            }
            Watch::Late => {
                // Not every person taps.
                let _ = timeout(LATER, self.tap.notified()).await;
                self.browser(7).dawdle(0, 10).await;
                self.tab(5, shown, None).await;
            }
            Watch::Polls => {
                let code = browser::poll(&mut self.browser(5), shown).await;
                self.site(code, 50).await;
            }
        }
    }

    async fn tab(&self, part: u64, shown: &Shown, reload_after: Option<Duration>) {
        let code = browser::follow(&mut self.browser(part), shown, reload_after).await;
        self.site(code, part * 10).await;
    }

    async fn site(&self, code: Option<String>, part: u64) {
        let Some(code) = &code else { return };
        if self.redeems > 1 {
            self.client(ClientName::Site(self.number), part + 9)
                .dawdle(0, 3_000)
                .await;
        }
        let redeems = (0..self.redeems).map(|n| async move {
            let mut client = self.client(ClientName::Site(self.number), part + n);
            if n >= 2 {
                sleep(LATER).await;
            }
            site::redeem(&mut client, code).await;
        });
        join_all(redeems).await;
    }
}
