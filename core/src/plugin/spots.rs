//! The part of a picture that a run paints.

use super::site::Grid;
use crate::{Error, Result};

/// Where a run paints, on the model's finest grid. The rest of the picture is given, and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spots {
    grid: Grid,
    painted: Vec<bool>,
}

impl Spots {
    /// Whether each place of `grid` is painted, in the order of its tokens.
    ///
    /// # Errors
    /// [`Error::Config`] naming `mask` if there is another number of places.
    pub fn new(grid: Grid, painted: Vec<bool>) -> Result<Self> {
        if painted.len() != grid.tokens() {
            let reason = format!("expected {} places, got {}", grid.tokens(), painted.len());
            return Err(Error::config("mask", reason));
        }
        Ok(Self { grid, painted })
    }

    /// Whether each token of a coarser `grid` covers a painted place. A model that halves a side and rounds up comes to the
    /// coarser side by a power of two: a token covers as many places. Otherwise it covers the quotient of the sides.
    pub fn on(&self, grid: Grid) -> Vec<bool> {
        let (high, wide) = (covered(self.grid.height, grid.height), covered(self.grid.width, grid.width));
        let long = covered(self.grid.frames, grid.frames);
        let covers = |token: usize| {
            let (frame, row, column) =
                (token / (grid.height * grid.width), token / grid.width % grid.height, token % grid.width);
            let within = |from: usize, count: usize, end: usize| from * count..((from + 1) * count).min(end);
            within(frame, long, self.grid.frames).any(|frame| {
                within(row, high, self.grid.height).any(|row| {
                    let line = (frame * self.grid.height + row) * self.grid.width;
                    let columns = within(column, wide, self.grid.width);
                    columns.into_iter().any(|column| self.painted.get(line + column) == Some(&true))
                })
            })
        };
        (0..grid.tokens()).map(covers).collect()
    }
}

/// The number of places in a row of `fine` that one of `coarse` covers.
fn covered(fine: usize, coarse: usize) -> usize {
    let coarse = coarse.max(1);
    let (mut side, mut power) = (fine, 1);
    while side > coarse {
        (side, power) = (side.div_ceil(2), 2 * power);
    }
    match side == coarse {
        true => power,
        false => fine.div_ceil(coarse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine places a side become five, then three, as a convolution of stride 2 makes them.
    #[test]
    fn a_token_is_painted_if_any_of_its_places_is() {
        let only = |row: usize, column: usize| {
            let painted = (0..81).map(|place| place == 9 * row + column).collect();
            Spots::new(Grid::new(9, 9), painted).unwrap()
        };
        let on = |spots: &Spots, side: usize| -> Vec<usize> {
            let tokens = spots.on(Grid::new(side, side)).into_iter().enumerate();
            tokens.filter(|(_, painted)| *painted).map(|(token, _)| token).collect()
        };
        assert_eq!([9, 5, 3].map(|side| on(&only(3, 3), side)), [vec![30], vec![6], vec![0]]);
        assert_eq!([9, 5, 3].map(|side| on(&only(8, 4), side)), [vec![76], vec![22], vec![7]]);
        let nothing = Spots::new(Grid::new(9, 9), vec![false; 81]).unwrap();
        assert_eq!(on(&nothing, 3), [0; 0]);
        // halves of twelve are 6 and 3: a side of 4 comes of thirds
        let fourth = Spots::new(Grid::new(1, 12), (0..12).map(|place| place == 3).collect()).unwrap();
        assert_eq!(fourth.on(Grid::new(1, 4)), [false, true, false, false]);
        let error = Spots::new(Grid::new(2, 2), vec![true]).unwrap_err().to_string();
        assert_eq!(error, "mask: expected 4 places, got 1");
    }
}
