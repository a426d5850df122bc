//! Decodes PNG, JPEG and WebP files to 8 bits.

use std::io::Cursor;
use std::path::Path;

use image_webp::WebPDecoder;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::exif;
use super::input::{DATA_MOST, read_bytes};
use super::png::MOST_PIXELS;
use crate::failure::{Failure, Outcome};

/// The formats, for messages.
const EXPECTED: &str = "expected a PNG, JPEG or WebP picture";

/// A decoded picture: rows of pixels of one to four bytes. Two and four bytes end with the opacity.
pub(super) struct Decoded {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bytes of a pixel: grey, grey and opacity, RGB, or RGBA.
    pub(super) channels: usize,
    pub(super) bytes: Vec<u8>,
    /// How the picture is to be turned: EXIF's number from 1 to 8.
    pub(super) orientation: u16,
}

/// Decodes a file. Its first bytes tell the format. Its header is checked before memory is allocated.
pub(super) fn decode(path: &Path) -> Outcome<Decoded> {
    let bytes = read_bytes(path, DATA_MOST)?;
    let decoded = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => png(&bytes),
        [0xFF, 0xD8, 0xFF, ..] => jpeg(&bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(&bytes),
        _ => return Err(Failure::file(path, EXPECTED)),
    };
    decoded.map_err(|reason| {
        let line = reason.lines().next().unwrap_or_default();
        Failure::file(path, format!("{EXPECTED}: {line}"))
    })
}

/// The number of bytes of a picture, if it is not too large.
fn room(width: usize, height: usize, channels: usize) -> Result<usize, String> {
    match width.checked_mul(height) {
        Some(pixels) if (1..=MOST_PIXELS).contains(&pixels) => Ok(pixels * channels),
        _ => Err(format!("at most {MOST_PIXELS} pixels are read, and it has {width} x {height}")),
    }
}

fn png(bytes: &[u8]) -> Result<Decoded, String> {
    let failed = |error: png::DecodingError| error.to_string();
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let (width, height) = reader.info().size();
    let (width, height) = (width as usize, height as usize);
    let channels = reader.output_color_type().0.samples();
    let mut pixels = vec![0; room(width, height, channels)?];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err("its rows have no whole pixels".to_string());
    }
    reader.next_frame(&mut pixels).map_err(failed)?;
    let orientation = reader.info().exif_metadata.as_deref().map_or(1, exif::orientation);
    Ok(Decoded { width, height, channels, bytes: pixels, orientation })
}

fn jpeg(bytes: &[u8]) -> Result<Decoded, String> {
    let failed = |error: zune_jpeg::errors::DecodeErrors| error.to_string();
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) =
        decoder.info().map_or((0, 0), |info| (usize::from(info.width), usize::from(info.height)));
    let expected = room(width, height, 3)?;
    let pixels = decoder.decode().map_err(failed)?;
    if pixels.len() != expected {
        return Err(format!("{expected} bytes of pixels should be there, and {} are", pixels.len()));
    }
    let orientation = decoder.exif().map_or(1, |exif| exif::orientation(exif));
    Ok(Decoded { width, height, channels: 3, bytes: pixels, orientation })
}

fn webp(bytes: &[u8]) -> Result<Decoded, String> {
    let failed = |error: image_webp::DecodingError| error.to_string();
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; room(width, height, channels)?];
    decoder.read_image(&mut pixels).map_err(failed)?;
    let exif = decoder.exif_metadata().unwrap_or_default();
    let orientation = exif.as_deref().map_or(1, exif::orientation);
    Ok(Decoded { width, height, channels, bytes: pixels, orientation })
}
