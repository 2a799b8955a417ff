//! A replica that is killed at the worst moments of each step of a login: around what it tells Redis, in the middle of a pipeline,
//! before its answer arrives, and in the middle of an event. Whoever asked asks another replica, and all goes on from there.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use rustix::process::Signal;
use scanlogin::scene::s256;
use serde_json::json;
use tokio::time::timeout;

use crate::support::events::EventStream;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::roles::{Browser, Phone, Site, VERIFIER, with_form};
use crate::support::service::Service;

/// What changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Scan,
    Confirm,
    Decline,
    Cancel,
    Redeem,
}

/// In the record that is announced.
const SETTLES: &str = "\"settled\":true";

/// When the replica dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// This command has not reached Redis.
    Before(&'static str),
    /// Its reply has not reached the replica.
    Behind(&'static str),
    /// The script has reached Redis, the `WAIT` behind it has not.
    BeforeWait,
    /// Its own answer has not reached the caller.
    Answered,
}

use Moment::{Answered, Before, BeforeWait, Behind};

impl Step {
    /// Everything that this step tells Redis, one after the other.
    fn moments(self) -> Vec<Moment> {
        let commands: &[&str] = match self {
            Self::Start => &["SET"],
            Self::Scan | Self::Decline | Self::Cancel => &["GET", "EVALSHA"],
            Self::Confirm => &["GET", "EVAL", SETTLES],
            Self::Redeem => &["GET", "EVAL"],
        };
        let waits = matches!(self, Self::Confirm | Self::Redeem).then_some(BeforeWait);
        let around = commands.iter().flat_map(|command| [Before(command), Behind(command)]);
        around.chain(waits).chain([Answered]).collect()
    }
}

impl Moment {
    fn is_behind_the_write(self) -> bool {
        !matches!(self, Before("GET" | "EVAL" | "EVALSHA" | "SET") | Behind("GET"))
    }
}

/// A Redis with a copy, and a replica that lives on.
struct Stage {
    redis: RedisServer,
    _copy: RedisServer,
    survivor: Service,
}

/// A replica that will be killed, and the links before and behind it.
struct Doomed {
    service: Service,
    front: Proxy,
    redis: Proxy,
}

/// How far somebody has come, at the survivor.
struct Login {
    openid: String,
    browser: Browser,
    phone: Phone,
    code: String,
}

impl Stage {
    async fn set() -> Self {
        let redis = RedisServer::start();
        let copy = redis.replica().await;
        let survivor = Service::builder().redis(&redis).start().await;
        Self {
            redis,
            _copy: copy,
            survivor,
        }
    }

    async fn doomed(&self) -> Doomed {
        let redis = Proxy::start(self.redis.addr(), Duration::ZERO).await;
        // Codes made ahead would be written at any time.
        let builder = self.survivor.replica().redis_url(&redis.url()).with("CODE_POOL", 0);
        let mut service = builder.start().await;
        let addr = service.base.strip_prefix("http://").expect("its scheme");
        let front = Proxy::start(addr.parse().expect("its address"), Duration::ZERO).await;
        service.base = format!("http://{}", front.addr());
        Doomed { service, front, redis }
    }

    /// A login that has everything behind it that comes before `step`.
    async fn login_before(&self, step: Step, openid: &str) -> Login {
        let browser = Browser::start(&self.survivor).await;
        let mut login = Login {
            openid: openid.to_owned(),
            browser,
            phone: Phone::of(openid),
            code: String::new(),
        };
        if !matches!(step, Step::Start | Step::Scan) {
            login.phone.scan(&self.survivor, &login.browser.scene).await.ok();
        }
        if step == Step::Redeem {
            login.phone.confirm(&self.survivor, &login.browser.scene).await.ok();
            let status = login.browser.status().await;
            status["code"].as_str().expect("a code").clone_into(&mut login.code);
        }
        login
    }
}

impl Doomed {
    /// Kills it when the request has come that far. What was held back on its links is never passed on.
    async fn killed_at(self, moment: Moment, request: RequestBuilder) {
        let Self {
            mut service,
            front,
            redis,
        } = self;
        let word = |command| match command {
            SETTLES => SETTLES.to_owned(),
            command => format!("\r\n{command}\r\n"),
        };
        let link = match moment {
            Before(command) => {
                redis.stall_at(&word(command));
                &redis
            }
            Behind(command) => {
                redis.stall_reply_to(&word(command));
                &redis
            }
            BeforeWait => {
                redis.stall_behind("\r\nWAIT");
                &redis
            }
            Answered => {
                front.stall_reply_to("HTTP/1.1");
                &front
            }
        };
        let killed = async {
            until_stalled(link).await;
            kill(&mut service).await;
            front.cut();
        };
        let (answer, ()) = tokio::join!(request.send(), killed);
        assert!(answer.is_err(), "{answer:?}");
    }
}

async fn kill(service: &mut Service) {
    service.process.signal(Signal::KILL);
    service.process.ended().await;
}

async fn until_stalled(link: &Proxy) {
    let reached = timeout(Duration::from_secs(10), link.stalled()).await;
    reached.expect("it comes that far");
}

impl Login {
    async fn request(&self, step: Step, replica: &Service) -> RequestBuilder {
        let scene = format!("/scenes/{}", self.browser.scene);
        match step {
            Step::Start => replica.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) })),
            Step::Scan => {
                let code = replica.wx_code(&self.openid).await;
                replica.post(&format!("{scene}/scan"), &json!({ "code": code }))
            }
            Step::Confirm => replica
                .post(&format!("{scene}/confirm"), &json!({}))
                .bearer_auth(&self.phone.token),
            Step::Decline => replica
                .post(&format!("{scene}/decline"), &json!({}))
                .bearer_auth(&self.phone.token),
            Step::Cancel => replica.call(Method::DELETE, &scene).bearer_auth(&self.browser.secret),
            Step::Redeem => {
                let form = [
                    ("grant_type", "authorization_code"),
                    ("client_id", "demo"),
                    ("code", &*self.code),
                    ("code_verifier", VERIFIER),
                ];
                with_form(replica.call(Method::POST, "/token"), &form)
            }
        }
    }

    /// The same step once more, and the rest of the login: what its browser has been told in the end.
    async fn goes_on(&mut self, step: Step, done: bool, replica: &Service, mut events: EventStream) -> Vec<String> {
        let scene = self.browser.scene.clone();
        match step {
            Step::Start => {
                // Whoever got no answer has nothing of the first scene, so this is another one.
                self.browser = Browser::start(replica).await;
                events = self.browser.events().await;
                events.next_is("waiting").await;
                self.phone.scan(replica, &self.browser.scene).await.ok();
                self.phone.confirm(replica, &self.browser.scene).await.ok();
            }
            Step::Scan => {
                self.phone.scan(replica, &scene).await.ok();
                self.phone.confirm(replica, &scene).await.ok();
            }
            Step::Confirm => drop(self.phone.confirm(replica, &scene).await.ok()),
            Step::Decline => drop(self.phone.decline(replica, &scene).await.ok()),
            Step::Cancel => assert_eq!(self.browser.cancel().await.status, 204),
            Step::Redeem => {}
        }
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push(event.event);
        }
        if !matches!(step, Step::Decline | Step::Cancel) {
            let code = self.browser.status().await;
            let code = code["code"].as_str().unwrap_or(&self.code);
            let redeemed = Site::demo().redeem(replica, code).await;
            if step == Step::Redeem && done {
                // Nobody can know whether the site has heard of the first, so there is no second.
                redeemed.oauth_error(400, "invalid_grant");
            } else {
                let token = redeemed.ok()["access_token"].as_str().expect("a token").to_owned();
                Site::userinfo(replica, &token).await.ok();
                let again = Site::demo().redeem(replica, code).await;
                again.oauth_error(400, "invalid_grant");
            }
        }
        told
    }
}

