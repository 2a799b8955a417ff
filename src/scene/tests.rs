use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

mod interleavings;

const TTL: Duration = Duration::from_mins(2);
const FRESH: Life = Life(Duration::from_secs(120 + 90));
const LATE: Life = Life(GRACE);
const VERIFIER: &str = "a-verifier-of-43-characters-or-more-0123456789";

/// A scene and all its secrets.
struct Login {
    scene: Scene,
    browser: BrowserSecret,
    token: ConfirmToken,
    rng: StdRng,
}

impl Login {
    fn waiting() -> Self {
        let mut rng = StdRng::seed_from_u64(3);
        let browser = BrowserSecret::random(&mut rng);
        let scene = Scene {
            id: SceneId::random(&mut rng),
            write_id: WriteId::random(&mut rng),
            version: 1,
            event_id: EventId::random(&mut rng),
            client_id: "blog".to_owned(),
            created_at: 0,
            expires_at: 120,
            browser_secret: browser.digest(),
            code: browser.code().digest(),
            authorization: Authorization {
                state: None,
                scopes: None,
                code_challenge: Some(s256(VERIFIER)),
                redirect_uri: Some("https://blog.example/callback".to_owned()),
                nonce: None,
            },
            browser: BrowserDescription::default(),
            state: State::Waiting,
            caution: Caution::default(),
            doubt: None,
            short_code: None,
            env_version: None,
            scanned_life_ms: None,
            traceparent: None,
            unknown: BTreeMap::new(),
        };
        Self {
            scene,
            browser,
            token: ConfirmToken::random(&mut rng),
            rng,
        }
    }

    fn in_state(name: &str) -> Self {
        let mut login = Self::waiting();
        let steps: &[Try] = match name {
            "waiting" => &[],
            "scanned" => &[Try::Scan],
            "asked" => &[Try::ScanAndBeAsked],
            "asked again" => &[Try::ScanAndBeAsked, Try::PickWrong],
            "confirmed" => &[Try::Scan, Try::Confirm],
            "redeemed" => &[Try::Scan, Try::Confirm, Try::Redeem],
            "declined" => &[Try::Scan, Try::Decline],
            "cancelled" => &[Try::Cancel],
            "cancelled after the scan" => &[Try::Scan, Try::Cancel],
            other => panic!("{other}"),
        };
        for step in steps {
            match login.tries(*step, FRESH) {
                Ok(Outcome::Visible(next) | Outcome::Hidden(next) | Outcome::Mistaken(next, _)) => login.scene = next,
                other => panic!("{step:?} to {name}: {other:?}"),
            }
        }
        login
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn tries(&mut self, step: Try, life: Life) -> Result<Outcome, Refused> {
        let stranger = ConfirmToken::random(&mut self.rng);
        let other_browser = BrowserSecret::random(&mut self.rng);
        let code = AuthorizationCode::derive(self.scene.id, self.scene.event_id, &self.browser);
        let token = &self.token;
        let scan = |openid: &str, unionid: Option<&str>| Action::Scan {
            person: Person {
                appid: "wx0".to_owned(),
                openid: openid.to_owned(),
                unionid: unionid.map(ToOwned::to_owned),
            },
            confirm_token: self.token.digest(),
            entry_scene: Some(1047),
            refused: false,
            warned: false,
            late: false,
            typed: None,
            asks_number: step == Try::ScanAndBeAsked,
        };
        let pick = |match_number| Action::Confirm {
            token,
            profile: Profile::default(),
            match_number,
        };
        let number = self.scene.caution.number.as_ref();
        let wrong = |n| {
            number.and_then(|step| {
                step.choices()
                    .iter()
                    .filter(|choice| !step.is_right(**choice))
                    .nth(n)
                    .copied()
            })
        };
        let action = match step {
            Try::Scan | Try::ScanAndBeAsked => scan("alice", None),
            Try::ScanWithUnionid => scan("alice", Some("everywhere")),
            Try::ScanByAnother => scan("mallory", None),
            Try::KeepAvatar => Action::KeepAvatar {
                token,
                avatar: AvatarId::random(&mut self.rng),
            },
            Try::Confirm => pick(None),
            Try::PickRight => pick(number.map(NumberStep::right)),
            Try::PickWrong => pick(wrong(0)),
            Try::PickOtherWrong => pick(wrong(1)),
            Try::Decline => Action::Decline { token },
            Try::Cancel => Action::Cancel {
                browser_secret: &self.browser,
            },
            Try::Redeem => Action::Redeem(redemption(&code)),
            Try::StrangerConfirms => Action::Confirm {
                token: &stranger,
                profile: Profile::default(),
                match_number: number.map(NumberStep::right),
            },
            Try::StrangerDeclines => Action::Decline { token: &stranger },
            Try::StrangerKeepsAvatar => Action::KeepAvatar {
                token: &stranger,
                avatar: AvatarId::NONE,
            },
            Try::StrangerCancels => Action::Cancel {
                browser_secret: &other_browser,
            },
        };
        self.scene.apply(action, life, &mut self.rng)
    }
}

fn redemption(code: &AuthorizationCode) -> Redemption<'_> {
    Redemption {
        code,
        client_id: "blog",
        redirect_uri: Some("https://blog.example/callback"),
        code_verifier: Some(VERIFIER),
    }
}

