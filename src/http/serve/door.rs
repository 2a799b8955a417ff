//! Who is let in: so many connections of one address, and few more of all while memory is short.
//!
//! A connection costs memory before it says a word, so it is counted where it is accepted. One that is too many is closed without a
//! word: an EventSource tries that again later, and would give up on an answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::AppState;
use crate::limits::network_of;

/// So many more are accepted while memory is short than there were when it became so: what ends a login may come on a new one.
const MORE_WHILE_TIGHT: usize = 1_024;

/// The public's connections, by address.
#[derive(Debug)]
pub struct Door {
    /// Knows the proxies, which come for many, and whether memory is short.
    state: AppState,
    addresses: Addresses,
    /// How many there were when memory became short.
    when_tight: Option<usize>,
}

/// How many connections each address may have, and has.
#[derive(Debug)]
struct Addresses {
    most: usize,
    open: Arc<Counts>,
}

/// By network; whoever has none leaves nothing behind.
type Counts = Mutex<HashMap<IpAddr, usize>>;

/// A connection's place among those of its address, until it is dropped. Who comes for many needs none.
#[derive(Debug, Default)]
pub(super) struct Place(Option<(IpAddr, Arc<Counts>)>);

impl Door {
    /// For so many connections of one address (a /64 for IPv6), trusted proxies apart.
    #[must_use]
    pub fn new(state: AppState, most: usize) -> Self {
        Self {
            state,
            addresses: Addresses::new(most),
            when_tight: None,
        }
    }

    /// Whether there is memory for one more connection when there are `open`.
    pub(super) fn has_memory(&mut self, open: usize) -> bool {
        if !self.state.load.is_tight() {
            self.when_tight = None;
            return true;
        }
        open < *self.when_tight.get_or_insert(open) + MORE_WHILE_TIGHT
    }

    /// Lets a caller in, unless its address has all that it may have.
    pub(super) fn admit(&self, caller: IpAddr) -> Option<Place> {
        if self.state.trusted_proxies.trust(caller.to_canonical()) {
            return Some(Place::default());
        }
        let place = self.addresses.admit(caller);
        if place.is_none() {
            self.state.metrics.connections_refused_total.inc();
        }
        place
    }
}

impl Addresses {
    fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    fn admit(&self, caller: IpAddr) -> Option<Place> {
        let network = network_of(caller);
        let mut open = lock(&self.open);
        let count = open.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place(Some((network, Arc::clone(&self.open)))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((network, open)) = &self.0 else { return };
        let mut open = lock(open);
        if let Some(count) = open.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                open.remove(network);
            }
        }
    }
}

fn lock(open: &Counts) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_so_many_places_and_a_64_is_one() {
        let addresses = Addresses::new(2);
        let admit = |caller: &str| addresses.admit(caller.parse().unwrap());
        let one = admit("2001:db8::1").unwrap();
        let _two = admit("2001:db8::ffff:2").unwrap();
        assert!(admit("2001:db8::3").is_none());
        let _of_another = admit("2001:db8:0:1::3").unwrap();
        drop(one);
        let again = admit("2001:db8::3").unwrap();
        assert!(admit("2001:db8::3").is_none());
        let (_four, _mapped) = (admit("192.0.2.1").unwrap(), admit("::ffff:192.0.2.1").unwrap());
        assert!(admit("192.0.2.1").is_none());
        drop(again);
        assert_eq!(lock(&addresses.open).len(), 3);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let addresses = Addresses::new(1);
        for number in 0..1_000_u32 {
            assert!(addresses.admit(std::net::Ipv4Addr::from(number).into()).is_some());
        }
        assert_eq!(lock(&addresses.open).len(), 0);
    }
}
