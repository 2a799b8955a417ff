//! The stores against plain models of what they promise: whatever is done in whatever order, both say the same.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use scanlogin::entropy::os_rng;
use scanlogin::rate::{Rate, Taken};
use scanlogin::scene::{
    Action, AuthorizationCode, AvatarId, BrowserSecret, ConfirmToken, EventId, GRACE, Life, MatchNumber, NumberStep,
    Person, Profile, Redemption, Refused, Scene, StateName,
};
use scanlogin::store::memory::MemoryStore;
use scanlogin::store::redis::RedisStore;
use scanlogin::store::{ApplyError, Durability, Store, apply, find_one};
use scanlogin::telemetry::Metrics;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conformance::backend::{Login, TTL, settings};
use crate::support::cli::{cli, cli_lines};
use crate::support::redis::RedisServer;

/// What anybody may do. Tokens are named by the scan that gave them, counted from the last one backwards.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Scan { who: usize, asks: bool },
    Confirm { scans_ago: usize, pick: Pick },
    Decline { scans_ago: usize },
    KeepAvatar { scans_ago: usize },
    Cancel { is_own: bool },
    Redeem(Shown),
    Expire,
}

/// Of the three numbers, if there are any.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pick {
    Nothing,
    Right,
    Wrong(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shown {
    Right,
    OtherEvent,
    OtherSecret,
    OtherClient,
}

/// How a store answered, in the words of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    Done,
    Again,
    WrongSecret,
    Another,
    Finished(StateName),
    Expired,
    NoNumber,
    WrongNumber,
    NoGrant,
}

/// The table of the contract, written down a second time: no secrets, no records, no clock.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the table has no more than yes and no")]
struct Model {
    state: StateName,
    version: u64,
    /// Whose phone scanned first.
    person: Option<usize>,
    /// Which scan holds the token that counts.
    scan: Option<usize>,
    /// Scans that succeeded.
    scans: usize,
    asked: bool,
    wrong: Option<usize>,
    avatar: bool,
    redeemed: bool,
    late: bool,
}

impl Model {
    fn new() -> Self {
        Self {
            state: StateName::Waiting,
            version: 1,
            person: None,
            scan: None,
            scans: 0,
            asked: false,
            wrong: None,
            avatar: false,
            redeemed: false,
            late: false,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, StateName::Waiting | StateName::Scanned)
    }

    /// What everybody is told.
    fn shown(&self) -> StateName {
        if self.late && self.is_open() {
            StateName::Expired
        } else {
            self.state
        }
    }

    fn moves(&mut self, state: StateName) -> Said {
        self.state = state;
        self.version += 1;
        Said::Done
    }

    /// Whether this is the token of the phone that holds the scene.
    fn holds(&self, scans_ago: usize) -> bool {
        let shown = self.scans.checked_sub(scans_ago + 1);
        shown.is_some() && shown == self.scan
    }

    fn does(&mut self, doing: Doing) -> Said {
        match doing {
            Doing::Expire => {
                self.late = true;
                Said::Done
            }
            Doing::Cancel { is_own: false } => Said::WrongSecret,
            Doing::Cancel { is_own: true } => match self.shown() {
                StateName::Waiting | StateName::Scanned => self.moves(StateName::Cancelled),
                StateName::Cancelled | StateName::Expired => Said::Again,
                over => Said::Finished(over),
            },
            Doing::Redeem(shown) => {
                let is_fit = self.state == StateName::Confirmed && shown == Shown::Right;
                if !is_fit || self.redeemed || self.late {
                    return Said::NoGrant;
                }
                self.redeemed = true;
                Said::Done
            }
            Doing::Scan { who, asks } => match self.shown() {
                StateName::Expired => Said::Expired,
                StateName::Waiting => {
                    (self.person, self.asked) = (Some(who), asks);
                    self.rescanned();
                    self.moves(StateName::Scanned)
                }
                StateName::Scanned if self.person == Some(who) => {
                    self.rescanned();
                    Said::Done
                }
                StateName::Scanned => Said::Another,
                over => Said::Finished(over),
            },
            Doing::Confirm { scans_ago, .. } | Doing::Decline { scans_ago } | Doing::KeepAvatar { scans_ago }
                if !self.holds(scans_ago) =>
            {
                Said::WrongSecret
            }
            _ if self.shown() == StateName::Expired => Said::Expired,
            Doing::Confirm { pick, .. } => self.confirms(pick),
            Doing::Decline { .. } => match self.state {
                StateName::Scanned => self.moves(StateName::Declined),
                StateName::Declined => Said::Again,
                over => Said::Finished(over),
            },
            Doing::KeepAvatar { .. } => match self.state {
                StateName::Scanned => {
                    self.avatar = true;
                    Said::Done
                }
                over => Said::Finished(over),
            },
        }
    }