/// Everything that anybody may try.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Try {
    Scan,
    ScanAndBeAsked,
    ScanWithUnionid,
    ScanByAnother,
    KeepAvatar,
    Confirm,
    PickRight,
    PickWrong,
    PickOtherWrong,
    Decline,
    Cancel,
    Redeem,
    StrangerConfirms,
    StrangerDeclines,
    StrangerKeepsAvatar,
    StrangerCancels,
}

const TRIES: [Try; 16] = [
    Try::Scan,
    Try::ScanAndBeAsked,
    Try::ScanWithUnionid,
    Try::ScanByAnother,
    Try::KeepAvatar,
    Try::Confirm,
    Try::PickRight,
    Try::PickWrong,
    Try::PickOtherWrong,
    Try::Decline,
    Try::Cancel,
    Try::Redeem,
    Try::StrangerConfirms,
    Try::StrangerDeclines,
    Try::StrangerKeepsAvatar,
    Try::StrangerCancels,
];

fn told(outcome: &Result<Outcome, Refused>) -> String {
    match outcome {
        Ok(Outcome::Visible(next)) => format!("-> {}", next.state_name(FRESH).as_str()),
        Ok(Outcome::Hidden(_)) => "hidden".to_owned(),
        Ok(Outcome::Repeated) => "repeated".to_owned(),
        Ok(Outcome::Mistaken(next, _)) => format!("wrong, {}", next.state_name(FRESH).as_str()),
        Err(Refused::EntryScene) => "entry".to_owned(),
        Err(Refused::ShortCode) => "short code".to_owned(),
        Err(Refused::NumberMissing) => "missing".to_owned(),
        Err(Refused::WrongNumber) => "wrong".to_owned(),
        Err(Refused::WrongSecret) => "secret".to_owned(),
        Err(Refused::ScannedByAnother) => "another".to_owned(),
        Err(Refused::AlreadyFinished(_)) => "finished".to_owned(),
        Err(Refused::Expired) => "expired".to_owned(),
        Err(Refused::InvalidGrant(GrantFault::Used)) => "used".to_owned(),
        Err(Refused::InvalidGrant(GrantFault::NoSuchConfirm)) => "no grant".to_owned(),
        Err(Refused::InvalidGrant(other)) => format!("{other:?}"),
    }
}

