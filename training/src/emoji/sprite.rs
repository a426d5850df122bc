//! A drawing as pixels, and how it is drawn into a picture of any size.

use std::ops::Range;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::Tree;

/// Pixels of a sprite's side. A large object has this size in a picture of 512 pixels.
const SIDE: usize = 256;

/// Red, green, blue and alpha of `SIDE` × `SIDE` pixels by rows, 0..=255, colours multiplied by alpha.
pub(super) struct Sprite(Vec<u8>);

/// The part of the sprite that one pixel of a picture covers in one dimension. It has the first column (or row), and
/// the shares from there on.
struct Seen {
    first: usize,
    shares: Vec<f32>,
}

impl Sprite {
    /// The drawing, scaled to fill the square in its longer dimension, in the middle.
    pub(super) fn of(tree: &Tree) -> Self {
        let Some(mut pixmap) = Pixmap::new(SIDE as u32, SIDE as u32) else { return Self(Vec::new()) };
        let (width, height) = (tree.size().width(), tree.size().height());
        let scale = SIDE as f32 / width.max(height);
        let middle = |length: f32| (SIDE as f32 - length * scale) / 2.0;
        let transform = Transform::from_row(scale, 0.0, 0.0, scale, middle(width), middle(height));
        resvg::render(tree, transform, &mut pixmap.as_mut());
        Self(pixmap.take())
    }

    /// Draws the sprite into the square of `radius` around `centre` (shares of the side) of a picture of `side`. Calls
    /// `found` for each pixel that the sprite touches, with the pixel's place by rows and its red, green, blue and alpha
    /// of 0..=1. Colours are multiplied by alpha. A pixel is the exact mean of what it covers.
    pub(super) fn lay(
        &self,
        centre: [f32; 2],
        radius: f32,
        side: usize,
        mut found: impl FnMut(usize, [f32; 4]),
    ) {
        let (columns, across) = seen(centre[0], radius, side);
        let (rows, down) = seen(centre[1], radius, side);
        let weighed = |sums: [f32; 4], share: f32, pixel: &[u8]| {
            [0, 1, 2, 3]
                .map(|channel| sums[channel] + share * f32::from(pixel.get(channel).copied().unwrap_or(0)))
        };
        for (row, seen_down) in rows.zip(&down) {
            // Sums rows first. Then each column of the sprite is summed once for all pixels of this row.
            let mut line = vec![[0.0; 4]; SIDE];
            for (offset, share) in seen_down.shares.iter().enumerate() {
                let start = (seen_down.first + offset) * SIDE * 4;
                let pixels = self.0.get(start..start + SIDE * 4).unwrap_or(&[]);
                for (sums, pixel) in line.iter_mut().zip(pixels.chunks_exact(4)) {
                    *sums = weighed(*sums, *share, pixel);
                }
            }
            for (column, seen_across) in columns.clone().zip(&across) {
                let mut sums = [0.0; 4];
                for (pixel, share) in line[seen_across.first..].iter().zip(&seen_across.shares) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += share * value;
                    }
                }
                if sums[3] > 0.0 {
                    found(row * side + column, sums.map(|sum| (sum / 255.0).min(1.0)));
                }
            }
        }
    }
}

/// The pixels of one dimension that the sprite reaches, and what each of them covers. Pixels cover nothing outside the
/// sprite, so shares at its border sum to less than 1.
fn seen(centre: f32, radius: f32, side: usize) -> (Range<usize>, Vec<Seen>) {
    let scale = side as f32;
    let start = (centre - radius) * scale;
    let first = start.floor().max(0.0) as usize;
    let last = (((centre + radius) * scale).ceil().max(0.0) as usize).min(side).max(first);
    // Number of sprite pixels in one pixel of the picture.
    let ratio = SIDE as f32 / (2.0 * radius * scale);
    let edge = |pixel: usize| ((pixel as f32 - start) * ratio).clamp(0.0, SIDE as f32);
    let seen = (first..last).map(|pixel| {
        let (from, to) = (edge(pixel), edge(pixel + 1));
        let (first, last) = ((from as usize).min(SIDE - 1), (to.ceil() as usize).min(SIDE));
        let share = |place: usize| (to.min(place as f32 + 1.0) - from.max(place as f32)).max(0.0) / ratio;
        Seen { first, shares: (first..last).map(share).collect() }
    });
    (first..last, seen.collect())
}
