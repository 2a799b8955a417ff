//! Every order in which two phones, a browser, a site and the clock can come, with the store losing what it had once in between.
//!
//! Not a sample: all of them. What was reached in two ways is gone on from once.

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::*;

/// What each of them does, one after the other.
const PLANS: [&[Step]; 6] = [
    &[Step::Scan(0), Step::Scan(0), Step::Confirm(0)],
    &[Step::Scan(1), Step::Confirm(1), Step::Decline(1)],
    &[Step::Cancel],
    &[Step::Redeem, Step::Redeem],
    &[Step::Expire],
    &[Step::Lose],
];

const PEOPLE: [&str; 2] = ["alice", "mallory"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Scan(usize),
    Confirm(usize),
    Decline(usize),
    Cancel,
    Redeem,
    Expire,
    Lose,
}

/// A record, and what an onlooker knows of how it came about.
struct Written {
    scene: Scene,
    /// Who scanned first, and what their last scan gave them.
    first: Option<(usize, ConfirmToken)>,
    /// Which of the codes ever given were redeemed.
    redeemed: Vec<EventId>,
}

/// A moment of one order.
#[derive(Clone)]
struct Moment {
    /// Every record there was, the present one last.
    records: Vec<Rc<Written>>,
    /// How far each of [`PLANS`] is.
    done: [usize; PLANS.len()],
    /// All that each phone was ever given: it may answer with any.
    tokens: [Vec<ConfirmToken>; PEOPLE.len()],
    /// Each code that the browser was given, and who had confirmed then.
    codes: Vec<(AuthorizationCode, usize)>,
    is_late: bool,
    /// Scans so far: what makes each token another.
    scans: usize,
    /// The only redemptions that may come twice are those that the loss undid.
    redeemed: Vec<EventId>,
    undone: Vec<EventId>,
}

impl Moment {
    fn now(&self) -> &Rc<Written> {
        self.records.last().unwrap()
    }

    fn life(&self) -> Life {
        if self.is_late { FRESH.after(TTL) } else { FRESH }
    }

    /// The same for all moments that differ in nothing but drawn names: those are told by where they first stood.
    fn form(&self) -> u64 {
        let mut events: Vec<EventId> = Vec::new();
        let mut number = |event: EventId| {
            let known = events.iter().position(|known| *known == event);
            known.unwrap_or_else(|| {
                events.push(event);
                events.len() - 1
            })
        };
        let mut form = format!("{:?} {} ", self.done, self.is_late);
        for written in &self.records {
            let Written { scene, first, redeemed } = &**written;
            let state = match &scene.state {
                State::Confirmed(confirmation) if confirmation.redeemed => "redeemed",
                _ => scene.state_name(FRESH).as_str(),
            };
            let person = scene.person().map(|person| person.openid.as_str());
            let opens = |tokens: &Vec<ConfirmToken>| -> Vec<bool> {
                tokens.iter().map(|token| scene.answers_to(token)).collect()
            };
            let held: Vec<Vec<bool>> = self.tokens.iter().map(opens).collect();
            let last = |(who, last): &(usize, ConfirmToken)| {
                let mut tokens = self.tokens[*who].iter();
                (*who, tokens.position(|token| last.digest().matches(token)))
            };
            let redeemed: Vec<usize> = redeemed.iter().map(|event| number(*event)).collect();
            write!(
                form,
                "{state} {person:?} {} {held:?} {:?} {redeemed:?} {};",
                scene.version,
                first.as_ref().map(last),
                number(scene.event_id)
            )
            .unwrap();
        }
        let codes: Vec<(usize, usize)> = self
            .codes
            .iter()
            .map(|(code, who)| (number(code.event_id), *who))
            .collect();
        let events = |some: &[EventId], number: &mut dyn FnMut(EventId) -> usize| -> Vec<usize> {
            some.iter().map(|event| number(*event)).collect()
        };
        let (redeemed, undone) = (events(&self.redeemed, &mut number), events(&self.undone, &mut number));
        write!(form, "{codes:?} {redeemed:?} {undone:?}").unwrap();
        let mut hasher = DefaultHasher::new();
        form.hash(&mut hasher);
        hasher.finish()
    }

