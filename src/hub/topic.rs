//! One scene as its subscribers here know it: what to believe of hints and of reads, and when to look again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::entropy;
use crate::scene::{BrowserSecret, Digest, EventId, PublicState, Return, SceneId, StateName, secret};
use crate::store::Stored;
use crate::traceparent::Traceparent;

/// How far the store's clock and ours may differ over a scene's life.
const SLACK: Duration = Duration::from_millis(10);

/// What subscribers are told of a scene.
#[derive(Debug, Clone)]
pub struct Told {
    scene: Arc<Watched>,
    version: u64,
    event_id: EventId,
    what: What,
}

/// What stays the same about a scene as long as it lives.
#[derive(Debug)]
pub struct Watched {
    /// Its id.
    pub id: SceneId,
    /// When it expires unless it ends before.
    pub deadline: Instant,
    /// The same by the wall clock, in seconds since the Unix epoch; only informs.
    pub expires_at: i64,
    /// Where its browser goes when it is over.
    pub returns: Option<Return>,
    /// The span of its start.
    pub traceparent: Option<Traceparent>,
    /// What the browser secret of everybody who is told must hash to.
    browser_secret: Digest<secret::Browser>,
}

#[derive(Debug, Clone)]
enum What {
    State(PublicState, Instant),
    Ended(Reason),
}

/// Why a scene is over although nobody ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its time was up.
    Time,
    /// The store lost its record.
    Lost,
}

impl Reason {
    /// As on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Lost => "lost",
        }
    }
}

impl Told {
    /// A record just read, outside any topic.
    #[must_use]
    pub fn read(read: &Stored) -> Self {
        let scene = Watched {
            id: read.scene.id,
            deadline: Instant::now() + read.life().until_deadline(),
            expires_at: read.scene.expires_at,
            returns: read.scene.authorization.returns(),
            traceparent: read.scene.traceparent,
            browser_secret: read.scene.browser_secret,
        };
        let state = read.scene.public_state(read.life());
        let (version, event_id) = (state.version, state.event_id);
        let what = match state.state {
            StateName::Expired => What::Ended(Reason::Time),
            _ => What::State(state, Instant::now()),
        };
        Self {
            scene: Arc::new(scene),
            version,
            event_id,
            what,
        }
    }

    /// What names this very event to the browser.
    #[must_use]
    pub fn id(&self) -> String {
        match self.what {
            What::State(..) => self.event_id.to_string(),
            What::Ended(Reason::Time) => format!("expired.{}", self.event_id),
            What::Ended(Reason::Lost) => format!("lost.{}", self.event_id),
        }
    }

    /// The last visible transition.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        self.event_id
    }

    /// How many visible transitions there were, the first included.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The state's name.
    #[must_use]
    pub fn state(&self) -> StateName {
        match &self.what {
            What::State(state, _) => state.state,
            What::Ended(_) => StateName::Expired,
        }
    }

    /// Why it expired, if it did.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.what {
            What::State(..) => None,
            What::Ended(reason) => Some(reason),
        }
    }

    /// The public state, unless it expired.
    #[must_use]
    pub fn public(&self) -> Option<&PublicState> {
        match &self.what {
            What::State(state, _) => Some(state),
            What::Ended(_) => None,
        }
    }

    /// Whether an authorization code can be redeemed just now.
    #[must_use]
    pub fn is_redeemable(&self) -> bool {
        match &self.what {
            What::State(state, heard_at) => Duration::from_millis(state.code_left_ms) > heard_at.elapsed(),
            What::Ended(_) => false,
        }
    }

    /// What stays the same.
    #[must_use]
    pub fn scene(&self) -> &Watched {
        &self.scene
    }

    pub(super) fn opens_for(&self, secret: &BrowserSecret) -> bool {
        self.scene.browser_secret.matches(secret)
    }

    fn is_over(&self) -> bool {
        matches!(self.what, What::Ended(_))
    }
}

/// What a topic made of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Believed {
    /// It tells something new.
    New,
    /// Known already.
    Known,
    /// Something was heard since the read was issued; it may be older than that, so read again.
    Overtaken,
}

/// A read of one scene.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued {
    /// How much had been heard that may be newer: hints, and reads that told something new.
    heard: u64,
    number: u64,
}

/// One who wants to be told.
#[derive(Debug)]
struct Member {
    number: u64,
    /// Whether its secret was found right. Until then it takes nobody's place, and nobody takes its own.
    admitted: bool,
    replaced: Arc<Notify>,
}

/// A scene watched here. Lives as long as it has members, and a moment longer.
#[derive(Debug)]
pub(super) struct Topic {
    sender: watch::Sender<Option<Told>>,
    members: VecDeque<Member>,
    heard: u64,
    /// How many reads were issued.
    issued: u64,
    /// The last of them that was believed.
    believed: u64,
    watched: bool,
    leaving: bool,
    due: Option<Instant>,
    slow_due: Option<Instant>,
    empty_since: Option<Instant>,
}

