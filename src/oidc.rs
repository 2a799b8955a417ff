//! What makes a redeemed login an OpenID Connect one: signing keys and id_tokens. No HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use crate::login::Claims;

/// How long an id_token may be believed.
pub const ID_TOKEN_LIFE: Duration = Duration::from_mins(10);

/// The length of a P-256 coordinate and of a P-256 private key, in bytes.
const P256_LEN: usize = 32;

/// Signs id_tokens with ES256. The first key signs, all are published, so that keys can be changed while logins go on.
#[derive(Clone)]
pub struct SigningKeys {
    keys: Arc<[Key]>,
}

struct Key {
    kid: String,
    pair: EcdsaKeyPair,
    public: PublicKey,
}

/// Why a file is no set of signing keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not a JWK Set.
    #[error("it is not a JSON Web Key Set: see line {line}, column {column}")]
    NotAKeySet {
        /// Where that shows. What stands there may be a key, so it is not repeated.
        line: usize,
        /// The same.
        column: usize,
    },
    /// No key in it.
    #[error("it holds no key")]
    Empty,
    /// A key of another kind, or a broken one; counted from 1.
    #[error(
        "its key {0} is not a private P-256 key for ES256 (kty EC, crv P-256, with d, x and y that belong together)"
    )]
    Unusable(usize),
    /// The system gives no random numbers.
    #[error("no key could be drawn")]
    Generation,
}

impl From<serde_json::Error> for KeysError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotAKeySet {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// A P-256 key as RFC 7517 and RFC 7518 §6.2 write it.
#[derive(Deserialize, Serialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
    d: Zeroizing<String>,
    alg: String,
    #[serde(rename = "use")]
    usage: String,
    kid: String,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<PartialJwk>,
}

#[derive(Deserialize)]
struct PartialJwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<Zeroizing<String>>,
}

#[derive(Clone)]
struct PublicKey {
    x: String,
    y: String,
}

impl PublicKey {
    /// RFC 7638: the SHA-256 of the required members in lexical order.
    fn thumbprint(&self) -> String {
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, self.x, self.y);
        URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
    }
}

/// A new private JWK Set with one ES256 key, as JSON text for `SCANLOGIN_SIGNING_KEYS_FILE`.
///
/// # Errors
/// [`KeysError::Generation`]
pub fn new_key_set() -> Result<Zeroizing<String>, KeysError> {
    let rng = SystemRandom::new();
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).map_err(|_| KeysError::Generation)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &rng)
        .map_err(|_| KeysError::Generation)?;
    let public = pair.public_key().as_ref();
    // ring writes PKCS#8 from one template, in which the private key stands here; the pair made of both parts below
    // would be refused if it did not.
    let private = document.as_ref().get(36..36 + P256_LEN).ok_or(KeysError::Generation)?;
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, private, public, &rng)
        .map_err(|_| KeysError::Generation)?;
    let (x, y) = coordinates(public).ok_or(KeysError::Generation)?;
    let public = PublicKey {
        x: URL_SAFE_NO_PAD.encode(x),
        y: URL_SAFE_NO_PAD.encode(y),
    };
    let jwk = Jwk {
        kty: "EC".to_owned(),
        crv: "P-256".to_owned(),
        d: Zeroizing::new(URL_SAFE_NO_PAD.encode(private)),
        alg: "ES256".to_owned(),
        usage: "sig".to_owned(),
        kid: public.thumbprint(),
        x: public.x,
        y: public.y,
    };
    Ok(Zeroizing::new(serde_json::to_string_pretty(&json!({ "keys": [jwk] }))?))
}

/// The two halves of an uncompressed point.
fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let (form, point) = point.split_first()?;
    (*form == 4 && point.len() == 2 * P256_LEN).then(|| point.split_at(P256_LEN))
}