    /// What `step` makes of it: one moment, or as many as there are tokens to answer with, codes to redeem, or records to go back to.
    fn after(&self, step: Step, login: &mut Login) -> Vec<Self> {
        let before = Rc::clone(self.now());
        let applied = |action: Action<'_>, rng: &mut StdRng| before.scene.apply(action, self.life(), rng);
        let mut next = self.clone();
        match step {
            Step::Scan(who) => {
                next.scans += 1;
                let token = ConfirmToken::random(&mut StdRng::seed_from_u64(1_000 + next.scans as u64));
                let scan = scan_of(PEOPLE[who], &token);
                if let Ok(Outcome::Visible(scene) | Outcome::Hidden(scene)) = applied(scan, &mut login.rng) {
                    let first = before.first.as_ref().map_or(who, |(first, _)| *first);
                    assert_eq!(first, who, "one scanned what another had scanned first");
                    assert!(!self.is_late, "a scan after the deadline");
                    next.tokens[who].push(token.clone());
                    next.write(scene, Some((who, token)), None);
                }
                vec![next]
            }
            Step::Confirm(who) | Step::Decline(who) if self.tokens[who].is_empty() => vec![next],
            Step::Confirm(who) | Step::Decline(who) => {
                let tokens = self.tokens[who].iter();
                tokens.map(|token| self.answered(step, who, token, login)).collect()
            }
            Step::Cancel => {
                let cancel = Action::Cancel {
                    browser_secret: &login.browser,
                };
                if let Ok(Outcome::Visible(scene)) = applied(cancel, &mut login.rng) {
                    assert!(before.scene.is_open() && !self.is_late);
                    next.write(scene, before.first.clone(), None);
                }
                vec![next]
            }
            Step::Redeem if self.codes.is_empty() => vec![next],
            Step::Redeem => self
                .codes
                .iter()
                .map(|(code, who)| self.redeemed_by(code, *who, login))
                .collect(),
            Step::Expire => {
                next.is_late = true;
                vec![next]
            }
            Step::Lose => {
                let older = 1..self.records.len();
                let mut lost: Vec<Self> = older.map(|kept| self.back_to(kept)).collect();
                lost.push(next);
                lost
            }
        }
    }