    fn rescanned(&mut self) {
        self.scan = Some(self.scans);
        self.scans += 1;
    }

    fn confirms(&mut self, pick: Pick) -> Said {
        match (self.state, pick) {
            (StateName::Confirmed, _) => Said::Again,
            (StateName::Scanned, _) if !self.asked => self.moves(StateName::Confirmed),
            (StateName::Scanned, Pick::Nothing) => Said::NoNumber,
            (StateName::Scanned, Pick::Right) => self.moves(StateName::Confirmed),
            (StateName::Scanned, Pick::Wrong(number)) => {
                match self.wrong {
                    None => self.wrong = Some(number),
                    Some(before) if before == number => {}
                    Some(_) => {
                        self.moves(StateName::Declined);
                    }
                }
                Said::WrongNumber
            }
            (over, _) => Said::Finished(over),
        }
    }
}

/// A scene at a store, with all that everybody holds.
struct Played<'a> {
    store: &'a dyn Store,
    login: Login,
    /// Of each scan that succeeded.
    tokens: Vec<ConfirmToken>,
}

impl<'a> Played<'a> {
    async fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            login: Login::created(store, Life::of_new(TTL)).await,
            tokens: Vec::new(),
        }
    }

    async fn scene(&self) -> (Scene, Life) {
        let stored = self.login.stored(self.store).await;
        let life = stored.life();
        (stored.scene, life)
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    async fn does(&mut self, doing: Doing) -> Said {
        let (scene, _) = self.scene().await;
        let fresh = ConfirmToken::random(&mut os_rng());
        let stranger = ConfirmToken::random(&mut os_rng());
        let other_browser = BrowserSecret::random(&mut os_rng());
        let token = |scans_ago: usize| {
            let at = self.tokens.len().checked_sub(scans_ago + 1);
            at.map_or(&stranger, |at| &self.tokens[at])
        };
        let event = match doing {
            Doing::Redeem(Shown::OtherEvent) => EventId::NONE,
            _ => scene.event_id,
        };
        let holder = match doing {
            Doing::Redeem(Shown::OtherSecret) => &other_browser,
            _ => &self.login.browser,
        };
        let code = AuthorizationCode::derive(scene.id, event, holder);
        let action = || match doing {
            Doing::Scan { who, asks } => Action::Scan {
                person: Person {
                    appid: "wx1".to_owned(),
                    openid: format!("person {who}"),
                    unionid: None,
                },
                confirm_token: fresh.digest(),
                refused: false,
                warned: false,
                late: false,
                typed: None,
                entry_scene: None,
                asks_number: asks,
            },
            Doing::Confirm { scans_ago, pick } => Action::Confirm {
                token: token(scans_ago),
                profile: Profile::default(),
                match_number: picked(scene.caution.number.as_ref(), pick),
            },
            Doing::Decline { scans_ago } => Action::Decline {
                token: token(scans_ago),
            },
            Doing::KeepAvatar { scans_ago } => Action::KeepAvatar {
                token: token(scans_ago),
                avatar: AvatarId::random(&mut os_rng()),
            },
            Doing::Cancel { is_own } => Action::Cancel {
                browser_secret: if is_own { &self.login.browser } else { &other_browser },
            },
            Doing::Redeem(shown) => Action::Redeem(Redemption {
                code: &code,
                client_id: if shown == Shown::OtherClient { "shop" } else { "blog" },
                redirect_uri: None,
                code_verifier: None,
            }),
            Doing::Expire => unreachable!("the clock does that"),
        };
        let durability = match doing {
            Doing::Confirm { .. } | Doing::Redeem(_) => Durability::Durable,
            _ => Durability::Ordinary,
        };
        let seen = find_one(self.store, &scene.id).await.unwrap().unwrap();
        let said = match apply(self.store, seen, durability, &mut os_rng(), action).await {
            Ok(applied) if applied.changed => Said::Done,
            Ok(_) => Said::Again,
            Err(ApplyError::Refused(refused) | ApplyError::Mistaken(_, refused)) => in_words(refused),
            Err(other) => panic!("{doing:?}: {other}"),
        };
        if matches!(doing, Doing::Scan { .. }) && said == Said::Done {
            self.tokens.push(fresh);
        }
        said
    }

    /// Whether what is stored is what the model says.
    async fn check(&self, model: &Model) -> Result<(), TestCaseError> {
        let (scene, life) = self.scene().await;
        let told = scene.public_state(life);
        prop_assert_eq!((told.state, told.version), (model.shown(), model.version));
        let person = model.person.map(|who| format!("person {who}"));
        prop_assert_eq!(scene.person().map(|person| person.openid.clone()), person);
        prop_assert_eq!(scene.avatar().is_some(), model.avatar);
        prop_assert_eq!(
            told.match_number.is_some(),
            model.asked && model.state == StateName::Scanned
        );
        let can_be_redeemed = model.state == StateName::Confirmed && !model.redeemed && !model.late;
        prop_assert_eq!(told.code_left_ms > 0, can_be_redeemed);
        Ok(())
    }
}