async fn whoever_asked_goes_on_elsewhere(step: Step) {
    let stage = Stage::set().await;
    for (n, moment) in step.moments().into_iter().enumerate() {
        println!("{step:?}: {moment:?}");
        let mut login = stage.login_before(step, &format!("person-{n}")).await;
        let events = login.browser.events().await;
        let doomed = stage.doomed().await;
        let request = login.request(step, &doomed.service).await;
        doomed.killed_at(moment, request).await;
        let done = moment.is_behind_the_write();
        let told = login.goes_on(step, done, &stage.survivor, events).await;
        let expected: &[&str] = match step {
            Step::Scan => &["waiting", "scanned", "confirmed"],
            Step::Start | Step::Confirm => &["scanned", "confirmed"],
            Step::Decline => &["scanned", "declined"],
            Step::Cancel => &["scanned", "cancelled"],
            Step::Redeem => &["confirmed"],
        };
        assert_eq!(told, expected, "{step:?} {moment:?}");
    }
}

#[tokio::test]
async fn a_start_survives() {
    whoever_asked_goes_on_elsewhere(Step::Start).await;
}

#[tokio::test]
async fn a_scan_survives() {
    whoever_asked_goes_on_elsewhere(Step::Scan).await;
}

#[tokio::test]
async fn a_confirm_survives() {
    whoever_asked_goes_on_elsewhere(Step::Confirm).await;
}

#[tokio::test]
async fn a_decline_survives() {
    whoever_asked_goes_on_elsewhere(Step::Decline).await;
}

#[tokio::test]
async fn a_cancel_survives() {
    whoever_asked_goes_on_elsewhere(Step::Cancel).await;
}

#[tokio::test]
async fn a_redemption_happens_once_or_not_at_all() {
    whoever_asked_goes_on_elsewhere(Step::Redeem).await;
}

/// What the browser has half of does not count, and it is told the whole elsewhere.
#[tokio::test]
async fn an_event_cut_in_the_middle_is_told_elsewhere() {
    let stage = Stage::set().await;
    for cut in ["scanned", "confirmed"] {
        let mut doomed = stage.doomed().await;
        let browser = Browser::start(&doomed.service).await;
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        doomed.front.stall_behind(&format!("event: {cut}"));
        let phone = Phone::that_scanned("alice", &stage.survivor, &browser.scene).await;
        if cut == "confirmed" {
            events.next_is("scanned").await;
        }
        phone.confirm(&stage.survivor, &browser.scene).await.ok();
        until_stalled(&doomed.front).await;
        kill(&mut doomed.service).await;
        doomed.front.cut();
        let seen = events.ends().await.last_event_id;
        let mut elsewhere = browser.at(&stage.survivor).events_after(&seen).await;
        let confirmed = elsewhere.next_is("confirmed").await;
        let code = confirmed.data["code"].as_str().expect("a code");
        Site::demo().redeem(&stage.survivor, code).await.ok();
    }
}
