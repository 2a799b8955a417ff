//! The life of access_tokens: what a new one does to the old one, and how many may be asked for.

use std::collections::{BTreeMap, VecDeque};

use rand::distr::SampleString;
use rand::{CryptoRng, distr::Alphanumeric};
use tokio::time::{Duration, Instant};

use super::errcode::Errcode;
use super::quota::{DAY, MINUTE, Quota};

const LIFE: Duration = Duration::from_hours(2);
/// How long old and new tokens both count.
const OVERLAP: Duration = Duration::from_mins(5);
/// A `force_refresh` sooner than this after the last one refreshes nothing.
const FORCE_APART: Duration = Duration::from_secs(30);
/// WeChat's own are about this long; it advises room for 512.
const TEXT_LEN: usize = 157;
/// How many AppIDs get tokens, where any AppID is accepted.
const APPIDS_MAX: usize = 64;
/// How many replaced tokens of one kind are remembered; an older one is refused like one that never was.
const FORMER_MAX: usize = 16;

/// All tokens of all AppIDs.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    apps: BTreeMap<String, App>,
}

/// What a token call answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) access_token: String,
    /// Whole seconds.
    pub(super) expires_in: u64,
}

impl Tokens {
    /// `/cgi-bin/token`: always a new one. The old one counts five minutes more, or to its own end if that is sooner.
    pub(super) fn renew(&mut self, appid: &str, now: Instant, rng: &mut impl CryptoRng) -> Result<Given, Errcode> {
        let app = self.app(appid)?;
        if !app.renewals.take(now) {
            return Err(Errcode::QUOTA_USED_UP);
        }
        Ok(app.latest.issue(now, rng))
    }

    /// `/cgi-bin/stable_token`: the same one until its last five minutes; with `force`, a new one that kills it at once.
    pub(super) fn stable(
        &mut self,
        appid: &str,
        force: bool,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<Given, Errcode> {
        let app = self.app(appid)?;
        if !app.stable_minute.take(now) {
            return Err(Errcode::TOO_FREQUENT);
        }
        if !app.stable_day.take(now) {
            return Err(Errcode::QUOTA_USED_UP);
        }
        let apart = app.forced_at.is_none_or(|at| now.duration_since(at) >= FORCE_APART);
        if force && apart {
            if !app.forced.take(now) {
                return Err(Errcode::QUOTA_USED_UP);
            }
            app.forced_at = Some(now);
            app.stable = Line::default();
        }
        Ok(app.stable.current(now).unwrap_or_else(|| app.stable.issue(now, rng)))
    }

    /// Whether a picture may be made with `token`; counts it.
    pub(super) fn take_picture(&mut self, token: &str, now: Instant) -> Result<(), Errcode> {
        if token.len() != TEXT_LEN || !token.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Errcode::INVALID_ACCESS_TOKEN);
        }
        for app in self.apps.values_mut() {
            let Some(known) = app.latest.find(token).or_else(|| app.stable.find(token)) else {
                continue;
            };
            if now >= known.ends {
                return Err(known.ended_as);
            }
            let left = app.pictures.take(now);
            return if left { Ok(()) } else { Err(Errcode::QUOTA_USED_UP) };
        }
        Err(Errcode::INVALID_CREDENTIAL)
    }

    /// From now on no token given so far counts; quotas stay used.
    pub(super) fn revoke(&mut self) {
        for app in self.apps.values_mut() {
            app.latest = Line::default();
            app.stable = Line::default();
        }
    }

    fn app(&mut self, appid: &str) -> Result<&mut App, Errcode> {
        if self.apps.len() >= APPIDS_MAX && !self.apps.contains_key(appid) {
            return Err(Errcode::INVALID_APPID);
        }
        Ok(self.apps.entry(appid.to_owned()).or_insert_with(App::new))
    }
}

/// One AppID's tokens. Those of the two calls know nothing of each other.
#[derive(Debug)]
struct App {
    latest: Line,
    stable: Line,
    renewals: Quota,
    stable_minute: Quota,
    stable_day: Quota,
    forced: Quota,
    forced_at: Option<Instant>,
    pictures: Quota,
}

