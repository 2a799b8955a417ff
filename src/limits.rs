//! Who may do what how often.
//!
//! What is limited is counted in the store, by all replicas together. Where that does not answer, each counts for itself: a limit
//! never holds up a login, and a store that is away lets nobody do more on one replica than it may do on all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use tokio::time::timeout;

use crate::rate::{Rate, Taken};
use crate::scene::Life;
use crate::store::memory::MemoryLimits;
use crate::store::{LimitKey, LimitStore};
use crate::telemetry::Metrics;

/// How long the store has to count.
const PATIENCE: Duration = Duration::from_secs(1);

const MINUTE: Duration = Duration::from_mins(1);
/// How often one person may type a short code wrongly, and after how long once more.
const WRONG_SHORT_CODES: (u32, Duration) = (5, Duration::from_mins(10));

const DAY: Duration = Duration::from_hours(24);

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $rule:ident $name:literal,)*) => {
        /// What is limited, and by whom it is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule { $($(#[doc = $doc])+ $rule,)* }

        impl Rule {
            /// Its name: on the wire, in keys and in metrics.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$rule => $name,)* } }
        }
    };
}

rules! {
    /// Scenes started, by address.
    ScenesPerAddress "scenes_per_address",
    /// Scenes started, by client.
    ScenesPerClient "scenes_per_client",
    /// Answers that there is no such scene, by address.
    UnknownPerAddress "unknown_per_address",
    /// Scans, by address.
    ScansPerAddress "scans_per_address",
    /// Scans, by scene.
    ScansPerScene "scans_per_scene",
    /// Redemptions that failed, by client and address.
    FailedRedemptions "failed_redemptions",
    /// Short codes typed, by address.
    ShortCodesPerAddress "short_codes_per_address",
    /// Short codes typed wrongly, by person.
    WrongShortCodesPerPerson "wrong_short_codes_per_person",
    /// Short codes typed wrongly, by AppID.
    WrongShortCodes "wrong_short_codes",
    /// Codes asked of WeChat, by AppID.
    Pictures "pictures",
    /// `wx.login` codes shown to WeChat, by AppID.
    Code2Session "code2session",
    /// Access tokens asked of WeChat, by AppID.
    TokenCalls "token_calls",
    /// Access tokens forced, by AppID.
    ForceRefreshes "force_refreshes",
}

/// How often each may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// A minute.
    pub scenes_per_address: u32,
    /// A minute.
    pub scenes_per_client: u32,
    /// A minute.
    pub unknown_per_address: u32,
    /// A minute.
    pub scans_per_address: u32,
    /// In all its life.
    pub scans_per_scene: u32,
    /// A minute.
    pub failed_redemptions: u32,
    /// A minute.
    pub short_codes_per_address: u32,
    /// A minute.
    pub wrong_short_codes: u32,
    /// A minute.
    pub pictures: u32,
    /// A minute.
    pub code2session: u32,
    /// A day.
    pub token_calls: u32,
    /// A day.
    pub force_refreshes: u32,
}

impl Counts {
    /// What is right for most: an address may be an office's, or a carrier's.
    pub const DEFAULT: Self = Self {
        scenes_per_address: 120,
        scenes_per_client: 6_000,
        unknown_per_address: 120,
        scans_per_address: 120,
        scans_per_scene: 10,
        failed_redemptions: 60,
        short_codes_per_address: 20,
        wrong_short_codes: 300,
        pictures: 4_000,
        code2session: 4_000,
        token_calls: 200,
        force_refreshes: 5,
    };
}

/// Too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} reached its limit of {} in {:?}", rule.name(), rate.count(), rate.period())]
pub struct Limited {
    /// Of what.
    pub rule: Rule,
    /// How often it may be.
    pub rate: Rate,
    /// After how long the next one may.
    pub retry_after: Duration,
}

/// Counts. Clones count together.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    store: Arc<dyn LimitStore>,
    alone: MemoryLimits,
    counts: Counts,
    /// Whether no more is limited than [`Rule::always_holds`] says.
    is_off: bool,
    life_of_scene: Duration,
    metrics: Metrics,
}

