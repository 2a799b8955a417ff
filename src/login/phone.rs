//! What the phone does: scan, upload an avatar, say yes or no.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument;

use super::entry::{Verdict, Way};
use super::nickname;
use super::{Error, Login, Program, Site, done};
use crate::audit::Event;
use crate::entropy::os_rng;
use crate::limits::{Rule, network_of, octets};
use crate::scene::{
    Action, Avatar, AvatarId, BrowserDescription, Caution, ConfirmToken, Doubt, Life, MatchNumber, Person, Profile,
    Scene, SceneId, ShortCodeTag, State, StateName,
};
use crate::store::{Applied, ApplyError, Durability, StoreError, Stored, apply, apply_and_tell};
use crate::telemetry::trace;
use crate::wechat::client as wechat;
use crate::wechat::errcode::Class;

/// How long an uploaded avatar is served.
const AVATAR_LIFE: Duration = Duration::from_mins(10);

/// How far WeChat's clock may be behind ours, and how old a scan may be that was made just now, in seconds.
const CLOCK_SKEW: i64 = 60;
const SCAN_AGE_MAX: i64 = 60;

/// The longest address of a picture, in bytes: it stands in the record of its scene.
const AVATAR_URL_LEN: usize = 256;

/// What the phone is told after its scan.
#[derive(Debug)]
pub struct Scanned {
    /// Lets this phone answer.
    pub confirm_token: ConfirmToken,
    /// Who asks.
    pub site: Arc<Site>,
    /// From which browser.
    pub browser: BrowserDescription,
    /// When the browser asked, in seconds since the Unix epoch.
    pub requested_at: i64,
    /// How long ago that is.
    pub requested_ago: Duration,
    /// How long the person has left to answer.
    pub expires_in: Duration,
    /// What they are held to.
    pub caution: Caution,
    /// Why, where it is not WeChat's value.
    pub doubt: Option<Doubt>,
}

/// What a phone sends with its scan.
#[derive(Clone, Copy)]
pub struct ScanOf<'a> {
    /// What `wx.login` gave.
    pub wx_code: &'a str,
    /// How it came to the code, as WeChat told it.
    pub entry_scene: Option<i64>,
    /// When it was scanned, where WeChat told it, in seconds since the Unix epoch.
    pub scanned_at: Option<i64>,
    /// Where the phone is.
    pub address: IpAddr,
    /// The wall clock, in seconds since the Unix epoch.
    pub now: i64,
}

impl fmt::Debug for ScanOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanOf")
            .field("entry_scene", &self.entry_scene)
            .field("scanned_at", &self.scanned_at)
            .finish_non_exhaustive()
    }
}

impl ScanOf<'_> {
    /// Whether the scan was longer ago than it takes to open a Mini Program, or before there was this scene. That a clock is ahead
    /// says nothing.
    fn is_late(&self, scene: &Scene) -> bool {
        self.scanned_at.is_some_and(|at| {
            at < scene.created_at.saturating_sub(CLOCK_SKEW) || at < self.now.saturating_sub(SCAN_AGE_MAX)
        })
    }
}

/// How somebody came to a scene.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    pub(super) way: Way,
    pub(super) late: bool,
    pub(super) typed: Option<ShortCodeTag>,
}

/// An avatar kept for the scene.
#[derive(Debug, Clone, Copy)]
pub struct UploadedAvatar(pub AvatarId);

impl Login {
    /// A phone scanned, and sends the code that `wx.login` gave it. WeChat says whose phone it is.
    ///
    /// # Errors
    /// [`Error`]; of [`Error::InvalidWxCode`] a fresh `wx.login` code helps.
    pub async fn scan(&self, id: &SceneId, scan: ScanOf<'_>) -> Result<Scanned, Error> {
        let address = octets(scan.address);
        let (admitted, found) = tokio::join!(self.limits.take(Rule::ScansPerAddress, &address), self.find_settled(id));
        admitted?;
        // What can't succeed costs WeChat nothing.
        let seen = found?;
        let step = trace::step("scan", &id.shortened(), seen.scene.traceparent);
        self.scan_found(id, seen, scan).instrument(step).await
    }