impl App {
    fn new() -> Self {
        Self {
            latest: Line::default(),
            stable: Line::default(),
            renewals: Quota::new(2_000, DAY),
            stable_minute: Quota::new(10_000, MINUTE),
            stable_day: Quota::new(500_000, DAY),
            forced: Quota::new(20, DAY),
            forced_at: None,
            pictures: Quota::new(5_000, MINUTE),
        }
    }
}

/// Tokens that replaced each other, newest last.
#[derive(Debug, Default)]
struct Line {
    tokens: VecDeque<Token>,
}

#[derive(Debug)]
struct Token {
    text: String,
    ends: Instant,
    /// What it is refused with after its end: that of its time, or the one a newer token brought.
    ended_as: Errcode,
}

impl Line {
    /// The newest, unless its last five minutes have come.
    fn current(&self, now: Instant) -> Option<Given> {
        let token = self.tokens.back()?;
        let left = token.ends.checked_duration_since(now)?;
        (left >= OVERLAP).then(|| Given {
            access_token: token.text.clone(),
            expires_in: left.as_secs(),
        })
    }

    fn issue(&mut self, now: Instant, rng: &mut impl CryptoRng) -> Given {
        if let Some(old) = self.tokens.back_mut()
            && old.ends > now + OVERLAP
        {
            old.ends = now + OVERLAP;
            old.ended_as = Errcode::INVALID_CREDENTIAL;
        }
        let text = Alphanumeric.sample_string(rng, TEXT_LEN);
        self.tokens.push_back(Token {
            text: text.clone(),
            ends: now + LIFE,
            ended_as: Errcode::ACCESS_TOKEN_EXPIRED,
        });
        if self.tokens.len() > FORMER_MAX + 1 {
            self.tokens.pop_front();
        }
        Given {
            access_token: text,
            expires_in: LIFE.as_secs(),
        }
    }

