//! Why a certificate is not trusted, by what is said of it: libraries pass on no more than words, and each its own.

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// It is from an authority that is not among those trusted, and so is one that signed itself.
    UnknownIssuer,
    /// It is for another name.
    OtherName,
    /// It has ended, or has not begun.
    OtherTime,
    /// Anything else.
    Otherwise,
}

impl Distrust {
    /// Reads it from an error's text; nothing where that is about no certificate.
    pub(crate) fn of(why: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
        if says(&["UnknownIssuer"]) {
            Some(Self::UnknownIssuer)
        } else if says(&["NotValidForName", "not valid for name"]) {
            Some(Self::OtherName)
        } else if says(&["Expired", "certificate expired", "NotValidYet", "not valid yet"]) {
            Some(Self::OtherTime)
        } else if says(&["InvalidCertificate", "invalid peer certificate"]) {
            Some(Self::Otherwise)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, Error};

    use super::*;

    /// As one library prints it, and as the other.
    #[test]
    fn each_distrust_is_read_from_both_ways_in_which_it_is_told() {
        let (early, late) = (
            UnixTime::since_unix_epoch(Duration::from_secs(1)),
            UnixTime::since_unix_epoch(Duration::from_secs(9)),
        );
        let ended = CertificateError::ExpiredContext {
            time: late,
            not_after: early,
        };
        let not_begun = CertificateError::NotValidYetContext {
            time: early,
            not_before: late,
        };
        let for_another = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").unwrap(),
            presented: vec!["DnsName(\"b.example\")".to_owned()],
        };
        for (error, distrust) in [
            (CertificateError::UnknownIssuer, Distrust::UnknownIssuer),
            (CertificateError::NotValidForName, Distrust::OtherName),
            (for_another, Distrust::OtherName),
            (CertificateError::Expired, Distrust::OtherTime),
            (ended, Distrust::OtherTime),
            (CertificateError::NotValidYet, Distrust::OtherTime),
            (not_begun, Distrust::OtherTime),
            (CertificateError::BadSignature, Distrust::Otherwise),
        ] {
            let error = Error::InvalidCertificate(error);
            for told in [error.to_string(), format!("{error:?}")] {
                assert_eq!(Distrust::of(&told), Some(distrust), "{told}");
            }
        }
        assert_eq!(
            Distrust::of("received corrupt message of type InvalidContentType"),
            None
        );
    }
}
