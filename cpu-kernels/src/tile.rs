//! The product of 6 rows with 16 to 64 columns, accumulated in f32.
//!
//! A word is an f32 or a pair of bf16. For each word of the inner dimension, the right operand holds the words of 16 columns
//! in a register. The word of the left operand is one 32-bit number for all 16. 6 x 4 registers of sums leave 8 of 32 for
//! the operands.

use std::arch::x86_64::{_mm512_set1_epi32, _mm512_setzero_ps};

use crate::element::Element;
use crate::lanes::{Lanes, Words};

/// The number of rows in a tile.
pub(crate) const ROWS: usize = 6;

/// The sums of a tile: `C` registers of columns.
pub(crate) type Sums<const C: usize> = [[Lanes; C]; ROWS];

/// Left operand: 6 rows of 64 elements.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile<E: Element>(pub(crate) [E::Row; ROWS]);

impl<E: Element> Tile<E> {
    pub(crate) const ZERO: Self = Self([E::ZEROS; ROWS]);
}

/// `sums[i, j] += Σ_t left[i, t] · right[t, j]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn product<E: Element, const C: usize>(
    left: &Tile<E>,
    right: &[[Words; C]],
    mut sums: Sums<C>,
) -> Sums<C> {
    for (word, columns) in right.iter().enumerate().take(E::WORDS) {
        for (row, sums) in left.0.iter().zip(&mut sums) {
            let factor = _mm512_set1_epi32(row.as_ref()[word].cast_signed());
            for (sum, &column) in sums.iter_mut().zip(columns) {
                // SAFETY: the features are those of this function.
                #[allow(unsafe_code)]
                unsafe {
                    *sum = E::add_product(*sum, factor, column);
                }
            }
        }
    }
    sums
}

/// The sums at the start.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn zeros<const C: usize>() -> Sums<C> {
    [[_mm512_setzero_ps(); C]; ROWS]
}
