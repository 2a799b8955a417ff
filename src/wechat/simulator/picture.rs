//! The code's picture: an ordinary QR code, since no reader but WeChat's own reads a mini-program code.

use std::iter::repeat_n;

use jpeg_encoder::{ColorType as JpegColor, Encoder as JpegEncoder};
use qrcodegen::{QrCode, QrCodeEcc};

type Rgb = [u8; 3];

/// Of the badge in the middle, whatever colour the lines have.
const GREEN: Rgb = [7, 128, 74];
const WHITE: Rgb = [255; 3];
/// Modules left empty around the code, as its standard asks.
const QUIET: u16 = 4;
/// Radius of the badge in parts of the code's side: it hides under 4 % of it, where 25 % could be restored.
const BADGE: f32 = 0.11;
const JPEG_QUALITY: u8 = 80;

/// How the picture shall look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Width and height in pixels, at least 280.
    pub(super) width: u16,
    pub(super) line_color: Rgb,
    /// A PNG without background instead of a JPEG.
    pub(super) is_hyaline: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            width: 430,
            line_color: [0; 3],
            is_hyaline: false,
        }
    }
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    /// A public URL of some hundred characters does it.
    #[error("the text is too long for a code of this width")]
    TooLong,
    /// The encoder's own.
    #[error("the JPEG could not be written")]
    Jpeg(#[from] jpeg_encoder::EncodingError),
    /// The encoder's own.
    #[error("the PNG could not be written")]
    Png(#[from] png::EncodingError),
}

/// Draws `text`.
pub(super) fn draw(text: &str, look: Look) -> Result<Vec<u8>, PictureError> {
    let code = QrCode::encode_text(text, QrCodeEcc::Quartile).map_err(|_| PictureError::TooLong)?;
    if look.is_hyaline {
        let opaque = |[r, g, b]: Rgb| [r, g, b, u8::MAX];
        png(look.width, &pixels(&code, look, [255, 255, 255, 0], opaque)?)
    } else {
        jpeg(look.width, &pixels(&code, look, WHITE, |rgb| rgb)?)
    }
}

fn jpeg(width: u16, pixels: &[Rgb]) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    JpegEncoder::new(&mut bytes, JPEG_QUALITY).encode(pixels.as_flattened(), width, width, JpegColor::Rgb)?;
    Ok(bytes)
}

fn png(width: u16, pixels: &[[u8; 4]]) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width.into(), width.into());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.as_flattened())?;
    writer.finish()?;
    Ok(bytes)
}

/// The pixels row by row: modules of whole pixels in the middle of `paper`, and the badge over them.
fn pixels<const N: usize>(
    code: &QrCode,
    look: Look,
    paper: [u8; N],
    opaque: impl Fn(Rgb) -> [u8; N],
) -> Result<Vec<[u8; N]>, PictureError> {
    let width = usize::from(look.width);
    let modules = u16::try_from(code.size()).map_err(|_| PictureError::TooLong)?;
    let scale = look.width / (modules + 2 * QUIET);
    if scale == 0 {
        return Err(PictureError::TooLong);
    }
    let side = modules * scale;
    let (margin, scale) = (usize::from((look.width - side) / 2), usize::from(scale));
    let ink = opaque(look.line_color);

    let mut pixels = Vec::with_capacity(width * width);
    pixels.resize(width * margin, paper);
    let mut row = Vec::with_capacity(width);
    for y in 0..code.size() {
        row.clear();
        row.resize(margin, paper);
        for x in 0..code.size() {
            row.extend(repeat_n(if code.get_module(x, y) { ink } else { paper }, scale));
        }
        row.resize(width, paper);
        for _ in 0..scale {
            pixels.extend_from_slice(&row);
        }
    }
    pixels.resize(width * width, paper);
    stamp(&mut pixels, look.width, f32::from(side) * BADGE, opaque);
    Ok(pixels)
}

