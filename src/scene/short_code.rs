//! The short code: what somebody without a camera types into the Mini Program in place of a scan.
//!
//! It names a scene to whoever logs in with it, and opens nothing: neither the stream nor the status nor a token.

use std::fmt;
use std::time::Duration;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::id::Mark;
use super::{BrowserSecret, Life};

/// How long one counts, if its scene lives as long.
pub const SHORT_CODE_LIFE: Duration = Duration::from_mins(2);

/// What one is written in. Of signs that look alike one is in it at most: 2 and no Z, 5 and no S, 6 and no G, 8 and no B, V and no U;
/// and none of 0 and O, of 1, I and L, which are taken for one another more often than read right. Eight of 26 are 37.6 bits.
const ALPHABET: [u8; 26] = *b"23456789ACDEFHJKMNPQRTVWXY";

/// How many signs it has.
const LEN: usize = 8;

/// The longest text that is read as one, in bytes: with every sign as wide as an input method makes it, and as many gaps.
const TEXT_MAX: usize = 64;

/// The hash by which a store finds the scene of a code: nobody who reads the store finds the code in it.
pub type ShortCodeTag = Mark<3>;

/// What a code is made of, beside the browser's secret. Random, so that the next one of a scene is another.
pub type Salt = Mark<4>;

/// A short code.
#[derive(Clone, PartialEq, Eq)]
pub struct ShortCode([u8; LEN]);

/// What a record keeps of the code that was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownCode {
    /// With which its browser's secret makes it again.
    pub salt: Salt,
    /// What it hashes to.
    pub tag: ShortCodeTag,
    /// The record's life, in milliseconds, when it ends.
    pub ends_ms: u64,
}

impl ShownCode {
    /// How long it still counts.
    #[must_use]
    pub fn left(&self, life: Life) -> Duration {
        life.0.saturating_sub(Duration::from_millis(self.ends_ms))
    }
}

impl ShortCode {
    /// The code that the browser holding `secret` shows.
    ///
    /// Derived, so that any replica can tell the browser once more what none has stored.
    #[must_use]
    pub fn derive(secret: &BrowserSecret, salt: Salt) -> Self {
        let mut left = u128::from_be_bytes(secret.for_short_code(&salt.bytes()));
        let alphabet = ALPHABET.len() as u128;
        Self(std::array::from_fn(|_| {
            let at = usize::try_from(left % alphabet).unwrap_or_default();
            left /= alphabet;
            ALPHABET.get(at).copied().unwrap_or_default()
        }))
    }

    /// Reads what somebody typed, in whatever case and width, with gaps and dashes anywhere; what is not in the alphabet because
    /// another sign looks like it counts as that one. `None` when it can't be a code.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let is_gap =
            |sign: &char| sign.is_whitespace() || matches!(sign, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '－');
        let signs = text.chars().filter(|sign| !is_gap(sign)).map(|sign| match sign {
            // Full width, as Chinese input methods write.
            '！'..='～' => char::from_u32(u32::from(sign) - 0xfee0)
                .unwrap_or(sign)
                .to_ascii_uppercase(),
            sign => sign.to_ascii_uppercase(),
        });
        let meant = signs.map(|sign| match sign {
            'Z' => '2',
            'S' => '5',
            'G' => '6',
            'B' => '8',
            'U' => 'V',
            sign => sign,
        });
        let read = meant.map(|sign| u8::try_from(sign).ok().filter(|sign| ALPHABET.contains(sign)));
        let read: Vec<u8> = (text.len() <= TEXT_MAX).then(|| read.collect()).flatten()?;
        read.try_into().ok().map(Self)
    }

    /// What a store may keep of it: HMAC-SHA-256 by a key of the Mini Program whose people type it. What has so few bits would be found
    /// by trying, were there no key.
    #[must_use]
    pub fn tag(&self, appid: &str, appsecret: &[u8]) -> ShortCodeTag {
        let of_program = hmac::Key::new(hmac::HMAC_SHA256, appsecret);
        let key = hmac::sign(&of_program, &[b"scanlogin short code\0", appid.as_bytes()].concat());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), &self.0);
        ShortCodeTag::of(tag.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// As it is shown: two groups of four.
    #[must_use]
    pub fn expose(&self) -> String {
        let signs: String = self.0.iter().copied().map(char::from).collect();
        let (first, second) = signs.split_at(LEN / 2);
        format!("{first}-{second}")
    }
}

