//! What `wx.login` gave: codes that name a person once, for five minutes.

use std::collections::{HashMap, VecDeque};

use rand::CryptoRng;
use rand::distr::{Alphanumeric, SampleString};
use tokio::time::{Duration, Instant};

use super::errcode::Errcode;
use super::quota::{MINUTE, Quota};

const LIFE: Duration = Duration::from_mins(5);
/// More logins than this within five minutes make the oldest codes unknown.
const CODES_MAX: usize = 50_000;
/// How many people are counted at a time; beyond, the counting begins anew.
const PEOPLE_MAX: usize = 50_000;
/// How often a minute one person's codes may be exchanged.
const PER_PERSON: u32 = 100;

/// Codes given out, and how often each person came.
#[derive(Debug, Default)]
pub(super) struct Logins {
    codes: HashMap<String, Login>,
    /// Oldest first, which is the order in which they end.
    order: VecDeque<String>,
    people: HashMap<String, Quota>,
}

/// Who held the phone, and in which Mini Program; without one, in any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) openid: String,
    pub(super) unionid: Option<String>,
    pub(super) appid: Option<String>,
}

#[derive(Debug)]
struct Login {
    person: Person,
    ends: Instant,
    used: bool,
}

impl Logins {
    /// `wx.login`: a fresh code for `person`.
    pub(super) fn start(&mut self, person: Person, now: Instant, rng: &mut impl CryptoRng) -> String {
        while let Some(oldest) = self.order.front()
            && (self.order.len() >= CODES_MAX || self.codes.get(oldest).is_none_or(|login| now >= login.ends))
        {
            self.codes.remove(oldest);
            self.order.pop_front();
        }
        let code = format!("0{}", Alphanumeric.sample_string(rng, 31));
        self.order.push_back(code.clone());
        let login = Login {
            person,
            ends: now + LIFE,
            used: false,
        };
        self.codes.insert(code.clone(), login);
        code
    }

    /// `jscode2session`: who it was. The code is used up by success alone.
    pub(super) fn exchange(&mut self, code: &str, appid: &str, now: Instant) -> Result<Person, Errcode> {
        let login = self
            .codes
            .get_mut(code)
            .filter(|login| now < login.ends)
            .filter(|login| login.person.appid.as_deref().is_none_or(|own| own == appid))
            .ok_or(Errcode::INVALID_CODE)?;
        if login.used {
            return Err(Errcode::CODE_USED);
        }
        if self.people.len() >= PEOPLE_MAX && !self.people.contains_key(&login.person.openid) {
            self.people.clear();
        }
        let quota = self.people.entry(login.person.openid.clone());
        if !quota.or_insert(Quota::new(PER_PERSON, MINUTE)).take(now) {
            return Err(Errcode::TOO_FREQUENT);
        }
        login.used = true;
        Ok(login.person.clone())
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

    fn alice() -> Person {
        Person {
            openid: "o-alice".to_owned(),
            unionid: None,
            appid: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_names_its_person_once_within_five_minutes() {
        let mut logins = Logins::default();
        let first = logins.start(alice(), Instant::now(), &mut os_rng());
        let second = logins.start(alice(), Instant::now(), &mut os_rng());
        advance(Duration::from_secs(299)).await;
        assert_eq!(logins.exchange(&first, APPID, Instant::now()), Ok(alice()));
        assert_eq!(logins.exchange(&first, APPID, Instant::now()), Err(Errcode::CODE_USED));
        advance(Duration::from_secs(1)).await;
        assert_eq!(
            logins.exchange(&second, APPID, Instant::now()),
            Err(Errcode::INVALID_CODE)
        );
        assert_eq!(
            logins.exchange(&first, APPID, Instant::now()),
            Err(Errcode::INVALID_CODE)
        );
    }

    #[test]
    fn a_code_counts_in_its_own_mini_program_only() {
        let mut logins = Logins::default();
        let now = Instant::now();
        let appid = Some(APPID.to_owned());
        let code = logins.start(Person { appid, ..alice() }, now, &mut os_rng());
        assert_eq!(logins.exchange(&code, "wx-other", now), Err(Errcode::INVALID_CODE));
        assert!(logins.exchange(&code, APPID, now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_person_who_comes_too_often_keeps_the_code_for_the_next_minute() {
        let mut logins = Logins::default();
        for _ in 0..PER_PERSON {
            let code = logins.start(alice(), Instant::now(), &mut os_rng());
            assert!(logins.exchange(&code, APPID, Instant::now()).is_ok());
        }
        let code = logins.start(alice(), Instant::now(), &mut os_rng());
        assert_eq!(
            logins.exchange(&code, APPID, Instant::now()),
            Err(Errcode::TOO_FREQUENT)
        );
        advance(MINUTE).await;
        assert!(logins.exchange(&code, APPID, Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_ends_with_its_time() {
        let mut logins = Logins::default();
        let mut rng = StdRng::seed_from_u64(1);
        let oldest = logins.start(alice(), Instant::now(), &mut rng);
        for _ in 0..CODES_MAX {
            logins.start(alice(), Instant::now(), &mut rng);
        }
        assert_eq!((logins.codes.len(), logins.order.len()), (CODES_MAX, CODES_MAX));
        assert_eq!(
            logins.exchange(&oldest, APPID, Instant::now()),
            Err(Errcode::INVALID_CODE)
        );
        advance(LIFE).await;
        logins.start(alice(), Instant::now(), &mut rng);
        assert_eq!((logins.codes.len(), logins.order.len()), (1, 1));
    }
}
