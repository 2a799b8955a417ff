//! What WeChat answers to these credentials: each call that the service makes, once.
//!
//! Nothing of a service that runs is spoilt by it: `stable_token` gives the token again that is in use, and `token`, which would end that
//! one, is not called. A code is made of a scene that nobody has.

use std::future::ready;
use std::net::IpAddr;

use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::DATE;

use super::reach::{Answer, Web};
use super::redis::Tokens;
use super::report::{Check, Finding};
use crate::config::{self, Config};
use crate::entropy::os_rng;
use crate::scene::SceneId;
use crate::telemetry::Metrics;
use crate::wechat::access_token::{AccessToken, TokenMode};
use crate::wechat::client::{Client, Error, MayRepeat};
use crate::wechat::errcode::{Class, Errcode};
use crate::wechat::picture::CodePicture;
use crate::wechat::{EnvVersion, MiniProgram};

/// In seconds, as its clock is read from a header that tells whole ones, some time after it was written.
const SKEW_MAX: i64 = 10;

/// What no `wx.login` gives.
const NO_CODE: &str = "scanlogin-doctor";

const ONCE: MayRepeat<'static> = &|| ready(false).boxed();

pub(super) async fn examine(config: &Config, tokens: &Tokens, web: &Web) -> anyhow::Result<Vec<Finding>> {
    let config::WeChat::Server { base, fail_over, .. } = &config.wechat else {
        let why = "the service simulates it in its own process";
        return Ok(vec![Finding::skipped(Check::WechatReached, "WeChat", why)]);
    };
    let base: Url = base.as_str().parse()?;
    let fail_over: Option<Url> = fail_over.as_ref().map(|url| url.as_str().parse()).transpose()?;
    let other = async {
        match &fail_over {
            Some(url) => host(url, "SCANLOGIN_WECHAT_API_FAIL_OVER", web).await,
            None => (Vec::new(), false),
        }
    };
    let nearest = host(&base, "SCANLOGIN_WECHAT_API_BASE", web);
    let ((mut findings, is_reached), (of_other, is_other_reached)) = tokio::join!(nearest, other);
    findings.extend(of_other);
    // Where the nearest is away, the other one is asked, as the service does.
    if !is_reached && !is_other_reached {
        let why = "WeChat is not reached";
        let skipped = config.mini_programs.iter().map(|program| {
            let checks = [Check::WechatStableToken, Check::WechatCode, Check::WechatSession];
            checks.map(|check| Finding::skipped(check, &program.appid, why))
        });
        findings.extend(skipped.flatten());
        return Ok(findings);
    }
    let client = Client::new(base, fail_over.filter(|_| is_other_reached), Metrics::new()?)?;
    let of_programs = config.mini_programs.iter().map(|program| {
        let kept = tokens.get(&program.appid).map(Vec::as_slice);
        Box::pin(mini_program(&client, program, config.token_mode, kept))
    });
    findings.extend(join_all(of_programs).await.into_iter().flatten());
    Ok(findings)
}

/// Whether a host is reached, and whether it has our time.
async fn host(url: &Url, setting: &str, web: &Web) -> (Vec<Finding>, bool) {
    let name = url.host_str().unwrap_or_default();
    match web.get(url).await {
        Ok(answer) => {
            let tls = if url.scheme() == "https" {
                "with a certificate that is trusted"
            } else {
                "without TLS"
            };
            let reached = Finding::ok(Check::WechatReached, name, format!("answers, {tls}"));
            (vec![reached, clock(name, &answer)], true)
        }
        Err(unreached) => {
            let fix = unreached.fix(setting);
            (
                vec![Finding::failed(Check::WechatReached, name, &unreached, fix)],
                false,
            )
        }
    }
}

fn clock(name: &str, answer: &Answer) -> Finding {
    let check = Check::WechatClock;
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(theirs) = theirs.and_then(|time| Timestamp::try_from(time).ok()) else {
        return Finding::skipped(check, name, "it does not tell the time");
    };
    let ahead = Timestamp::now().as_second() - theirs.as_second();
    let message = format!("this machine's clock is {ahead:+} s ahead of WeChat's");
    if ahead.abs() > SKEW_MAX {
        let fix = "Let this machine keep time by NTP: sites refuse id_tokens of another time, and TLS certificates may seem to have ended.";
        return Finding::warning(check, name, message, fix);
    }
    Finding::ok(check, name, message)
}

