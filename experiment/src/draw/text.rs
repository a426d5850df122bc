//! Words on a picture, in an 8 × 8 bitmap font.

use font8x8::UnicodeFonts;

use crate::files::Picture;

/// Width and height of one letter in pixels.
pub(super) const GLYPH: usize = 8;

/// Writes `text` with its upper left corner at `(x, y)`. Text that does not fit is cut.
pub(super) fn write(picture: &mut Picture, x: usize, y: usize, text: &str, colour: [u8; 3]) {
    for (index, letter) in text.chars().enumerate() {
        let glyph =
            font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter)).unwrap_or([0; 8]);
        for (row, bits) in glyph.iter().enumerate() {
            for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
                picture.set(x + index * GLYPH + column, y + row, colour);
            }
        }
    }
}
