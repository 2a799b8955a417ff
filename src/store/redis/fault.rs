//! What went wrong, by what the server or the library says.

use fred::error::{Error, ErrorKind};

use super::settings::FatalError;
use crate::store::StoreError;

/// Why one attempt failed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// There was no answer in time.
    NoAnswer,
    /// Another attempt may go better.
    Again(String),
    /// The server that was asked named another one, which the library does not pass on.
    Redirected,
    /// It would be answered the same way again.
    Refused(String),
    /// The server takes no more.
    Full,
    /// What is kept can't be read.
    Corrupt(String),
}

impl Fault {
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer | Self::Again(_) | Self::Redirected => true,
            Self::Refused(_) | Self::Full | Self::Corrupt(_) => false,
        }
    }
}

impl From<Error> for Fault {
    /// The library passes most answers on as text only: their first word says what they are.
    fn from(error: Error) -> Self {
        let word = error.details().split_whitespace().next().unwrap_or_default();
        match word {
            "OOM" => Self::Full,
            "WRONGTYPE" => Self::Corrupt(error.details().to_owned()),
            "MOVED" | "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS" | "MISCONF"
            | "BUSY" | "UNBLOCKED" => Self::Again(error.details().to_owned()),
            _ if word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase()) => {
                Self::Refused(error.details().to_owned())
            }
            _ if *error.kind() == ErrorKind::Timeout => Self::NoAnswer,
            _ if *error.kind() == ErrorKind::Routing && error.details() == "Too many redirections." => Self::Redirected,
            _ => Self::Again(error.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoAnswer => Self::Unavailable("no answer in time".to_owned()),
            Fault::Again(why) | Fault::Refused(why) => Self::Unavailable(why),
            Fault::Redirected => Self::Unavailable("the key is at another server".to_owned()),
            Fault::Full => Self::Full,
            Fault::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

/// Why a server is not used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It may be fit later.
    Yet(String),
    /// It will never be.
    Forever(FatalError),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        match refusal(&error) {
            Some(fatal) => Self::Forever(fatal),
            None => Self::Yet(error.to_string()),
        }
    }
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) if is_refusal(&why) => Self::Forever(FatalError::Refused(why)),
            fault => Self::Yet(StoreError::from(fault).to_string()),
        }
    }
}

/// What of an error no further try can change: credentials, rights, and a server of another kind than the URL says.
pub(super) fn refusal(error: &Error) -> Option<FatalError> {
    let fatal = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config) || is_refusal(error.details());
    fatal.then(|| FatalError::Refused(error.details().to_owned()))
}

fn is_refusal(answer: &str) -> bool {
    // As Redis says it, directly or from within a script.
    let refusals = [
        "WRONGPASS",
        "NOAUTH",
        "NOPERM",
        "ERR DB index",
        "The user executing the script",
    ];
    refusals.iter().any(|text| answer.contains(text))
}
