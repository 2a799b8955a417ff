//! What holds of whatever people say of themselves: see [`crate::fuzzing`].

use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::clients::picture_at;
use super::{media_type_of_avatar, nickname};
use crate::login::phone::has_form_of_wx_code;

/// A nickname, the address of a picture, a picture, a `wx.login` code: each time all of it.
pub(crate) fn profile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(name)) = nickname::clean(&text) {
        assert!((1..=64).contains(&name.chars().count()), "{name:?}");
        assert!(
            is_nfc(&name),
            "{name:?} is written in another way than what looks the same"
        );
        assert_eq!(name, name.trim());
        let is_hidden = |c: char| {
            let line = matches!(
                c.general_category(),
                GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator
            );
            line || c.general_category_group() == GeneralCategoryGroup::Other
        };
        assert!(!name.contains(is_hidden), "{name:?}");
        assert_eq!(nickname::clean(&name), Ok(Some(name.clone())), "clean is not clean");
    }

    let hosts = ["*.qlogo.cn".to_owned(), "img.example".to_owned()];
    if let Some(address) = picture_at(&text, &hosts) {
        let rest = address.strip_prefix("https://").unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        assert!(host.ends_with(".qlogo.cn") || host == "img.example", "{address}");
        let is_foreign = |c: char| !c.is_ascii_graphic() || "\"'`<>\\".contains(c);
        assert!(!address.contains(is_foreign), "{address} breaks out of where it is put");
    }

    let kind = media_type_of_avatar(data);
    assert!(kind.is_none() || data.len() >= 3 && !data.starts_with(b"<"), "{kind:?}");
    let is_code = has_form_of_wx_code(&text);
    assert!(
        !is_code
            || text.len() <= 128
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"&=?#%\"".contains(&byte))
    );
}