impl Topic {
    pub(super) fn new() -> Self {
        Self {
            sender: watch::Sender::new(None),
            members: VecDeque::new(),
            heard: 0,
            issued: 0,
            believed: 0,
            watched: false,
            leaving: false,
            due: None,
            slow_due: None,
            empty_since: None,
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    pub(super) fn set_watched(&mut self) {
        self.watched = true;
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Before a read: what it must not be believed against.
    pub(super) fn issue(&mut self) -> Issued {
        self.issued += 1;
        Issued {
            heard: self.heard,
            number: self.issued,
        }
    }

    pub(super) fn told(&self) -> Option<Told> {
        self.sender.borrow().clone()
    }

    pub(super) fn receiver(&self) -> watch::Receiver<Option<Told>> {
        self.sender.subscribe()
    }

    /// Adds somebody who still has to prove that they may be told. The answer is told when a newer one takes their place.
    pub(super) fn join(&mut self, number: u64) -> Arc<Notify> {
        let replaced = Arc::new(Notify::new());
        self.members.push_back(Member {
            number,
            admitted: false,
            replaced: Arc::clone(&replaced),
        });
        self.empty_since = None;
        replaced
    }

    /// Makes who joined under `number` one of those who are told; beyond `most` of these, the oldest is told to go.
    pub(super) fn admit(&mut self, number: u64, most: usize) {
        for member in &mut self.members {
            member.admitted |= member.number == number;
        }
        while self.members.iter().filter(|member| member.admitted).count() > most.max(1)
            && let Some(oldest) = self.members.iter().position(|member| member.admitted)
            && let Some(oldest) = self.members.remove(oldest)
        {
            oldest.replaced.notify_one();
        }
    }

    pub(super) fn part(&mut self, number: u64) {
        self.members.retain(|member| member.number != number);
        if self.members.is_empty() {
            self.empty_since = Some(Instant::now());
        }
    }

    /// Marks a topic that nobody has wanted for `linger` as being left; from then on nobody may join it.
    pub(super) fn leave_if_empty(&mut self, linger: Duration) -> bool {
        self.leaving = self.empty_since.is_some_and(|since| since.elapsed() >= linger);
        self.leaving
    }

    pub(super) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether a lost piece of news would be missed by a person who is just being asked.
    pub(super) fn is_scanned(&self) -> bool {
        self.sender
            .borrow()
            .as_ref()
            .is_some_and(|told| told.state() == StateName::Scanned)
    }

    /// Takes a hint: believed if and only if it goes forward.
    pub(super) fn hint(&mut self, state: PublicState) {
        self.heard += 1;
        self.sender.send_if_modified(|told| match told {
            Some(told) if !told.is_over() && state.version > told.version => {
                *told = Told {
                    scene: Arc::clone(&told.scene),
                    version: state.version,
                    event_id: state.event_id,
                    what: What::State(state, Instant::now()),
                };
                true
            }
            // Nothing has been read yet: the read under way will see what this hint tells of.
            Some(_) | None => false,
        });
    }

    /// Takes a read: believed even if it goes backwards, because the store may have lost data.
    pub(super) fn believe(&mut self, read: &Stored, issued: Issued) -> Believed {
        if let Some(older) = self.is_older(issued) {
            return older;
        }
        let believed = self.take(Told::read(read));
        self.heard += u64::from(believed == Believed::New);
        believed
    }

    /// What to make of a read that may tell what was before.
    fn is_older(&mut self, issued: Issued) -> Option<Believed> {
        if self.heard != issued.heard {
            return Some(Believed::Overtaken);
        }
        // One that was issued later said already how things are.
        if issued.number < self.believed {
            return Some(Believed::Known);
        }
        self.believed = issued.number;
        None
    }

    fn take(&mut self, next: Told) -> Believed {
        let known = self.told();
        if known
            .as_ref()
            .is_some_and(|known| known.scene.browser_secret != next.scene.browser_secret)
        {
            // The record became somebody else's: whoever watched the old one has lost it, and whoever comes now starts anew.
            self.end_as_lost();
            self.sender = watch::Sender::new(Some(next));
            return Believed::New;
        }
        if known.as_ref().is_some_and(Told::is_over) {
            return Believed::Known;
        }
        let new = known.is_none_or(|known| known.id() != next.id());
        self.sender.send_if_modified(|told| {
            // What is the same event may still tell of a code that was redeemed meanwhile, or of a deadline that moved.
            *told = Some(next);
            new
        });
        if new { Believed::New } else { Believed::Known }
    }

    /// Takes a read that found no record.
    pub(super) fn lose(&mut self, issued: Issued) -> Believed {
        if let Some(older) = self.is_older(issued) {
            return older;
        }
        if self.end_as_lost() {
            Believed::New
        } else {
            Believed::Known
        }
    }

    fn end_as_lost(&mut self) -> bool {
        self.sender.send_if_modified(|told| match told {
            Some(known) if !known.state().is_final() => {
                known.what = What::Ended(Reason::Lost);
                true
            }
            Some(_) | None => false,
        })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Answers what was due before.
    pub(super) fn set_due(&mut self, due: Option<Instant>) -> Option<Instant> {
        std::mem::replace(&mut self.due, due)
    }

    /// When to look at this topic again: to leave it, to see whether it expired, or because long nobody has looked.
    pub(super) fn next_due(&mut self, now: Instant, linger: Duration, slow: Duration) -> Option<Instant> {
        if let Some(since) = self.empty_since {
            return Some(since + linger);
        }
        let told = self.sender.borrow();
        let told = told.as_ref()?;
        if told.state().is_final() {
            return None;
        }
        // Nobody has looked yet, so what came first puts it off no further.
        if let Some(due) = self.due.filter(|due| *due <= now) {
            return Some(due);
        }
        let slow_due = match self.slow_due {
            Some(due) if due > now => due,
            Some(_) | None => now + entropy::between(slow.mul_f64(0.8), slow.mul_f64(1.2)),
        };
        self.slow_due = Some(slow_due);
        // A little later than the deadline, so that the store agrees that it is past.
        let deadline = told.scene.deadline + SLACK;
        Some(if deadline > now {
            slow_due.min(deadline)
        } else {
            slow_due
        })
    }
}