fn picked(step: Option<&NumberStep>, pick: Pick) -> Option<MatchNumber> {
    let step = step?;
    match pick {
        Pick::Nothing => None,
        Pick::Right => Some(step.right()),
        Pick::Wrong(n) => {
            let mut wrong = step.choices().iter().filter(|choice| !step.is_right(**choice));
            wrong.nth(n).copied()
        }
    }
}

fn in_words(refused: Refused) -> Said {
    match refused {
        Refused::WrongSecret => Said::WrongSecret,
        Refused::ScannedByAnother => Said::Another,
        Refused::AlreadyFinished(state) => Said::Finished(state),
        Refused::Expired => Said::Expired,
        Refused::EntryScene => unreachable!("nobody here is refused for how they came"),
        Refused::ShortCode => unreachable!("nobody here types a code"),
        Refused::NumberMissing => Said::NoNumber,
        Refused::WrongNumber => Said::WrongNumber,
        Refused::InvalidGrant(_) => Said::NoGrant,
    }
}

fn doing() -> impl Strategy<Value = Doing> {
    // Mostly the token that counts, or the one before.
    let scans_ago = || prop_oneof![6 => Just(0_usize), 1 => Just(1), 1 => Just(9)];
    let pick = prop_oneof![
        Just(Pick::Nothing),
        Just(Pick::Right),
        (0..2_usize).prop_map(Pick::Wrong)
    ];
    let shown = prop_oneof![
        3 => Just(Shown::Right),
        1 => Just(Shown::OtherEvent),
        1 => Just(Shown::OtherSecret),
        1 => Just(Shown::OtherClient),
    ];
    prop_oneof![
        6 => (0..2_usize, any::<bool>()).prop_map(|(who, asks)| Doing::Scan { who, asks }),
        6 => (scans_ago(), pick).prop_map(|(scans_ago, pick)| Doing::Confirm { scans_ago, pick }),
        1 => scans_ago().prop_map(|scans_ago| Doing::Decline { scans_ago }),
        2 => scans_ago().prop_map(|scans_ago| Doing::KeepAvatar { scans_ago }),
        1 => any::<bool>().prop_map(|is_own| Doing::Cancel { is_own }),
        4 => shown.prop_map(Doing::Redeem),
        1 => Just(Doing::Expire),
    ]
}

/// Plays `cases` orders of actions at a store; `expire` puts the scene's deadline behind it.
fn play(runtime: &Runtime, cases: u32, store: &dyn Store, expire: &impl AsyncFn(&Login)) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let orders = prop::collection::vec(doing(), 1..20);
    let played = runner.run(&orders, |order| {
        runtime.block_on(async {
            let (mut played, mut model) = (Played::new(store).await, Model::new());
            for doing in order {
                let expected = model.does(doing);
                let said = if matches!(doing, Doing::Expire) {
                    expire(&played.login).await;
                    Said::Done
                } else {
                    played.does(doing).await
                };
                prop_assert_eq!(said, expected, "{:?} of {:?}", doing, model);
                played.check(&model).await?;
            }
            Ok(())
        })
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}

#[test]
fn the_store_in_memory_does_what_the_model_does() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let (news, _unread) = mpsc::channel(1_024);
    let store = MemoryStore::start(100_000, news, &TaskTracker::new(), &CancellationToken::new());
    // A second time it would be gone.
    play(&runtime, 1_000, &store, &async |login: &Login| {
        let life = login.stored(&store).await.life();
        tokio::time::advance(life.until_deadline()).await;
    });
}

