//! WeChat's error codes: what each one means, and what the operator can do about it.
//!
//! To add one: a line in the table.

use std::fmt;

/// What an error code asks the caller to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The `access_token` is refused: another one may do.
    TokenInvalid,
    /// The `wx.login` code is refused: the Mini Program must call `wx.login` again.
    CodeInvalid,
    /// WeChat holds this person back.
    Blocked,
    /// WeChat is busy: the same call may succeed a moment later.
    Busy,
    /// A budget is used up: the same call may succeed once WeChat counts anew.
    Quota,
    /// What is sent, or set up with WeChat, is wrong: somebody must change it.
    Setup,
}

macro_rules! errcodes {
    ($($name:ident = $number:literal, $class:ident, $meaning:literal, $advice:literal;)+) => {
        /// An error code that WeChat answered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Errcode {
            $(#[doc = concat!("`", stringify!($number), "`: ", $meaning, ".")] $name,)+
            /// A number that is not in the table.
            Other(i64),
        }

        impl Errcode {
            /// All that are in the table.
            pub const KNOWN: &[Self] = &[$(Self::$name),+];

            /// The number.
            #[must_use]
            pub fn number(self) -> i64 {
                match self {
                    $(Self::$name => $number,)+
                    Self::Other(number) => number,
                }
            }

            /// What it asks the caller to do.
            #[must_use]
            pub fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)+
                    Self::Other(_) => Class::Setup,
                }
            }

            /// What it means, in a few words.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                    Self::Other(_) => "an error that this service does not know",
                }
            }

            /// What to do about it: a sentence for the operator.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self {
                    $(Self::$name => $advice,)+
                    Self::Other(_) => "Look the number up in WeChat's list of return codes; the rid in its message can be \
                                       looked up with /cgi-bin/openapi/rid/get.",
                }
            }
        }

        impl From<i64> for Errcode {
            fn from(number: i64) -> Self {
                match number {
                    $($number => Self::$name,)+
                    other => Self::Other(other),
                }
            }
        }
    };
}

errcodes! {
    Busy = -1, Busy, "WeChat is busy",
        "Nothing to change; try again in a moment.";
    InvalidCredential = 40001, TokenInvalid, "the AppSecret is wrong, or the access_token is not the latest",
        "If fetching the access_token is refused, compare SCANLOGIN_WECHAT_SECRET with the AppSecret in the Mini Program's \
         console; if other calls are, look whether another program uses /cgi-bin/token with the same AppID.";
    InvalidGrantType = 40002, Setup, "the grant_type is wrong, or the account may not use this call",
        "Check that SCANLOGIN_WECHAT_API_BASE is WeChat's own address, and that the account is not a personal one where the call \
         needs a company's.";
    InvalidAppid = 40013, Setup, "the AppID is wrong",
        "Compare SCANLOGIN_WECHAT_APPID with the AppID in the Mini Program's console; it begins with wx.";
    InvalidAccessToken = 40014, TokenInvalid, "the access_token is not valid",
        "It is fetched anew by itself; if that does not help, look whether another program refreshes the same AppID's token.";
    InvalidCode = 40029, CodeInvalid, "the wx.login code is not valid",
        "The Mini Program must call wx.login again; if every code is refused, SCANLOGIN_WECHAT_APPID is not the AppID of the \
         Mini Program that people scan into.";
    InvalidEnvVersion = 40097, Setup, "an argument is wrong, most likely env_version",
        "Compare SCANLOGIN_CODE_ENV_VERSION, SCANLOGIN_CODE_WIDTH and SCANLOGIN_CODE_LINE_COLOR with what WeChat's message says.";
    InvalidSecret = 40125, Setup, "the AppSecret is wrong",
        "Compare SCANLOGIN_WECHAT_SECRET with the AppSecret in the Mini Program's console; it may have been reset there.";
    InvalidScene = 40129, Setup, "the scene is not accepted",
        "This service sends 32 hex digits as scene; check what stands at SCANLOGIN_WECHAT_API_BASE between it and WeChat.";
    InvalidPath = 40159, Setup, "the path is not accepted",
        "Check page of the Mini Program: no leading /, no query, an existing page.";
    CodeUsed = 40163, CodeInvalid, "the wx.login code was used before",
        "The Mini Program must call wx.login again for each scan, and not send the same request twice.";
    IpNotAllowed = 40164, Setup, "the address that this service calls from is not in the IP whitelist",
        "Add the address named in WeChat's message to the IP whitelist in the Mini Program's console (development settings); it \
         is the egress address of your cluster.";
    InvalidPagePath = 40165, Setup, "the page's path is not accepted",
        "Check page of the Mini Program: no leading /, no query, an existing page.";
    InvalidSceneLength = 40169, Setup, "the scene is empty or too long, or what was sent is no JSON",
        "This service sends 32 hex digits as scene; check what stands at SCANLOGIN_WECHAT_API_BASE between it and WeChat.";
    InvalidWidth = 40189, Setup, "the picture's width is not accepted",
        "The width must be between 280 and 1280 pixels.";
    BlockedUser = 40226, Blocked, "WeChat holds this person back as a high risk",
        "Nothing to change; the person can ask WeChat why.";
    SecretFrozen = 40243, Setup, "the AppSecret is frozen",
        "Unfreeze the AppSecret in the Mini Program's console, or reset it and set SCANLOGIN_WECHAT_SECRET.";
    MissingAccessToken = 41001, TokenInvalid, "the access_token is missing",
        "Check what stands at SCANLOGIN_WECHAT_API_BASE between this service and WeChat: it takes queries away.";
    MissingAppid = 41002, Setup, "the AppID is missing",
        "Set SCANLOGIN_WECHAT_APPID, and check what stands at SCANLOGIN_WECHAT_API_BASE between this service and WeChat.";
    MissingSecret = 41004, Setup, "the AppSecret is missing",
        "Set SCANLOGIN_WECHAT_SECRET, and check what stands at SCANLOGIN_WECHAT_API_BASE between this service and WeChat.";
    MissingCode = 41008, CodeInvalid, "the wx.login code is missing",
        "The Mini Program must send what wx.login gave it as code.";
    InvalidPage = 41030, Setup, "the page does not exist in the released version",
        "Check page of the Mini Program (no leading /, no query), publish a version that has it, or set env_version to trial \
         while trying it out.";
    TokenExpired = 42001, TokenInvalid, "the access_token has expired",
        "It is fetched anew by itself; if that does not help, look whether another program refreshes the same AppID's token.";
    PostRequired = 43002, Setup, "the call must be a POST",
        "Check what stands at SCANLOGIN_WECHAT_API_BASE between this service and WeChat: it changes the method.";
    DailyQuota = 45009, Quota, "the call's quota is used up",
        "Wait for WeChat to count anew, or clear the quota with /cgi-bin/clear_quota/v2 (10 times a month); look what else uses the \
         same AppID.";
    MinuteQuota = 45011, Quota, "the call is made too often",
        "Wait a minute; look what else uses the same AppID.";
    CodesUsedUp = 45029, Quota, "the AppID's 100,000 codes of the limited kind are used up",
        "This service uses only the unlimited kind; look what else creates codes for the same AppID.";
    CodesForbidden = 45063, Setup, "the account may not create codes, or the token is not a Mini Program's",
        "Check that SCANLOGIN_WECHAT_APPID is a Mini Program, not an official account, and that it is verified.";
    MalformedData = 47001, Setup, "what was sent has a wrong form",
        "Check page and env_version of the Mini Program; if they are right, please report this as a bug.";
    Unauthorized = 48001, Setup, "the account may not use this call",
        "Look in the Mini Program's console whether the permission for codes (set 17) is granted.";
    ClearsUsedUp = 48006, Quota, "this month's quota clearings are used up",
        "Wait for the next month.";
    TokenForbidden = 50004, Setup, "the account may not fetch an access_token",
        "Look in the Mini Program's console what keeps the account from it.";
    AccountFrozen = 50007, Setup, "the account is frozen",
        "Look in the Mini Program's console why, and appeal there.";
    PlatformTokenRequired = 61024, Setup, "the AppID is managed by a third-party platform, whose token is needed",
        "Use the AppID and AppSecret of a Mini Program that no third-party platform manages.";
    InvalidPageQuery = 85096, Setup, "the page contains scancode_time, which WeChat keeps for itself",
        "Take scancode_time out of page of the Mini Program.";
    IpUnconfirmed = 89501, Setup, "the address that this service calls from waits for the administrator's confirmation",
        "The Mini Program's administrator must confirm the address in WeChat, or add it to the IP whitelist in the console.";
    IpConfirming = 89503, Setup, "the address that this service calls from needs the administrator's confirmation",
        "The Mini Program's administrator must confirm the address in WeChat, or add it to the IP whitelist in the console.";
    IpRefusedForDay = 89506, Setup, "the administrator refused the address that this service calls from, for 24 hours",
        "Add the address to the IP whitelist in the Mini Program's console, or wait 24 hours and confirm it in WeChat.";
    IpRefusedForHour = 89507, Setup, "the administrator refused the address that this service calls from, for an hour",
        "Add the address to the IP whitelist in the Mini Program's console, or wait an hour and confirm it in WeChat.";
}

