//! WeChat's error codes: the numbers, and the words that come with them.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::entropy::os_rng;

/// What an answer of WeChat carries as `errcode`; 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Errcode(pub(super) i64);

impl Errcode {
    pub(super) const OK: Self = Self(0);
    pub(super) const SYSTEM_ERROR: Self = Self(-1);
    pub(super) const INVALID_CREDENTIAL: Self = Self(40001);
    pub(super) const INVALID_GRANT_TYPE: Self = Self(40002);
    pub(super) const INVALID_APPID: Self = Self(40013);
    pub(super) const INVALID_ACCESS_TOKEN: Self = Self(40014);
    pub(super) const INVALID_CODE: Self = Self(40029);
    pub(super) const INVALID_ENV_VERSION: Self = Self(40097);
    pub(super) const INVALID_APPSECRET: Self = Self(40125);
    pub(super) const INVALID_SCENE: Self = Self(40129);
    pub(super) const CODE_USED: Self = Self(40163);
    pub(super) const INVALID_SCENE_LENGTH: Self = Self(40169);
    pub(super) const INVALID_WIDTH: Self = Self(40189);
    pub(super) const ACCESS_TOKEN_MISSING: Self = Self(41001);
    pub(super) const APPID_MISSING: Self = Self(41002);
    pub(super) const APPSECRET_MISSING: Self = Self(41004);
    pub(super) const CODE_MISSING: Self = Self(41008);
    pub(super) const INVALID_PAGE: Self = Self(41030);
    pub(super) const ACCESS_TOKEN_EXPIRED: Self = Self(42001);
    pub(super) const GET_REQUIRED: Self = Self(43001);
    pub(super) const POST_REQUIRED: Self = Self(43002);
    pub(super) const QUOTA_USED_UP: Self = Self(45009);
    pub(super) const TOO_FREQUENT: Self = Self(45011);
    pub(super) const DATA_FORMAT: Self = Self(47001);
    pub(super) const SCANCODE_TIME: Self = Self(85096);

    /// The JSON text that WeChat answers, with a `rid` of its own in `errmsg`.
    pub(super) fn to_json(self) -> String {
        let [a, b, c]: [u32; 3] = os_rng().random();
        let errmsg = format!("{} rid: {a:08x}-{b:08x}-{c:08x}", self.words());
        serde_json::json!({ "errcode": self, "errmsg": errmsg }).to_string()
    }

    fn words(self) -> &'static str {
        match self.0 {
            0 => "ok",
            -1 => "system error",
            40001 => "invalid credential, access_token is invalid or not latest",
            40002 => "invalid grant_type",
            40013 => "invalid appid",
            40014 => "invalid access_token",
            40029 => "invalid code",
            40097 => "invalid args",
            40125 => "invalid appsecret",
            40129 => "invalid scene",
            40163 => "code been used",
            40164 => "invalid ip, not in whitelist",
            40169 => "invalid length for scene, or the data is not json string",
            40189 => "invalid width",
            40226 => "high risk user, login denied",
            40243 => "appsecret has been frozen",
            41001 => "access_token missing",
            41002 => "appid missing",
            41004 => "appsecret missing",
            41008 => "missing code",
            41030 => "invalid page",
            42001 => "access_token expired",
            43001 => "require GET method",
            43002 => "require POST method",
            45009 => "reach max api daily quota limit",
            45011 => "api minute-quota reach limit, must slower, retry next minute",
            45063 => "no permission to generate, or the access_token is not a mini program's",
            47001 => "data format error",
            48001 => "api unauthorized",
            50004 => "forbidden to use the token api",
            50007 => "account frozen",
            85096 => "scancode_time is reserved by the system",
            89503 => "this ip needs the confirmation of an administrator",
            _ => "simulated error",
        }
    }
}
