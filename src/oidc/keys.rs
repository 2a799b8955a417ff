//! Signing keys and id_tokens.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::login::Claims;

/// How long an id_token may be believed.
pub const ID_TOKEN_LIFE: Duration = Duration::from_mins(10);

/// The length of a P-256 coordinate and of a P-256 private key, in bytes.
const P256_LEN: usize = 32;

/// The length of the modulus of RSA keys that are made here, in bits: the least that RFC 7518 §3.3 lets sign.
const RSA_BITS: usize = 2048;

/// A signature algorithm (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    #[default]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256: what many sites' libraries take for granted (OpenID Connect Core §2).
    Rs256,
}

impl Algorithm {
    /// As JSON Web Signatures name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// Signs id_tokens. The first key of each algorithm signs, all are published, so that keys can be changed while logins go on.
#[derive(Clone)]
pub struct SigningKeys {
    keys: Arc<[Arc<Key>]>,
}

struct Key {
    kid: String,
    pair: Pair,
    /// As it is published.
    public: Value,
}

enum Pair {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
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
    /// No key of this kind in it.
    #[error("it holds no key for {}", .0.as_str())]
    Missing(Algorithm),
    /// A key of another kind, or a broken one; counted from 1.
    #[error(
        "its key {0} is neither a private P-256 key for ES256 (kty EC, crv P-256, with d, x and y that belong together) nor a private \
         RSA key of 2048 bits or more for RS256 (kty RSA, with n, e, d, p, q, dp, dq and qi)"
    )]
    Unusable(usize),
    /// The same key a second time; counted from 1.
    #[error(
        "its key {0} stands there before (kid {1}), and relying parties that find a key twice check with neither: move it, don't copy it"
    )]
    Twice(usize, String),
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

/// A key as RFC 7517 and RFC 7518 §6 write it, public or private. Read and written as it is, so that nothing else holds what is to be
/// wiped.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    q: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dp: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dq: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qi: Option<Zeroizing<String>>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

impl Jwk {
    /// What it is for: of each kind there is one use here, and the key may not say that it has another.
    fn algorithm(&self) -> Option<Algorithm> {
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("RSA", None) => Algorithm::Rs256,
            _ => return None,
        };
        let is_named = |name: &String| name == algorithm.as_str();
        self.alg.as_ref().is_none_or(is_named).then_some(algorithm)
    }

    /// What everybody may know of it: the members that give it its name (RFC 7638 §3.2), its name, and what it is for.
    fn public(&self) -> Option<Self> {
        let algorithm = self.algorithm()?;
        let mut public = Self {
            kty: self.kty.clone(),
            ..Self::default()
        };
        // In lexical order, as the name is made of them so (§3.3).
        let required = match algorithm {
            Algorithm::Es256 => {
                let (x, y) = (self.x.as_ref()?, self.y.as_ref()?);
                public.crv.clone_from(&self.crv);
                public.x = Some(x.clone());
                public.y = Some(y.clone());
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Algorithm::Rs256 => {
                let (n, e) = (self.n.as_ref()?, self.e.as_ref()?);
                public.n = Some(n.clone());
                public.e = Some(e.clone());
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
        };
        Some(Self {
            usage: Some("sig".to_owned()),
            alg: Some(algorithm.as_str().to_owned()),
            kid: Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, required.as_bytes()))),
            ..public
        })
    }

    fn pair(&self) -> Option<Pair> {
        let public = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let private =
            |text: &Option<Zeroizing<String>>| Some(Zeroizing::new(URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?));
        match self.algorithm()? {
            Algorithm::Es256 => {
                let point = [&[4][..], &public(&self.x)?, &public(&self.y)?].concat();
                let pair = EcdsaKeyPair::from_private_key_and_public_key(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &private(&self.d)?,
                    &point,
                    &SystemRandom::new(),
                );
                Some(Pair::Es256(Box::new(pair.ok()?)))
            }
            Algorithm::Rs256 => {
                let components = KeyPairComponents {
                    public_key: PublicKeyComponents {
                        n: public(&self.n)?,
                        e: public(&self.e)?,
                    },
                    d: private(&self.d)?,
                    p: private(&self.p)?,
                    q: private(&self.q)?,
                    dP: private(&self.dp)?,
                    dQ: private(&self.dq)?,
                    qInv: private(&self.qi)?,
                };
                Some(Pair::Rs256(Box::new(RsaKeyPair::from_components(&components).ok()?)))
            }
        }
    }

    fn draw(algorithm: Algorithm) -> Result<Self, KeysError> {
        let drawn = match algorithm {
            Algorithm::Es256 => draw_p256(),
            Algorithm::Rs256 => draw_rsa(),
        };
        let drawn = drawn.ok_or(KeysError::Generation)?;
        // Whatever was drawn must be of use.
        drawn.pair().ok_or(KeysError::Generation)?;
        let Self { usage, alg, kid, .. } = drawn.public().ok_or(KeysError::Generation)?;
        Ok(Self {
            usage,
            alg,
            kid,
            ..drawn
        })
    }
}

