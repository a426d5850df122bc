//! Scenes as pixels.
//!
//! Each pixel is sampled at 4×4 points. An object covers the share of these points that lie in its outline. The picture
//! and the mask use the same shares. Patterns of backgrounds are softened over one pixel instead, which is cheaper.

use super::parts::{Background, Object, Scene, Style};
use super::picture::Picture;

/// Sample points along a row of a pixel.
const POINTS: usize = 4;
/// Periods of stripes and dots along a side.
const STRIPES: f32 = 6.0;
const DOTS: f32 = 6.0;
/// A dot's radius in periods.
const DOT: f32 = 0.26;
/// Tints, as factors of the background's colour: patterns, and the two ends of a gradient.
pub(super) const DARKER: f32 = 0.8;
pub(super) const TOP: f32 = 1.12;
pub(super) const BOTTOM: f32 = 0.72;

impl Scene {
    /// The scene drawn in `side` × `side` pixels.
    pub fn render(&self, side: usize) -> Picture {
        let mut rgb = self.background.render(side);
        for object in &self.objects {
            let colour = object.colour.rgb();
            object.cover(side, |place, points| {
                for (value, own) in rgb[place * 3..place * 3 + 3].iter_mut().zip(colour) {
                    *value = mixed(*value, own, points);
                }
            });
        }
        Picture { side, rgb }
    }

    /// The share of each pixel that objects cover, 0..=255, `side * side` by rows.
    pub fn mask(&self, side: usize) -> Vec<u8> {
        let mut mask = vec![0; side * side];
        for object in &self.objects {
            object.cover(side, |place, points| mask[place] = mixed(mask[place], u8::MAX, points));
        }
        mask
    }
}

impl Object {
    /// Calls `found` with each pixel that the object touches (its place by rows) and how many of its points it covers.
    fn cover(&self, side: usize, mut found: impl FnMut(usize, usize)) {
        let scale = side as f32;
        let first = |centre: f32| ((centre - self.radius) * scale).floor().max(0.0) as usize;
        let last = |centre: f32| (((centre + self.radius) * scale).ceil().max(0.0) as usize).min(side);
        // The coordinate of point `index` along a side, counted over all pixels. It is in radii from the object's centre.
        let point = |index: usize, centre: f32| {
            (((index as f32 + 0.5) / POINTS as f32) / scale - centre) / self.radius
        };
        let [across, down] = self.centre;
        for row in first(down)..last(down) {
            for column in first(across)..last(across) {
                let inside = (0..POINTS * POINTS).filter(|which| {
                    let x = point(column * POINTS + which % POINTS, across);
                    self.shape.contains(x, point(row * POINTS + which / POINTS, down))
                });
                match inside.count() {
                    0 => {}
                    points => found(row * side + column, points),
                }
            }
        }
    }
}

impl Background {
    /// The background alone: 8-bit RGB of `side` × `side` pixels by rows.
    pub(crate) fn render(&self, side: usize) -> Vec<u8> {
        let mut rgb = vec![0; side * side * 3];
        for (place, pixel) in rgb.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&self.colour_at(place % side, place / side, side));
        }
        rgb
    }

    /// The colour of one pixel.
    fn colour_at(&self, column: usize, row: usize, side: usize) -> [u8; 3] {
        let scale = side as f32;
        let (x, y) = ((column as f32 + 0.5) / scale, (row as f32 + 0.5) / scale);
        let [right, down] = self.phase;
        let tint = match self.style {
            Style::Plain => 1.0,
            Style::Gradient => TOP + (BOTTOM - TOP) * y,
            Style::Striped => {
                // The depth inside the stripe, in periods of the diagonal. One pixel is STRIPES / scale of them.
                let depth = 0.25 - from_middle((x + y) * STRIPES + right);
                1.0 + (DARKER - 1.0) * (0.5 + depth * scale / STRIPES).clamp(0.0, 1.0)
            }
            Style::Dotted => {
                let (across, along) = (from_middle(x * DOTS + right), from_middle(y * DOTS + down));
                let depth = DOT - (across * across + along * along).sqrt();
                1.0 + (DARKER - 1.0) * (0.5 + depth * scale / DOTS).clamp(0.0, 1.0)
            }
        };
        tinted(self.tone.rgb(), tint)
    }
}

/// A colour made lighter or darker.
pub(super) fn tinted(colour: [u8; 3], tint: f32) -> [u8; 3] {
    colour.map(|value| (f32::from(value) * tint + 0.5).clamp(0.0, 255.0) as u8)
}

/// The distance of `value` from the nearest middle of a period (0..=0.5).
fn from_middle(value: f32) -> f32 {
    (value - value.floor() - 0.5).abs()
}

/// The colour `below` with `above` over it, where `above` covers `points` of a pixel's points.
fn mixed(below: u8, above: u8, points: usize) -> u8 {
    let all = POINTS * POINTS;
    ((usize::from(below) * (all - points) + usize::from(above) * points + all / 2) / all) as u8
}