async fn mini_program(client: &Client, program: &MiniProgram, mode: TokenMode, kept: Option<&[u8]>) -> Vec<Finding> {
    let appid = &program.appid;
    let session = session(client, program);
    if program.link_prefix.is_some() {
        let why = "its codes are ordinary QR codes, for which WeChat is not asked";
        let skipped = [Check::WechatStableToken, Check::WechatCode].map(|check| Finding::skipped(check, appid, why));
        return skipped.into_iter().chain([session.await]).collect();
    }
    let of_codes = async {
        let (granted, mut findings) = fresh_token(client, program, mode).await;
        findings.extend(code_of_either(client, program, kept_token(program, kept), granted).await);
        findings.push(edition(program));
        findings
    };
    let (mut findings, session) = tokio::join!(of_codes, session);
    findings.push(session);
    findings
}

async fn fresh_token(client: &Client, program: &MiniProgram, mode: TokenMode) -> (Option<AccessToken>, Vec<Finding>) {
    let (check, appid) = (Check::WechatStableToken, &program.appid);
    if mode == TokenMode::Classic {
        let why = "by SCANLOGIN_WECHAT_TOKEN_MODE=token each call ends the token that is in use, so none is made";
        return (None, vec![Finding::skipped(check, appid, why)]);
    }
    match client.stable_token(program, false).await {
        Ok(granted) => {
            let minutes = granted.life.as_secs() / 60;
            let finding = Finding::ok(
                check,
                appid,
                format!("gives the access_token, for {minutes} minutes more"),
            );
            (Some(granted.into()), vec![finding])
        }
        Err(error) => (None, vec![refused(check, program, &error)]),
    }
}

fn kept_token(program: &MiniProgram, kept: Option<&[u8]>) -> (Option<AccessToken>, Finding) {
    let (check, appid) = (Check::WechatKeptToken, &program.appid);
    let Some(sealed) = kept else {
        return (
            None,
            Finding::skipped(check, appid, "none is kept yet, or none was found"),
        );
    };
    if let Some(token) = AccessToken::open(program, sealed) {
        let finding = Finding::ok(check, appid, "the one that replicas share opens with this AppSecret");
        return (Some(token), finding);
    }
    let finding = Finding::warning(
        check,
        appid,
        "the one that replicas share was sealed with another AppSecret",
        "See that all replicas have the same one: with two, they fetch tokens past each other.",
    );
    (None, finding)
}

/// Of the token that is kept, and of a code by it; or, where WeChat finds that one dead, by the one that it grants now: so does the
/// service.
async fn code_of_either(
    client: &Client,
    program: &MiniProgram,
    (kept, of_kept): (Option<AccessToken>, Finding),
    granted: Option<AccessToken>,
) -> [Finding; 2] {
    let appid = &program.appid;
    let is_kept = kept.is_some();
    let Some(token) = kept.or_else(|| granted.clone()) else {
        let why = "there is no access_token to ask with";
        return [of_kept, Finding::skipped(Check::WechatCode, appid, why)];
    };
    let answer = picture(client, program, &token).await;
    if let (Err(Error::TokenRefused { errcode, .. }), true, Some(granted)) = (&answer, is_kept, granted) {
        let again = picture(client, program, &granted).await;
        if !matches!(again, Err(Error::TokenRefused { .. })) {
            let of_kept = Finding::warning(
                Check::WechatKeptToken,
                appid,
                format!("the one that replicas share is dead: WeChat answered {errcode}"),
                "Nothing, if it is gone in a minute: a replica fetches another one. Else something else fetches tokens for this AppID.",
            );
            return [of_kept, code(program, again)];
        }
    }
    [of_kept, code(program, answer)]
}

/// Of a scene that nobody has.
async fn picture(client: &Client, program: &MiniProgram, token: &AccessToken) -> Result<CodePicture, Error> {
    let scene = SceneId::random(&mut os_rng());
    client.getwxacodeunlimit(token, &scene, &program.code, ONCE).await
}