#[test]
#[rustfmt::skip]
fn each_action_meets_each_state_as_the_table_says() {
    use Try::*;
    let columns = ["waiting", "scanned", "asked", "asked again", "confirmed", "redeemed", "declined", "cancelled", "cancelled after the scan"];
    let in_time: [(Try, [&str; 9]); 16] = [
        (Scan,                ["-> scanned",   "hidden",       "hidden",          "hidden",          "finished", "finished", "finished", "finished", "finished"]),
        (ScanAndBeAsked,      ["-> scanned",   "hidden",       "hidden",          "hidden",          "finished", "finished", "finished", "finished", "finished"]),
        (ScanWithUnionid,     ["-> scanned",   "hidden",       "hidden",          "hidden",          "finished", "finished", "finished", "finished", "finished"]),
        (ScanByAnother,       ["-> scanned",   "another",      "another",         "another",         "finished", "finished", "finished", "finished", "finished"]),
        (KeepAvatar,          ["secret",       "hidden",       "hidden",          "hidden",          "finished", "finished", "finished", "secret",   "finished"]),
        (Confirm,             ["secret",       "-> confirmed", "missing",         "missing",         "repeated", "repeated", "finished", "secret",   "finished"]),
        (PickRight,           ["secret",       "-> confirmed", "-> confirmed",    "-> confirmed",    "repeated", "repeated", "finished", "secret",   "finished"]),
        (PickWrong,           ["secret",       "-> confirmed", "wrong, scanned",  "wrong",           "repeated", "repeated", "finished", "secret",   "finished"]),
        (PickOtherWrong,      ["secret",       "-> confirmed", "wrong, scanned",  "wrong, declined", "repeated", "repeated", "finished", "secret",   "finished"]),
        (Decline,             ["secret",       "-> declined",  "-> declined",     "-> declined",     "finished", "finished", "repeated", "secret",   "finished"]),
        (Cancel,              ["-> cancelled", "-> cancelled", "-> cancelled",    "-> cancelled",    "finished", "finished", "finished", "repeated", "repeated"]),
        (Redeem,              ["no grant",     "no grant",     "no grant",        "no grant",        "hidden",   "used",     "no grant", "no grant", "no grant"]),
        (StrangerConfirms,    ["secret"; 9]),
        (StrangerDeclines,    ["secret"; 9]),
        (StrangerKeepsAvatar, ["secret"; 9]),
        (StrangerCancels,     ["secret"; 9]),
    ];
    // What the deadline changes: only what is still open, never what is final.
    let after_the_deadline = |step: Try, column: &str, in_time: &'static str| match (column, step) {
        ("waiting" | "scanned" | "asked" | "asked again", Scan | ScanAndBeAsked | ScanWithUnionid | ScanByAnother)
        | ("scanned" | "asked" | "asked again", KeepAvatar | Confirm | PickRight | PickWrong | PickOtherWrong | Decline) => "expired",
        ("waiting" | "scanned" | "asked" | "asked again", Cancel) => "repeated",
        _ => in_time,
    };
    for (step, expected) in in_time {
        for (column, expected) in columns.into_iter().zip(expected) {
            let outcome = Login::in_state(column).tries(step, FRESH);
            assert_eq!(told(&outcome), expected, "{step:?} while {column}");
            let outcome = Login::in_state(column).tries(step, FRESH.after(TTL));
            let late = if (column, step) == ("confirmed", Redeem) { "TooOld" } else { expected };
            assert_eq!(told(&outcome), after_the_deadline(step, column, late), "{step:?} while {column}, too late");
        }
    }
}

#[test]
fn a_refusal_names_the_state_that_refuses() {
    for (state, name) in [
        ("confirmed", StateName::Confirmed),
        ("declined", StateName::Declined),
        ("cancelled", StateName::Cancelled),
    ] {
        let refused = Login::in_state(state).tries(Try::ScanByAnother, LATE);
        assert_eq!(refused, Err(Refused::AlreadyFinished(name)), "even after the deadline");
    }
}

#[test]
fn the_number_is_told_to_the_browser_while_it_is_asked_for_and_stays_the_same_however_the_phone_scans_again() {
    let number = |login: &Login| login.scene.public_state(FRESH).match_number;
    let are_wrong = |login: &Login| login.scene.public_state(FRESH).wrong_numbers;
    let mut login = Login::in_state("asked");
    let asked = login.scene.caution.number.clone().unwrap();
    assert_eq!(number(&login), Some(asked.right()));
    for again in [Try::Scan, Try::ScanAndBeAsked, Try::ScanWithUnionid] {
        let Ok(Outcome::Hidden(next)) = login.tries(again, FRESH) else {
            panic!("{again:?}");
        };
        assert_eq!(next.caution, login.scene.caution);
    }
    for (last, is_told) in [(Try::PickWrong, true), (Try::PickOtherWrong, false)] {
        let Ok(Outcome::Mistaken(next, Refused::WrongNumber)) = login.tries(last, FRESH) else {
            panic!("{last:?}");
        };
        login.scene = next;
        assert_eq!(
            (number(&login).is_some(), are_wrong(&login)),
            (is_told, !is_told),
            "{last:?}"
        );
    }
    assert_eq!(
        login.tries(Try::PickRight, FRESH),
        Err(Refused::AlreadyFinished(StateName::Declined))
    );
    assert_eq!(number(&Login::in_state("scanned")), None);
    assert_eq!(number(&Login::in_state("confirmed")), None);
}

