//! Without a camera: the browser shows a short code, and the person types it in the Mini Program.
//!
//! A typed code is a scan in all but its way in. It has so few bits that only limits keep it from being guessed, so whoever types one is
//! known to WeChat before it is looked at, and each try counts against that person and against the Mini Program until it was right.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tracing::Instrument;

use super::entry::Way;
use super::phone::{Came, has_form_of_wx_code};
use super::{Error, Login, Program, Scanned};
use crate::entropy::os_rng;
use crate::limits::{Rule, octets};
use crate::scene::{
    Action, BrowserSecret, Doubt, Life, Person, Refused, SHORT_CODE_LIFE, Salt, Scene, SceneId, ShortCode,
    ShortCodeTag, ShownCode, State, StateName,
};
use crate::store::{Applied, ApplyError, Durability, StoreError, Stored, apply};
use crate::telemetry::trace;

/// How many codes are drawn at most before there is one that no other scene has.
const DRAWS: usize = 4;

/// What the browser shows.
#[derive(Debug)]
pub struct Shown {
    /// The code.
    pub code: ShortCode,
    /// How long it counts.
    pub left: Duration,
    /// The name of the Mini Program that takes it, where that was set.
    pub mini_program: Option<String>,
    /// Whether it is another than was shown before.
    pub is_new: bool,
}