    async fn scan_found(&self, id: &SceneId, seen: Stored, scan: ScanOf<'_>) -> Result<Scanned, Error> {
        match seen.scene.state_name(seen.life()) {
            StateName::Waiting | StateName::Scanned => {}
            StateName::Expired => return Err(Error::Expired),
            state @ (StateName::Confirmed | StateName::Declined | StateName::Cancelled) => {
                return Err(Error::AlreadyFinished(state));
            }
        }
        if !has_form_of_wx_code(scan.wx_code) {
            return Err(Error::InvalidWxCode(None));
        }
        let site = self.site(&seen.scene.client_id)?;
        let came = Came {
            way: Way::Entered(scan.entry_scene),
            late: scan.is_late(&seen.scene),
            typed: None,
        };
        // Before it costs WeChat anything. The rules say it once more: what was found may have been the past. Of whoever scans again the
        // first scan's verdict stands.
        let verdict = site.client.entry_scenes.verdict(came.way);
        if verdict == Verdict::Refuse && matches!(seen.scene.state, State::Waiting) {
            self.count_scan(&site, came, verdict);
            return Err(Error::EntrySceneRefused);
        }
        self.limits.take(Rule::ScansPerScene, id.as_bytes()).await?;
        let person = self.person(&site.program, scan.wx_code).await?;
        self.scanned(seen, site, person, came).await
    }

    /// What comes of a scan of which WeChat has said whose it is.
    pub(super) async fn scanned(
        &self,
        seen: Stored,
        site: Arc<Site>,
        person: Person,
        came: Came,
    ) -> Result<Scanned, Error> {
        let client = &site.client;
        let verdict = client.entry_scenes.verdict(came.way);
        if matches!(seen.scene.state, State::Waiting) {
            self.count_scan(&site, came, verdict);
        }
        let confirm_token = ConfirmToken::random(&mut os_rng());
        let warned = verdict == Verdict::Warn || came.late;
        let asks_number = client.number_matching.asks(warned);
        let (login, digest) = (self.clone(), confirm_token.digest());
        let scanning = async move {
            let scan = || Action::Scan {
                person: person.clone(),
                confirm_token: digest,
                entry_scene: came.way.entry_scene(),
                refused: verdict == Verdict::Refuse,
                warned,
                asks_number,
                late: came.late,
                typed: came.typed,
            };
            let scanned = apply(&*login.store, seen, Durability::Ordinary, &mut os_rng(), scan).await;
            // Who scans again has scanned before.
            let is_first = |applied: &&Applied| applied.scene.version > applied.before.scene.version;
            if let Some(applied) = done(&scanned).filter(is_first) {
                login.step_after(applied, Event::Scanned, None);
            }
            if let Ok(Applied { before, scene, .. }) = &scanned {
                login.retire_short_code(before, scene);
            }
            scanned
        };
        let Applied { before, scene, .. } = self.see_through(scanning).await?;
        let (requested_ago, expires_in) = since_and_until(&scene, before.life());
        Ok(Scanned {
            confirm_token,
            site,
            browser: scene.browser,
            requested_at: scene.created_at,
            requested_ago,
            expires_in,
            caution: scene.caution,
            doubt: scene.doubt,
        })
    }

    fn count_scan(&self, site: &Site, came: Came, verdict: Verdict) {
        let labels = [site.client.client_id.as_str(), came.way.kind(), verdict.as_str()];
        self.metrics.scans_total.with_label_values(&labels).inc();
    }