/// What a replica looked at before it asked WeChat may be the past, or not be written any more.
#[test]
fn whoever_came_as_the_site_does_not_want_is_refused_while_the_scene_waits_whatever_was_seen_before() {
    let card = |login: &mut Login| {
        let scan = Action::Scan {
            person: Person {
                appid: "wx0".to_owned(),
                openid: "alice".to_owned(),
                unionid: None,
            },
            confirm_token: login.token.digest(),
            entry_scene: Some(1007),
            refused: true,
            warned: false,
            late: false,
            typed: None,
            asks_number: false,
        };
        let outcome = login.scene.apply(scan, FRESH, &mut login.rng);
        told(&outcome)
    };
    assert_eq!(card(&mut Login::in_state("waiting")), "entry");
    assert_eq!(card(&mut Login::in_state("scanned")), "hidden");
}

/// What becomes of somebody who types the code of this hash.
fn types(login: &mut Login, openid: &str, tag: ShortCodeTag, life: Life) -> String {
    let typing = Action::Scan {
        person: Person {
            appid: "wx0".to_owned(),
            openid: openid.to_owned(),
            unionid: None,
        },
        confirm_token: login.token.digest(),
        entry_scene: None,
        refused: false,
        warned: true,
        late: false,
        typed: Some(tag),
        asks_number: false,
    };
    let outcome = login.scene.apply(typing, life, &mut login.rng);
    if let Ok(Outcome::Visible(next) | Outcome::Hidden(next)) = &outcome {
        login.scene = next.clone();
    }
    told(&outcome)
}

#[test]
fn a_short_code_counts_while_its_scene_waits_and_then_for_whom_it_let_in() {
    let ends = FRESH.after(Duration::from_mins(1));
    let [tag, other] = [5, 6].map(|seed| ShortCodeTag::random(&mut StdRng::seed_from_u64(seed)));
    let showing = || {
        let mut login = Login::waiting();
        let showing = |browser_secret, salt: u64, dead| Action::ShowShortCode {
            browser_secret,
            shown: ShownCode {
                salt: Salt::random(&mut StdRng::seed_from_u64(salt)),
                tag,
                ends_ms: ends.as_millis(),
            },
            dead,
        };
        let show = |browser_secret, salt| showing(browser_secret, salt, None);
        let stranger = BrowserSecret::random(&mut login.rng);
        let refused = login.scene.apply(show(&stranger, 1), FRESH, &mut login.rng);
        assert_eq!(told(&refused), "secret");
        let Ok(Outcome::Hidden(shown)) = login.scene.apply(show(&login.browser, 1), FRESH, &mut login.rng) else {
            panic!("no code");
        };
        login.scene = shown;
        for (life, expected) in [(FRESH, "repeated"), (ends, "hidden"), (LATE, "expired")] {
            let again = login.scene.apply(show(&login.browser, 2), life, &mut login.rng);
            assert_eq!(told(&again), expected);
        }
        // It makes room if it is the very one that leads nowhere.
        for (dead, expected) in [(tag, "hidden"), (other, "repeated")] {
            let again = login
                .scene
                .apply(showing(&login.browser, 2, Some(dead)), FRESH, &mut login.rng);
            assert_eq!(told(&again), expected);
        }
        login
    };
    assert_eq!(types(&mut showing(), "alice", other, FRESH), "short code");
    assert_eq!(types(&mut showing(), "alice", tag, ends), "short code");
    let mut login = showing();
    assert_eq!(types(&mut login, "alice", tag, FRESH), "-> scanned");
    assert_eq!(types(&mut login, "bob", tag, FRESH), "short code");
    // Though its time is over meanwhile.
    assert_eq!(types(&mut login, "alice", tag, ends), "hidden");
    let mut scanned = showing();
    let Ok(Outcome::Visible(by_camera)) = scanned.tries(Try::Scan, FRESH) else {
        panic!("refused");
    };
    scanned.scene = by_camera;
    assert_eq!(types(&mut scanned, "alice", tag, FRESH), "short code");
}

