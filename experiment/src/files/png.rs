//! PNG files with text chunks.

use std::io::BufReader;
use std::path::Path;

use super::input::open_file;
use crate::failure::{Failure, Outcome};
use crate::model::Size;

/// The largest number of pixels of a picture that is read: 67,108,864, the square of 8192.
pub(super) const MOST_PIXELS: usize = 1 << 26;

/// An 8-bit RGB picture, row-major, three bytes per pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The pixels.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// Its size.
    pub fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }

    /// The values of red, then of green, then of blue: each row-major.
    pub(crate) fn planes(&self) -> impl Iterator<Item = u8> {
        (0..3).flat_map(|channel| self.rgb.iter().skip(channel).step_by(3).copied())
    }

    /// The pixel at a place inside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (y * self.width + x);
        self.rgb.get(at..at + 3).and_then(|slice| slice.try_into().ok()).unwrap_or_default()
    }

    /// Sets a pixel. Places outside the picture are ignored.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            if let Some(pixel) = self.rgb.get_mut(at..at + 3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }
}

/// One entry of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChunk {
    /// The keyword.
    pub key: String,
    /// The text.
    pub text: String,
}

impl TextChunk {
    /// A chunk `key: text`.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

/// The picture as a PNG file. Text that is Latin-1 goes into `tEXt` chunks, other text into `iTXt` (UTF-8).
pub fn png_bytes(picture: &Picture, chunks: &[TextChunk]) -> Outcome<Vec<u8>> {
    let failed = |error: png::EncodingError| Failure::run(format!("PNG: {error}"));
    let size = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| Failure::run(format!("PNG: {pixels} pixels are too many")))
    };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size(picture.width)?, size(picture.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for TextChunk { key, text } in chunks {
        let added = if is_latin1(text) {
            encoder.add_text_chunk(key.clone(), text.clone())
        } else {
            encoder.add_itxt_chunk(key.clone(), text.clone())
        };
        added.map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Reads an 8-bit RGB picture as [`png_bytes`] writes it. The header must state this `size`; memory is allocated only
/// after that check.
pub fn read_png(path: &Path, size: Size) -> Outcome<Picture> {
    let file = open_file(path)?;
    let failed = |error: png::DecodingError| Failure::file(path, format!("expected a PNG picture: {error}"));
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(failed)?;
    if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(Failure::file(path, "expected a PNG picture in 8-bit RGB"));
    }
    let (width, height) = reader.info().size();
    if (width as usize, height as usize) != (size.width, size.height) {
        let reason = format!("expected {size} pixels, got {width} x {height}");
        return Err(Failure::file(path, reason));
    }
    let room = reader.output_buffer_size().filter(|_| size.width.saturating_mul(size.height) <= MOST_PIXELS);
    let room = room.ok_or_else(|| {
        Failure::file(path, format!("expected at most {MOST_PIXELS} pixels, got {width} x {height}"))
    })?;
    let mut rgb = vec![0; room];
    let frame = reader.next_frame(&mut rgb).map_err(failed)?;
    Ok(Picture { width: frame.width as usize, height: frame.height as usize, rgb })
}

/// Whether `tEXt` may hold the text: printable Latin-1 and line feeds (PNG specification, 11.3.3).
fn is_latin1(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || (' '..='~').contains(&c) || ('\u{a0}'..='\u{ff}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_pixels_read_back() {
        let mut picture = Picture::filled(5, 3, [1, 2, 3]);
        picture.set(4, 2, [250, 0, 9]);
        picture.set(5, 0, [9, 9, 9]);
        let chunks = [TextChunk::new("parameters", "café\nSteps: 2"), TextChunk::new("own", "狐 🦊")];
        let bytes = png_bytes(&picture, &chunks).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, picture.rgb);
        assert_eq!(picture.pixel(4, 2), [250, 0, 9]);
        let info = reader.info();
        assert_eq!(info.uncompressed_latin1_text[0].text, chunks[0].text);
        assert_eq!(info.utf8_text[0].get_text().unwrap(), chunks[1].text);
    }

    /// A few bytes of header can claim more pixels than any memory holds.
    #[test]
    fn a_picture_is_believed_only_if_it_has_the_size_that_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.png");
        let mut bytes = png_bytes(&Picture::filled(5, 3, [1, 2, 3]), &[]).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_png(&path, Size { width: 5, height: 3 }).unwrap(), Picture::filled(5, 3, [1, 2, 3]));
        let message = read_png(&path, Size { width: 3, height: 5 }).unwrap_err().to_string();
        assert!(message.ends_with("p.png: expected 3 x 5 pixels, got 5 x 3"), "{message}");
        for side in [1u32 << 20, i32::MAX as u32] {
            bytes[16..20].copy_from_slice(&side.to_be_bytes());
            bytes[20..24].copy_from_slice(&side.to_be_bytes());
            let sum = crc32(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&sum.to_be_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let own = Size { width: side as usize, height: side as usize };
            for size in [Size { width: 5, height: 3 }, own] {
                let message = read_png(&path, size).unwrap_err().to_string();
                assert!(message.contains("p.png: expected"), "{message}");
                if side == 1 << 20 {
                    let named =
                        if size == own { "at most 67108864 pixels" } else { "5 x 3 pixels, got 1048576" };
                    assert!(message.contains(named), "{message}");
                }
            }
        }
    }

    /// The checksum of PNG's chunks (PNG specification, annex D).
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32, byte: &u8| {
            (0..8)
                .fold(sum ^ u32::from(*byte), |s, _| if s & 1 == 1 { 0xedb8_8320 ^ (s >> 1) } else { s >> 1 })
        };
        !bytes.iter().fold(u32::MAX, step)
    }
}
