//! An ordinary QR code that WeChat opens the Mini Program with: drawn here, without a call to WeChat.

use bytes::Bytes;
use qrcodegen::{QrCode, QrCodeEcc};

use super::picture::CodePicture;

/// Modules left empty around the code, as its standard asks (ISO/IEC 18004 §5.3.8).
const QUIET: i32 = 4;

/// Draws it black on white, as wide as whole pixels for its modules allow within `width`. `None` for a text that no code holds.
#[must_use]
pub fn draw(text: &str, width: u16) -> Option<CodePicture> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let modules = code.size() + 2 * QUIET;
    let scale = (i32::from(width) / modules).max(1);
    let side = modules * scale;
    let at = |pixel: i32| pixel / scale - QUIET;
    // Beyond its edge a code is light.
    let luma = |y: i32| (0..side).map(move |x| (x, y));
    let pixels: Vec<u8> = (0..side)
        .flat_map(luma)
        .map(|(x, y)| if code.get_module(at(x), at(y)) { 0 } else { u8::MAX })
        .collect();
    let side = u32::try_from(side).ok()?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&pixels).ok()?;
    writer.finish().ok()?;
    CodePicture::parse(Bytes::from(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_read_at_every_width() {
        let link = format!(
            "https://login.example/{}/3f9c2b1e8a7d4c6fb0e5d4c3b2a19087",
            "s".repeat(160)
        );
        for (text, width) in [(&*link, 280), (&link, 1_280), ("https://a.example/s/0", 431)] {
            let drawn = draw(text, width).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(drawn.bytes().clone()))
                .read_info()
                .unwrap();
            let mut luma = vec![0; reader.output_buffer_size().unwrap()];
            let side = reader.next_frame(&mut luma).unwrap().width as usize;
            assert!(
                side <= usize::from(width) && side * 2 > usize::from(width),
                "{side} of {width}"
            );
            let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| luma[y * side + x]);
            let grids = image.detect_grids();
            assert_eq!(grids.len(), 1);
            assert_eq!(grids[0].decode().unwrap().1, text);
        }
        assert!(draw(&"a".repeat(5_000), 430).is_none());
    }
}
