//! Seals an `access_token` for the store, so that whoever reads the whole store can call WeChat as nobody.

use std::fmt;

use rand::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::entropy::os_rng;

/// The first byte of everything sealed: another form would be another number.
const FORM: u8 = 1;
const KEY_ID_LEN: usize = 8;

/// Seals and opens the tokens of one Mini Program by a key that only its AppSecret yields.
///
/// What is sealed is `form (1) ‖ key id (8) ‖ nonce (12) ‖ ChaCha20-Poly1305(token)`. All before the ciphertext but the nonce, and
/// the AppID, are authenticated with it, so that a record put in another Mini Program's place does not open. The key's id
/// tells at once that a record is of another AppSecret: it may be reset while replicas run.
pub(super) struct Sealer {
    appid: String,
    key: LessSafeKey,
    key_id: [u8; KEY_ID_LEN],
}

impl Sealer {
    /// Derives the key: HKDF-SHA-256 of the AppSecret.
    #[expect(clippy::expect_used, reason = "HKDF refuses only lengths, and these are constants")]
    pub(super) fn new(appid: &str, secret: &SecretString) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"scanlogin access_token");
        let extracted = salt.extract(secret.expose_secret().as_bytes());
        let key = extracted.expand(&[b"key"], &CHACHA20_POLY1305).expect("32 bytes");
        let mut key_id = [0; KEY_ID_LEN];
        extracted
            .expand(&[b"key id"], KeyId)
            .and_then(|id| id.fill(&mut key_id))
            .expect("8 bytes");
        Self {
            appid: appid.to_owned(),
            key: LessSafeKey::new(UnboundKey::from(key)),
            key_id,
        }
    }

    /// Seals a token under a fresh random nonce; a key seals a dozen tokens a day, far from where such nonces might meet.
    /// `None` only for a token of gigabytes.
    pub(super) fn seal(&self, token: &str) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        os_rng().fill_bytes(&mut nonce);
        let mut text = Zeroizing::new(token.as_bytes().to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), self.aad(), &mut text)
            .ok()?;
        Some([&[FORM], &self.key_id[..], &nonce, &text, tag.as_ref()].concat())
    }

    /// Opens what was sealed by the same AppID and AppSecret; anything else is `None`.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<SecretString> {
        let (form, rest) = sealed.split_first()?;
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID_LEN>()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *form != FORM || *key_id != self.key_id {
            return None;
        }
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let text = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), self.aad(), &mut text)
            .ok()?;
        Some(SecretString::from(std::str::from_utf8(text).ok()?))
    }

    fn aad(&self) -> Aad<Vec<u8>> {
        Aad::from([&[FORM], &self.key_id[..], self.appid.as_bytes()].concat())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("appid", &self.appid)
            .finish_non_exhaustive()
    }
}

/// The length of a key's id, as HKDF wants to be told it.
struct KeyId;

impl hkdf::KeyType for KeyId {
    fn len(&self) -> usize {
        KEY_ID_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "98_an-access-token_of-some-length";

    fn sealer(appid: &str, secret: &str) -> Sealer {
        Sealer::new(appid, &SecretString::from(secret))
    }

    fn opened(by: &Sealer, sealed: &[u8]) -> Option<String> {
        by.open(sealed).map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn a_token_opens_only_with_the_appid_and_appsecret_that_sealed_it() {
        let sealed = sealer("wx1", "secret").seal(TOKEN).unwrap();
        assert_eq!(opened(&sealer("wx1", "secret"), &sealed).as_deref(), Some(TOKEN));
        assert_eq!(opened(&sealer("wx1", "reset secret"), &sealed), None);
        assert_eq!(opened(&sealer("wx2", "secret"), &sealed), None);
    }

    #[test]
    fn nothing_altered_or_cut_opens() {
        let key = sealer("wx1", "secret");
        let sealed = key.seal(TOKEN).unwrap();
        for length in 0..sealed.len() {
            assert_eq!(opened(&key, &sealed[..length]), None, "{length} bytes of it");
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(opened(&key, &altered), None, "byte {at} altered");
        }
    }

    #[test]
    fn what_is_sealed_never_shows_the_token_and_never_repeats() {
        let sealer = sealer("wx1", "secret");
        let (one, two) = (sealer.seal(TOKEN).unwrap(), sealer.seal(TOKEN).unwrap());
        assert_ne!(one, two);
        assert!(!one.windows(8).any(|window| window == &TOKEN.as_bytes()[..8]));
    }
}
