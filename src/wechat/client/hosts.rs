//! Which of WeChat's hosts is asked, and when none is.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Url;
use tokio::time::Instant;

use super::Call;
use super::circuit::{Circuit, Pass};
use crate::telemetry::Metrics;

#[derive(Debug)]
pub(super) struct Hosts {
    all: Vec<Host>,
    /// The place in `all` of the one that could be connected to last.
    preferred: AtomicUsize,
    metrics: Metrics,
}

#[derive(Debug)]
struct Host {
    base: Url,
    /// In logs and metrics.
    name: &'static str,
    stable_token: Circuit,
    token: Circuit,
    getwxacodeunlimit: Circuit,
    jscode2session: Circuit,
}

impl Host {
    fn new(base: Url, name: &'static str) -> Self {
        Self {
            base,
            name,
            stable_token: Circuit::default(),
            token: Circuit::default(),
            getwxacodeunlimit: Circuit::default(),
            jscode2session: Circuit::default(),
        }
    }

    fn circuit(&self, call: Call) -> &Circuit {
        match call {
            Call::StableToken => &self.stable_token,
            Call::Token => &self.token,
            Call::GetWxaCodeUnlimit => &self.getwxacodeunlimit,
            Call::Jscode2session => &self.jscode2session,
        }
    }
}

impl Hosts {
    pub(super) fn new(primary: Url, fail_over: Option<Url>, metrics: Metrics) -> Self {
        let fail_over = fail_over.map(|base| Host::new(base, "fail_over"));
        Self {
            all: std::iter::once(Host::new(primary, "primary"))
                .chain(fail_over)
                .collect(),
            preferred: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Until when none is asked for this, if none is now.
    pub(super) fn rest_until(&self, call: Call) -> Option<Instant> {
        if call.is_paced() {
            return None;
        }
        let rests = self.all.iter().map(|host| host.circuit(call).rests_until());
        rests.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Until when the first of these calls rests that no host has answered for a while, if there is one; it may be over.
    pub(super) fn fails_until(&self) -> Option<Instant> {
        [Call::Jscode2session, Call::GetWxaCodeUnlimit]
            .into_iter()
            .find(|call| self.all.iter().all(|host| !host.circuit(*call).is_closed()))
            .map(|call| self.rest_until(call).unwrap_or_else(Instant::now))
    }

    /// The one to ask. One that answers is asked on, so that nobody pays for finding out whether another one is back.
    pub(super) fn choose(&self, call: Call) -> Option<Chosen<'_>> {
        let answering = self.in_order().filter(|(_, host)| host.circuit(call).is_closed());
        let chosen = |(place, host), pass| Chosen {
            hosts: self,
            place,
            host,
            call,
            pass,
        };
        answering
            .chain(self.in_order())
            .find_map(|found| Some(chosen(found, found.1.circuit(call).admit()?)))
            .or_else(|| {
                let first = self.in_order().next().filter(|_| call.is_paced())?;
                Some(chosen(first, first.1.circuit(call).force()))
            })
    }

    /// Beginning with the preferred one.
    fn in_order(&self) -> impl Iterator<Item = (usize, &Host)> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        self.all.iter().enumerate().cycle().skip(preferred).take(self.all.len())
    }
}

/// A host chosen for one try, which is to be told how that went.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    hosts: &'a Hosts,
    place: usize,
    host: &'a Host,
    call: Call,
    pass: Pass<'a>,
}

impl Chosen<'_> {
    pub(super) fn base(&self) -> &Url {
        &self.host.base
    }

    /// It answered, whatever it said.
    pub(super) fn answered(self) {
        if self.pass.answered() {
            let [call, host] = self.tell_open(false);
            tracing::info!(call, host, "WeChat answers again");
        }
    }

    /// It did not, or only what stands before it.
    pub(super) fn lost(self) {
        if self.pass.lost() {
            let [call, host] = self.tell_open(true);
            tracing::warn!(
                call,
                host,
                "WeChat fails again and again and is asked but once in a while"
            );
        }
    }

    /// It could not even be connected to, so that the next one is preferred.
    pub(super) fn unreached(self) {
        let next = (self.place + 1) % self.hosts.all.len();
        // Whoever else found out first has moved on already.
        let _ = self
            .hosts
            .preferred
            .compare_exchange(self.place, next, Ordering::Relaxed, Ordering::Relaxed);
        self.lost();
    }

    fn tell_open(&self, is_open: bool) -> [&'static str; 2] {
        let labels = [self.call.name(), self.host.name];
        let gauge = self.hosts.metrics.wechat_circuit_open.with_label_values(&labels);
        gauge.set(i64::from(is_open));
        labels
    }
}
