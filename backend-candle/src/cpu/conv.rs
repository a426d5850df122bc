//! 2-D convolution in f32 as matrix products of `gemm` over tiles of output pixels.
//!
//! ```text
//! out[co, p] = Σ_k W[co, k] · column[k, p] + bias[co],    k = (ci, dy, dx),   p = output pixel
//! ```
//!
//! All threads lay out the columns of one tile. A tile has a few megabytes, so it stays in the last cache. Then one
//! product over all threads writes the tile's pixels in place. The whole column matrix never exists, and each
//! weight is read once per tile. A 1 x 1 kernel needs no columns, because the image is the matrix.

use atedm_cpu_kernels::Geometry;
use rayon::prelude::*;

use super::product::{Mat, MatMut, Update, all_threads, product};

/// The number of elements in the columns of a tile: 12 MiB.
const TILE_ELEMENTS: usize = 3 << 20;

/// The convolution of `[b, ci, h, w]` with weights `[co, ci · kh · kw]`.
pub(crate) fn conv2d(x: &[f32], weight: &[f32], bias: Option<&[f32]>, geometry: Geometry) -> Vec<f32> {
    let Geometry { input: (ci, h, w), output: (co, oh, ow), kernel: (kh, kw), stride, before } = geometry;
    let (pixels, depth) = (oh * ow, ci * kh * kw);
    let direct = (kh, kw, stride, before) == (1, 1, 1, 0) && (h, w) == (oh, ow);
    // All tiles have one size. Otherwise the last could be tiny.
    let tiles = pixels.div_ceil((TILE_ELEMENTS / depth).max(256)).max(1);
    let tile = if direct { pixels } else { pixels.div_ceil(tiles) };
    let mut columns = if direct { Vec::new() } else { vec![0.0; depth * tile] };
    let images = x.len() / (ci * h * w);
    let (mut out, into) = start(images, co, pixels, bias);
    for (x, out) in x.chunks(ci * h * w).zip(out.chunks_mut(co * pixels)) {
        for first in (0..pixels).step_by(tile) {
            let len = tile.min(pixels - first);
            let right = if direct {
                Mat::rows(x, depth, pixels)
            } else {
                let columns = &mut columns[..depth * len];
                columns
                    .par_chunks_mut(len)
                    .enumerate()
                    .with_min_len(16)
                    .for_each(|(k, row)| fill(row, x, k, first, geometry));
                Mat::rows(columns, depth, len)
            };
            let destination = MatMut::new(&mut out[first..], (co, len), (pixels, 1));
            product(destination, into, 1.0, (Mat::rows(weight, co, depth), right), all_threads());
        }
    }
    out
}

/// The output before the products: the bias at every pixel, or zeros that the products overwrite.
fn start(images: usize, co: usize, pixels: usize, bias: Option<&[f32]>) -> (Vec<f32>, Update) {
    let mut out = vec![0.0; images * co * pixels];
    let Some(bias) = bias else {
        return (out, Update::Replace);
    };
    out.par_chunks_mut(pixels).enumerate().for_each(|(at, plane)| plane.fill(bias[at % co]));
    (out, Update::Add)
}

/// Row `k = (ci, dy, dx)` of the columns for output pixels from `first` on.
fn fill(row: &mut [f32], x: &[f32], k: usize, first: usize, geometry: Geometry) {
    let Geometry { input: (_, h, w), output: (_, _, ow), kernel: (kh, kw), stride, before } = geometry;
    let (channel, dy, dx) = (k / (kh * kw), k / kw % kh, k % kw);
    let plane = &x[channel * h * w..][..h * w];
    let (mut oy, mut ox) = (first / ow, first % ow);
    let mut rest = row;
    while !rest.is_empty() {
        let (run, tail) = rest.split_at_mut((ow - ox).min(rest.len()));
        let y = (oy * stride + dy).wrapping_sub(before);
        if y < h {
            line(run, &plane[y * w..][..w], ox * stride + dx, stride, before);
        } else {
            run.fill(0.0);
        }
        (oy, ox) = (oy + 1, 0);
        rest = tail;
    }
}

/// `run[i] = source[from + i · stride − before]`, zero outside of the source.
fn line(run: &mut [f32], source: &[f32], from: usize, stride: usize, before: usize) {
    let w = source.len();
    // The first `i` whose place is inside, and the first one after the last such `i`.
    let low = before.saturating_sub(from).div_ceil(stride).min(run.len());
    let high = (w + before).saturating_sub(from).div_ceil(stride).clamp(low, run.len());
    run[..low].fill(0.0);
    run[high..].fill(0.0);
    if low == high {
        return;
    }
    let source = &source[from + low * stride - before..];
    if stride == 1 {
        run[low..high].copy_from_slice(&source[..high - low]);
    } else {
        for (value, &source) in run[low..high].iter_mut().zip(source.iter().step_by(stride)) {
            *value = source;
        }
    }
}
