//! Decides which combinations training never shows.
//!
//! A hash of the combination under a fixed key decides, so neither a seed nor an order of enumeration can change the
//! choice. We picked the key so that two conditions hold. Every shape, colour and style occurs among the held-out
//! triples. Training shows each (shape, colour) before some styles.

use super::parts::{Colour, Object, Scene, Shape, Style};

const KEY: u64 = 0x3a9 << 40;
/// One combination in this many is held out.
const ONE_IN: u64 = 10;

/// Whether an object of this shape and colour before this style is held out (about a tenth of 192).
pub fn triple(shape: Shape, colour: Colour, style: Style) -> bool {
    let place = (shape.index() * Colour::ALL.len() + colour.index()) * Style::ALL.len() + style.index();
    is_chosen(place as u64)
}

/// Whether two objects of these shapes and colours together are held out, in either order (about a tenth of 1,128).
pub fn pair(first: (Shape, Colour), second: (Shape, Colour)) -> bool {
    let place =
        |(shape, colour): (Shape, Colour)| (shape.index() * Colour::ALL.len() + colour.index()) as u64;
    let (low, high) = (place(first).min(place(second)), place(first).max(place(second)));
    is_chosen((1 << 32) | (low << 16) | high)
}

impl Scene {
    /// Whether the scene shows a held-out combination: a [`triple`] by any of its objects, or a [`pair`].
    pub fn is_held_out(&self) -> bool {
        let style = self.background.style;
        let kind = |object: &Object| (object.shape, object.colour);
        self.objects.iter().any(|object| triple(object.shape, object.colour, style))
            || matches!(&self.objects[..], [first, second] if pair(kind(first), kind(second)))
    }
}

/// Whether the combination of this number is held out.
pub(crate) fn is_chosen(combination: u64) -> bool {
    mixed(KEY ^ combination).is_multiple_of(ONE_IN)
}

/// A bijective mix of 64 bits (the finalizer of Steele, Lea and Flood's SplitMix64, 2014).
fn mixed(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
