//! Misbehaviour: what was ordered, and what happens by itself.

use std::collections::VecDeque;

use axum::http::StatusCode;
use rand::distr::Bernoulli;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use tokio::time::Duration;

use super::calls::Call;
use super::errcode::Errcode;

const ORDERS_MAX: usize = 256;
const TIMES_MAX: u32 = 1_000_000;
const DELAY_MS_MAX: u64 = 600_000;
/// What happens by itself is no slower than this.
const OWN_DELAY_MS_MAX: u64 = 300;

/// The body of `POST /simulator/faults`.
#[derive(Debug, Deserialize)]
pub(super) struct FaultOrder {
    call: Call,
    #[serde(default = "once")]
    times: u32,
    delay_ms: Option<u64>,
    errcode: Option<Errcode>,
    status: Option<u16>,
    #[serde(default)]
    reset: bool,
    body: Option<String>,
    #[serde(default)]
    truncate: bool,
}

/// How one call misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// The answer comes so much later; the call itself is done at once, as by a WeChat that is merely slow to answer.
    pub(super) delay: Duration,
    /// This is answered, and nothing done.
    pub(super) instead: Option<Instead>,
    /// Only the first half is sent, as if it were all.
    pub(super) truncate: bool,
    /// The connection breaks off half-way.
    pub(super) reset: bool,
}

/// What is answered instead of doing the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instead {
    pub(super) errcode: Option<Errcode>,
    pub(super) status: StatusCode,
    pub(super) body: Option<String>,
}

/// Orders not yet carried out, and the dice.
#[derive(Debug)]
pub(super) struct Faults {
    orders: VecDeque<Order>,
    dice: Bernoulli,
    rng: StdRng,
}

#[derive(Debug)]
struct Order {
    call: Call,
    times: u32,
    fault: Fault,
}

impl Faults {
    /// Each call misbehaves by itself as `dice` say, the same way for the same `seed` and order of calls.
    pub(super) fn new(dice: Bernoulli, seed: u64) -> Self {
        Self {
            orders: VecDeque::new(),
            dice,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Arms an order behind those already there; `Err` says what is wrong with it.
    pub(super) fn arm(&mut self, order: FaultOrder) -> Result<(), String> {
        if self.orders.len() >= ORDERS_MAX {
            return Err(format!(
                "{ORDERS_MAX} faults wait already; DELETE /simulator/faults forgets them"
            ));
        }
        self.orders.push_back(order.check()?);
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        self.orders.clear();
    }

    /// How the next `call` misbehaves.
    pub(super) fn next(&mut self, call: Call) -> Option<Fault> {
        let Some(at) = self.orders.iter().position(|order| order.call == call) else {
            return self.rng.sample(self.dice).then(|| self.own(call));
        };
        let order = self.orders.get_mut(at)?;
        order.times -= 1;
        let fault = order.fault.clone();
        if order.times == 0 {
            self.orders.remove(at);
        }
        Some(fault)
    }

    /// Whether a harmless variation of the protocol shall be taken this time.
    pub(super) fn toss(&mut self) -> bool {
        self.rng.random()
    }

    fn own(&mut self, call: Call) -> Fault {
        let kinds = match call {
            Call::Getwxacodeunlimit => 6,
            Call::Token | Call::StableToken | Call::Jscode2session => 4,
        };
        let mut fault = Fault::default();
        match self.rng.random_range(0..kinds) {
            0 => fault.delay = Duration::from_millis(self.rng.random_range(1..=OWN_DELAY_MS_MAX)),
            1 => fault.instead = Some(Instead::errcode(Errcode::SYSTEM_ERROR)),
            2 => fault.instead = Some(Instead::status(StatusCode::SERVICE_UNAVAILABLE)),
            3 => fault.reset = true,
            4 => fault.truncate = true,
            _ => fault.instead = Some(Instead::errcode(Errcode::INVALID_CREDENTIAL)),
        }
        fault
    }
}

impl Instead {
    fn errcode(errcode: Errcode) -> Self {
        Self {
            errcode: Some(errcode),
            status: StatusCode::OK,
            body: None,
        }
    }

    fn status(status: StatusCode) -> Self {
        Self {
            errcode: None,
            status,
            body: None,
        }
    }
}

impl FaultOrder {
    fn check(self) -> Result<Order, String> {
        if !(1..=TIMES_MAX).contains(&self.times) {
            return Err(format!("times: {} is not within 1 and {TIMES_MAX}", self.times));
        }
        let delay_ms = self.delay_ms.unwrap_or(0);
        if delay_ms > DELAY_MS_MAX {
            return Err(format!("delay_ms: {delay_ms} is above {DELAY_MS_MAX}"));
        }
        let status = self.status.unwrap_or(200);
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|_| (200..=599).contains(&status))
            .ok_or_else(|| format!("status: {status} is not within 200 and 599"))?;
        let replaced = self.errcode.is_some() || self.status.is_some() || self.body.is_some();
        let fault = Fault {
            delay: Duration::from_millis(delay_ms),
            instead: replaced.then_some(Instead {
                errcode: self.errcode,
                status,
                body: self.body,
            }),
            truncate: self.truncate,
            reset: self.reset,
        };
        if fault == Fault::default() {
            return Err("give one or more of delay_ms, errcode, status, reset, body, truncate".to_owned());
        }
        Ok(Order {
            call: self.call,
            times: self.times,
            fault,
        })
    }
}

fn once() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rate: f64, seed: u64) -> Faults {
        Faults::new(Bernoulli::new(rate).unwrap(), seed)
    }

    fn order(json: serde_json::Value) -> FaultOrder {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn orders_are_carried_out_in_turn_each_as_often_as_it_says() {
        let mut faults = faults(0.0, 0);
        faults
            .arm(order(serde_json::json!({"call": "token", "times": 2, "errcode": -1})))
            .unwrap();
        faults
            .arm(order(serde_json::json!({"call": "jscode2session", "status": 503})))
            .unwrap();
        faults
            .arm(order(serde_json::json!({"call": "token", "reset": true})))
            .unwrap();
        let answers: Vec<_> = (0..4)
            .map(|_| faults.next(Call::Token).map(|fault| fault.instead))
            .collect();
        let failed = Some(Some(Instead::errcode(Errcode::SYSTEM_ERROR)));
        assert_eq!(answers, [failed.clone(), failed, Some(None), None]);
        faults.forget();
        assert_eq!(faults.next(Call::Jscode2session), None);
    }

    #[test]
    fn the_same_seed_misbehaves_the_same_way() {
        let run = |seed| {
            let mut faults = faults(0.5, seed);
            (0..100)
                .map(|_| faults.next(Call::Getwxacodeunlimit))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let faulty = run(7).iter().flatten().count();
        assert!((30..70).contains(&faulty), "{faulty} of 100");
    }

    #[test]
    fn an_order_that_would_do_nothing_is_refused() {
        let mut faults = faults(0.0, 0);
        for (json, named) in [
            (serde_json::json!({"call": "token"}), "delay_ms"),
            (serde_json::json!({"call": "token", "times": 0, "errcode": -1}), "times"),
            (serde_json::json!({"call": "token", "status": 101}), "status"),
            (serde_json::json!({"call": "token", "delay_ms": 600_001}), "delay_ms"),
        ] {
            assert!(faults.arm(order(json)).unwrap_err().contains(named));
        }
        for _ in 0..ORDERS_MAX {
            faults
                .arm(order(serde_json::json!({"call": "token", "errcode": -1})))
                .unwrap();
        }
        assert!(
            faults
                .arm(order(serde_json::json!({"call": "token", "errcode": -1})))
                .is_err()
        );
    }
}