#[test]
fn a_confirm_in_the_last_moment_leaves_the_code_its_full_life() {
    let last = Life(GRACE + Duration::from_millis(1));
    let mut login = Login::in_state("scanned");
    let Ok(Outcome::Visible(confirmed)) = login.tries(Try::Confirm, last) else {
        panic!("refused");
    };
    login.scene = confirmed;
    let just_in_time = last.after(CODE_LIFE.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(told(&login.tries(Try::Redeem, just_in_time)), "hidden");
    let too_late = login.tries(Try::Redeem, last.after(CODE_LIFE));
    assert_eq!(too_late, Err(GrantFault::TooOld.into()));
}

#[test]
fn a_confirm_that_counts_later_leaves_the_code_its_full_life_too() {
    let mut login = Login::in_state("confirmed");
    let later = LATE.after(Duration::from_secs(20));
    login.scene = login.scene.settled(later);
    let just_in_time = later.after(CODE_LIFE.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(login.scene.settled(just_in_time), login.scene, "it begins once");
    assert_eq!(told(&login.tries(Try::Redeem, just_in_time)), "hidden");
    let too_late = login.tries(Try::Redeem, later.after(CODE_LIFE));
    assert_eq!(too_late, Err(GrantFault::TooOld.into()));
}

#[test]
fn a_redemption_needs_everything_right() {
    let mut login = Login::in_state("confirmed");
    let scene = login.scene.clone();
    let code = AuthorizationCode::derive(scene.id, scene.event_id, &login.browser);
    let other_event = AuthorizationCode::derive(scene.id, EventId::NONE, &login.browser);
    let other_browser = BrowserSecret::random(&mut login.rng);
    let other_secret = AuthorizationCode::derive(scene.id, scene.event_id, &other_browser);
    let right = redemption(&code);
    for (wrong, fault) in [
        (redemption(&other_event), GrantFault::NoSuchConfirm),
        (redemption(&other_secret), GrantFault::WrongCode),
        (
            Redemption {
                client_id: "shop",
                ..right.clone()
            },
            GrantFault::OtherClient,
        ),
        (
            Redemption {
                redirect_uri: None,
                ..right.clone()
            },
            GrantFault::RedirectUri,
        ),
        (
            Redemption {
                redirect_uri: Some("https://blog.example/callback/"),
                ..right.clone()
            },
            GrantFault::RedirectUri,
        ),
        (
            Redemption {
                code_verifier: None,
                ..right.clone()
            },
            GrantFault::Verifier,
        ),
        (
            Redemption {
                code_verifier: Some("guess"),
                ..right.clone()
            },
            GrantFault::Verifier,
        ),
    ] {
        let refused = scene.apply(Action::Redeem(wrong), FRESH, &mut login.rng);
        assert_eq!(refused, Err(fault.into()));
    }
    let mut without_challenge = scene;
    without_challenge.authorization.code_challenge = None;
    let downgraded = without_challenge.apply(Action::Redeem(right), FRESH, &mut login.rng);
    assert_eq!(downgraded, Err(GrantFault::Verifier.into()));
}

#[test]
fn a_record_comes_back_as_it_was_and_keeps_what_it_does_not_know() {
    for state in [
        "waiting",
        "scanned",
        "asked",
        "asked again",
        "confirmed",
        "redeemed",
        "declined",
        "cancelled",
    ] {
        let scene = Login::in_state(state).scene;
        let mut json = serde_json::to_value(&scene).unwrap();
        json["of_a_later_version"] = serde_json::json!({"kept": true});
        let mut back: Scene = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), json, "{state}");
        back.unknown.clear();
        back.write_id = scene.write_id;
        assert_eq!(back, scene, "{state}");
    }
}

