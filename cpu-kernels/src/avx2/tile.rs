//! The product of 6 rows with 16 columns, accumulated in f32.
//!
//! 6 x 2 registers of sums leave 4 of 16 for the operands.

use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};

use super::lanes::{LANES, Lanes, ZERO, lanes};

/// The number of rows in a tile.
pub(super) const ROWS: usize = 6;
/// The number of columns in a tile.
pub(super) const COLUMNS: usize = 2 * LANES;

/// The sums of a tile.
pub(super) type Sums = [[Lanes; 2]; ROWS];

/// The sums at the start.
pub(super) const ZEROS: Sums = [[ZERO; 2]; ROWS];

/// The elements of 16 columns in one row of the right operand: one line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; COLUMNS]);

impl Line {
    pub(super) const ZERO: Self = Self([0.0; COLUMNS]);

    /// Its two registers.
    #[inline]
    pub(super) fn lanes(&self) -> [Lanes; 2] {
        let [low, high] = self.0.as_chunks().0 else { return [ZERO; 2] };
        [lanes(low), lanes(high)]
    }
}

/// Left operand: 6 rows of 64 elements.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[f32; 64]; ROWS]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0.0; 64]; ROWS]);
}

/// `sums[i, j] += Σ_t left[i, t] · right[t, j]` over the rows of the right operand, at most 64.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn product(left: &Tile, right: &[Line], mut sums: Sums) -> Sums {
    for (t, line) in right.iter().enumerate().take(64) {
        let columns = line.lanes();
        for (row, sums) in left.0.iter().zip(&mut sums) {
            let factor = _mm256_set1_ps(row[t]);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm256_fmadd_ps(factor, column, *sum);
            }
        }
    }
    sums
}
