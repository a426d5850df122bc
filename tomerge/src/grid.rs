//! The token grid in cells. It says which tokens are destinations, and which may be merged into them.

use atedm_core::plugin::{Grid, Site};
use atedm_core::{Error, Result};

/// Cells of `sy` x `sx` tokens on each frame of a grid. Tokens left over at the bottom and at the right belong to no cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    /// The token grid.
    pub grid: Grid,
    /// Columns of a cell.
    pub sx: usize,
    /// Rows of a cell.
    pub sy: usize,
}

/// How many cells a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellCounts {
    /// Rows of cells.
    pub rows: usize,
    /// Columns of cells.
    pub columns: usize,
}

/// Every token as a source or a destination, both ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Tokens that may be merged into a destination.
    pub sources: Vec<u32>,
    /// One token of every cell.
    pub destinations: Vec<u32>,
}

impl Cells {
    /// The rows and columns of cells that a frame has.
    pub fn counts(&self) -> CellCounts {
        CellCounts { rows: self.grid.height / self.sy.max(1), columns: self.grid.width / self.sx.max(1) }
    }

    /// The number of destinations: one for each cell of all frames.
    pub fn destinations(&self) -> usize {
        let CellCounts { rows, columns } = self.counts();
        self.grid.frames * rows * columns
    }

    /// The number of tokens in one cell.
    pub(crate) fn cell_size(&self) -> usize {
        self.sx * self.sy
    }

    /// Checks that a cell has a valid size and more than one token.
    ///
    /// # Errors
    /// [`Error::Config`] with field `sx` or `sy`.
    pub fn validate(&self) -> Result<()> {
        for (field, stride) in [("sx", self.sx), ("sy", self.sy)] {
            // A cell is a part of a token grid, and grids have some thousand tokens.
            if !(1..=1024).contains(&stride) {
                return Err(Error::config(field, format!("expected 1 to 1024, got {stride}")));
            }
        }
        if self.cell_size() == 1 {
            return Err(Error::config(
                "sx",
                "a cell of 1 x 1 leaves no token to merge: expected sx * sy above 1",
            ));
        }
        Ok(())
    }

    /// The grid's token (row-major) at `offset` (row-major) in `cell`.
    fn token(&self, cell: usize, offset: usize) -> usize {
        let CellCounts { rows, columns } = self.counts();
        let (frame, cell) = (cell / (rows * columns).max(1), cell % (rows * columns).max(1));
        let (down, right) = (offset / self.sx, offset % self.sx);
        let (row, column) = (cell / columns.max(1) * self.sy + down, cell % columns.max(1) * self.sx + right);
        (frame * self.grid.height + row) * self.grid.width + column
    }

    /// The offset, in each cell, of its token with the highest score; the lowest offset among equals. `scores` has one score for
    /// each token of the grid.
    pub fn best(&self, scores: &[f32]) -> Vec<u32> {
        let best = |cell: usize| {
            let mut best = (f32::NEG_INFINITY, 0);
            for offset in 0..self.cell_size() {
                let score = scores.get(self.token(cell, offset)).copied().unwrap_or(f32::NEG_INFINITY);
                if score > best.0 {
                    best = (score, offset as u32);
                }
            }
            best.1
        };
        (0..self.destinations()).map(best).collect()
    }

    /// The split with one destination in each cell. In cell `i`, counted row by row, it is the token at `offsets[i]`, counted
    /// row by row within the cell. Without offsets it is the first token.
    pub fn split(&self, offsets: Option<&[u32]>) -> Split {
        let mut is_destination = vec![false; self.grid.tokens()];
        for cell in 0..self.destinations() {
            let offset = offsets.and_then(|offsets| offsets.get(cell)).map_or(0, |&offset| offset as usize);
            if let Some(place) = is_destination.get_mut(self.token(cell, offset)) {
                *place = true;
            }
        }
        let of = |wanted: bool| {
            let places = is_destination.iter().enumerate();
            places.filter(|&(_, &is)| is == wanted).map(|(i, _)| i as u32).collect()
        };
        Split { sources: of(false), destinations: of(true) }
    }
}

impl Split {
    /// The same split for a stream that holds protected tokens at `start..end` besides the grid's tokens.
    #[must_use]
    pub fn around(mut self, (start, end): (usize, usize)) -> Self {
        let gap = end.saturating_sub(start) as u32;
        let moved = |i: &mut u32| {
            if *i as usize >= start {
                *i += gap;
            }
        };
        self.sources.iter_mut().for_each(moved);
        self.destinations.iter_mut().for_each(moved);
        self
    }
}

/// Whether the stream holds exactly the block's grid and the protected tokens. If not, another method has shrunk
/// it, and the place of each token is unknown.
pub(crate) fn is_whole(site: &Site<'_>) -> bool {
    let (start, end) = site.protected;
    site.tokens == site.grid.tokens() + end.saturating_sub(start) && start <= site.grid.tokens()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_cell_and_the_rest() {
        let cells = Cells { grid: Grid::new(3, 5), sx: 2, sy: 2 };
        assert_eq!(cells.counts(), CellCounts { rows: 1, columns: 2 });
        assert_eq!(cells.destinations(), 2);
        let split = cells.split(None);
        assert_eq!(split.destinations, [0, 2]);
        assert_eq!(split.sources, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    }

    #[test]
    fn every_frame_has_cells_of_its_own() {
        let cells = Cells { grid: Grid::of_frames(2, 3, 5), sx: 2, sy: 2 };
        assert_eq!(cells.counts(), CellCounts { rows: 1, columns: 2 });
        assert_eq!(cells.destinations(), 4);
        assert_eq!(cells.split(None).destinations, [0, 2, 15, 17]);
        assert_eq!(cells.split(Some(&[3, 0, 1, 2])).destinations, [2, 6, 16, 22]);
    }

    #[test]
    fn offsets_are_row_major_within_a_cell() {
        let cells = Cells { grid: Grid::new(4, 6), sx: 3, sy: 2 };
        assert_eq!(cells.split(Some(&[0, 5, 4, 2])).destinations, [0, 11, 17, 19]);
    }

    #[test]
    fn the_best_of_each_cell_the_lowest_on_ties() {
        let cells = Cells { grid: Grid::new(2, 5), sx: 2, sy: 2 };
        assert_eq!(cells.best(&[0.0, 1.0, 5.0, 5.0, 9.0, 2.0, 2.0, 5.0, 5.0, 9.0]), [2, 0]);
    }

    #[test]
    fn a_grid_smaller_than_a_cell_has_no_destination() {
        let cells = Cells { grid: Grid::new(1, 7), sx: 2, sy: 2 };
        assert_eq!(cells.split(None).destinations, [0u32; 0]);
    }

    #[test]
    fn protected_tokens_are_stepped_over() {
        let cells = Cells { grid: Grid::new(2, 4), sx: 2, sy: 2 };
        let split = cells.split(None).around((2, 5));
        assert_eq!((split.destinations, split.sources), (vec![0, 5], vec![1, 6, 7, 8, 9, 10]));
    }
}
