//! What the settings say by themselves. What can't be read at all has ended the program with one line before.

use super::report::{Check, Finding};
use crate::audit;
use crate::config::{Config, WeChat};

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let (programs, clients) = (config.mini_programs.len(), config.clients.len());
    let store = if config.redis.is_some() {
        "Redis"
    } else {
        "this one process"
    };
    let read = format!("Mini Programs: {programs}, sites: {clients}, everything is kept in {store}");
    let mut findings = vec![Finding::ok(Check::SettingsRead, "settings", read)];
    let warnings = config.warnings.iter();
    findings.extend(warnings.map(|warning| Finding::told(Check::SettingsWarning, "settings", warning)));
    if config.redis.is_none() {
        findings.push(Finding::warning(
            Check::SettingsWarning,
            "SCANLOGIN_REDIS_URL",
            "there is no Redis: fine for one replica, and lost at its end",
            "Set SCANLOGIN_REDIS_URL (docs/redis.md) before there are two.",
        ));
    }
    findings.push(simulator(config));
    findings.push(signing_keys(config));
    findings.extend(audit_log(config));
    findings
}

fn simulator(config: &Config) -> Finding {
    let simulated = !matches!(&config.wechat, WeChat::Server { simulator: false, .. });
    if simulated {
        return Finding::warning(
            Check::SettingsSimulator,
            "WeChat",
            "is simulated: anybody can log in as anybody",
            "For real people set SCANLOGIN_WECHAT_APPID and SCANLOGIN_WECHAT_SECRET, and leave SCANLOGIN_SIMULATOR and \
             SCANLOGIN_WECHAT_API_BASE out.",
        );
    }
    Finding::ok(Check::SettingsSimulator, "WeChat", "is none that we simulate")
}

fn signing_keys(config: &Config) -> Finding {
    let check = Check::SettingsSigningKeys;
    let Some(keys) = &config.signing_keys else {
        return Finding::skipped(
            check,
            "id_tokens",
            "no SCANLOGIN_SIGNING_KEYS_FILE: the one process draws keys of its own, which end with it",
        );
    };
    let signing: Vec<&str> = keys.signing_kids().collect();
    let count = keys.kids().count();
    Finding::ok(
        check,
        "id_tokens",
        format!("keys: {count}, of which signs: {}", signing.join(", ")),
    )
}

fn audit_log(config: &Config) -> Option<Finding> {
    let path = config.audit.as_ref()?.file.as_ref()?;
    let (check, file) = (Check::SettingsAuditLog, path.display());
    Some(match audit::may_be_opened(path) {
        Ok(()) => Finding::ok(check, file, "may be written by this user"),
        Err(error) => Finding::failed(
            check,
            file,
            format!("it can't be written, and the service does not start: {error}"),
            "Give in SCANLOGIN_AUDIT_LOG a file that this user may append to, or - for standard output.",
        ),
    })
}