impl Errcode {
    /// The value of a metric's label: numbers that are not in the table share one, so that their set is closed.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Other(_) => "other".to_owned(),
            known => known.number().to_string(),
        }
    }
}

impl fmt::Display for Errcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_has_a_typed_answer() {
        let table = [
            (Class::Busy, &[-1][..]),
            (Class::TokenInvalid, &[40001, 40014, 41001, 42001]),
            (Class::CodeInvalid, &[40029, 40163, 41008]),
            (Class::Blocked, &[40226]),
            (Class::Quota, &[45009, 45011, 45029, 48006]),
            (
                Class::Setup,
                &[
                    40002, 40013, 40097, 40125, 40129, 40159, 40164, 40165, 40169, 40189, 40243, 41002, 41004, 41030,
                    43002, 45063, 47001, 48001, 50004, 50007, 61024, 85096, 89501, 89503, 89506, 89507,
                ],
            ),
        ];
        let mut count = 0;
        for (class, numbers) in table {
            for number in numbers {
                let errcode = Errcode::from(*number);
                assert!(Errcode::KNOWN.contains(&errcode), "{number}");
                assert_eq!((errcode.number(), errcode.class()), (*number, class));
                count += 1;
            }
        }
        assert_eq!(count, Errcode::KNOWN.len(), "the table here lacks one");
    }

    #[test]
    fn every_error_code_says_what_to_do_in_a_sentence() {
        for errcode in Errcode::KNOWN.iter().copied().chain([Errcode::Other(99_999)]) {
            assert!(errcode.advice().ends_with('.'), "{errcode}");
            assert!(!errcode.advice().contains("  "), "{errcode}");
            assert!(!errcode.meaning().ends_with('.'), "{errcode}");
        }
    }

    #[test]
    fn unknown_numbers_stay_themselves_but_share_a_label() {
        assert_eq!(Errcode::from(99_999).number(), 99_999);
        assert_eq!(Errcode::from(99_999).label(), "other");
        assert_eq!(Errcode::from(40_001).label(), "40001");
    }
}