fn draw_p256() -> Option<Jwk> {
    let rng = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).ok()?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &rng).ok()?;
    // ring writes PKCS#8 from one template, in which the private key stands here; the pair made of both parts would be refused if it
    // did not.
    let private = document.as_ref().get(36..36 + P256_LEN)?;
    let (x, y) = coordinates(pair.public_key().as_ref())?;
    Some(Jwk {
        kty: "EC".to_owned(),
        crv: Some("P-256".to_owned()),
        x: Some(URL_SAFE_NO_PAD.encode(x)),
        y: Some(URL_SAFE_NO_PAD.encode(y)),
        d: Some(Zeroizing::new(URL_SAFE_NO_PAD.encode(private))),
        ..Jwk::default()
    })
}

fn draw_rsa() -> Option<Jwk> {
    let pair = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, RSA_BITS).ok()?;
    let public = |number: &rsa::BigUint| URL_SAFE_NO_PAD.encode(number.to_bytes_be());
    let private = |number: &rsa::BigUint| {
        let bytes = Zeroizing::new(number.to_bytes_be());
        Some(Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes)))
    };
    let [p, q] = pair.primes() else { return None };
    Some(Jwk {
        kty: "RSA".to_owned(),
        n: Some(public(pair.n())),
        e: Some(public(pair.e())),
        d: private(pair.d()),
        p: private(p),
        q: private(q),
        dp: private(pair.dp()?),
        dq: private(pair.dq()?),
        qi: private(&pair.crt_coefficient()?),
        ..Jwk::default()
    })
}

