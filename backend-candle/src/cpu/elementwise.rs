//! Element-wise passes, split over the pool.

use super::math::{exp_and_sum, max_of, vectorised};
use super::number::Number;
use super::pool::each;

/// Elements of one task: 64 KiB of f32.
pub(super) const CHUNK: usize = 16 * 1024;

/// `f` of every element.
pub(crate) fn map<N: Number>(x: &[N], f: impl Fn(f32) -> f32 + Sync) -> Vec<N> {
    let mut out = N::zeros(x.len());
    let piece = |out: &mut [N], x: &[N]| {
        vectorised(
            #[inline(always)]
            || {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = N::round(f(x.single()));
                }
            },
        );
    };
    each(out.chunks_mut(CHUNK).zip(x.chunks(CHUNK)), |(out, x)| piece(out, x));
    out
}

/// `f` of every pair of elements.
pub(crate) fn zip<N: Number>(x: &[N], y: &[N], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<N> {
    let mut out = N::zeros(x.len());
    let piece = |out: &mut [N], x: &[N], y: &[N]| {
        vectorised(
            #[inline(always)]
            || {
                for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                    *out = N::round(f(x.single(), y.single()));
                }
            },
        );
    };
    let operands = x.chunks(CHUNK).zip(y.chunks(CHUNK));
    each(out.chunks_mut(CHUNK).zip(operands), |(out, (x, y))| piece(out, x, y));
    out
}

/// `f(x, y)` where `y` holds one value for each run of `run` elements of `x` (a per-channel term of an image).
pub(crate) fn zip_runs<N: Number>(
    x: &[N],
    y: &[N],
    run: usize,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<N> {
    let mut out = N::zeros(x.len());
    let runs = (CHUNK / run.max(1)).max(1);
    let pieces = out.chunks_mut(runs * run).zip(x.chunks(runs * run)).zip(y.chunks(runs));
    each(pieces, |((out, x), y)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, x), &y) in out.chunks_mut(run).zip(x.chunks(run)).zip(y) {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = N::round(f(x.single(), y.single()));
                    }
                }
            },
        );
    });
    out
}

/// `f(x, y)` where `y` is repeated for every row of `x` (a per-channel term of tokens).
pub(crate) fn zip_rows<N: Number>(x: &[N], y: &[N], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<N> {
    let mut out = N::zeros(x.len());
    let chunk = (CHUNK / y.len().max(1)).max(1) * y.len().max(1);
    each(out.chunks_mut(chunk).zip(x.chunks(chunk)), |(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_mut(y.len()).zip(x.chunks(y.len())) {
                    for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                        *out = N::round(f(x.single(), y.single()));
                    }
                }
            },
        );
    });
    out
}

/// Softmax of each row of `columns` elements, in place: `e^(x − max) / Σ e^(x − max)`.
pub(crate) fn softmax_rows(values: &mut [f32], columns: usize) {
    let chunk = (CHUNK / columns).max(1) * columns;
    each(values.chunks_mut(chunk), |rows| {
        vectorised(
            #[inline(always)]
            || {
                for row in rows.chunks_mut(columns) {
                    let max = max_of(row);
                    let factor = 1.0 / exp_and_sum(row, max);
                    for value in row {
                        *value *= factor;
                    }
                }
            },
        );
    });
}

/// Nearest-neighbour resize of planes of `from` to planes of `to` (height, width): `floor(i · in / out)`.
pub(crate) fn upsample_nearest<N: Number>(x: &[N], from: (usize, usize), to: (usize, usize)) -> Vec<N> {
    let planes = x.len() / (from.0 * from.1);
    let columns: Vec<usize> = (0..to.1).map(|i| i * from.1 / to.1).collect();
    let mut out = N::zeros(planes * to.0 * to.1);
    each(out.chunks_mut(to.0 * to.1).zip(x.chunks(from.0 * from.1)), |(out, x)| {
        for (i, out) in out.chunks_mut(to.1).enumerate() {
            let row = &x[i * from.0 / to.0 * from.1..][..from.1];
            for (out, &column) in out.iter_mut().zip(&columns) {
                *out = row[column];
            }
        }
    });
    out
}
