//! How an answer is read: WeChat says 200 to everything, and an error may come where a picture should.

use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, Granted, TOKEN_LIFE_MAX};
use crate::wechat::errcode::{Class, Errcode};
use crate::wechat::picture::{CodePicture, NoPicture};

/// The longest message of WeChat that is passed on, in characters.
const ERRMSG_MAX: usize = 300;

/// The shortest run of a token's characters that is taken for one.
const TOKEN_LIKE_MIN: usize = 20;

/// What `jscode2session` tells. The `session_key` is left behind here: nothing needs it.
#[derive(Deserialize)]
pub(super) struct Session {
    pub(super) openid: String,
    pub(super) unionid: Option<String>,
}

pub(super) fn session(body: &Bytes) -> Result<Session, Error> {
    let session: Session = json(body)?;
    if session.openid.is_empty() {
        return Err(Error::Invalid("an empty openid".to_owned()));
    }
    Ok(Session {
        unionid: session.unionid.filter(|unionid| !unionid.is_empty()),
        ..session
    })
}

pub(super) fn granted(body: &Bytes) -> Result<Granted, Error> {
    #[derive(Deserialize)]
    struct Token {
        access_token: SecretString,
        expires_in: Value,
    }
    let Token {
        access_token,
        expires_in,
    } = json(body)?;
    if access_token.expose_secret().is_empty() {
        return Err(Error::Invalid("an empty access_token".to_owned()));
    }
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let life = match seconds {
        Some(seconds) if seconds >= 1.0 => Duration::from_secs_f64(seconds.min(TOKEN_LIFE_MAX.as_secs_f64())),
        _ => return Err(Error::Invalid("expires_in is no positive number".to_owned())),
    };
    Ok(Granted {
        token: access_token,
        life,
    })
}

pub(super) fn picture(body: &Bytes) -> Result<CodePicture, Error> {
    if body.trim_ascii_start().starts_with(b"{") {
        verdict(body).map_err(of_token)?;
        return Err(Error::Invalid(
            "JSON without an error code in place of a picture".to_owned(),
        ));
    }
    CodePicture::parse(body.clone()).map_err(|fault| match fault {
        NoPicture::CutShort => Error::CutShort,
        NoPicture::Foreign => Error::Invalid(format!("{} bytes that are neither JPEG nor PNG", body.len())),
    })
}

/// Tells a refused token from other errors: only of a call that was sent with one do their numbers say so.
fn of_token(error: Error) -> Error {
    match error {
        Error::Errcode { errcode, errmsg } if errcode.class() == Class::TokenInvalid => {
            Error::TokenRefused { errcode, errmsg }
        }
        error => error,
    }
}

/// Takes out of WeChat's words whatever is, or looks like, one of ours; its own `rid` stays.
pub(super) fn scrubbed(mut error: Error, secrets: &[&str]) -> Error {
    let (Error::Errcode { errmsg, .. } | Error::TokenRefused { errmsg, .. }) = &mut error else {
        return error;
    };
    // First, so that none of them parts a token in two.
    let printed: String = errmsg.chars().filter(|c| !c.is_control()).collect();
    let scrubbed = secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .fold(printed, |errmsg, secret| errmsg.replace(secret, "…"));
    *errmsg = scrubbed
        .split_inclusive(|c: char| !is_token_character(c))
        .flat_map(without_token)
        .collect::<String>()
        .chars()
        .take(ERRMSG_MAX)
        .collect();
    error
}

fn is_token_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A run of a token's characters, left out if it may be a token, and the character that ended it.
fn without_token(run: &str) -> [&str; 2] {
    let (token, end) = run.split_at(run.trim_end_matches(|c| !is_token_character(c)).len());
    if token.len() < TOKEN_LIKE_MIN || is_rid(token) {
        [token, end]
    } else {
        ["…", end]
    }
}

