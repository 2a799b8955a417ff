//! How a phone came to the code: by the camera, or by a picture or a card that somebody passed on.
//!
//! A value that WeChat gives the Mini Program (the "scene value" of `wx.getLaunchOptionsSync`), and the Mini Program tells us: a signal,
//! and no proof. Whoever shows the code on a page of their own and has it scanned from there enters by the camera too.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What becomes of a scan that came so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing.
    Allow,
    /// The person is warned, and picks a number where the client has [`NumberMatching::OnWarning`].
    Warn,
    /// It is refused.
    Refuse,
}

impl Verdict {
    /// In the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

/// How a phone came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With a value of WeChat's, if its Mini Program says it.
    Entered(Option<i64>),
    /// With a short code that its person typed.
    Typed,
}

/// When the browser shows a number that the person picks on the phone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberMatching {
    /// Never.
    #[default]
    Off,
    /// Always.
    On,
    /// When the person is warned.
    OnWarning,
}

impl NumberMatching {
    /// Whether it is, of a person who is or is not warned.
    #[must_use]
    pub fn asks(self, warned: bool) -> bool {
        match self {
            Self::Off => false,
            Self::On => true,
            Self::OnWarning => warned,
        }
    }
}

/// What becomes of each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryScenes {
    /// By WeChat's number.
    numbered: BTreeMap<i64, Verdict>,
    /// Of all others, and where the Mini Program does not say.
    other: Verdict,
    /// Of a short code: whoever shows a page of their own can have it typed as well, and by telephone too.
    typed: Verdict,
}

/// A mini-program code before the camera; in a picture pressed long; in a picture of the album. And the same three of an ordinary QR code.
const CAMERA: [i64; 2] = [1047, 1011];
const PICTURE: [i64; 4] = [1048, 1049, 1012, 1013];
/// A card in a chat with one, in a group; from an app; a message of a service: no honest way to a login.
const CARD: [i64; 4] = [1007, 1008, 1036, 1037];

impl Default for EntryScenes {
    fn default() -> Self {
        let of = |numbers: &'static [i64], verdict| numbers.iter().map(move |number| (*number, verdict));
        Self {
            numbered: of(&CAMERA, Verdict::Allow)
                .chain(of(&PICTURE, Verdict::Warn))
                .chain(of(&CARD, Verdict::Refuse))
                .collect(),
            other: Verdict::Warn,
            typed: Verdict::Warn,
        }
    }
}

impl Way {
    /// In words, of which there are few enough to count.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Typed => "typed",
            Self::Entered(Some(number)) if CAMERA.contains(&number) => "camera",
            Self::Entered(Some(number)) if PICTURE.contains(&number) => "picture",
            Self::Entered(Some(number)) if CARD.contains(&number) => "card",
            Self::Entered(_) => "other",
        }
    }

    /// WeChat's value.
    #[must_use]
    pub fn entry_scene(self) -> Option<i64> {
        match self {
            Self::Entered(entry_scene) => entry_scene,
            Self::Typed => None,
        }
    }
}

impl EntryScenes {
    /// With these in the place of the default's: `other`, `typed`, or one of WeChat's numbers.
    ///
    /// # Errors
    /// The name that is none.
    pub fn with(mut self, table: &BTreeMap<String, Verdict>) -> Result<Self, String> {
        for (name, verdict) in table {
            match name.as_str() {
                "other" => self.other = *verdict,
                "typed" => self.typed = *verdict,
                number => {
                    let number = number.parse().map_err(|_| name.clone())?;
                    self.numbered.insert(number, *verdict);
                }
            }
        }
        Ok(self)
    }

    /// What becomes of a phone that came so.
    #[must_use]
    pub fn verdict(&self, way: Way) -> Verdict {
        match way {
            Way::Typed => self.typed,
            Way::Entered(entry_scene) => {
                let numbered = entry_scene.and_then(|number| self.numbered.get(&number));
                numbered.copied().unwrap_or(self.other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The table says it, and where it does not, the default for that very number, and else what it says of all others.
        #[test]
        fn a_table_decides_of_what_it_names_and_nothing_else(
            named in prop::collection::btree_map(prop_oneof![990..1_050_i64, any::<i64>()], 0..3_usize, 0..8),
            other in prop::option::of(0..3_usize),
            asked in prop::option::of(prop_oneof![990..1_050_i64, any::<i64>()]),
        ) {
            let verdicts = [Verdict::Allow, Verdict::Warn, Verdict::Refuse];
            let names = named.iter().map(|(number, verdict)| (number.to_string(), verdicts[*verdict]));
            let others = other.iter().map(|verdict| ("other".to_owned(), verdicts[*verdict]));
            let scenes = EntryScenes::default().with(&names.chain(others).collect()).unwrap();
            let by_default = |number: i64| match number {
                1047 | 1011 => Some(Verdict::Allow),
                1048 | 1049 | 1012 | 1013 => Some(Verdict::Warn),
                1007 | 1008 | 1036 | 1037 => Some(Verdict::Refuse),
                _ => None,
            };
            let said = asked.and_then(|number| named.get(&number).map(|verdict| verdicts[*verdict]).or(by_default(number)));
            let expected = said.unwrap_or(other.map_or(Verdict::Warn, |verdict| verdicts[verdict]));
            prop_assert_eq!(scenes.verdict(Way::Entered(asked)), expected);
            prop_assert_eq!(scenes.verdict(Way::Typed), Verdict::Warn);
        }
    }

    #[test]
    fn by_default_the_camera_passes_a_picture_is_warned_of_and_a_card_is_refused() {
        let scenes = EntryScenes::default();
        for (entry_scenes, verdict) in [
            (&CAMERA[..], Verdict::Allow),
            (&PICTURE[..], Verdict::Warn),
            (&CARD[..], Verdict::Refuse),
            (&[0, -1, 1001, i64::MAX][..], Verdict::Warn),
        ] {
            for entry_scene in entry_scenes {
                assert_eq!(
                    scenes.verdict(Way::Entered(Some(*entry_scene))),
                    verdict,
                    "{entry_scene}"
                );
            }
        }
        assert_eq!(scenes.verdict(Way::Entered(None)), Verdict::Warn);
        assert_eq!(scenes.verdict(Way::Typed), Verdict::Warn);
    }

    #[test]
    fn a_client_changes_what_it_names_and_nothing_else() {
        let table = |entries: &[(&str, Verdict)]| {
            entries
                .iter()
                .map(|(name, verdict)| ((*name).to_owned(), *verdict))
                .collect()
        };
        let strict = EntryScenes::default().with(&table(&[("1048", Verdict::Refuse), ("other", Verdict::Refuse)]));
        let strict = strict.unwrap();
        assert_eq!(strict.verdict(Way::Entered(Some(1048))), Verdict::Refuse);
        assert_eq!(strict.verdict(Way::Entered(None)), Verdict::Refuse);
        assert_eq!(strict.verdict(Way::Entered(Some(1049))), Verdict::Warn);
        assert_eq!(strict.verdict(Way::Entered(Some(1047))), Verdict::Allow);
        assert_eq!(strict.verdict(Way::Typed), Verdict::Warn);
        let trusting = EntryScenes::default()
            .with(&table(&[("typed", Verdict::Allow)]))
            .unwrap();
        assert_eq!(trusting.verdict(Way::Typed), Verdict::Allow);
        assert_eq!(trusting.verdict(Way::Entered(None)), Verdict::Warn);
        let unknown = EntryScenes::default().with(&table(&[("camera", Verdict::Allow)]));
        assert_eq!(unknown, Err("camera".to_owned()));
    }
}
