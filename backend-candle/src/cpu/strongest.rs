//! Finds for each pruned column the kept row that attends to it most, without a map.
//!
//! A task is one block of columns. It walks the kept rows in ascending blocks and sums
//! `e^(q_i·k_j · scale − lse_i)` over the heads in order. It keeps each column's largest mean so far. Only a
//! strictly larger mean replaces it, so the lowest row wins ties.

use gemm::Parallelism;
use rayon::prelude::*;

use super::attention::Heads;
use super::math::{exp, vectorised};
use super::product::{MatMut, Update, product};

/// Columns of one task, and rows of one block. Both give 128 KiB for the sum and for one head's part.
const COLUMNS: usize = 128;
const ROWS: usize = 256;

/// The strongest rows `[b, pruned]` among the kept ones. `q` holds gathered queries `[b, h, kept, dim]`, `lse`
/// their log-sum-exp `[b, h, kept]`, and `k` gathered keys `[b, h, pruned, dim]`. `None` if a value is NaN.
pub(crate) fn strongest(q: Heads<'_>, lse: &[f32], k: Heads<'_>, scale: f32) -> Option<Vec<u32>> {
    let [batch, _, _, _] = q.dims;
    let pruned = k.dims[2];
    let mut best = vec![0u32; batch * pruned];
    let finite = best
        .par_chunks_mut(pruned.max(1))
        .enumerate()
        .map(|(b, best)| {
            best.par_chunks_mut(COLUMNS)
                .enumerate()
                .map(|(at, best)| columns(b, at * COLUMNS, best, (q, lse, k), scale))
                .reduce(|| true, |a, b| a & b)
        })
        .reduce(|| true, |a, b| a & b);
    finite.then_some(best)
}

/// One task: the columns from `first` on, of batch entry `b`. Returns whether no value was NaN.
fn columns(
    b: usize,
    first: usize,
    best: &mut [u32],
    (q, lse, k): (Heads<'_>, &[f32], Heads<'_>),
    scale: f32,
) -> bool {
    let [_, heads, kept, _] = q.dims;
    let width = best.len();
    let mut highest = vec![f32::NEG_INFINITY; width];
    let mut finite = true;
    let mut part = vec![0.0; ROWS * width];
    let mut sums = vec![0.0; ROWS * width];
    let share = 1.0 / heads as f32;
    for start in (0..kept).step_by(ROWS) {
        let len = ROWS.min(kept - start);
        let (part, sums) = (&mut part[..len * width], &mut sums[..len * width]);
        sums.fill(0.0);
        for head in 0..heads {
            let operands = (q.block(b, head, start, len), k.block(b, head, first, width).t());
            product(MatMut::rows(part, len, width), Update::Replace, scale, operands, Parallelism::None);
            let lse = &lse[(b * heads + head) * kept + start..][..len];
            vectorised(
                #[inline(always)]
                || {
                    let rows = sums.chunks_mut(width).zip(part.chunks(width));
                    for ((sums, part), &lse) in rows.zip(lse) {
                        for (sum, &value) in sums.iter_mut().zip(part) {
                            *sum += exp(value - lse);
                        }
                    }
                },
            );
        }
        for (i, row) in sums.chunks(width).enumerate() {
            for ((&sum, highest), best) in row.iter().zip(&mut highest).zip(best.iter_mut()) {
                let mean = sum * share;
                finite &= !mean.is_nan();
                if mean > *highest {
                    (*highest, *best) = (mean, (start + i) as u32);
                }
            }
        }
    }
    finite
}