/// Three groups of eight hex digits: the name of a request in WeChat's own logs.
fn is_rid(token: &str) -> bool {
    let groups: Vec<&str> = token.split('-').collect();
    groups.len() == 3
        && groups
            .iter()
            .all(|group| group.len() == 8 && group.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    verdict(body)?;
    // The parser's own words would repeat what it could not parse.
    serde_json::from_slice(body).map_err(|_| Error::Invalid("JSON that lacks what was asked for".to_owned()))
}

/// The error that an answer tells, if it tells one. Success may come with `errcode` 0 or without any.
fn verdict(body: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Verdict {
        errcode: Option<i64>,
        errmsg: Option<String>,
    }
    match serde_json::from_slice(body) {
        Ok(Verdict {
            errcode: None | Some(0),
            ..
        }) => Ok(()),
        Ok(Verdict {
            errcode: Some(errcode),
            errmsg,
        }) => Err(Error::Errcode {
            errcode: Errcode::from(errcode),
            errmsg: errmsg.unwrap_or_default(),
        }),
        Err(_) => Err(Error::Invalid(format!(
            "{} bytes that are not the JSON expected",
            body.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(expires_in: &str) -> Option<u64> {
        let body = format!(r#"{{"access_token":"T","expires_in":{expires_in}}}"#);
        granted(&Bytes::from(body)).ok().map(|granted| granted.life.as_secs())
    }

    #[test]
    fn a_tokens_life_is_read_in_whatever_form_it_comes_and_never_believed_beyond_two_hours() {
        for (expires_in, seconds) in [
            ("7200", Some(7200)),
            ("\"7200\"", Some(7200)),
            ("300", Some(300)),
            ("1", Some(1)),
            ("7201", Some(7200)),
            ("99999999999999999999999999", Some(7200)),
            ("1e300", Some(7200)),
            ("\"inf\"", Some(7200)),
            ("0", None),
            ("-1", None),
            ("\"NaN\"", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("null", None),
            ("[]", None),
        ] {
            assert_eq!(life(expires_in), seconds, "{expires_in}");
        }
        assert!(granted(&Bytes::from(r#"{"access_token":"T"}"#)).is_err());
        assert!(granted(&Bytes::from(r#"{"access_token":"","expires_in":7200}"#)).is_err());
        assert!(granted(&Bytes::from(r#"{"expires_in":7200}"#)).is_err());
    }

    #[test]
    fn a_session_is_an_openid_with_or_without_errcode_and_unionid() {
        for (body, openid_and_unionid) in [
            (r#"{"openid":"o","session_key":"k"}"#, Some(("o", None))),
            (
                r#"{"openid":"o","session_key":"k","errcode":0,"errmsg":"ok"}"#,
                Some(("o", None)),
            ),
            (r#"{"openid":"o","unionid":"u"}"#, Some(("o", Some("u")))),
            (r#"{"openid":"o","unionid":""}"#, Some(("o", None))),
            (r#"{"openid":""}"#, None),
            (r#"{"session_key":"k"}"#, None),
            ("{}", None),
            ("", None),
            ("<html>", None),
            ("null", None),
        ] {
            let read = session(&Bytes::from(body)).ok();
            let read = read
                .as_ref()
                .map(|session| (session.openid.as_str(), session.unionid.as_deref()));
            assert_eq!(read, openid_and_unionid, "{body}");
        }
    }

    #[test]
    fn wechats_words_are_passed_on_without_anything_secret() {
        let says = |errmsg: &str| {
            let error = Error::Errcode {
                errcode: Errcode::InvalidCredential,
                errmsg: errmsg.to_owned(),
            };
            match scrubbed(error, &["short-secret", ""]) {
                Error::Errcode { errmsg, .. } => errmsg,
                other => panic!("{other}"),
            }
        };
        let kept = "invalid ip 1.2.3.4 ipv6 ::ffff:1.2.3.4, not in whitelist, rid: 62b1c7e9-4b5a3e2f-3a9e0f1b";
        assert_eq!(says(kept), kept);
        assert_eq!(says("code short-secret, again"), "code …, again");
        assert_eq!(says("secret 0123456789abcdef0123456789abcdef!"), "secret …!");
        assert_eq!(says("98_abcdefghijklmnopqrstuvwxyz-ABCDEF is invalid"), "… is invalid");
        assert_eq!(says("a\nforged\tline\u{1b}[0m"), "aforgedline[0m");
        assert_eq!(says("short-\0secret 0123456789\n0123456789"), "… …");
        assert_eq!(says(&"ab ".repeat(1_000)).chars().count(), ERRMSG_MAX);
    }
}