    /// Keeps an avatar for the scene that `token` may answer.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], [`Error::NoRoomForAvatar`], [`Error::ConfirmToken`], [`Error::AlreadyFinished`], [`Error::Expired`], [`Error::UnknownScene`], [`Error::Store`]
    pub async fn upload_avatar(
        &self,
        id: &SceneId,
        token: Option<&ConfirmToken>,
        image: Bytes,
    ) -> Result<UploadedAvatar, Error> {
        let avatar = AvatarId::random(&mut os_rng());
        let (seen, token) = self.of_phone(id, token).await?;
        // Only who may is let in with bytes to keep.
        seen.scene
            .apply(Action::KeepAvatar { token, avatar }, seen.life(), &mut os_rng())
            .map_err(ApplyError::from)?;
        if media_type_of_avatar(&image).is_none() {
            return Err(Error::NotAnImage);
        }
        let put = self.store.put_avatar(id, avatar, image, AVATAR_LIFE).await;
        put.map_err(|error| match error {
            // Others are told that logins under way go on; this one is under way.
            StoreError::Full => Error::NoRoomForAvatar,
            error => Error::Store(error),
        })?;
        let keep = || Action::KeepAvatar { token, avatar };
        apply(&*self.store, seen, Durability::Ordinary, &mut os_rng(), keep).await?;
        Ok(UploadedAvatar(avatar))
    }

    /// The person says yes. A retry by the same phone succeeds and changes nothing.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Unreplicated`] the retry is the same act.
    pub async fn confirm(
        &self,
        id: &SceneId,
        token: Option<&ConfirmToken>,
        nickname: Option<&str>,
        avatar_url: Option<String>,
        match_number: Option<MatchNumber>,
    ) -> Result<Scene, Error> {
        let (seen, token) = self.of_phone(id, token).await?;
        let profile = self.profile(&seen.scene, nickname, avatar_url)?;
        let step = trace::step("confirm", &id.shortened(), seen.scene.traceparent);
        let (login, token) = (self.clone(), token.clone());
        let confirming = async move {
            let confirm = || Action::Confirm {
                token: &token,
                profile: profile.clone(),
                match_number,
            };
            let notice = |scene: &Scene| login.notice_of(scene, "wrong_number");
            let durability = Durability::Durable;
            let confirmed = apply_and_tell(&*login.store, seen, durability, &mut os_rng(), confirm, &notice)
                .instrument(step)
                .await;
            match &confirmed {
                Ok(applied) => login.send_notice_of(applied),
                Err(ApplyError::Mistaken(applied, _)) => login.send_notice_of(applied),
                // Whoever comes to it when its claim ends sees what became of it.
                Err(_) => {}
            }
            if let Some(applied) = done(&confirmed) {
                match &applied.scene.state {
                    State::Confirmed(_) => login.step_after(applied, Event::Confirmed, None),
                    // Of a wrong number it counts that it was picked, whatever the store made of it: who picked it comes again to what
                    // is over.
                    State::Declined(_) => login.declined(applied, "wrong_number"),
                    State::Waiting | State::Scanned(_) | State::Cancelled(_) => {}
                }
            }
            confirmed
        };
        // A page would hear late of a confirm that was given up when it counted and was not announced yet; and a phone that hangs up
        // must not keep from the operator what it did.
        Ok(self.see_through(confirming).await?.scene)
    }

