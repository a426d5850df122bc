//! Linear layers in f32 as one product of `gemm` that writes straight into the output, and GEGLU in blocks of rows.

use super::math::{gelu, vectorised};
use super::pool::each;
use super::product::{Mat, MatMut, Update, all_threads, product};

/// A weight `[out, in]`, row-major, and a bias `[out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) weight: Mat<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: usize,
}

impl Layer<'_> {
    /// Appends the `rows` rows of `x Wᵀ + b` to `y`.
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

/// The number of rows that GEGLU projects at once. It is large enough for the product, and small enough that the
/// wide rows stay in the cache.
const GEGLU_ROWS: usize = 384;

/// `h = x Wᵀ + b` for rows of `inner` elements, then the first half of `h` times the GELU of the second.
pub(crate) fn geglu(x: &[f32], inner: usize, layer: Layer<'_>) -> Vec<f32> {
    let Layer { weight, bias, out: width } = layer;
    let rows = x.len() / inner;
    let half = width / 2;
    let mut out = vec![0.0; rows * half];
    // All blocks have one size. Otherwise the last could be tiny.
    let block = rows.div_ceil(rows.div_ceil(GEGLU_ROWS).max(1)).max(1);
    let mut wide = vec![0.0; block * width];
    // The activation pass adds the bias. This is cheaper than starting the product from the bias.
    let none = vec![0.0; if bias.is_some() { 0 } else { width }];
    let (value_bias, gate_bias) = bias.unwrap_or(&none).split_at(half);
    for (out, x) in out.chunks_mut(block * half).zip(x.chunks(block * inner)) {
        let rows = x.len() / inner;
        let wide = &mut wide[..rows * width];
        let operands = (Mat::rows(x, rows, inner), weight.t());
        product(MatMut::rows(wide, rows, width), Update::Replace, 1.0, operands, all_threads());
        each(out.chunks_mut(half).zip(wide.chunks(width)), |(out, wide)| {
            let (value, gate) = wide.split_at(half);
            let biases = value_bias.iter().zip(gate_bias);
            vectorised(
                #[inline(always)]
                || {
                    let pairs = value.iter().zip(gate).zip(biases);
                    for (out, ((&value, &gate), (&by_value, &by_gate))) in out.iter_mut().zip(pairs) {
                        *out = (value + by_value) * gelu(gate + by_gate);
                    }
                },
            );
        });
    }
    out
}