fn code(program: &MiniProgram, answer: Result<CodePicture, Error>) -> Finding {
    let (check, settings) = (Check::WechatCode, &program.code);
    let what = format!(
        "page {:?}, env_version {}",
        settings.page,
        settings.env_version.as_str()
    );
    match answer {
        Ok(picture) => {
            let (kind, bytes) = (picture.media_type().as_str(), picture.bytes().len());
            Finding::ok(
                check,
                &program.appid,
                format!("gives a code for {what}: {kind} of {bytes} bytes"),
            )
        }
        Err(error) if error.errcode() == Some(Errcode::InvalidPage) => Finding::failed(
            check,
            &program.appid,
            format!("{error} ({what})"),
            format!(
                "Publish a version of the Mini Program that has the page {:?} (no leading /, no query), or correct \
                 SCANLOGIN_CODE_PAGE; while it is not published, set SCANLOGIN_CODE_ENV_VERSION=trial.",
                settings.page
            ),
        ),
        Err(error) => refused(check, program, &error),
    }
}

fn edition(program: &MiniProgram) -> Finding {
    let (check, edition) = (Check::WechatEdition, program.code.env_version);
    if edition == EnvVersion::Release {
        return Finding::ok(check, &program.appid, "codes open the release edition");
    }
    Finding::warning(
        check,
        &program.appid,
        format!(
            "codes open the {} edition, which only its developers and testers have",
            edition.as_str()
        ),
        "For everybody set SCANLOGIN_CODE_ENV_VERSION=release, once the Mini Program is published.",
    )
}

/// With a code that nobody was given: to say that of it is what the call does when all else is right.
async fn session(client: &Client, program: &MiniProgram) -> Finding {
    let check = Check::WechatSession;
    match client.jscode2session(program, NO_CODE).await {
        Err(error) if error.class() == Some(Class::CodeInvalid) => Finding::ok(
            check,
            &program.appid,
            "takes AppID and AppSecret, and finds a made-up code wrong",
        ),
        Ok(_) => Finding::failed(
            check,
            &program.appid,
            "takes a made-up code: what answers there is not WeChat",
            "Look at SCANLOGIN_WECHAT_API_BASE: whoever answers there says who is logged in.",
        ),
        Err(error) => refused(check, program, &error),
    }
}

/// An error of WeChat's with what to do about it.
fn refused(check: Check, program: &MiniProgram, error: &Error) -> Finding {
    let appid = &program.appid;
    match error {
        Error::Errcode { errcode, errmsg } | Error::TokenRefused { errcode, errmsg } => {
            if errcode.class() == Class::Busy {
                return Finding::warning(check, appid, error, errcode.advice());
            }
            let fix = match (errcode, egress(errmsg)) {
                (Errcode::IpNotAllowed, Some(address)) => format!(
                    "Add {address}, the address that this service calls from, to the IP whitelist in the Mini Program's console \
                     (development settings), and every other egress address of the cluster."
                ),
                _ => errcode.advice().to_owned(),
            };
            Finding::failed(check, appid, error, fix)
        }
        Error::Timeout
        | Error::Unavailable(_)
        | Error::CircuitOpen { .. }
        | Error::Limited(_)
        | Error::CutShort
        | Error::Invalid(_) => Finding::failed(
            check,
            appid,
            error,
            "Try again in a moment; if it stays so, look at what stands between here and WeChat.",
        ),
    }
}

/// The address that WeChat says it was called from.
fn egress(errmsg: &str) -> Option<IpAddr> {
    let mut words = errmsg.split([' ', ',']);
    words.find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_wechat_names_is_found() {
        for (errmsg, address) in [
            (
                "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 62b1c7e9-4b5a3e2f-3a9e0f1b",
                Some("203.0.113.7"),
            ),
            ("invalid ip 2001:db8::7, not in whitelist", Some("2001:db8::7")),
            ("invalid ip, not in whitelist rid: 62b1c7e9-4b5a3e2f-3a9e0f1b", None),
        ] {
            assert_eq!(
                egress(errmsg).map(|found| found.to_string()).as_deref(),
                address,
                "{errmsg}"
            );
        }
    }
}
