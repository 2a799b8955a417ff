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

/// Why bytes are not a [`CodePicture`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPicture {
    /// They begin as one does, and do not end so.
    CutShort,
    /// They begin as something else.
    Foreign,
}

impl CodePicture {
    /// Takes bytes for a picture if they begin and end as a JPEG or a PNG does.
    ///
    /// # Errors
    /// [`NoPicture`]
    pub fn parse(bytes: Bytes) -> Result<Self, NoPicture> {
        let mut kinds = [MediaType::Jpeg, MediaType::Png].into_iter();
        let (media_type, body) = kinds
            .find_map(|kind| Some((kind, bytes.strip_prefix(kind.start())?)))
            .ok_or(NoPicture::Foreign)?;
        let (_, tail) = body.split_at(body.len().saturating_sub(TAIL_BYTES));
        let end = media_type.end();
        if tail.windows(end.len()).any(|window| window == end) {
            Ok(Self { bytes, media_type })
        } else {
            Err(NoPicture::CutShort)
        }
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

    fn media_type(bytes: &[u8]) -> Result<MediaType, NoPicture> {
        CodePicture::parse(Bytes::copy_from_slice(bytes)).map(|picture| picture.media_type())
    }

    #[test]
    fn a_picture_is_known_by_its_bytes() {
        assert_eq!(media_type(JPEG), Ok(MediaType::Jpeg));
        assert_eq!(media_type(PNG), Ok(MediaType::Png));
        assert_eq!(media_type(&[JPEG, b"\n"].concat()), Ok(MediaType::Jpeg));
    }

    #[test]
    fn nothing_incomplete_or_foreign_is_a_picture() {
        for (whole, start) in [(JPEG, 3), (PNG, 8)] {
            for length in 0..whole.len() {
                let fault = if length < start {
                    NoPicture::Foreign
                } else {
                    NoPicture::CutShort
                };
                assert_eq!(media_type(&whole[..length]), Err(fault), "{length} of {whole:?}");
            }
        }
        for other in [&b"{\"errcode\":40001}"[..], b"<html>", b"GIF89a", b"\x1f\x8b\x08"] {
            assert_eq!(media_type(other), Err(NoPicture::Foreign));
        }
        assert_eq!(
            media_type(&[&JPEG[..6], &PNG[8..]].concat()),
            Err(NoPicture::CutShort),
            "the end of the other kind"
        );
    }
}
