//! How a site knows a person (OpenID Connect Core §8).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// By what a site knows a person.
#[derive(Debug, Clone, Default)]
pub enum Subject {
    /// By the openid: the same at all sites of one Mini Program.
    #[default]
    Public,
    /// By a name that no other sector knows.
    Pairwise(Pairwise),
}

impl Subject {
    /// Whether both know one person of one Mini Program by one name.
    #[must_use]
    pub fn names_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Public, Self::Public) => true,
            (Self::Pairwise(one), Self::Pairwise(other)) => one.sector == other.sector && one.shares_secret(other),
            (Self::Public, Self::Pairwise(_)) | (Self::Pairwise(_), Self::Public) => false,
        }
    }
}

/// Makes the names of one sector.
#[derive(Clone)]
pub struct Pairwise {
    key: hmac::Key,
    sector: String,
}

impl Pairwise {
    /// The names of `sector`, a host (OpenID Connect Core §8.1). Another `secret` makes strangers of all people.
    #[must_use]
    pub fn new(secret: &SecretString, sector: &str) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes()),
            sector: sector.to_owned(),
        }
    }

    /// Whether both are made with one secret.
    #[must_use]
    pub fn shares_secret(&self, other: &Self) -> bool {
        let name = |of: &Self| hmac::sign(&of.key, b"");
        // Of equal length, and known to nobody.
        name(self).as_ref().ct_eq(name(other).as_ref()).into()
    }

    /// What the sector knows the person by.
    #[must_use]
    pub fn name(&self, openid: &str) -> String {
        // A host holds no NUL, so that no two pairs are written alike.
        let pair = [self.sector.as_bytes(), &[0], openid.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &pair))
    }
}

impl fmt::Debug for Pairwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairwise")
            .field("sector", &self.sector)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_one_name_in_a_sector_and_another_elsewhere() {
        let secret = SecretString::from("s".repeat(32));
        let blog = Pairwise::new(&secret, "blog.example");
        let name = blog.name("oABC");
        assert_eq!(name, Pairwise::new(&secret, "blog.example").name("oABC"));
        assert_eq!(name.len(), 43);
        let others = [
            blog.name("oABD"),
            Pairwise::new(&secret, "shop.example").name("oABC"),
            Pairwise::new(&secret, "blog.exampleo").name("ABC"),
            Pairwise::new(&"t".repeat(32).into(), "blog.example").name("oABC"),
        ];
        for other in others {
            assert_ne!(name, other);
        }
        assert!(!format!("{blog:?}").contains("sss"));
        assert!(blog.shares_secret(&Pairwise::new(&secret, "shop.example")));
        assert!(!blog.shares_secret(&Pairwise::new(&"t".repeat(32).into(), "blog.example")));
    }
}
