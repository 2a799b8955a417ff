//! What was found, one line each, for people and for programs.

use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::{Serialize, Serializer};

macro_rules! checks {
    ($($check:ident $name:literal,)+) => {
        /// Everything that is looked at; docs/doctor.md says what of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their names say it, and the document")]
        pub enum Check { $($check,)+ }

        impl Check {
            /// All, in the order of the report.
            pub const ALL: &[Self] = &[$(Self::$check),+];

            /// Its name, which stays: the area, and what of it.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$check => $name,)+ } }
        }
    };
}

checks! {
    SettingsRead "settings.read",
    SettingsWarning "settings.warning",
    SettingsSimulator "settings.simulator",
    SettingsSigningKeys "settings.signing_keys",
    SettingsAuditLog "settings.audit_log",
    RedisShape "redis.shape",
    RedisReached "redis.reached",
    RedisVersion "redis.version",
    RedisRights "redis.rights",
    RedisWrites "redis.writes",
    RedisEviction "redis.eviction",
    RedisPersistence "redis.persistence",
    RedisLatency "redis.latency",
    RedisClock "redis.clock",
    RedisClocks "redis.clocks",
    WechatReached "wechat.reached",
    WechatClock "wechat.clock",
    WechatStableToken "wechat.stable_token",
    WechatKeptToken "wechat.kept_token",
    WechatCode "wechat.getwxacodeunlimit",
    WechatEdition "wechat.env_version",
    WechatSession "wechat.jscode2session",
    PublicReached "public_url.reached",
    PublicService "public_url.service",
    PublicVersion "public_url.version",
    PublicKeys "public_url.keys",
    PublicStream "public_url.stream",
    PublicHeartbeat "public_url.heartbeat",
    PublicProxies "public_url.proxies",
    SiteWebhook "sites.webhook",
    SiteLogo "sites.logo",
}

impl Check {
    fn area(self) -> &'static str {
        self.name().split('.').next().unwrap_or_default()
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    /// It works, and should not stay so.
    Warning,
    Failed,
    /// It was not looked at, or can't be from here.
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn style(self) -> Style {
        let colour = match self {
            Self::Ok => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
            Self::Failed => AnsiColor::Red,
            Self::Skipped => return Style::new().dimmed(),
        };
        colour.on_default()
    }
}

/// What was found of one thing.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    check: Check,
    /// Of which server, Mini Program, address or site.
    subject: String,
    result: Outcome,
    message: String,
    fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: Check, subject: impl Display, message: impl Display) -> Self {
        Self::new(check, &subject, Outcome::Ok, &message, None)
    }

    pub(super) fn warning(check: Check, subject: impl Display, message: impl Display, fix: impl Display) -> Self {
        Self::new(check, &subject, Outcome::Warning, &message, Some(&fix))
    }

    pub(super) fn failed(check: Check, subject: impl Display, message: impl Display, fix: impl Display) -> Self {
        Self::new(check, &subject, Outcome::Failed, &message, Some(&fix))
    }

    pub(super) fn skipped(check: Check, subject: impl Display, why: impl Display) -> Self {
        Self::new(check, &subject, Outcome::Skipped, &why, None)
    }

    /// What says itself what to do.
    pub(super) fn told(check: Check, subject: impl Display, message: impl Display) -> Self {
        Self::new(check, &subject, Outcome::Warning, &message, None)
    }

    fn new(
        check: Check,
        subject: &dyn Display,
        result: Outcome,
        message: &dyn Display,
        fix: Option<&dyn Display>,
    ) -> Self {
        // Some of it is what others answered.
        let line = |text: &dyn Display| text.to_string().replace(char::is_control, " ");
        Self {
            check,
            subject: line(subject),
            result,
            message: line(message),
            fix: fix.map(line),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Finding>);

impl Extend<Finding> for Report {
    fn extend<I: IntoIterator<Item = Finding>>(&mut self, findings: I) {
        self.0.extend(findings);
    }
}

impl Report {
    pub(super) fn failed(&self) -> usize {
        self.count(Outcome::Failed)
    }

    fn count(&self, result: Outcome) -> usize {
        self.0.iter().filter(|finding| finding.result == result).count()
    }

    pub(super) fn print_json(&self) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            version: &'static str,
            findings: &'a [Finding],
        }
        let document = Document {
            version: env!("CARGO_PKG_VERSION"),
            findings: &self.0,
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&document)?)?;
        Ok(())
    }

    /// With colours on a terminal, unless NO_COLOR says otherwise.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let mut out = anstream::stdout().lock();
        let width = |text: fn(&Finding) -> usize| self.0.iter().map(text).max().unwrap_or_default();
        let name = |finding: &Finding| finding.check.name().len() - finding.check.area().len() - 1;
        let (names, subjects) = (width(name), width(|finding| finding.subject.chars().count()));
        let mut area = "";
        for finding in &self.0 {
            if area != finding.check.area() {
                area = finding.check.area();
                writeln!(out, "{area}")?;
            }
            let (style, word) = (finding.result.style(), finding.result.word());
            let what = finding.check.name().get(area.len() + 1..).unwrap_or_default();
            let Finding { subject, message, .. } = finding;
            writeln!(
                out,
                "  {style}{word:<7}{style:#}  {what:<names$}  {subject:<subjects$}  {message}"
            )?;
            if let Some(fix) = &finding.fix {
                writeln!(out, "  {:7}  {:names$}  {:subjects$}  → {fix}", "", "", "")?;
            }
        }
        let of = |result| self.count(result);
        let (ok, warnings, skipped) = (of(Outcome::Ok), of(Outcome::Warning), of(Outcome::Skipped));
        writeln!(
            out,
            "{ok} ok, {warnings} warning, {} failed, {skipped} skipped",
            self.failed()
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_answered_can_not_steer_a_terminal() {
        let told = "two\nlines, \u{1b}[31mred\u{9b}0m\r\t\0";
        let finding = Finding::failed(Check::RedisReached, told, told, told);
        let fix = finding.fix.as_deref().unwrap();
        for text in [&finding.subject, &finding.message, fix] {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.starts_with("two lines,  [31mred"), "{text:?}");
        }
    }
}
