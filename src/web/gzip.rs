//! What is the same for everybody, made smaller for whoever takes it so (RFC 9110 §8.4.1.3).
//!
//! Packed once and kept: a layer that packs each answer anew (tower-http has one) would let anybody keep a processor busy for tens of
//! milliseconds with a request of a hundred bytes, as Swagger UI's script is 1.4 MB.
//!
//! Never what holds a secret beside words of others: how far it shrinks would tell the one by the other (BREACH).

use std::io::{self, Read, Write};
use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// The header that each answer carries which differs by what is taken, whether or not it is gzip (RFC 9110 §12.5.5).
pub const VARY: (HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("accept-encoding"));

/// The header of an answer that is gzip.
pub const IS_GZIP: (HeaderName, HeaderValue) = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));

/// Bytes that do not change. The form that they were not given in is made when it is first asked for.
#[derive(Debug, Default)]
pub struct Constant {
    plain: OnceLock<Bytes>,
    packed: OnceLock<Bytes>,
}

impl Constant {
    /// These.
    #[must_use]
    pub fn new(plain: Bytes) -> Self {
        let plain = OnceLock::from(plain);
        Self {
            plain,
            ..Self::default()
        }
    }

    /// What this gzip holds.
    #[must_use]
    pub fn of_packed(packed: Bytes) -> Self {
        let packed = OnceLock::from(packed);
        Self {
            packed,
            ..Self::default()
        }
    }

    /// As they are. Nothing of a gzip that is none.
    #[must_use]
    pub fn plain(&self) -> Bytes {
        let unpacked = || self.packed.get().and_then(|packed| unpack(packed).ok());
        self.plain.get_or_init(|| unpacked().unwrap_or_default()).clone()
    }

    /// As gzip, if who asks takes that.
    #[must_use]
    pub fn packed(&self, asked: &HeaderMap) -> Option<Bytes> {
        if !is_taken(asked) {
            return None;
        }
        if self.packed.get().is_none() {
            let packed = pack(&self.plain()).ok()?;
            let _ = self.packed.set(packed);
        }
        self.packed.get().cloned()
    }
}

/// Whether who asks takes gzip (RFC 9110 §12.5.3). Whoever does not say so may not.
#[must_use]
pub fn is_taken(asked: &HeaderMap) -> bool {
    let lines = asked.get_all(header::ACCEPT_ENCODING).into_iter();
    let codings: Vec<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .collect();
    let of = |names: &[&str]| {
        codings.iter().find_map(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let is_named = names.iter().any(|known| known.eq_ignore_ascii_case(name.trim()));
            is_named.then(|| !is_nothing(weight))
        })
    };
    of(&["gzip", "x-gzip"]).or_else(|| of(&["*"])).unwrap_or(false)
}

/// Whether a weight, such as `q=0.5`, is 0; what is none counts as 1.
fn is_nothing(weight: &str) -> bool {
    let value = weight
        .trim()
        .trim_start_matches(['q', 'Q'])
        .trim_start()
        .strip_prefix('=');
    value.is_some_and(|value| value.trim().parse::<f32>().is_ok_and(|value| value <= 0.0))
}

/// These bytes as gzip, as small as that makes them.
fn pack(plain: &[u8]) -> io::Result<Bytes> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(plain)?;
    Ok(packed.finish()?.into())
}

/// What a gzip of ours holds.
///
/// # Errors
/// It is none.
pub fn unpack(packed: &[u8]) -> io::Result<Bytes> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain)?;
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_says_so() {
        for (lines, taken) in [
            (&[] as &[&'static str], false),
            (&[""], false),
            (&["gzip"], true),
            (&["gzip, deflate, br, zstd"], true),
            (&["br", "x-gzip"], true),
            (&["br;q=1.0 , GZIP ; q=0.2"], true),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["identity;q=1, *;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip;Q = 0.000"], false),
            (&["*;q=0, gzip"], true),
            (&["gzip;q=nonsense"], true),
            (&["deflate, br"], false),
            (&["gzipped"], false),
        ] {
            let mut asked = HeaderMap::new();
            for line in lines {
                asked.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(is_taken(&asked), taken, "{asked:?}");
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_to_what_it_was() {
        let plain = "to be or not to be, ".repeat(100);
        let packed = pack(plain.as_bytes()).unwrap();
        assert!(packed.len() * 10 < plain.len(), "{}", packed.len());
        assert_eq!(unpack(&packed).unwrap(), plain);
        assert!(unpack(plain.as_bytes()).is_err());
    }
}
