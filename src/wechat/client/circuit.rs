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
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Clone, Copy)]
enum State {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
        /// Whether the one that finds out is under way.
        probing: bool,
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

    fn open() -> Self {
        Self::Open {
            until: Instant::now() + between(REST.0, REST.1),
            probing: false,
        }
    }

    fn rests_until(self) -> Option<Instant> {
        match self {
            Self::Open { until, probing } if probing || Instant::now() < until => Some(until),
            Self::Open { .. } | Self::Closed { .. } => None,
        }
    }
}

impl Circuit {
    pub(super) fn is_closed(&self) -> bool {
        !self.lock().is_open()
    }

    /// Until when there is no use in asking, if there is none now. Past while somebody finds out.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.lock().rests_until()
    }

    /// Lets a try through: while closed each, after a rest one at a time.
    pub(super) fn admit(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        if state.rests_until().is_some() {
            return None;
        }
        let mut pass = self.force();
        if let State::Open { probing, .. } = &mut *state {
            *probing = true;
            pass.is_probe = true;
        }
        Some(pass)
    }

    /// Lets a try through that is worth its time whatever is known.
    pub(super) fn force(&self) -> Pass<'_> {
        Pass {
            circuit: self,
            is_probe: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether this opened or closed it.
    fn step(&self, next: impl FnOnce(State) -> State) -> bool {
        let mut state = self.lock();
        let was_open = state.is_open();
        *state = next(*state);
        was_open != state.is_open()
    }
}

/// A try under way. One that is given up without an outcome tells nothing, and leaves it to another to find out.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    is_probe: bool,
}

impl Pass<'_> {
    /// WeChat answered, whatever it said. Says whether it was thought dead.
    pub(super) fn answered(&self) -> bool {
        self.circuit.step(|_| State::default())
    }

    /// WeChat did not, or only what stands before it. Says whether it is thought dead from now on.
    pub(super) fn lost(&self) -> bool {
        self.circuit.step(|state| match state {
            State::Closed { failures } if failures + 1 < FAILURES_MAX => State::Closed { failures: failures + 1 },
            State::Closed { .. } => State::open(),
            State::Open { .. } if self.is_probe => State::open(),
            // It was sent before the circuit opened, so it tells nothing new.
            State::Open { .. } => state,
        })
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let (true, State::Open { probing, .. }) = (self.is_probe, &mut *self.circuit.lock()) {
            *probing = false;
        }
    }
}
