//! The calls WeChat knows, and what came of those that were made.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::errcode::Errcode;

/// More than a load test's minute; beyond, the oldest are forgotten.
pub(super) const CALLS_MAX: usize = 10_000;
/// Enough to tell tokens apart, too little to use one.
const TAIL_LEN: usize = 6;

/// A call of WeChat's server API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Token,
    StableToken,
    Getwxacodeunlimit,
    Jscode2session,
}

/// What came of one call.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CallRecord {
    pub(super) call: Call,
    /// RFC 3339, UTC.
    pub(super) at: String,
    /// 0 when it succeeded, and when the answer was none of WeChat's.
    pub(super) errcode: Errcode,
    pub(super) status: u16,
    /// The end of the access_token that was given or used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_tail: Option<String>,
}

/// The newest calls.
#[derive(Debug, Default)]
pub(super) struct CallLog {
    records: VecDeque<CallRecord>,
}

impl CallLog {
    pub(super) fn push(&mut self, record: CallRecord) {
        if self.records.len() >= CALLS_MAX {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// Newest last.
    pub(super) fn to_vec(&self) -> Vec<CallRecord> {
        self.records.iter().cloned().collect()
    }
}

/// The last few characters of a token.
pub(super) fn token_tail(token: &str) -> String {
    let skipped = token.chars().count().saturating_sub(TAIL_LEN);
    token.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_calls_are_kept() {
        let mut log = CallLog::default();
        for n in 0..=CALLS_MAX {
            log.push(CallRecord {
                call: Call::Token,
                at: n.to_string(),
                errcode: Errcode::OK,
                status: 200,
                token_tail: None,
            });
        }
        let kept = log.to_vec();
        assert_eq!((kept.len(), kept[0].at.as_str()), (CALLS_MAX, "1"));
    }

    #[test]
    fn a_tail_is_short() {
        assert_eq!(token_tail("abcdefgh"), "cdefgh");
        assert_eq!(token_tail("ab"), "ab");
    }
}
