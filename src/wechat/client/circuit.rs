//! A circuit breaker: while WeChat is dead, a caller hears so at once instead of waiting for it in vain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::entropy::between;

/// So many tries in a row have to fail before no more are made: a single one tells of nothing but itself.
const FAILURES_MAX: u32 = 5;

/// How long none is made before one finds out whether WeChat is back. Each replica has circuits of its own, so this also bounds how
/// much later than the first of them the last one serves again.
const REST: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(5));

/// What is known of one kind of call at one host.
///
/// Each kind has a circuit of its own because they fail apart: pictures that time out must not hold up scans. Each host has, because
/// the other one may serve.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    state: State,
    answered_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
        /// When the one that finds out was sent, while it is under way.
        probed_at: Option<Instant>,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl State {
    fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Each probe begins a rest, and how it ends changes nothing of that: one that hangs may have been sent just before WeChat
    /// came back, and must not keep the next from finding that out.
    fn open(probed_at: Option<Instant>) -> Self {
        Self::Open {
            until: Instant::now() + between(REST.0, REST.1),
            probed_at,
        }
    }

    fn rests_until(self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } if Instant::now() < until => Some(until),
            Self::Open { .. } | Self::Closed { .. } => None,
        }
    }
}

impl Circuit {
    pub(super) fn is_closed(&self) -> bool {
        !self.lock().state.is_open()
    }

    /// Until when there is no use in asking, if there is none now.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.lock().state.rests_until()
    }

    /// Lets a try through: while closed each, else one after each rest.
    pub(super) fn admit(&self) -> Option<Pass<'_>> {
        let mut known = self.lock();
        if known.state.rests_until().is_some() {
            return None;
        }
        let pass = self.force();
        if known.state.is_open() {
            known.state = State::open(Some(pass.began_at));
        }
        Some(pass)
    }

    /// Lets a try through that is worth its time whatever is known.
    pub(super) fn force(&self) -> Pass<'_> {
        Pass {
            circuit: self,
            began_at: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A try under way. One that is given up without an outcome tells nothing, and leaves it to another to find out.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    began_at: Instant,
}

impl Pass<'_> {
    /// WeChat answered, whatever it said. Says whether it was thought dead.
    pub(super) fn answered(&self) -> bool {
        let mut known = self.circuit.lock();
        let was_open = known.state.is_open();
        *known = Known {
            state: State::default(),
            answered_at: Some(Instant::now()),
        };
        was_open
    }

    /// WeChat did not, or only what stands before it. Says whether it is thought dead from now on.
    pub(super) fn lost(&self) -> bool {
        let mut known = self.circuit.lock();
        // It may have hung since a trouble that is over.
        if known.answered_at.is_some_and(|at| self.began_at < at) {
            return false;
        }
        match &mut known.state {
            State::Closed { failures } if *failures + 1 < FAILURES_MAX => {
                *failures += 1;
                false
            }
            State::Closed { .. } => {
                known.state = State::open(None);
                true
            }
            State::Open { probed_at, .. } => {
                probed_at.take_if(|at| *at == self.began_at);
                false
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let State::Open { until, probed_at } = &mut self.circuit.lock().state
            && probed_at.take_if(|at| *at == self.began_at).is_some()
        {
            *until = Instant::now();
        }
    }
}