    fn answered(&self, step: Step, who: usize, token: &ConfirmToken, login: &mut Login) -> Self {
        let mut next = self.clone();
        let before = self.now();
        let action = match step {
            Step::Confirm(_) => Action::Confirm {
                token,
                profile: Profile::default(),
                match_number: None,
            },
            _ => Action::Decline { token },
        };
        match before.scene.apply(action, self.life(), &mut login.rng) {
            Ok(Outcome::Visible(scene)) => {
                let (first, last) = before.first.as_ref().expect("somebody scanned");
                assert_eq!(*first, who, "one answered for another");
                assert!(last.digest().matches(token), "a token of an earlier scan counts");
                assert!(matches!(before.scene.state, State::Scanned(_)) && !self.is_late);
                assert_eq!(scene.person().unwrap().openid, PEOPLE[who]);
                next.write(scene, before.first.clone(), None);
            }
            Ok(Outcome::Repeated) => assert_eq!(before.scene.person().unwrap().openid, PEOPLE[who]),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        next
    }

    fn redeemed_by(&self, code: &AuthorizationCode, who: usize, login: &mut Login) -> Self {
        let mut next = self.clone();
        let before = self.now();
        let action = Action::Redeem(redemption(code));
        match before.scene.apply(action, self.life(), &mut login.rng) {
            Ok(Outcome::Hidden(scene)) => {
                assert_eq!(
                    scene.person().unwrap().openid,
                    PEOPLE[who],
                    "a code gave another's login"
                );
                let event = code.event_id;
                assert!(!before.redeemed.contains(&event), "a code is redeemed twice");
                let again = self.redeemed.contains(&event);
                assert!(
                    !again || self.undone.contains(&event),
                    "a code is redeemed twice, and nothing was lost"
                );
                next.redeemed.push(event);
                next.write(scene, before.first.clone(), Some(event));
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        next
    }

    fn write(&mut self, scene: Scene, first: Option<(usize, ConfirmToken)>, redeemed: Option<EventId>) {
        let before = self.now();
        let is_more = scene.version == before.scene.version + 1 && scene.event_id != before.scene.event_id;
        let is_same = (scene.version, scene.event_id) == (before.scene.version, before.scene.event_id);
        assert!(is_more || is_same);
        assert!(before.scene.is_open() || is_same, "what was over went on");
        let redeemed = before.redeemed.iter().copied().chain(redeemed).collect();
        self.records.push(Rc::new(Written { scene, first, redeemed }));
    }

    /// After a fail-over to a replica that had so many of the records.
    fn back_to(&self, kept: usize) -> Self {
        let mut next = self.clone();
        next.records.truncate(kept);
        let still = &next.now().redeemed;
        next.undone = self
            .redeemed
            .iter()
            .filter(|event| !still.contains(event))
            .copied()
            .collect();
        next
    }

    /// The browser takes what it is told.
    fn told(mut self, login: &Login) -> Self {
        let scene = &self.now().scene;
        if let (State::Confirmed(_), Some(person)) = (&scene.state, scene.person()) {
            let who = PEOPLE.iter().position(|openid| *openid == person.openid).unwrap();
            let code = AuthorizationCode::derive(scene.id, scene.event_id, &login.browser);
            if !self.codes.iter().any(|(known, _)| known.event_id == code.event_id) {
                self.codes.push((code, who));
            }
        }
        self
    }
}

/// Eleven steps of six, in every order: whoever comes when, a login is of who scanned first and answered by their last scan; a code is redeemed
/// once, unless what was lost is that it was, and gives nobody but who confirmed. 5,330 moments, no two alike.
#[test]
#[expect(clippy::print_stdout, reason = "how many there are")]
fn t14_all_interleavings_of_two_phones_and_a_browser() {
    let mut login = Login::waiting();
    let mut seen = HashSet::new();
    let start = Moment {
        records: vec![Rc::new(Written {
            scene: login.scene.clone(),
            first: None,
            redeemed: Vec::new(),
        })],
        done: [0; PLANS.len()],
        tokens: [Vec::new(), Vec::new()],
        codes: Vec::new(),
        is_late: false,
        scans: 0,
        redeemed: Vec::new(),
        undone: Vec::new(),
    };
    let mut open = vec![start];
    let (mut ends, mut logins) = (0, [0, 0]);
    while let Some(moment) = open.pop() {
        if !seen.insert(moment.form()) {
            continue;
        }
        let mut is_over = true;
        for (plan, steps) in PLANS.iter().enumerate() {
            let Some(step) = steps.get(moment.done[plan]) else {
                continue;
            };
            is_over = false;
            for mut next in moment.after(*step, &mut login) {
                next.done[plan] += 1;
                open.push(next.told(&login));
            }
        }
        if is_over {
            ends += 1;
            if let State::Confirmed(confirmation) = &moment.now().scene.state {
                let who = PEOPLE
                    .iter()
                    .position(|openid| *openid == confirmation.scan.person.openid);
                logins[who.unwrap()] += 1;
            }
        }
    }
    println!("{} states, {ends} ends, logins {logins:?}", seen.len());
    assert!(seen.len() > 5_000, "{}", seen.len());
    assert!(logins[0] > 0 && logins[1] > 0, "either may be the one who logs in");
}

/// A scan that is held to nothing.
fn scan_of(openid: &str, token: &ConfirmToken) -> Action<'static> {
    Action::Scan {
        person: Person {
            appid: "wx0".to_owned(),
            openid: openid.to_owned(),
            unionid: None,
        },
        confirm_token: token.digest(),
        entry_scene: None,
        refused: false,
        warned: false,
        asks_number: false,
        late: false,
        typed: None,
    }
}