proptest! {
    /// Whatever anybody does in whatever order: versions rise by one, marks change exactly when they should, a final state
    /// stays, only the holder of a secret moves what it guards, and a code is redeemed once.
    #[test]
    fn no_order_of_actions_breaks_the_rules(steps in prop::collection::vec((0..TRIES.len(), 0_u64..20), 1..40)) {
        let mut login = Login::waiting();
        let mut life = FRESH;
        let (mut redemptions, mut wrong) = (0, 0);
        for (step, seconds) in steps {
            let step = TRIES[step];
            life = life.after(Duration::from_secs(seconds));
            let before = login.scene.clone();
            let was = before.state_name(life);
            let outcome = login.tries(step, life);
            let stranger = matches!(
                step,
                Try::StrangerConfirms | Try::StrangerDeclines | Try::StrangerKeepsAvatar | Try::StrangerCancels
            );
            prop_assert!(!stranger || outcome == Err(Refused::WrongSecret));
            match outcome {
                Ok(Outcome::Visible(next)) => {
                    prop_assert!(!was.is_final(), "{step:?} moved {was:?}");
                    prop_assert_eq!(next.version, before.version + 1);
                    prop_assert_ne!(next.event_id, before.event_id);
                    prop_assert_ne!(next.write_id, before.write_id);
                    let unasked = before.caution.number.is_none() || step == Try::PickRight;
                    prop_assert!(next.state_name(life) != StateName::Confirmed || unasked, "{step:?} passed for the number");
                    login.scene = next;
                }
                Ok(Outcome::Hidden(next)) => {
                    prop_assert!(!was.is_final() || step == Try::Redeem, "{step:?} wrote {was:?}");
                    prop_assert_eq!((next.version, next.event_id), (before.version, before.event_id));
                    prop_assert_ne!(next.write_id, before.write_id);
                    prop_assert_eq!(next.state_name(life), was);
                    redemptions += u32::from(step == Try::Redeem);
                    login.scene = next;
                }
                Ok(Outcome::Mistaken(next, refused)) => {
                    prop_assert_eq!((was, refused), (StateName::Scanned, Refused::WrongNumber));
                    prop_assert_ne!(next.write_id, before.write_id);
                    let is_second = next.state_name(life) == StateName::Declined;
                    prop_assert_eq!(next.version, before.version + u64::from(is_second));
                    wrong += 1;
                    prop_assert_eq!(is_second, wrong == 2);
                    login.scene = next;
                }
                Ok(Outcome::Repeated) | Err(_) => {}
            }
            let who = login.scene.person().map(|person| person.openid.as_str());
            prop_assert!(before.person().is_none_or(|first| Some(first.openid.as_str()) == who), "taken over");
        }
        prop_assert!(redemptions <= 1);
    }
}

/// Each later, so that what passed since the step before is known by the record's life.
#[test]
fn the_time_since_the_last_step_is_told_until_the_login_is_over() {
    let mut login = Login::waiting();
    let after = |seconds| FRESH.after(Duration::from_secs(seconds));
    let mut passed = Vec::new();
    for (step, at) in [(Try::Scan, 7), (Try::Scan, 9), (Try::Confirm, 12), (Try::Redeem, 14)] {
        passed.push(login.scene.since_last_step(after(at)).map(|time| time.as_secs()));
        match login.tries(step, after(at)) {
            Ok(Outcome::Visible(next) | Outcome::Hidden(next)) => login.scene = next,
            other => panic!("{step:?}: {other:?}"),
        }
    }
    // Whoever scans again goes on with the scan that there was.
    assert_eq!(passed, [Some(7), Some(2), Some(5), Some(2)]);
    for over in ["declined", "cancelled", "cancelled after the scan"] {
        assert_eq!(Login::in_state(over).scene.since_last_step(after(20)), None, "{over}");
    }
    let mut of_an_earlier_version = Login::in_state("scanned").scene;
    of_an_earlier_version.scanned_life_ms = None;
    assert_eq!(of_an_earlier_version.since_last_step(after(20)), None);
}
