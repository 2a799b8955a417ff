//! The number that the browser shows and the person picks on the phone.

use std::fmt;

use rand::seq::index;
use rand::{CryptoRng, RngExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// How many numbers the phone offers.
const CHOICES: usize = 3;

/// Two digits. Not a secret for long: the browser's screen shows it to whoever stands before it, and to nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{2}$")]
pub struct MatchNumber(u8);

impl MatchNumber {
    /// Reads two digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_two_digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse().ok().filter(|_| is_two_digits).map(Self)
    }
}

impl fmt::Display for MatchNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

impl Serialize for MatchNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MatchNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not two digits"))
    }
}

/// Which number is right, which the phone offers, and which was picked wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberStep {
    choices: [MatchNumber; CHOICES],
    right: MatchNumber,
    /// The first wrong one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrong: Option<MatchNumber>,
    /// Whether another followed. It ends the scene, so no later write by an older version can lose it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

impl NumberStep {
    /// Draws them: each as likely as any other, and in any order.
    #[must_use]
    pub fn draw(rng: &mut impl CryptoRng) -> Self {
        let mut drawn = index::sample(rng, 100, CHOICES).into_iter();
        let mut number = || {
            MatchNumber(
                drawn
                    .next()
                    .and_then(|number| u8::try_from(number).ok())
                    .unwrap_or_default(),
            )
        };
        let choices = [number(), number(), number()];
        let [first, second, third] = choices;
        let right = match rng.random_range(0..CHOICES) {
            0 => first,
            1 => second,
            _ => third,
        };
        Self {
            choices,
            right,
            wrong: None,
            failed: false,
        }
    }

    /// What the phone offers.
    #[must_use]
    pub fn choices(&self) -> &[MatchNumber] {
        &self.choices
    }

    /// What the browser shows.
    #[must_use]
    pub fn right(&self) -> MatchNumber {
        self.right
    }

    /// Whether it is the one that the browser shows.
    #[must_use]
    pub fn is_right(&self, picked: MatchNumber) -> bool {
        picked == self.right
    }

    /// Whether it was picked before.
    #[must_use]
    pub fn was_wrong(&self, picked: MatchNumber) -> bool {
        self.wrong == Some(picked)
    }

    /// After a wrong one that was not picked before.
    #[must_use]
    pub fn after_wrong(&self, picked: MatchNumber) -> Self {
        Self {
            wrong: self.wrong.or(Some(picked)),
            failed: self.wrong.is_some(),
            ..self.clone()
        }
    }

    /// Whether two wrong ones were picked.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn three_different_numbers_are_offered_and_any_of_them_may_be_right() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut places, mut numbers) = (HashMap::<usize, u32>::new(), HashMap::<u8, u32>::new());
        for _ in 0..30_000 {
            let step = NumberStep::draw(&mut rng);
            let [a, b, c] = step.choices;
            assert!(a != b && b != c && a != c, "{step:?}");
            let place = step.choices.iter().position(|choice| step.is_right(*choice));
            *places.entry(place.unwrap()).or_default() += 1;
            *numbers.entry(step.right().0).or_default() += 1;
        }
        assert!(
            places.len() == CHOICES && places.values().all(|count| (9_500..10_500).contains(count)),
            "{places:?}"
        );
        assert!(
            numbers.len() == 100 && numbers.values().all(|count| (200..400).contains(count)),
            "{numbers:?}"
        );
    }

    #[test]
    fn a_number_is_two_digits() {
        assert_eq!(
            MatchNumber::parse("07").map(|number| number.to_string()).as_deref(),
            Some("07")
        );
        for not in ["", "7", "007", "+7", " 7", "7a", "٠٧"] {
            assert_eq!(MatchNumber::parse(not), None, "{not:?}");
        }
    }
}