#[test]
fn redis_does_what_the_model_does() {
    let redis = RedisServer::start();
    let runtime = Runtime::new().unwrap();
    let end = CancellationToken::new();
    let (news, _unread) = mpsc::channel(1_024);
    let store = runtime.block_on(async {
        let metrics = Metrics::new().unwrap();
        let store = RedisStore::start(&settings(&redis.url()), news, metrics, &TaskTracker::new(), &end).unwrap();
        store.started().await.unwrap();
        Arc::new(store)
    });
    play(&runtime, 100, &*store, &async |login: &Login| {
        let id = login.id();
        let key = format!("scanlogin:{{{}}}:{id}", id.hash_tag());
        let grace = GRACE.saturating_sub(Duration::from_secs(1)).as_millis().to_string();
        let done = cli(redis.addr(), &["PEXPIRE", &key, &grace, "LT"]);
        // A second time it is so already.
        assert!(matches!(done.as_str(), "0" | "1"), "{done}");
    });
    end.cancel();
}

/// How the script asks for the time, and what ends a key by the server's clock.
const ASKS_TIME: &str = "redis.call('TIME')";
const ENDS_KEY: &str = ", 'PX', math.max(1, math.ceil(debt / 1000))";
const TAKE: &str = include_str!("../../src/store/redis/lua/take.lua");

#[test]
fn the_script_that_counts_takes_what_the_rule_does_whatever_the_rate_and_the_time() {
    let redis = RedisServer::start();
    assert!(
        TAKE.matches(ASKS_TIME).count() == 1 && TAKE.matches(ENDS_KEY).count() == 1,
        "{TAKE}"
    );
    // Told the time instead, and with keys that stay however little time really goes by.
    let told = TAKE.replace(ASKS_TIME, "{ARGV[3], ARGV[4]}").replace(ENDS_KEY, "");
    let script = cli(redis.addr(), &["SCRIPT", "LOAD", &told]);
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    // Whole microseconds, in which the script counts.
    let rate = (1..60_u32, 1..100_000_000_u64, 0..3_u8).prop_map(|(count, apart, kind)| {
        let apart = Duration::from_micros(apart);
        match kind {
            0 => Rate::bursting(count, apart * count),
            1 => Rate::once(count, apart),
            _ => Rate::bursting(count, apart * count).sparing(),
        }
    });
    // A clock may be put back, too.
    let pause = prop_oneof![4 => 0..2_000_i64, 4 => 0..200_000_000_i64, 1 => -4_000_000_000..0_i64];
    let start = 1_600_000_000_000_000..2_000_000_000_000_000_i64;
    let counted = (rate, start, prop::collection::vec(pause, 1..80));
    let tried = runner.run(&counted, |(rate, start, pauses)| {
        let (mut now, mut commands, mut expected) = (start, vec!["DEL key".to_owned()], Vec::new());
        let mut paid_at = None::<i64>;
        for pause in pauses {
            now += pause;
            let (apart, whole) = (rate.apart().as_micros(), rate.whole().as_micros());
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            commands.push(format!("EVALSHA {script} 1 key {apart} {whole} {seconds} {micros}"));
            let debt = paid_at.map_or(0, |paid_at| paid_at.saturating_sub(now)).max(0);
            let taken = rate.take(Duration::from_micros(debt.unsigned_abs()));
            let (is_taken, left) = match taken {
                Taken::Yes(debt) => ("1", debt),
                Taken::NotFor(wait) => ("0", wait),
            };
            expected.extend([is_taken.to_owned(), left.as_micros().to_string()]);
            if let Taken::Yes(debt) = taken {
                paid_at = Some(now + i64::try_from(debt.as_micros()).unwrap());
            }
        }
        let answers = cli_lines(redis.addr(), &commands);
        prop_assert_eq!(&answers[1..], &expected[..], "{:?}", rate);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));

    // And as it is: a debt is kept until it is paid.
    let script = cli(redis.addr(), &["SCRIPT", "LOAD", TAKE]);
    let take = format!("EVALSHA {script} 1 real 1000000 60000000");
    let answers = cli_lines(redis.addr(), &[take.clone(), take, "PTTL real".to_owned()]);
    let (debt, kept): (f64, f64) = (answers[3].parse().unwrap(), answers[4].parse().unwrap());
    assert!((answers[0].as_str(), answers[2].as_str()) == ("1", "1"), "{answers:?}");
    assert!((1_000_000.0..=2_000_000.0).contains(&debt), "{answers:?}");
    assert!(
        (debt / 1_000.0 - 900.0..debt / 1_000.0 + 1.0).contains(&kept),
        "{answers:?}"
    );
}