/// A new private JWK Set with a key for each algorithm, as JSON text for `SCANLOGIN_SIGNING_KEYS_FILE`.
///
/// # Errors
/// [`KeysError::Generation`]
pub fn new_key_set(algorithms: &BTreeSet<Algorithm>) -> Result<Zeroizing<String>, KeysError> {
    let keys = algorithms.iter().copied().map(Jwk::draw).collect::<Result<_, _>>()?;
    Ok(Zeroizing::new(serde_json::to_string_pretty(&JwkSet { keys })?))
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
        let numbered = set.keys.iter().enumerate();
        let keys = numbered.map(|(n, jwk)| Key::read(jwk).ok_or(KeysError::Unusable(n + 1)));
        let keys: Arc<[Arc<Key>]> = keys.map(|key| key.map(Arc::new)).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(KeysError::Empty);
        }
        for (n, key) in keys.iter().enumerate() {
            // Relying parties that find two of one name check with neither.
            if keys.iter().take(n).any(|other| other.kid == key.kid) {
                return Err(KeysError::Twice(n + 1, key.kid.clone()));
            }
        }
        Ok(Self { keys })
    }

    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self { keys: Arc::new([]) }
    }

    /// The same, and a new key for each of these algorithms that has none: it lives as long as this process, for the embedded store,
    /// where nobody else must know it.
    ///
    /// # Errors
    /// [`KeysError::Generation`]
    pub fn with_own(&self, algorithms: &BTreeSet<Algorithm>) -> Result<Self, KeysError> {
        let missing: BTreeSet<Algorithm> = algorithms.difference(&self.algorithms()).copied().collect();
        if missing.is_empty() {
            return Ok(self.clone());
        }
        let drawn = Self::parse(&new_key_set(&missing)?)?;
        let keys = self.keys.iter().chain(drawn.keys.iter()).cloned().collect();
        Ok(Self { keys })
    }

    /// The names of all (`kid`), as they are published.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.kid)
    }

    /// The names of those that sign: the first of each algorithm.
    pub fn signing_kids(&self) -> impl Iterator<Item = &str> {
        let firsts = self.algorithms().into_iter();
        firsts.filter_map(|algorithm| Some(&*self.keys.iter().find(|key| key.algorithm() == algorithm)?.kid))
    }

    /// What there are keys for.
    #[must_use]
    pub fn algorithms(&self) -> BTreeSet<Algorithm> {
        self.keys.iter().map(|key| key.algorithm()).collect()
    }

    /// The public JWK Set (RFC 7517 §5).
    #[must_use]
    pub fn public_set(&self) -> Value {
        json!({ "keys": self.keys.iter().map(|key| &key.public).collect::<Vec<_>>() })
    }

    /// A signed id_token (OpenID Connect Core §2) in compact serialization (RFC 7515 §7.1). `now` is in Unix seconds.
    ///
    /// # Errors
    /// [`KeysError::Missing`]; or when the system gives no random numbers to sign with.
    pub fn id_token(&self, id_token: &IdToken<'_>, algorithm: Algorithm, now: i64) -> Result<String, KeysError> {
        let mut keys = self.keys.iter();
        let key = keys
            .find(|key| key.algorithm() == algorithm)
            .ok_or(KeysError::Missing(algorithm))?;
        let life = i64::try_from(ID_TOKEN_LIFE.as_secs()).unwrap_or(i64::MAX);
        let times = Times {
            iat: now,
            exp: now.saturating_add(life),
        };
        let header = json!({ "alg": algorithm.as_str(), "typ": "JWT", "kid": key.kid });
        let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let payload = serde_json::to_vec(&Payload { id_token, times })?;
        let signed = format!("{}.{}", part(serde_json::to_vec(&header)?), part(payload));
        let signature = key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Key {
    fn read(jwk: &Jwk) -> Option<Self> {
        let public = jwk.public()?;
        Some(Self {
            kid: public.kid.clone()?,
            pair: jwk.pair()?,
            public: serde_json::to_value(public).ok()?,
        })
    }

    fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Es256(_) => Algorithm::Es256,
            Pair::Rs256(_) => Algorithm::Rs256,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeysError> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Es256(pair) => pair.sign(&rng, message).map(|signature| signature.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature);
                signed.map(|()| signature)
            }
        }
        .map_err(|_| KeysError::Generation)
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

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };

    /// Each is drawn once: an RSA key takes a while.
    fn both() -> &'static str {
        static BOTH: std::sync::LazyLock<Zeroizing<String>> =
            std::sync::LazyLock::new(|| new_key_set(&[Algorithm::Es256, Algorithm::Rs256].into()).unwrap());
        &BOTH
    }

    fn es256() -> Zeroizing<String> {
        new_key_set(&[Algorithm::Es256].into()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            sub: "o1".to_owned(),
            auth_time: 990,
            amr: vec!["wechat".to_owned()],
            wechat_openid: Some("o1".to_owned()),
            wechat_unionid: None,
            wechat_appid: Some("wx0".to_owned()),
            nickname: Some("小明".to_owned()),
            picture: None,
        }
    }

    fn decoded(part: &Value) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part.as_str().unwrap()).unwrap()
    }

    fn verifies(jwk: &Value, signed: &[u8], signature: &[u8]) -> bool {
        if jwk["kty"] == "EC" {
            let point = [&[4][..], &decoded(&jwk["x"]), &decoded(&jwk["y"])].concat();
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
            return key.verify(signed, signature).is_ok();
        }
        let (n, e) = (decoded(&jwk["n"]), decoded(&jwk["e"]));
        let key = RsaPublicKeyComponents { n, e };
        key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
    }

    #[test]
    fn an_id_token_verifies_by_the_published_key_alone() {
        let keys = SigningKeys::parse(both()).unwrap();
        let set = keys.public_set();
        assert_eq!(keys.algorithms().len(), 2);
        for (n, algorithm) in keys.algorithms().into_iter().enumerate() {
            let claims = claims();
            let id_token = IdToken {
                iss: "https://login.example",
                aud: "blog",
                nonce: Some("n-1"),
                claims: &claims,
            };
            let token = keys.id_token(&id_token, algorithm, 1_000).unwrap();

            let parts: Vec<Value> = token.split('.').map(Value::from).collect();
            let jwk = &set["keys"][n];
            let header: Value = serde_json::from_slice(&decoded(&parts[0])).unwrap();
            assert_eq!((&header["alg"], &header["kid"]), (&jwk["alg"], &jwk["kid"]));
            assert_eq!(header["alg"], algorithm.as_str());
            for private in ["d", "p", "q", "dp", "dq", "qi"] {
                assert!(jwk.get(private).is_none(), "the private part is never published");
            }
            let (signed, _) = token.rsplit_once('.').unwrap();
            let signature = decoded(&parts[2]);
            assert!(verifies(jwk, signed.as_bytes(), &signature));
            assert!(!verifies(jwk, b"something else", &signature));

            let payload: Value = serde_json::from_slice(&decoded(&parts[1])).unwrap();
            assert_eq!(payload["iss"], "https://login.example");
            assert_eq!(payload["aud"], "blog");
            assert_eq!(payload["nonce"], "n-1");
            let times = (payload["iat"].as_i64(), payload["exp"].as_i64());
            assert_eq!(times, (Some(1_000), Some(1_600)));
            assert_eq!(payload["nickname"], "小明");
            assert!(payload.get("picture").is_none());
        }
    }

    #[test]
    fn a_key_is_named_after_rfc_7638() {
        // The example of RFC 7638 §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6\
                 4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI\
                 SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = Jwk {
            kty: "RSA".to_owned(),
            n: Some(n.to_owned()),
            e: Some("AQAB".to_owned()),
            ..Jwk::default()
        };
        let kid = key.public().unwrap().kid;
        assert_eq!(kid.as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
    }

    #[test]
    fn what_is_no_usable_key_set_is_refused_with_a_reason() {
        let good: Value = serde_json::from_str(both()).unwrap();
        let other: Value = serde_json::from_str(&es256()).unwrap();
        let with = |at: usize, member: &str, value: Value| {
            let mut set = good.clone();
            set["keys"][at][member] = value;
            set.to_string()
        };
        let public = SigningKeys::parse(both()).unwrap().public_set().to_string();
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"RSA"}]}"#,
            &with(0, "d", other["keys"][0]["d"].clone()),
            &with(0, "crv", "P-384".into()),
            &with(0, "alg", "RS256".into()),
            &with(1, "alg", "PS256".into()),
            &with(1, "d", good["keys"][1]["dp"].clone()),
            &with(1, "q", good["keys"][1]["p"].clone()),
            &public,
        ] {
            let refused = SigningKeys::parse(wrong).unwrap_err().to_string();
            let secret = good["keys"][1]["p"].as_str().unwrap();
            assert!(!refused.contains(secret), "{refused}");
        }
        SigningKeys::parse(&good.to_string()).unwrap();
    }

    /// As somebody makes it who copies a key to the front and leaves it where it was.
    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let (first, second) = (es256(), es256());
        let key = |set: &str| serde_json::from_str::<Value>(set).unwrap()["keys"][0].clone();
        let twice = json!({ "keys": [key(&first), key(&second), key(&first)] });
        let refused = SigningKeys::parse(&twice.to_string()).unwrap_err();
        assert!(matches!(refused, KeysError::Twice(3, _)), "{refused}");
    }

    #[test]
    fn the_first_key_of_each_algorithm_signs_and_a_missing_one_is_named() {
        let (first, second) = (es256(), es256());
        let key = |set: &str| serde_json::from_str::<Value>(set).unwrap()["keys"][0].clone();
        let keys = SigningKeys::parse(&json!({ "keys": [key(&first), key(&second)] }).to_string()).unwrap();
        let claims = claims();
        let id_token = IdToken {
            iss: "https://login.example",
            aud: "blog",
            nonce: None,
            claims: &claims,
        };
        let token = keys.id_token(&id_token, Algorithm::Es256, 0).unwrap();
        let header: Value = serde_json::from_slice(&decoded(&Value::from(token.split('.').next().unwrap()))).unwrap();
        assert_eq!(header["kid"], key(&first)["kid"]);
        let missing = keys.id_token(&id_token, Algorithm::Rs256, 0).unwrap_err();
        assert!(matches!(missing, KeysError::Missing(Algorithm::Rs256)), "{missing}");
    }

    #[test]
    fn keys_do_not_print() {
        let set: Value = serde_json::from_str(both()).unwrap();
        let printed = format!("{:?}", SigningKeys::parse(both()).unwrap());
        assert!(!printed.contains(set["keys"][0]["d"].as_str().unwrap()));
        assert!(!printed.contains(set["keys"][1]["d"].as_str().unwrap()));
    }
}
