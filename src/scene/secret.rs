//! Secrets of 256 random bits: typed by what they open, never printed, wiped when dropped; and the digests the store may keep.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::CryptoRng;
use ring::{digest, hmac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const BYTES: usize = 32;

/// What a secret opens. Each kind hashes under a domain of its own, so that one offered in the place of another never matches.
pub trait Kind {
    /// The domain prefix of this kind's digest.
    const DOMAIN: &'static str;
}

/// Opens a scene's stream, its status and its cancelling.
#[derive(Debug)]
pub enum Browser {}
impl Kind for Browser {
    const DOMAIN: &'static str = "browser";
}

/// Lets the phone that scanned confirm or decline.
#[derive(Debug)]
pub enum Confirm {}
impl Kind for Confirm {
    const DOMAIN: &'static str = "confirm";
}

/// The unguessable part of an authorization code.
#[derive(Debug)]
pub enum Code {}
impl Kind for Code {
    const DOMAIN: &'static str = "code";
}

/// The unguessable part of the access token for `/userinfo`.
#[derive(Debug)]
pub enum Access {}
impl Kind for Access {
    const DOMAIN: &'static str = "access";
}

/// Given to the creating browser only.
pub type BrowserSecret = Secret<Browser>;
/// Given to the phone that scanned.
pub type ConfirmToken = Secret<Confirm>;

/// A secret of one kind. Its text form is base64url without padding.
pub struct Secret<K> {
    bytes: Zeroizing<[u8; BYTES]>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Secret<K> {
    /// Draws a new one.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self::from_bytes(bytes)
    }

    /// Reads what somebody presented; `None` when it has not even the form of a secret.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        match URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut_slice()) {
            Ok(BYTES) => Some(Self::from_bytes(bytes)),
            _ => None,
        }
    }

    /// The text to hand to the one who may have it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.bytes.as_slice()))
    }

    /// What a record may keep of it: `SHA-256(domain ‖ 0 ‖ secret)`.
    #[must_use]
    pub fn digest(&self) -> Digest<K> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(K::DOMAIN.as_bytes());
        context.update(&[0]);
        context.update(self.bytes.as_slice());
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(context.finish().as_ref());
        Digest {
            bytes,
            kind: PhantomData,
        }
    }

    fn from_bytes(bytes: Zeroizing<[u8; BYTES]>) -> Self {
        Self {
            bytes,
            kind: PhantomData,
        }
    }
}

impl BrowserSecret {
    /// The secret part of this browser's authorization code: `HMAC-SHA-256(browser secret, "authorization code")`.
    ///
    /// Derived, not drawn: whichever replica the browser comes back to can deliver the same code, and none has to store it.
    #[must_use]
    pub fn code(&self) -> Secret<Code> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bytes.as_slice());
        let mut bytes = Zeroizing::new([0; BYTES]);
        bytes.copy_from_slice(hmac::sign(&key, b"authorization code").as_ref());
        Secret::from_bytes(bytes)
    }

    /// What this browser's short code is made of: 128 bits of `HMAC-SHA-256(browser secret, "short code" ‖ salt)`.
    #[must_use]
    pub(super) fn for_short_code(&self, salt: &[u8]) -> [u8; 16] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bytes.as_slice());
        let made = hmac::sign(&key, &[b"short code", salt].concat());
        made.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl<K> Clone for Secret<K> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            kind: PhantomData,
        }
    }
}

impl<K: Kind> fmt::Debug for Secret<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{}>(…)", K::DOMAIN)
    }
}

/// The domain-separated hash of a secret. It opens nothing, so it may be stored and printed.
pub struct Digest<K> {
    bytes: [u8; BYTES],
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Digest<K> {
    /// Whether this is the digest of `secret`, in constant time.
    #[must_use]
    pub fn matches(&self, secret: &Secret<K>) -> bool {
        *self == secret.digest()
    }
}

impl<K> PartialEq for Digest<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.ct_eq(&other.bytes).into()
    }
}

impl<K> Eq for Digest<K> {}

impl<K> Clone for Digest<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Digest<K> {}

impl<K: Kind> fmt::Debug for Digest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest<{}>({})", K::DOMAIN, URL_SAFE_NO_PAD.encode(self.bytes))
    }
}

impl<K> Serialize for Digest<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.bytes))
    }
}

impl<'de, K> Deserialize<'de> for Digest<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text.as_ref(), &mut bytes) {
            Ok(BYTES) => Ok(Self {
                bytes,
                kind: PhantomData,
            }),
            _ => Err(serde::de::Error::custom("not a digest of 32 bytes in base64url")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_secret_is_known_again_by_its_digest_alone() {
        let mut rng = StdRng::seed_from_u64(1);
        let secret = BrowserSecret::random(&mut rng);
        let other = BrowserSecret::random(&mut rng);
        let presented = BrowserSecret::parse(&secret.expose()).unwrap();
        assert!(secret.digest().matches(&presented));
        assert!(!secret.digest().matches(&other));
    }

    #[test]
    fn t10_the_same_bytes_of_another_kind_have_another_digest() {
        let secret = BrowserSecret::random(&mut StdRng::seed_from_u64(1));
        let as_token = ConfirmToken::parse(&secret.expose()).unwrap();
        assert_ne!(secret.digest().bytes, as_token.digest().bytes);
    }

    #[test]
    fn nothing_but_the_exact_form_is_a_secret() {
        let text = BrowserSecret::random(&mut StdRng::seed_from_u64(1))
            .expose()
            .to_string();
        for wrong in ["", "x", &text[1..], &format!("{text}A"), &format!("{text}="), "é"] {
            assert!(BrowserSecret::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = BrowserSecret::random(&mut StdRng::seed_from_u64(1));
        assert_eq!(format!("{secret:?}"), "Secret<browser>(…)");
    }
}