impl Limits {
    /// These, counted in this store. With `is_off` only what WeChat itself counts is, and the guessing of short codes.
    #[must_use]
    pub fn new(
        store: Arc<dyn LimitStore>,
        counts: Counts,
        is_off: bool,
        scene_ttl: Duration,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            alone: MemoryLimits::default(),
            counts,
            is_off,
            life_of_scene: Life::of_new(scene_ttl).0,
            metrics,
        }))
    }

    /// Takes one of what `subject` may have.
    ///
    /// # Errors
    /// [`Limited`] when none is left.
    pub async fn take(&self, rule: Rule, subject: &[u8]) -> Result<(), Limited> {
        self.take_at(rule, self.rate(rule), subject).await
    }

    /// The same where nobody waits for it: it leaves some to those who do.
    ///
    /// # Errors
    /// [`Limited`]
    pub async fn take_spare(&self, rule: Rule, subject: &[u8]) -> Result<(), Limited> {
        self.take_at(rule, self.rate(rule).sparing(), subject).await
    }

    /// Counts one that was had already, as what nobody knows before it was done: after how long the next one may be.
    pub async fn took(&self, rule: Rule, subject: &[u8]) -> Duration {
        let rate = self.rate(rule);
        let wait = match self.count(rule, rate, subject).await {
            Taken::Yes(debt) => rate.wait(debt),
            Taken::NotFor(wait) => wait,
        };
        if !wait.is_zero() {
            self.0.metrics.limited_total.with_label_values(&[rule.name()]).inc();
        }
        wait
    }

    /// Gives one back that was taken with [`Self::take`], since it turned out not to count.
    pub async fn give_back(&self, rule: Rule, subject: &[u8]) {
        let (key, rate) = (key(rule, subject), self.rate(rule));
        // If the store does not answer it stays taken: the stricter way to be wrong.
        let given = timeout(PATIENCE, self.0.store.give_back(key, rate)).await;
        if !matches!(given, Ok(Ok(()))) {
            self.0.alone.give_back_now(key, rate);
        }
    }

    async fn take_at(&self, rule: Rule, rate: Rate, subject: &[u8]) -> Result<(), Limited> {
        if self.0.is_off && !rule.always_holds() {
            return Ok(());
        }
        match self.count(rule, rate, subject).await {
            Taken::Yes(_) => Ok(()),
            Taken::NotFor(retry_after) => {
                self.0.metrics.limited_total.with_label_values(&[rule.name()]).inc();
                Err(Limited {
                    rule,
                    rate,
                    retry_after,
                })
            }
        }
    }

    async fn count(&self, rule: Rule, rate: Rate, subject: &[u8]) -> Taken {
        let key = key(rule, subject);
        let counted = timeout(PATIENCE, self.0.store.take(key, rate)).await;
        counted.ok().and_then(Result::ok).unwrap_or_else(|| {
            self.0.metrics.limits_alone_total.inc();
            self.0.alone.take_now(key, rate)
        })
    }

    fn rate(&self, rule: Rule) -> Rate {
        let counts = &self.0.counts;
        match rule {
            Rule::ScenesPerAddress => Rate::bursting(counts.scenes_per_address, MINUTE),
            Rule::ScenesPerClient => Rate::bursting(counts.scenes_per_client, MINUTE),
            Rule::UnknownPerAddress => Rate::bursting(counts.unknown_per_address, MINUTE),
            Rule::ScansPerAddress => Rate::bursting(counts.scans_per_address, MINUTE),
            Rule::ScansPerScene => Rate::once(counts.scans_per_scene, self.0.life_of_scene),
            Rule::FailedRedemptions => Rate::bursting(counts.failed_redemptions, MINUTE),
            Rule::ShortCodesPerAddress => Rate::bursting(counts.short_codes_per_address, MINUTE),
            Rule::WrongShortCodesPerPerson => Rate::once(WRONG_SHORT_CODES.0, WRONG_SHORT_CODES.1),
            Rule::WrongShortCodes => Rate::bursting(counts.wrong_short_codes, MINUTE),
            Rule::Pictures => Rate::smooth(counts.pictures, MINUTE),
            Rule::Code2Session => Rate::smooth(counts.code2session, MINUTE),
            Rule::TokenCalls => Rate::within(counts.token_calls, DAY),
            Rule::ForceRefreshes => Rate::within(counts.force_refreshes, DAY),
        }
    }
}

impl Rule {
    /// Whether it is limited in any case: WeChat counts it too, and refuses everybody once it is too much; or it keeps from guessing.
    fn always_holds(self) -> bool {
        matches!(
            self,
            Self::Pictures
                | Self::Code2Session
                | Self::TokenCalls
                | Self::ForceRefreshes
                | Self::WrongShortCodesPerPerson
                | Self::WrongShortCodes
        )
    }
}

/// Domain-separated by the rule, so that none is taken for another.
fn key(rule: Rule, subject: &[u8]) -> LimitKey {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [rule.name().as_bytes(), &[0], subject] {
        context.update(part);
    }
    let hash = context.finish();
    let subject = hash.as_ref().first_chunk().copied().unwrap_or_default();
    LimitKey {
        rule: rule.name(),
        subject,
    }
}

/// Who an address is, as a subject of [`Limits::take`].
#[must_use]
pub fn octets(address: IpAddr) -> Vec<u8> {
    match network_of(address) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whoever has one IPv6 address has its /64; an IPv4 address is one by itself, translated to IPv6 (RFC 6052 §2.1) too.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                std::net::Ipv4Addr::new(a, b, c, d).into()
            }
            [a, b, c, d, ..] => std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into(),
        },
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits")
            .field("counts", &self.0.counts)
            .field("is_off", &self.0.is_off)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_one_address_of_a_network_has_all_of_it_and_no_other() {
        for (one, other, is_same) in [
            ("203.0.113.1", "203.0.113.2", false),
            ("203.0.113.1", "::ffff:203.0.113.1", true),
            ("2001:db8::1", "2001:db8::2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("64:ff9b::203.0.113.1", "64:ff9b::203.0.113.2", false),
            ("64:ff9b::203.0.113.1", "203.0.113.1", true),
        ] {
            let [a, b] = [one, other].map(|address| network_of(address.parse().unwrap()));
            assert_eq!(a == b, is_same, "{one} and {other}");
        }
    }
}
