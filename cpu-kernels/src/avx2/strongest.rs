//! Finds for each pruned column the kept row that attends to it most, as in [`crate::strongest()`]. A task is 64 columns.

use std::arch::x86_64::{
    __m256i, _CMP_GT_OQ, _CMP_UNORD_Q, _mm256_add_ps, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_fmadd_ps, _mm256_movemask_ps, _mm256_set1_epi32, _mm256_set1_ps,
};

use super::lanes::{LANES, Lanes, ZERO, exp2, floats};
use super::pack::{pack_keys, pack_rows};
use super::tile::{COLUMNS, Line, ROWS, Sums, Tile, ZEROS, product};
use crate::pack::PANEL;
use crate::strongest::task::{self, Task, shifts};
use crate::typed::TypedPass;
use crate::{Cpu, Pass};

/// The number of lines of 16 columns in a task.
const LINES: usize = PANEL / COLUMNS;
/// The number of tiles in a block. Their sums stay in the first cache.
const TILES: usize = 8;
const BLOCK: usize = TILES * ROWS;

/// Writes to `[b, pruned]` the strongest rows among the kept ones. `false` if a value is NaN.
pub(crate) fn strongest(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [i64]) -> bool {
    let pass = TypedPass::<f32>::new(pass);
    let lines = pass.sizes()[1] * LINES * pass.k.dims()[3];
    task::each(
        cpu,
        &pass,
        lse,
        into,
        || vec![Line::ZERO; lines],
        // SAFETY: `Cpu` proves that the machine has the instructions.
        #[allow(unsafe_code)]
        |keys, task| unsafe { columns(&pass, keys, task) },
    )
}

/// Runs a task, with memory for its keys. `false` if a value is NaN.
#[target_feature(enable = "avx2,fma")]
fn columns(pass: &TypedPass<'_, f32>, keys: &mut [Line], task: Task<'_>) -> bool {
    let Task { batch, part, lse, best } = task;
    let ([_, heads, kept, _], dim) = (pass.sizes(), pass.k.dims()[3]);
    let lines = best.len().div_ceil(COLUMNS);
    let keys = &mut keys[..heads * lines * dim];
    for (head, keys) in keys.chunks_mut(lines * dim).enumerate() {
        for (at, keys) in keys.chunks_mut(dim).enumerate() {
            let len = COLUMNS.min(best.len() - at * COLUMNS);
            pack_keys(keys, &pass.k, (batch, head), part * PANEL + at * COLUMNS, len);
        }
    }
    let factor = _mm256_set1_ps(pass.factor());
    let mut found = Best::new();
    let mut q = [Tile::ZERO; TILES];
    for start in (0..kept).step_by(BLOCK) {
        let len = BLOCK.min(kept - start);
        let q = &mut q[..len.div_ceil(ROWS)];
        let mut sums = [[ZEROS; TILES]; LINES];
        for (head, (keys, lse)) in keys.chunks(lines * dim).zip(lse.chunks(kept)).enumerate() {
            pack_rows(q, &pass.q, (batch, head), start, len);
            let shift = shifts::<BLOCK>(&lse[start..start + len]);
            for (keys, sums) in keys.chunks(dim).zip(&mut sums) {
                add(q, keys, factor, shift.as_chunks().0, sums);
            }
        }
        for (line, sums) in sums.iter().enumerate().take(lines) {
            for (i, row) in sums.as_flattened().iter().enumerate().take(len) {
                found.compare(line, row, start + i);
            }
        }
    }
    found.write(best)
}

/// `sums[i, j] += e^(q_i·k_j · scale − lse_i)` for one head and one line of columns.
#[target_feature(enable = "avx2,fma")]
fn add(q: &[Tile], keys: &[Line], factor: Lanes, shift: &[[f32; ROWS]], sums: &mut [Sums]) {
    for ((q, shift), sums) in q.iter().zip(shift).zip(sums) {
        let logits = product(q, keys, ZEROS);
        for ((logits, &shift), sums) in logits.iter().zip(shift).zip(sums) {
            let shift = _mm256_set1_ps(shift);
            for (&logits, sum) in logits.iter().zip(sums) {
                *sum = _mm256_add_ps(*sum, exp2(_mm256_fmadd_ps(logits, factor, shift)));
            }
        }
    }
}

/// The largest sum of each column, and its row.
struct Best {
    highest: [[Lanes; 2]; LINES],
    /// The bits of 8 row numbers in each register.
    row: [[Lanes; 2]; LINES],
    nan: bool,
}

impl Best {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        Self { highest: [[_mm256_set1_ps(f32::NEG_INFINITY); 2]; LINES], row: [[ZERO; 2]; LINES], nan: false }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn compare(&mut self, line: usize, sums: &[Lanes; 2], at: usize) {
        let at: __m256i = _mm256_set1_epi32(at as i32);
        let best = self.highest[line].iter_mut().zip(&mut self.row[line]);
        for (&sum, (highest, row)) in sums.iter().zip(best) {
            let higher = _mm256_cmp_ps::<_CMP_GT_OQ>(sum, *highest);
            *highest = _mm256_blendv_ps(*highest, sum, higher);
            *row = _mm256_blendv_ps(*row, _mm256_castsi256_ps(at), higher);
            self.nan |= _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(sum, sum)) != 0;
        }
    }

    /// Writes the rows. `false` if a value was NaN.
    fn write(self, best: &mut [i64]) -> bool {
        for (to, rows) in best.chunks_mut(LANES).zip(self.row.as_flattened()) {
            let rows = floats(*rows).map(f32::to_bits);
            to.iter_mut().zip(rows).for_each(|(to, row)| *to = i64::from(row));
        }
        !self.nan
    }
}
