//! Linear layers: one product straight into the output, and GEGLU by blocks of rows.

use rayon::prelude::*;

use super::math::{gelu, vectorised};
use super::product::{Mat, MatMut, Update, all_threads, product};

/// A weight `[out, in]`, row-major, and a bias `[out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) weight: Mat<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: usize,
}

impl Layer<'_> {
    /// Appends the rows `x Wᵀ + b` (`rows` of them) to `y`.
    pub(crate) fn append(&self, x: Mat<'_>, rows: usize, y: &mut Vec<f32>) {
        let start = y.len();
        let into = match self.bias {
            Some(bias) => {
                (0..rows).for_each(|_| y.extend_from_slice(bias));
                Update::Add
            }
            None => {
                y.resize(start + rows * self.out, 0.0);
                Update::Replace
            }
        };
        let destination = MatMut::rows(&mut y[start..], rows, self.out);
        product(destination, into, 1.0, (x, self.weight.t()), all_threads());
    }
}

/// Rows that GEGLU projects at once: enough for the product, few enough that the wide rows stay in the cache.
const GEGLU_ROWS: usize = 384;

/// `h = x Wᵀ + b` for rows of `inner` elements, then the first half of `h` times the GELU of the second.
pub(crate) fn geglu(x: &[f32], inner: usize, layer: Layer<'_>) -> Vec<f32> {
    let rows = x.len() / inner;
    let half = layer.out / 2;
    let mut out = vec![0.0; rows * half];
    let blocks = rows.div_ceil(GEGLU_ROWS).max(1);
    let block = rows.div_ceil(blocks).max(1);
    let mut wide = Vec::with_capacity(block * layer.out);
    for (out, x) in out.chunks_mut(block * half).zip(x.chunks(block * inner)) {
        wide.clear();
        let rows = x.len() / inner;
        layer.append(Mat::rows(x, rows, inner), rows, &mut wide);
        out.par_chunks_mut(half).zip(wide.par_chunks(2 * half)).for_each(|(out, wide)| {
            let (value, gate) = wide.split_at(half);
            vectorised(
                #[inline(always)]
                || {
                    for (out, (&value, &gate)) in out.iter_mut().zip(value.iter().zip(gate)) {
                        *out = value * gelu(gate);
                    }
                },
            );
        });
    }
    out
}