    /// The person says no; `not_me` when they never asked.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn decline(&self, id: &SceneId, token: Option<&ConfirmToken>, not_me: bool) -> Result<Scene, Error> {
        let (seen, token) = self.of_phone(id, token).await?;
        let step = trace::step("decline", &id.shortened(), seen.scene.traceparent);
        let (login, token) = (self.clone(), token.clone());
        let declining = async move {
            let decline = || Action::Decline { token: &token };
            let reason = if not_me { "not_me" } else { "no" };
            let notice = |scene: &Scene| login.notice_of(scene, reason);
            let durability = Durability::Ordinary;
            let declined = apply_and_tell(&*login.store, seen, durability, &mut os_rng(), decline, &notice)
                .instrument(step)
                .await;
            if let Ok(applied) = &declined {
                login.send_notice_of(applied);
            }
            if let Some(applied) = done(&declined) {
                login.declined(applied, reason);
            }
            declined
        };
        // As above.
        Ok(self.see_through(declining).await?.scene)
    }

    /// Counts it. Where somebody else may be behind the login, the operator is told who.
    fn declined(&self, applied: &Applied, reason: &str) {
        self.step_after(applied, Event::Declined, Some(reason));
        let scene = &applied.scene;
        let labels = [scene.client_id.as_str(), reason];
        self.metrics.declined_total.with_label_values(&labels).inc();
        if reason != "no" {
            let (client, browser, entry_scene) = (&scene.client_id, &scene.browser, scene.caution.entry_scene);
            let address = browser.ip.as_deref().and_then(|ip| ip.parse().ok());
            let network = address.map(network_of).map(tracing::field::display);
            tracing::warn!(scene = ?scene.id, client, reason, network, entry_scene, browser.name, browser.os, "a login was not asked for by the person who scanned it");
        }
    }

    /// Existence is looked at before the secret: an unknown scene is unknown whatever the secret.
    async fn of_phone<'t>(
        &self,
        id: &SceneId,
        token: Option<&'t ConfirmToken>,
    ) -> Result<(Stored, &'t ConfirmToken), Error> {
        let mut seen = self.find(id).await?;
        let token = token.ok_or(Error::ConfirmToken)?;
        if !seen.scene.answers_to(token) {
            seen = self.store.refresh(seen).await?.ok_or(Error::UnknownScene)?;
        }
        seen.scene
            .answers_to(token)
            .then_some((seen, token))
            .ok_or(Error::ConfirmToken)
    }

    pub(super) async fn person(&self, program: &Program, wx_code: &str) -> Result<Person, Error> {
        let appid = program.mini_program.appid.as_bytes();
        let admitted = self.limits.take(Rule::Code2Session, appid).await;
        admitted.map_err(|limited| Error::WeChat(wechat::Error::Limited(limited)))?;
        let session = program.client.jscode2session(&program.mini_program, wx_code).await;
        session.map_err(|error| match error.class() {
            Some(Class::CodeInvalid) => Error::InvalidWxCode(Some(error)),
            Some(Class::Blocked) => Error::BlockedUser(error),
            Some(Class::TokenInvalid | Class::Busy | Class::Quota | Class::Setup) | None => Error::WeChat(error),
        })
    }

    fn profile(&self, scene: &Scene, nickname: Option<&str>, avatar_url: Option<String>) -> Result<Profile, Error> {
        let nickname = nickname
            .map(nickname::clean)
            .transpose()
            .map_err(|_| Error::InvalidRequest("profile.nickname may have at most 64 characters.".to_owned()))?;
        let site = self.site(&scene.client_id)?;
        let client = &site.client;
        let refused = || {
            Error::InvalidRequest(format!(
                "profile.avatar_url must be an https address on one of {}; upload any other picture.",
                client.avatar_hosts.join(", ")
            ))
        };
        let avatar_url = avatar_url.map(|address| client.avatar_at(&address).ok_or_else(refused));
        let avatar_url = avatar_url.transpose()?;
        // As it is kept: what is no ASCII takes several times as much there.
        if avatar_url
            .as_ref()
            .is_some_and(|address| address.len() > AVATAR_URL_LEN)
        {
            return Err(Error::InvalidRequest(format!(
                "profile.avatar_url may have at most {AVATAR_URL_LEN} bytes."
            )));
        }
        Ok(Profile {
            nickname: nickname.flatten(),
            avatar: avatar_url.map(Avatar::Url),
        })
    }
}

/// The media type of an avatar, by its first bytes.
#[must_use]
pub fn media_type_of_avatar(image: &[u8]) -> Option<&'static str> {
    match image {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// WeChat does not say what its codes look like; this keeps out what can't be one.
pub(super) fn has_form_of_wx_code(code: &str) -> bool {
    (8..=128).contains(&code.len())
        && code
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'|'))
}

/// How long ago the browser asked, and how long there is left: both by the record's life, not by this replica's clock.
fn since_and_until(scene: &Scene, life: Life) -> (Duration, Duration) {
    let left = life.until_deadline();
    (scene.ttl().saturating_sub(left), left)
}
