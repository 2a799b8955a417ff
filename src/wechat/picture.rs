//! What counts as a code's picture: known by its own bytes, never by what a header says of them.

use bytes::Bytes;

/// How far from the end a picture's end mark may stand: some encoders pad.
const TAIL_BYTES: usize = 64;

/// The picture of a mini-program code, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePicture {
    bytes: Bytes,
    media_type: MediaType,
}

impl CodePicture {
    /// Takes bytes for a picture; `None` unless they begin and end as a JPEG or a PNG does.
    #[must_use]
    pub fn parse(bytes: Bytes) -> Option<Self> {
        let media_type = [MediaType::Jpeg, MediaType::Png]
            .into_iter()
            .find(|media_type| bytes.starts_with(media_type.start()))?;
        let body = bytes.get(media_type.start().len()..)?;
        let tail = body.get(body.len().saturating_sub(TAIL_BYTES)..)?;
        let end = media_type.end();
        tail.windows(end.len())
            .any(|window| window == end)
            .then_some(Self { bytes, media_type })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What they are.
    #[must_use]
    pub fn media_type(&self) -> MediaType {
        self.media_type
    }
}

/// The kinds of picture that WeChat makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// Usual.
    Jpeg,
    /// When a transparent background is asked for.
    Png,
}

impl MediaType {
    /// As `Content-Type` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }

    fn start(self) -> &'static [u8] {
        match self {
            Self::Jpeg => b"\xff\xd8\xff",
            Self::Png => b"\x89PNG\r\n\x1a\n",
        }
    }

    /// The EOI marker, which a JPEG's data cannot contain by accident, and the IEND chunk with its checksum.
    fn end(self) -> &'static [u8] {
        match self {
            Self::Jpeg => b"\xff\xd9",
            Self::Png => b"IEND\xae\x42\x60\x82",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 data \xff\xd9";
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n data \0\0\0\0IEND\xae\x42\x60\x82";

    fn media_type(bytes: &[u8]) -> Option<MediaType> {
        CodePicture::parse(Bytes::copy_from_slice(bytes)).map(|picture| picture.media_type())
    }

    #[test]
    fn a_picture_is_known_by_its_bytes() {
        assert_eq!(media_type(JPEG), Some(MediaType::Jpeg));
        assert_eq!(media_type(PNG), Some(MediaType::Png));
        assert_eq!(media_type(&[JPEG, b"\n"].concat()), Some(MediaType::Jpeg));
    }

    #[test]
    fn nothing_incomplete_or_foreign_is_a_picture() {
        for length in 0..JPEG.len() {
            assert_eq!(media_type(&JPEG[..length]), None, "{length} bytes of a JPEG");
        }
        for length in 0..PNG.len() {
            assert_eq!(media_type(&PNG[..length]), None, "{length} bytes of a PNG");
        }
        for other in [&b"{\"errcode\":40001}"[..], b"<html>", b"GIF89a", b"\x1f\x8b\x08"] {
            assert_eq!(media_type(other), None);
        }
        assert_eq!(
            media_type(&[&JPEG[..6], &PNG[8..]].concat()),
            None,
            "the end of the other kind"
        );
    }
}
