//! One product: its operands, and the order of its result.

use super::image::Band;
use super::operands::Matrix;
use super::pack::{Packed, Row, WIDTH, Word};
use super::tile::{self, Sums};
use super::unit::Unit;
use crate::Threads;
use crate::amx;
use crate::lanes::{LANES, Words};

/// The number of rows of a tile.
pub(crate) fn tile_rows(unit: Unit) -> usize {
    match unit {
        Unit::Fma | Unit::Pairs => tile::ROWS,
        Unit::Tiles => amx::ROWS,
    }
}

/// The right operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Columns are rows of a matrix, this many.
    Packed(&'a Packed, usize),
    /// Columns are output pixels of a convolution.
    Image(&'a Band),
}

/// How the sums of left rows and right columns become the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The sum of row `i` and column `j` is element `[i, j]`.
    RowsFirst,
    /// It is element `[j, i]`.
    ColumnsFirst,
    /// The first half of the left rows are values, the second half are gates. Element `[j, i]` is value `i` times the GELU of
    /// gate `i`. The rows are taken in turns: 16 values, then their 16 gates.
    Gated,
}

/// One product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) unit: Unit,
    pub(crate) word: Word,
    pub(crate) left: Matrix<'a>,
    pub(crate) right: Right<'a>,
    pub(crate) order: Order,
    pub(crate) threads: &'a dyn Threads,
}

impl Call<'_> {
    /// The number of right columns.
    pub(crate) fn columns(&self) -> usize {
        match self.right {
            Right::Packed(_, columns) => columns,
            Right::Image(band) => band.pixels,
        }
    }

    /// The number of left rows, with those that fill the last turn of values and gates.
    pub(crate) fn rows(&self) -> usize {
        match self.order {
            Order::RowsFirst | Order::ColumnsFirst => self.left.rows,
            Order::Gated => (self.left.rows / 2).next_multiple_of(LANES) * 2,
        }
    }

    /// The row of the left matrix that is row `i` of the product. `None` for one that only fills a turn.
    pub(crate) fn source(&self, i: usize) -> Option<usize> {
        let (half, at) = (self.left.rows / 2, i / (2 * LANES) * LANES + i % LANES);
        match self.order {
            Order::RowsFirst | Order::ColumnsFirst => (i < self.left.rows).then_some(i),
            Order::Gated => (at < half).then(|| at + i / LANES % 2 * half),
        }
    }

    /// The number of words of the depth.
    pub(crate) fn words(&self) -> usize {
        self.word.count(self.left.depth)
    }
}

/// A block of the result: rows, and columns of whole panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) column: usize,
    pub(crate) columns: usize,
}

/// The working memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) left: Vec<Row>,
    /// The panels of an image.
    pub(crate) right: Vec<[Words; WIDTH]>,
    /// Tile after tile of rows, and panel after panel of each.
    pub(crate) sums: Vec<Sums>,
    pub(crate) bias: Vec<f32>,
}