    fn find(&self, text: &str) -> Option<&Token> {
        self.tokens.iter().find(|token| token.text == text)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::time::advance;

    use super::*;
    use crate::entropy::os_rng;

    const APPID: &str = "wx0123456789abcdef";

    impl Tokens {
        fn plain_now(&mut self) -> Given {
            self.renew(APPID, Instant::now(), &mut os_rng()).unwrap()
        }

        fn stable_now(&mut self, force: bool) -> Given {
            self.stable(APPID, force, Instant::now(), &mut os_rng()).unwrap()
        }

        fn counts(&mut self, given: &Given) -> Result<(), Errcode> {
            self.take_picture(&given.access_token, Instant::now())
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_token_counts_five_minutes_more() {
        let mut tokens = Tokens::default();
        let old = tokens.plain_now();
        let new = tokens.plain_now();
        assert_ne!(old.access_token, new.access_token);
        assert_eq!(new.expires_in, 7200);
        advance(seconds(299)).await;
        assert_eq!(tokens.counts(&old), Ok(()));
        advance(seconds(1)).await;
        assert_eq!(tokens.counts(&old), Err(Errcode::INVALID_CREDENTIAL));
        assert_eq!(tokens.counts(&new), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_after_two_hours_even_when_it_is_being_replaced() {
        let mut tokens = Tokens::default();
        let old = tokens.plain_now();
        advance(seconds(7100)).await;
        let new = tokens.plain_now();
        advance(seconds(99)).await;
        assert_eq!(tokens.counts(&old), Ok(()));
        advance(seconds(1)).await;
        assert_eq!(tokens.counts(&old), Err(Errcode::ACCESS_TOKEN_EXPIRED));
        advance(seconds(7099)).await;
        assert_eq!(tokens.counts(&new), Ok(()));
        advance(seconds(1)).await;
        assert_eq!(tokens.counts(&new), Err(Errcode::ACCESS_TOKEN_EXPIRED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stable_token_stays_until_its_last_five_minutes() {
        let mut tokens = Tokens::default();
        let first = tokens.stable_now(false);
        advance(seconds(6900)).await;
        let same = tokens.stable_now(false);
        assert_eq!((same.access_token, same.expires_in), (first.access_token.clone(), 300));
        advance(Duration::from_millis(1)).await;
        let next = tokens.stable_now(false);
        assert_ne!(next.access_token, first.access_token);
        assert_eq!(next.expires_in, 7200);
        advance(seconds(299)).await;
        assert_eq!(tokens.counts(&first), Ok(()));
        assert_eq!(tokens.counts(&next), Ok(()));
        advance(seconds(1)).await;
        assert_eq!(tokens.counts(&first), Err(Errcode::ACCESS_TOKEN_EXPIRED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_refresh_kills_at_once_but_only_every_thirty_seconds_and_twenty_times_a_day() {
        let mut tokens = Tokens::default();
        let mut last = tokens.stable_now(false);
        for _ in 0..20 {
            let forced = tokens.stable_now(true);
            assert_ne!(forced.access_token, last.access_token);
            assert_eq!(tokens.counts(&last), Err(Errcode::INVALID_CREDENTIAL));
            advance(seconds(29)).await;
            let again = tokens.stable_now(true);
            assert_eq!(again.access_token, forced.access_token, "too soon to refresh");
            advance(seconds(1)).await;
            last = forced;
        }
        let refused = tokens.stable(APPID, true, Instant::now(), &mut os_rng());
        assert_eq!(refused, Err(Errcode::QUOTA_USED_UP));
        assert_eq!(tokens.stable_now(false).access_token, last.access_token);
        advance(DAY).await;
        assert_ne!(tokens.stable_now(true).access_token, last.access_token);
    }

    #[tokio::test(start_paused = true)]
    async fn the_two_token_calls_and_different_appids_do_not_touch_each_other() {
        let mut tokens = Tokens::default();
        let plain = tokens.plain_now();
        let stable = tokens.stable_now(false);
        let other = tokens.renew("wx-other", Instant::now(), &mut os_rng()).unwrap();
        tokens.stable_now(true);
        tokens.stable_now(false);
        advance(seconds(301)).await;
        assert_eq!(tokens.counts(&plain), Ok(()));
        assert_eq!(tokens.counts(&other), Ok(()));
        assert_eq!(tokens.counts(&stable), Err(Errcode::INVALID_CREDENTIAL));
    }

    #[tokio::test(start_paused = true)]
    async fn token_calls_and_pictures_have_their_quotas() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let stable = tokens.stable_now(false);
        for _ in 0..5_000 {
            assert_eq!(tokens.counts(&stable), Ok(()));
        }
        assert_eq!(tokens.counts(&stable), Err(Errcode::QUOTA_USED_UP));
        for _ in 0..9_999 {
            tokens.stable(APPID, false, now, &mut rng).unwrap();
        }
        assert_eq!(tokens.stable(APPID, false, now, &mut rng), Err(Errcode::TOO_FREQUENT));
        for _ in 0..2_000 {
            tokens.renew(APPID, now, &mut rng).unwrap();
        }
        assert_eq!(tokens.renew(APPID, now, &mut rng), Err(Errcode::QUOTA_USED_UP));
        advance(MINUTE).await;
        assert_eq!(tokens.counts(&stable), Ok(()));
        tokens.stable_now(false);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        for n in 0..100 {
            let given = tokens.renew(&format!("wx{n}"), now, &mut rng);
            assert_eq!(given.is_ok(), n < APPIDS_MAX);
            tokens.renew("wx0", now, &mut rng).unwrap();
        }
        assert_eq!(tokens.apps.len(), APPIDS_MAX);
        assert_eq!(tokens.apps["wx0"].latest.tokens.len(), FORMER_MAX + 1);
    }

    #[test]
    fn an_unknown_token_and_one_that_cannot_be_one_are_refused_differently() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        assert_eq!(tokens.take_picture("abc", now), Err(Errcode::INVALID_ACCESS_TOKEN));
        assert_eq!(
            tokens.take_picture(&"a".repeat(TEXT_LEN), now),
            Err(Errcode::INVALID_CREDENTIAL)
        );
    }
}