impl fmt::Debug for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortCode(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn drawn(seed: u64) -> ShortCode {
        let mut rng = StdRng::seed_from_u64(seed);
        ShortCode::derive(&BrowserSecret::random(&mut rng), Salt::random(&mut rng))
    }

    #[test]
    fn t38_a_code_has_more_than_37_fair_bits() {
        assert!((ALPHABET.len() as u128).pow(u32::try_from(LEN).unwrap()) > 1 << 37);
        let mut counts: BTreeMap<(usize, u8), u32> = BTreeMap::new();
        let codes: HashSet<[u8; LEN]> = (0..26_000).map(|seed| drawn(seed).0).collect();
        assert_eq!(codes.len(), 26_000);
        for code in codes {
            for (at, sign) in code.into_iter().enumerate() {
                *counts.entry((at, sign)).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), LEN * ALPHABET.len());
        // A thousand of each at each place, give or take six times what chance does.
        for (of, count) in counts {
            assert!((800..1_200).contains(&count), "{of:?}: {count}");
        }
    }

    #[test]
    fn what_looks_like_a_sign_is_that_sign_and_no_sign_looks_like_two() {
        let code = ShortCode::read("2568-V3XQ").unwrap();
        for typed in [
            "zsgb-u3xq",
            " Z S G B U 3 X Q ",
            "２５６８－Ｖ３ｘｑ",
            "2568—v3xq",
            "2568　V3XQ",
        ] {
            assert_eq!(ShortCode::read(typed).as_ref(), Some(&code), "{typed}");
        }
        for wrong in [
            "",
            "2568V3X",
            "2568V3XQQ",
            "0568V3XQ",
            "O568V3XQ",
            "1568V3XQ",
            "I568V3XQ",
            "L568V3XQ",
            "2568V3X!",
            "2568V3Xé",
        ] {
            assert_eq!(ShortCode::read(wrong), None, "{wrong}");
        }
        assert_eq!(ShortCode::read(&format!("2568V3XQ{}", " ".repeat(TEXT_MAX))), None);
    }

    #[test]
    fn a_tag_is_of_one_mini_program_and_its_secret() {
        let code = drawn(1);
        let tags: HashSet<ShortCodeTag> = [("wx1", "a"), ("wx1", "b"), ("wx2", "a")]
            .map(|(appid, secret)| code.tag(appid, secret.as_bytes()))
            .into();
        assert_eq!(tags.len(), 3);
        assert_eq!(code.tag("wx1", b"a"), drawn(1).tag("wx1", b"a"));
        assert_ne!(code.tag("wx1", b"a"), drawn(2).tag("wx1", b"a"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_however_it_is_typed(seed: u64, gaps in prop::collection::vec("[ \u{a0}\u{3000}-]{0,2}", 9), lower: bool) {
            let code = drawn(seed);
            let shown = code.expose();
            prop_assert_eq!(ShortCode::read(&shown), Some(code.clone()));
            let signs = shown.chars().filter(|sign| *sign != '-');
            let signs = signs.map(|sign| if lower { sign.to_ascii_lowercase() } else { sign });
            let typed: String = gaps.iter().map(String::as_str).zip(signs.map(Some).chain([None])).fold(String::new(), |text, (gap, sign)| {
                text + gap + &sign.map(String::from).unwrap_or_default()
            });
            prop_assert_eq!(ShortCode::read(&typed), Some(code));
        }

        #[test]
        fn nothing_typed_breaks_the_reading(text in ".{0,80}") {
            let _ = ShortCode::read(&text);
        }
    }
}
