//! The sums of a tile: 14 rows and 32 columns in registers, or 32 rows and 32 columns in AMX's own tiles.
//!
//! 14 x 2 registers of sums leave 4 of 32 for the operands. For each word of the depth there are 28 multiplications, 14
//! loads of one word and 2 of a register.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
    _mm512_setzero_ps,
};

use super::pack::{DEPTH, Panel, Row, WIDTH};
use crate::lanes::{Lanes, bf16};

/// The number of rows of a tile in registers.
pub(crate) const ROWS: usize = 14;

/// The sums of one row and 32 columns.
pub(crate) type Sums = [Lanes; WIDTH];

/// `sums[i, j] = [sums[i, j] +] Σ_k left[i, k] · panel[k, j]` in f32. `sums` has a row for each left one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn fma(left: &[Row; ROWS], panel: &Panel, sums: &mut [Sums], add: bool) {
    let mut lanes = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    for (k, columns) in panel.iter().enumerate().take(DEPTH) {
        let columns = [_mm512_castsi512_ps(columns[0]), _mm512_castsi512_ps(columns[1])];
        for (row, lanes) in left.iter().zip(&mut lanes) {
            let factor = _mm512_castsi512_ps(_mm512_set1_epi32(row.0[k].cast_signed()));
            for (sum, column) in lanes.iter_mut().zip(columns) {
                *sum = _mm512_fmadd_ps(factor, column, *sum);
            }
        }
    }
    finish(sums, lanes, add);
}

/// Like [`fma`], for pairs of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn pairs(left: &[Row; ROWS], panel: &Panel, sums: &mut [Sums], add: bool) {
    let mut lanes = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    for (k, columns) in panel.iter().enumerate().take(DEPTH) {
        for (row, lanes) in left.iter().zip(&mut lanes) {
            let factor = bf16(_mm512_set1_epi32(row.0[k].cast_signed()));
            for (sum, &column) in lanes.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, factor, bf16(column));
            }
        }
    }
    finish(sums, lanes, add);
}

/// Stores the sums of this part of the depth, or adds them to those of the parts before. A long sum of parts is more exact
/// than one long chain.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn finish(sums: &mut [Sums], lanes: [Sums; ROWS], add: bool) {
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum = if add { _mm512_add_ps(*sum, lanes) } else { lanes };
        }
    }
}
