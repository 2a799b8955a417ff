//! What may stand in a nickname: a person's own words, shown to others, so nothing that hides, reorders or overflows them.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The most code points a nickname may have.
const CODE_POINTS: usize = 64;

/// The nickname in NFC without control, format (bidi among them) and unassigned characters; `None` when nothing is left.
///
/// # Errors
/// When it is longer than 64 code points even so.
pub(super) fn clean(given: &str) -> Result<Option<String>, TooLong> {
    // Whatever the input's length, no more than one character past the limit is kept.
    // What hides comes out first: it may stand between two characters that become one.
    let kept: String = given
        .chars()
        .filter(|c| may_stand(*c))
        .nfc()
        .take(CODE_POINTS + 1)
        .collect();
    if kept.chars().count() > CODE_POINTS {
        return Err(TooLong);
    }
    let kept = kept.trim();
    Ok((!kept.is_empty()).then(|| kept.to_owned()))
}

/// Longer than 64 code points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Whether it is seen where it stands: no control, format or unassigned character.
pub(crate) fn may_stand(c: char) -> bool {
    !matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::Surrogate
            | GeneralCategory::PrivateUse
            | GeneralCategory::Unassigned
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization::is_nfc;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_given_comes_out_plain_in_one_form_and_the_same_again(
            given in r"[\PC\u{200b}\u{202e}\u{300}-\u{345}\u{1100}-\u{11ff}\r\n ]{0,70}",
            at in any::<prop::sample::Index>(),
        ) {
            let Ok(Some(name)) = clean(&given) else { return Ok(()) };
            prop_assert!(name.chars().count() <= CODE_POINTS && is_nfc(&name) && name.chars().all(may_stand), "{name:?}");
            prop_assert_eq!(clean(&name), Ok(Some(name.clone())));
            // What nobody sees makes no other name.
            let mut hidden = given.clone();
            let places: Vec<usize> = given.char_indices().map(|(place, _)| place).collect();
            hidden.insert(*at.get(&places), '\u{2066}');
            prop_assert_eq!(clean(&hidden), Ok(Some(name)));
        }
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["小明", "Alice", "Zoë", "O'Brien", "山田 太郎", "<b>bold</b>", "🦊"] {
            assert_eq!(clean(name), Ok(Some(name.to_owned())));
        }
    }

    #[test]
    fn t19_what_hides_or_reorders_is_removed() {
        assert_eq!(
            clean("a\u{202e}b\u{200b}c\u{2066}d\r\ne\u{feff}\0"),
            Ok(Some("abcde".to_owned()))
        );
        assert_eq!(clean(" \u{200b} \u{202e}"), Ok(None));
        assert_eq!(
            clean("Zoe\u{308}"),
            Ok(Some("Zoë".to_owned())),
            "one form for what looks the same"
        );
        assert_eq!(clean("Zoe\u{200b}\u{308}"), Ok(Some("Zoë".to_owned())));
    }

    #[test]
    fn sixty_four_code_points_are_the_most() {
        assert_eq!(clean(&"明".repeat(64)), Ok(Some("明".repeat(64))));
        assert_eq!(clean(&"明".repeat(65)), Err(TooLong));
        assert_eq!(
            clean(&format!("{}\u{200b}", "明".repeat(64))),
            Ok(Some("明".repeat(64)))
        );
    }
}