/// Puts the badge in the middle: a green disc with a white tick and a white rim.
fn stamp<const N: usize>(pixels: &mut [[u8; N]], width: u16, radius: f32, opaque: impl Fn(Rgb) -> [u8; N]) {
    // Where in a pixel its colour is looked at: nine places make edges smooth.
    const PLACES: [f32; 3] = [-1.0 / 3.0, 0.0, 1.0 / 3.0];
    let from_middle = |at: u16| f32::from(at) + 0.5 - f32::from(width) / 2.0;
    for (y, row) in (0..width).map(from_middle).zip(pixels.chunks_exact_mut(width.into())) {
        if y.abs() > radius {
            continue;
        }
        for (x, pixel) in (0..width).map(from_middle).zip(row) {
            if x.hypot(y) > radius {
                continue;
            }
            let places = PLACES
                .iter()
                .flat_map(|dx| PLACES.iter().map(move |dy| (x + dx, y + dy)));
            let green = places.filter(|(x, y)| is_green(x / radius, y / radius)).count();
            *pixel = opaque(mix(WHITE, GREEN, green, PLACES.len() * PLACES.len()));
        }
    }
}

/// Whether the badge is green at a place, given in parts of its radius.
fn is_green(x: f32, y: f32) -> bool {
    const DISC: f32 = 0.82;
    const TICK: [(f32, f32); 3] = [(-0.36, 0.04), (-0.09, 0.30), (0.38, -0.26)];
    const TICK_HALF: f32 = 0.085;
    let [start, corner, end] = TICK;
    let tick = distance((x, y), start, corner).min(distance((x, y), corner, end));
    x.hypot(y) <= DISC && tick > TICK_HALF
}

/// How far `at` is from the line between two points.
fn distance(at: (f32, f32), from: (f32, f32), to: (f32, f32)) -> f32 {
    let (along_x, along_y) = (to.0 - from.0, to.1 - from.1);
    let (x, y) = (at.0 - from.0, at.1 - from.1);
    let part = ((x * along_x + y * along_y) / (along_x * along_x + along_y * along_y)).clamp(0.0, 1.0);
    (x - part * along_x).hypot(y - part * along_y)
}

/// `part` of `whole` the colour `b`, the rest `a`.
fn mix(a: Rgb, b: Rgb, part: usize, whole: usize) -> Rgb {
    let channel = |a: u8, b: u8| {
        let sum = usize::from(a) * (whole - part) + usize::from(b) * part;
        u8::try_from(sum / whole).unwrap_or(u8::MAX)
    };
    let ([ar, ag, ab], [br, bg, bb]) = (a, b);
    [channel(ar, br), channel(ag, bg), channel(ab, bb)]
}

#[cfg(test)]
mod tests {
    use rqrr::PreparedImage;
    use zune_jpeg::JpegDecoder;
    use zune_jpeg::zune_core::bytestream::ZCursor;

    use super::*;

    const URL: &str = "https://login.staging.example.com/simulator/phone?scene=3f9c2b1e8a7d4c6fb0e5d4c3b2a19087";

    fn scanned(width: u16, luma: &[u8]) -> String {
        let side = usize::from(width);
        let mut image = PreparedImage::prepare_from_greyscale(side, side, |x, y| luma[y * side + x]);
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "codes found at {width} px");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_jpeg_of_every_width_is_scanned() {
        for width in [280, 281, 430, 777, 1280] {
            let look = Look {
                width,
                ..Look::default()
            };
            let bytes = draw(URL, look).unwrap();
            assert!(bytes.starts_with(&[0xff, 0xd8, 0xff]));
            let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
            let rgb = decoder.decode().unwrap();
            assert_eq!(decoder.dimensions(), Some((width.into(), width.into())));
            let green: Vec<u8> = rgb.chunks_exact(3).map(|pixel| pixel[1]).collect();
            assert_eq!(scanned(width, &green), URL);
        }
    }

    #[test]
    fn a_png_has_lines_of_the_colour_asked_for_and_nothing_behind_them() {
        let line_color = [20, 40, 160];
        let look = Look {
            width: 430,
            line_color,
            is_hyaline: true,
        };
        let bytes = draw(URL, look).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut rgba = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgba).unwrap();
        assert_eq!(rgba[3], 0, "the corner is transparent");
        let line = rgba.chunks_exact(4).find(|pixel| pixel[3] != 0).unwrap();
        assert_eq!(line, [20, 40, 160, 255]);
        let on_white: Vec<u8> = rgba
            .chunks_exact(4)
            .map(|pixel| if pixel[3] == 0 { 255 } else { pixel[0] })
            .collect();
        assert_eq!(scanned(430, &on_white), URL);
    }

    #[test]
    fn a_text_too_long_for_the_width_is_refused() {
        let long = "a".repeat(5_000);
        assert!(matches!(draw(&long, Look::default()), Err(PictureError::TooLong)));
    }
}