impl SigningKeys {
    /// Reads a private JWK Set.
    ///
    /// # Errors
    /// [`KeysError`]
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let set: JwkSet = serde_json::from_str(text)?;
        let keys = set
            .keys
            .into_iter()
            .enumerate()
            .map(|(n, jwk)| key(jwk).ok_or(KeysError::Unusable(n + 1)));
        let keys: Arc<[Key]> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            Err(KeysError::Empty)
        } else {
            Ok(Self { keys })
        }
    }

    /// A key that lives as long as this process: for the embedded store, where nobody else must know it.
    ///
    /// # Errors
    /// [`KeysError::Generation`]
    pub fn ephemeral() -> Result<Self, KeysError> {
        Self::parse(&new_key_set()?)
    }

    /// The public JWK Set (RFC 7517 §5).
    #[must_use]
    pub fn public_set(&self) -> serde_json::Value {
        let public = |key: &Key| {
            let PublicKey { x, y } = &key.public;
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": key.kid })
        };
        json!({ "keys": self.keys.iter().map(public).collect::<Vec<_>>() })
    }

    /// A signed id_token (OpenID Connect Core §2) in compact serialization (RFC 7515 §7.1). `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the system gives no random numbers to sign with.
    pub fn id_token(&self, id_token: &IdToken<'_>, now: i64) -> Result<String, KeysError> {
        let key = self.keys.first().ok_or(KeysError::Empty)?;
        let life = i64::try_from(ID_TOKEN_LIFE.as_secs()).unwrap_or(i64::MAX);
        let times = Times {
            iat: now,
            exp: now.saturating_add(life),
        };
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key.kid });
        let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let payload = serde_json::to_vec(&Payload { id_token, times })?;
        let signed = format!("{}.{}", part(serde_json::to_vec(&header)?), part(payload));
        let signature = key
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| KeysError::Generation)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What an id_token says, times aside.
#[derive(Debug, Serialize)]
pub struct IdToken<'a> {
    /// The issuer: the public URL.
    pub iss: &'a str,
    /// The client.
    pub aud: &'a str,
    /// As the site sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<&'a str>,
    /// Who logged in.
    #[serde(flatten)]
    pub claims: &'a Claims,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    id_token: &'a IdToken<'a>,
    #[serde(flatten)]
    times: Times,
}

#[derive(Serialize)]
struct Times {
    iat: i64,
    exp: i64,
}

fn key(jwk: PartialJwk) -> Option<Key> {
    if jwk.kty != "EC" || jwk.crv.as_deref() != Some("P-256") {
        return None;
    }
    let public = PublicKey { x: jwk.x?, y: jwk.y? };
    let private = Zeroizing::new(URL_SAFE_NO_PAD.decode(jwk.d?.as_bytes()).ok()?);
    let mut point = vec![4];
    point.extend(URL_SAFE_NO_PAD.decode(&public.x).ok()?);
    point.extend(URL_SAFE_NO_PAD.decode(&public.y).ok()?);
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &private,
        &point,
        &SystemRandom::new(),
    );
    Some(Key {
        kid: public.thumbprint(),
        pair: pair.ok()?,
        public,
    })
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    fn decoded(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).unwrap()
    }

    #[test]
    fn an_id_token_verifies_by_the_published_key_alone() {
        let keys = SigningKeys::parse(&new_key_set().unwrap()).unwrap();
        let claims = Claims {
            sub: "o1".to_owned(),
            auth_time: 990,
            amr: vec!["wechat".to_owned()],
            wechat_openid: "o1".to_owned(),
            wechat_unionid: None,
            wechat_appid: "wx0".to_owned(),
            nickname: Some("小明".to_owned()),
            picture: None,
        };
        let id_token = IdToken {
            iss: "https://login.example",
            aud: "blog",
            nonce: Some("n-1"),
            claims: &claims,
        };
        let token = keys.id_token(&id_token, 1_000).unwrap();

        let parts: Vec<&str> = token.split('.').collect();
        let set = keys.public_set();
        let jwk = &set["keys"][0];
        let header: serde_json::Value = serde_json::from_slice(&decoded(parts[0])).unwrap();
        assert_eq!(header["alg"], "ES256");
        assert_eq!(header["kid"], jwk["kid"]);
        assert!(jwk.get("d").is_none(), "the private part is never published");

        let mut point = vec![4];
        point.extend(decoded(jwk["x"].as_str().unwrap()));
        point.extend(decoded(jwk["y"].as_str().unwrap()));
        let signed = format!("{}.{}", parts[0], parts[1]);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &decoded(parts[2]))
            .unwrap();

        let payload: serde_json::Value = serde_json::from_slice(&decoded(parts[1])).unwrap();
        assert_eq!(payload["iss"], "https://login.example");
        assert_eq!(payload["aud"], "blog");
        assert_eq!(payload["nonce"], "n-1");
        assert_eq!(
            (payload["iat"].as_i64(), payload["exp"].as_i64()),
            (Some(1_000), Some(1_600))
        );
        assert_eq!(payload["nickname"], "小明");
        assert!(payload.get("picture").is_none());
    }

    #[test]
    fn what_is_no_usable_key_set_is_refused_with_a_reason() {
        let good = new_key_set().unwrap();
        let other: serde_json::Value = serde_json::from_str(&new_key_set().unwrap()).unwrap();
        let mut mixed: serde_json::Value = serde_json::from_str(&good).unwrap();
        mixed["keys"][0]["d"] = other["keys"][0]["d"].clone();
        let public = SigningKeys::parse(&good).unwrap().public_set().to_string();
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"RSA"}]}"#,
            &mixed.to_string(),
            &public,
        ] {
            assert!(SigningKeys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_do_not_print() {
        let text = new_key_set().unwrap();
        let set: serde_json::Value = serde_json::from_str(&text).unwrap();
        let printed = format!("{:?}", SigningKeys::parse(&text).unwrap());
        assert!(!printed.contains(set["keys"][0]["d"].as_str().unwrap()));
    }
}
