//! Reads a picture from elsewhere and brings it to the size of a run.
//!
//! PNG, JPEG and WebP of any depth are read. Photographs are turned as their metadata say. Transparent pixels are laid on
//! white. Then the picture is scaled until it covers the size (Lanczos3), and what protrudes is cut off on both sides alike.

use std::path::Path;

use super::decoded::{Decoded, decode};
use super::exif::upright;
use super::fit::fitted;
use super::png::Picture;
use crate::failure::Outcome;
use crate::model::Size;

/// A picture in the size of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The picture.
    pub picture: Picture,
    /// The size that the file has, turned as its metadata say.
    pub own: Size,
}

impl Fitted {
    /// What was done to the picture, in a few words. `None` if it had the right size.
    pub fn note(&self) -> Option<String> {
        let (own, size) = (self.own, self.picture.size());
        let cut = own.width * size.height != own.height * size.width;
        let cut = if cut { " and cut in the middle" } else { "" };
        (own != size).then(|| format!("{own} scaled to {size}{cut}"))
    }
}

/// The colour behind transparent pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backdrop {
    /// White, as behind a picture.
    White,
    /// Black, as in a mask that keeps what it does not show.
    Black,
}

/// Reads a picture and fits it to `size`.
///
/// # Errors
/// [`Failure::Run`](crate::Failure::Run) naming the file: it cannot be read, is no picture of a known format, is broken, or has
/// too many pixels.
pub fn read_picture(path: &Path, size: Size, backdrop: Backdrop) -> Outcome<Fitted> {
    let decoded = decode(path)?;
    let picture = upright(flat(&decoded, backdrop), decoded.orientation);
    Ok(Fitted { own: picture.size(), picture: fitted(&picture, size) })
}

/// The picture in RGB, without transparency.
fn flat(decoded: &Decoded, backdrop: Backdrop) -> Picture {
    let behind = if backdrop == Backdrop::White { 255.0 } else { 0.0 };
    let mixed = |value: u8, opacity: u8| {
        let share = f32::from(opacity) / 255.0;
        (share * f32::from(value) + (1.0 - share) * behind).round() as u8
    };
    let pixel = |pixel: &[u8]| match *pixel {
        [grey] => [grey; 3],
        [grey, opacity] => [mixed(grey, opacity); 3],
        [red, green, blue] => [red, green, blue],
        [red, green, blue, opacity] => [red, green, blue].map(|value| mixed(value, opacity)),
        _ => [0; 3],
    };
    let rgb = decoded.bytes.chunks_exact(decoded.channels.max(1)).flat_map(pixel).collect();
    Picture { width: decoded.width, height: decoded.height, rgb }
}

#[cfg(test)]
mod tests {
    use png::{BitDepth, ColorType};

    use super::*;

    const SIZE: Size = Size { width: 6, height: 4 };

    fn fixtures() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parts")
    }

    /// Writes a PNG of 6 x 4 pixels.
    fn write(path: &Path, kind: (ColorType, BitDepth), bytes: &[u8]) {
        let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 6, 4);
        encoder.set_color(kind.0);
        encoder.set_depth(kind.1);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    #[test]
    fn every_kind_of_png_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.png");
        let greys: Vec<u8> = (0..24).map(|pixel| 10 * pixel).collect();
        let expected: Vec<u8> = greys.iter().flat_map(|grey| [*grey; 3]).collect();
        let deep: Vec<u8> = greys.iter().flat_map(|grey| [*grey, 77]).collect();
        let opaque: Vec<u8> = greys.iter().flat_map(|grey| [*grey, *grey, *grey, 255]).collect();
        for (kind, bytes) in [
            ((ColorType::Grayscale, BitDepth::Eight), &greys),
            ((ColorType::Rgb, BitDepth::Eight), &expected),
            ((ColorType::Grayscale, BitDepth::Sixteen), &deep),
            ((ColorType::Rgba, BitDepth::Eight), &opaque),
        ] {
            write(&path, kind, bytes);
            let read = read_picture(&path, SIZE, Backdrop::White).unwrap();
            assert_eq!((read.picture.rgb.as_slice(), read.note()), (&expected[..], None), "{kind:?}");
        }
        let clear: Vec<u8> = (0..24).flat_map(|pixel| [100, if pixel % 6 < 3 { 0 } else { 255 }]).collect();
        write(&path, (ColorType::GrayscaleAlpha, BitDepth::Eight), &clear);
        for (backdrop, behind) in [(Backdrop::White, 255), (Backdrop::Black, 0)] {
            let picture = read_picture(&path, SIZE, backdrop).unwrap().picture;
            assert_eq!((picture.pixel(0, 0), picture.pixel(5, 3)), ([behind; 3], [100; 3]));
        }
    }

    /// Files that Pillow wrote, and what it makes of them: `ImageOps.exif_transpose`, then `ImageOps.fit`. The photograph lies
    /// on its side.
    #[test]
    fn files_are_fitted_as_pillow_does() {
        let bytes = std::fs::read(fixtures().join("pictures.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in tensors.tensors() {
            let (file, _) = name.split_once(' ').unwrap();
            let [height, width] = [0, 1].map(|axis| tensor.shape()[axis]);
            let size = Size { width, height };
            let read = read_picture(&fixtures().join(file), size, Backdrop::White).unwrap();
            assert_eq!(read.picture.size(), size);
            let far = read.picture.rgb.iter().zip(tensor.data()).map(|(a, b)| a.abs_diff(*b)).max();
            // Pillow rounds between its two passes. JPEG decoders may differ by a few levels.
            let most = if file.ends_with("jpg") { 6 } else { 2 };
            assert!(far <= Some(most), "{name}: {far:?}");
        }
        let note = read_picture(&fixtures().join("photo.jpg"), SIZE, Backdrop::White).unwrap().note();
        assert_eq!(note.unwrap(), "40 x 56 scaled to 6 x 4 and cut in the middle");
        let note =
            read_picture(&fixtures().join("photo.jpg"), Size { width: 20, height: 28 }, Backdrop::White);
        assert_eq!(note.unwrap().note().unwrap(), "40 x 56 scaled to 20 x 28");
    }

    #[test]
    fn what_is_no_picture_is_named_on_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.png");
        let says = |bytes: &[u8], words: &str| {
            std::fs::write(&path, bytes).unwrap();
            let message = read_picture(&path, SIZE, Backdrop::White).unwrap_err().to_string();
            assert!(message.contains("p.png: expected a PNG, JPEG or WebP picture"), "{message}");
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        };
        says(b"a fox", "");
        says(b"GIF89a\x01\x00\x01\x00", "");
        says(b"", "");
        for file in ["photo.jpg", "drawn.webp"] {
            let whole = std::fs::read(fixtures().join(file)).unwrap();
            for length in [4, 13, whole.len() / 4] {
                says(&whole[..length], "");
            }
        }
        write(&path, (ColorType::Rgb, BitDepth::Eight), &[7; 72]);
        let bytes = std::fs::read(&path).unwrap();
        says(&bytes[..bytes.len() / 2], ": ");
        // A header with its checksum that claims 2^14 pixels a side.
        let mut large = bytes.clone();
        large[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let checksum = crc(&large[12..29]);
        large[29..33].copy_from_slice(&checksum.to_be_bytes());
        says(&large, "at most 67108864 pixels are read");
    }

    /// The checksum of a PNG's chunk.
    fn crc(bytes: &[u8]) -> u32 {
        let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
    }
}