impl Login {
    /// A code for the browser that holds `secret` to show: the one it shows already while that counts, else a new one.
    ///
    /// # Errors
    /// [`Error::UnknownScene`], [`Error::BrowserSecret`], [`Error::ShortCodeRefused`], [`Error::NotWaiting`], [`Error::Store`]
    pub async fn show_short_code(&self, id: &SceneId, secret: Option<&BrowserSecret>) -> Result<Shown, Error> {
        let mut seen = self.of_browser(id, secret).await?;
        let browser_secret = secret.ok_or(Error::BrowserSecret)?;
        let site = self.site(&seen.scene.client_id)?;
        if !site.client.short_codes {
            return Err(Error::ShortCodeRefused);
        }
        let told = |code, left, is_new| Shown {
            code,
            left,
            mini_program: site.program.mini_program.name.clone(),
            is_new,
        };
        for _ in 0..DRAWS {
            let life = seen.life();
            let state = seen.scene.state_name(life);
            if state != StateName::Waiting {
                return Err(Error::NotWaiting(state));
            }
            let first = seen.scene.short_code.as_ref();
            let mut dead = None;
            if let Some(shown) = first.filter(|shown| !shown.left(life).is_zero()) {
                let (code, left) = (ShortCode::derive(browser_secret, shown.salt), shown.left(life));
                if shown.tag == tag(&site.program, &code) {
                    // Once more: whoever was to write it may have ended before.
                    self.store.put_short_code(shown.tag, id, left).await?;
                    return Ok(told(code, left, false));
                }
                // The site has another Mini Program by now, or that one another AppSecret: what is typed finds this one no more.
                dead = Some(shown.tag);
            }
            let left = SHORT_CODE_LIFE.min(life.until_deadline());
            let (code, shown) = draw(&site.program, browser_secret, life.after(left));
            // First, so that no two scenes have one code.
            if !self.store.put_short_code(shown.tag, id, left).await? {
                continue;
            }
            let show = || Action::ShowShortCode {
                browser_secret,
                shown: shown.clone(),
                dead,
            };
            match apply(&*self.store, seen, Durability::Ordinary, &mut os_rng(), show).await {
                Ok(Applied { changed: true, .. }) => {
                    if let Some(dead) = dead {
                        self.drop_short_code(dead);
                    }
                    return Ok(told(code, left, true));
                }
                // Another request of the same browser was first: its code is the one.
                Ok(_) => {
                    self.store.drop_short_code(shown.tag).await?;
                    seen = self.of_browser(id, secret).await?;
                }
                Err(ApplyError::Refused(Refused::AlreadyFinished(state))) => return Err(Error::NotWaiting(state)),
                Err(ApplyError::Refused(Refused::Expired)) => return Err(Error::NotWaiting(StateName::Expired)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unavailable("no short code is free".to_owned()).into())
    }

    /// Somebody typed a short code in the Mini Program of `appid`, the only one if that is not said. All that is true of
    /// [`Self::scan`] is true of this.
    ///
    /// # Errors
    /// [`Error::UnknownShortCode`] for whatever code does not count, and those of [`Self::scan`].
    pub async fn type_short_code(
        &self,
        code: &ShortCode,
        wx_code: &str,
        appid: Option<&str>,
        address: IpAddr,
    ) -> Result<(SceneId, Scanned), Error> {
        if !has_form_of_wx_code(wx_code) {
            return Err(Error::InvalidWxCode(None));
        }
        let program = self.program_of(appid)?;
        self.limits.take(Rule::ShortCodesPerAddress, &octets(address)).await?;
        let person = self.person(&program, wx_code).await?;
        let appid = program.mini_program.appid.as_bytes();
        let of_person = [appid, b"\0", person.openid.as_bytes()].concat();
        let tries = [
            (Rule::WrongShortCodesPerPerson, &*of_person),
            (Rule::WrongShortCodes, appid),
        ];
        // Before it is known whether it is wrong: of many tries at once no more are made than may be.
        let mut taken = Vec::new();
        let scanned = async {
            for (rule, subject) in tries {
                self.limits.take(rule, subject).await?;
                taken.push((rule, subject));
            }
            self.typed(code, &program, person).await
        };
        let scanned = scanned.await;
        if !matches!(scanned, Err(Error::UnknownShortCode)) {
            for (rule, subject) in taken {
                self.limits.give_back(rule, subject).await;
            }
        }
        scanned
    }

    /// Which Mini Program the request comes from.
    fn program_of(&self, appid: Option<&str>) -> Result<Arc<Program>, Error> {
        let sites = self.sites();
        let programs = sites.programs();
        let named = appid.and_then(|appid| programs.get(appid));
        let only = || programs.values().next().filter(|_| programs.len() == 1);
        named.or_else(only).cloned().ok_or_else(|| {
            Error::InvalidRequest(
                "Several Mini Programs are configured here, and the Referer that WeChat gives names none of them."
                    .to_owned(),
            )
        })
    }

    async fn typed(&self, code: &ShortCode, program: &Program, person: Person) -> Result<(SceneId, Scanned), Error> {
        let tag = tag(program, code);
        let id = self.store.scene_of_short_code(tag).await?;
        let id = id.ok_or(Error::UnknownShortCode)?;
        let of_code = |error| match error {
            Error::UnknownScene | Error::ScannedByAnother => Error::UnknownShortCode,
            error => error,
        };
        let seen = self.find_settled(&id).await.map_err(of_code)?;
        let site = self.site(&seen.scene.client_id)?;
        // The site may have moved to another Mini Program since it was shown, and whom this one names is nobody there.
        let is_of_program = site.program.mini_program.appid == program.mini_program.appid;
        if !site.client.short_codes || !is_of_program {
            return Err(Error::UnknownShortCode);
        }
        let came = Came {
            way: Way::Typed,
            late: false,
            typed: Some(tag),
        };
        self.limits.take(Rule::ScansPerScene, id.as_bytes()).await?;
        let step = trace::step("scan", &id.shortened(), seen.scene.traceparent);
        let scanned = self.scanned(seen, site, person, came).instrument(step).await;
        let scanned = scanned.map_err(of_code)?;
        Ok((id, scanned))
    }

    /// Lets the code lead nowhere once its scene does not wait any more, unless it was typed: then it goes on leading whoever typed it
    /// to what they may not have heard of. Behind the back of who waits: without this too the record lets nobody else in.
    pub(super) fn retire_short_code(&self, before: &Stored, after: &Scene) {
        let (State::Waiting, Some(shown)) = (&before.scene.state, &after.short_code) else {
            return;
        };
        if after.doubt == Some(Doubt::Typed) || shown.left(before.life()).is_zero() {
            return;
        }
        self.drop_short_code(shown.tag);
    }

    fn drop_short_code(&self, tag: ShortCodeTag) {
        let store = Arc::clone(&self.store);
        let drop = async move {
            if let Err(error) = store.drop_short_code(tag).await {
                tracing::debug!(%error, "a short code is left to end by itself");
            }
        };
        self.tasks.spawn(drop.in_current_span());
    }
}

/// A code that nobody was shown before, to count until then.
fn draw(program: &Program, browser_secret: &BrowserSecret, ends: Life) -> (ShortCode, ShownCode) {
    let salt = Salt::random(&mut os_rng());
    let code = ShortCode::derive(browser_secret, salt);
    let shown = ShownCode {
        salt,
        tag: tag(program, &code),
        ends_ms: u64::try_from(ends.0.as_millis()).unwrap_or(u64::MAX),
    };
    (code, shown)
}

fn tag(program: &Program, code: &ShortCode) -> ShortCodeTag {
    let mini_program = &program.mini_program;
    code.tag(&mini_program.appid, mini_program.secret.expose_secret().as_bytes())
}
