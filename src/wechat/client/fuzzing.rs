//! What holds of whatever WeChat answers: see [`crate::fuzzing`].

use bytes::Bytes;
use secrecy::ExposeSecret;

use super::reply::{granted, picture, scrubbed, session};
use super::{Error, TOKEN_LIFE_MAX};
use crate::wechat::errcode::Errcode;

/// The body of an answer to each call; and what a message of WeChat would be passed on as.
pub(crate) fn wechat_reply(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(session) = session(&body) {
        assert!(!session.openid.is_empty(), "nobody is logged in");
        assert!(session.unionid.is_none_or(|unionid| !unionid.is_empty()));
    }
    if let Ok(granted) = granted(&body) {
        assert!(!granted.token.expose_secret().is_empty());
        assert!(
            (1..=TOKEN_LIFE_MAX.as_secs()).contains(&granted.life.as_secs()),
            "{:?}",
            granted.life
        );
    }
    if let Ok(picture) = picture(&body) {
        assert_eq!(picture.bytes(), &body);
        assert!(data.starts_with(b"\xff\xd8\xff") || data.starts_with(b"\x89PNG"));
    }
    for error in [session(&body).err(), granted(&body).err(), picture(&body).err()] {
        let Some(error) = error else { continue };
        told(error);
    }
    told(Error::Errcode {
        errcode: Errcode::from(40_001),
        errmsg: String::from_utf8_lossy(data).into_owned(),
    });
}

/// Of an error, what people and logs are told.
fn told(error: Error) {
    const SECRET: &str = "opensesame";
    let (Error::Errcode { errmsg, .. } | Error::TokenRefused { errmsg, .. }) = scrubbed(error, &[SECRET, ""]) else {
        return;
    };
    assert!(!errmsg.contains(SECRET), "{errmsg}");
    assert!(
        errmsg.chars().count() <= 300 && !errmsg.contains(char::is_control),
        "{errmsg:?}"
    );
    for run in errmsg.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-') {
        let groups: Vec<&str> = run.split('-').collect();
        let is_rid = groups.len() == 3 && groups.iter().all(|group| u32::from_str_radix(group, 16).is_ok());
        assert!(run.len() < 20 || is_rid, "{run} may be a token");
    }
}
