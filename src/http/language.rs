//! What people are answered in.

use axum::http::{HeaderMap, header};

/// The languages that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Chinese,
    English,
}

impl Language {
    /// The first of ours that the phone or the browser names. Whoever names others only is spoken to in English, as most who speak
    /// neither read that sooner; whoever names none at all, in Chinese.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let languages = headers.get(header::ACCEPT_LANGUAGE);
        let languages = languages.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let names_any = languages
            .split(',')
            .any(|tag| tag.trim_start().starts_with(|c: char| c.is_ascii_alphabetic()));
        let otherwise = if names_any { Self::English } else { Self::Chinese };
        Self::first(languages.split(',')).unwrap_or(otherwise)
    }

    /// What a site asks for its people (`ui_locales`, separated by spaces), else as [`Self::of`].
    pub(super) fn preferred(ui_locales: Option<&str>, headers: &HeaderMap) -> Self {
        let asked = Self::first(ui_locales.unwrap_or_default().split(' '));
        asked.unwrap_or_else(|| Self::of(headers))
    }

    /// As HTML names it (BCP 47).
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Chinese => "zh-CN",
            Self::English => "en",
        }
    }

    fn first<'a>(tags: impl Iterator<Item = &'a str>) -> Option<Self> {
        // In whatever case (RFC 5646 §2.1.1).
        let is = |tag: &str, language| tag.get(..2).is_some_and(|first| first.eq_ignore_ascii_case(language));
        tags.map(str::trim_start).find_map(|tag| match tag {
            _ if is(tag, "zh") => Some(Self::Chinese),
            _ if is(tag, "en") => Some(Self::English),
            _ => None,
        })
    }
}
