//! Draws the kept tokens of a block over the decoded picture (the paper's Fig. 8).

use crate::files::Picture;

/// Kept tokens of one image on a block's grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Rows of tokens.
    pub height: usize,
    /// Columns of tokens.
    pub width: usize,
    /// Whether each token was kept, row-major.
    pub kept: Vec<bool>,
}

impl Mask {
    /// Makes a mask from the kept positions. Positions outside the grid are ignored.
    pub fn from_positions(height: usize, width: usize, positions: &[u32]) -> Self {
        let mut kept = vec![false; height * width];
        for &position in positions {
            if let Some(token) = kept.get_mut(position as usize) {
                *token = true;
            }
        }
        Self { height, width, kept }
    }

    fn at(&self, x: usize, y: usize) -> bool {
        self.kept.get(y * self.width + x).copied().unwrap_or(false)
    }
}

/// Enlarges the picture by a whole factor, without interpolation, until its longer side has at least `least` pixels.
pub fn enlarge(picture: &Picture, least: usize) -> Picture {
    let factor = least.div_ceil(picture.width.max(picture.height).max(1)).max(1);
    let mut large = Picture::filled(picture.width * factor, picture.height * factor, [0; 3]);
    for y in 0..large.height {
        for x in 0..large.width {
            large.set(x, y, picture.pixel(x / factor, y / factor));
        }
    }
    large
}

/// The picture with pruned tokens dark and reddish, and a thin line around every kept region.
pub fn overlay(picture: &Picture, mask: &Mask) -> Picture {
    let token =
        |x: usize, y: usize| (x * mask.width / picture.width.max(1), y * mask.height / picture.height.max(1));
    let mut drawn = picture.clone();
    for y in 0..picture.height {
        for x in 0..picture.width {
            let (column, row) = token(x, y);
            let kept = mask.at(column, row);
            let [red, green, blue] = picture.pixel(x, y);
            if !kept {
                let dim = |channel: u8, floor: u16| ((u16::from(channel) * 3 / 10) + floor).min(255) as u8;
                drawn.set(x, y, [dim(red, 60), dim(green, 8), dim(blue, 16)]);
            }
            let (left, above) = (token(x.saturating_sub(1), y), token(x, y.saturating_sub(1)));
            if mask.at(left.0, left.1) != kept || mask.at(above.0, above.1) != kept {
                drawn.set(x, y, [255, 220, 120]);
            }
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_pixels_stay_and_pruned_ones_darken() {
        let picture = Picture::filled(8, 8, [200, 200, 200]);
        let mask = Mask::from_positions(2, 2, &[0, 3, 99]);
        let drawn = overlay(&picture, &mask);
        assert_eq!(drawn.pixel(1, 1), [200, 200, 200]);
        assert_eq!(drawn.pixel(6, 6), [200, 200, 200]);
        assert_eq!(drawn.pixel(6, 1), [120, 68, 76]);
        assert_eq!(drawn.pixel(4, 1), [255, 220, 120]);
        assert_eq!(mask.kept, [true, false, false, true]);
    }

    #[test]
    fn small_pictures_are_enlarged_by_whole_factors() {
        let mut picture = Picture::filled(3, 2, [1, 1, 1]);
        picture.set(2, 1, [9, 9, 9]);
        let large = enlarge(&picture, 10);
        assert_eq!((large.width, large.height), (12, 8));
        assert_eq!((large.pixel(8, 4), large.pixel(7, 4)), ([9, 9, 9], [1, 1, 1]));
        assert_eq!(enlarge(&picture, 2), picture);
    }
}
