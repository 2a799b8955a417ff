//! Names of a scene, of what happened to it, and of each write of its record.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// What the mini-program code carries: a version 4 UUID in 32 characters of `[0-9a-f]`, all that WeChat's `scene` may be long.
///
/// It is public, so it opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
pub struct SceneId(uuid::Uuid);

impl SceneId {
    /// Draws a new one: 122 random bits.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The first two hex digits: what the scene's key and channel share as hash tag, and so as Redis Cluster slot.
    #[must_use]
    pub fn hash_tag(&self) -> String {
        format!("{:02x}", self.0.as_bytes()[0])
    }

    /// The first eight digits: enough to find a scene in a log, too few to be used.
    #[must_use]
    pub fn shortened(&self) -> String {
        let [a, b, c, d, ..] = *self.0.as_bytes();
        format!("{a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

impl fmt::Display for SceneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.simple(), f)
    }
}

impl fmt::Debug for SceneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shortened())
    }
}

/// Not 32 characters of `[0-9a-f]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scene is 32 characters of 0-9 and a-f")]
pub struct NotASceneId;

impl FromStr for SceneId {
    type Err = NotASceneId;

    fn from_str(text: &str) -> Result<Self, NotASceneId> {
        let exact = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) if exact => Ok(Self(uuid)),
            _ => Err(NotASceneId),
        }
    }
}

impl Serialize for SceneId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SceneId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names one visible transition. Random, because a version number alone comes again when Redis loses data and another phone scans.
pub type EventId = Mark<0>;

/// Names one write of a record: what compare-and-swap compares.
pub type WriteId = Mark<1>;

/// Names one uploaded avatar.
pub type AvatarId = Mark<2>;

/// 128 random bits, written as 22 characters of base64url. `USE` keeps the names of different things apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark<const USE: u8>([u8; 16]);

impl<const USE: u8> Mark<USE> {
    /// The length of its text, in bytes.
    pub const TEXT_LEN: usize = 22;

    /// Stands where none has been drawn yet.
    pub const NONE: Self = Self([0; 16]);

    /// Draws a new one.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// These very bits.
    #[must_use]
    pub(super) fn of(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// Reads one back; `None` when it has not the form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(16) => Some(Self(bytes)),
            _ => None,
        }
    }
}

impl<const USE: u8> fmt::Display for Mark<USE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<const USE: u8> fmt::Debug for Mark<USE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const USE: u8> Serialize for Mark<USE> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const USE: u8> Deserialize<'de> for Mark<USE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not 128 bits in base64url"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::HashSet;

    #[test]
    fn scene_ids_have_wechats_form_and_never_repeat() {
        let mut rng = StdRng::seed_from_u64(7);
        let ids: HashSet<String> = (0..100_000).map(|_| SceneId::random(&mut rng).to_string()).collect();
        assert_eq!(ids.len(), 100_000);
        for id in ids.iter().take(1_000) {
            assert_eq!(id.len(), 32);
            assert_eq!(&id[12..13], "4", "a version 4 uuid: {id}");
            assert_eq!(id.parse::<SceneId>().unwrap().to_string(), *id);
        }
    }

    #[test]
    fn t02_a_million_ids_of_the_systems_generator_differ_and_every_random_bit_is_fair() {
        const COUNT: u32 = 1_000_000;
        let mut rng = crate::entropy::os_rng();
        let mut seen = HashSet::with_capacity(COUNT as usize);
        let mut values = [[0_u32; 256]; 16];
        for _ in 0..COUNT {
            let id = SceneId::random(&mut rng);
            seen.insert(id);
            for (values, byte) in values.iter_mut().zip(id.as_bytes()) {
                values[usize::from(*byte)] += 1;
            }
        }
        assert_eq!(seen.len(), COUNT as usize);
        let mut random = 0;
        for (place, values) in values.iter().enumerate() {
            for bit in 0..8 {
                let set: u32 = (0..256)
                    .filter(|value| value >> bit & 1 == 1)
                    .map(|value| values[value])
                    .sum();
                // The version and the variant (RFC 9562 §5.4) are all that is not random.
                if set != 0 && set != COUNT {
                    random += 1;
                    // Ten standard deviations.
                    assert!(
                        set.abs_diff(COUNT / 2) < COUNT / 200,
                        "bit {bit} of byte {place} is set {set} times"
                    );
                }
            }
        }
        assert_eq!(random, 122);
    }

    #[test]
    fn only_the_exact_form_is_a_scene_id() {
        let id = SceneId::random(&mut StdRng::seed_from_u64(7)).to_string();
        let dashed = uuid::Uuid::try_parse(&id).unwrap().hyphenated().to_string();
        let accented = format!("{}é", &id[..30]);
        for wrong in [
            "",
            "a",
            &id[1..],
            &id.to_uppercase(),
            &dashed,
            &format!("{id}0"),
            &accented,
        ] {
            assert_eq!(wrong.parse::<SceneId>(), Err(NotASceneId), "{wrong}");
        }
    }

    #[test]
    fn a_scene_id_is_shortened_in_logs() {
        let id: SceneId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{id:?}"), "01234567…");
        assert_eq!(id.hash_tag(), "01");
    }
}
