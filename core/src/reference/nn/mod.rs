//! [`NnOps`] on `ndarray`.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::array::{self, Array, Element, pack, row_major};
use super::value::dispatch;
use super::{NdIndices, NdTensor, norm};
use crate::backend::Conv2dOptions;
use crate::backend::shape::{self, elements};
use crate::{Error, Indices, NnOps, Result};

/// The number of elements in the unfolded patches held at once. They are whole output rows, as many as fit (4 MiB in f32).
const PATCHES: usize = 1 << 20;

/// The checked sizes of one convolution.
struct Convolution {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    kernel: (usize, usize),
    out: [usize; 4],
    options: Conv2dOptions,
}

impl Convolution {
    fn new(input: &[usize], weight: &[usize], options: Conv2dOptions) -> Result<Self> {
        let out = options.output_shape(input, weight, None)?;
        let (&[batch, channels, height, width], &[.., kh, kw]) = (input, weight) else {
            return Err(Error::shape("conv2d", "[b, ci, h, w]", input));
        };
        elements(&out, "conv2d")?;
        elements(&[channels, kh, kw, out[3]], "conv2d")?;
        Ok(Self { batch, channels, height, width, kernel: (kh, kw), out, options })
    }

    /// Whether the image itself is the matrix of patches.
    fn is_pointwise(&self) -> bool {
        let Conv2dOptions { stride, pad_before, pad_after } = self.options;
        self.kernel == (1, 1) && stride == 1 && pad_before == 0 && pad_after == 0
    }

    /// Unfolds the patches of output rows `from .. from + rows` of one image into `[channels·kh·kw, rows·out width]`.
    fn unfold<F: Element>(&self, image: &[F], from: usize, rows: usize, patches: &mut [F]) {
        let Conv2dOptions { stride, pad_before, pad_after: _ } = self.options;
        let (kh, kw) = self.kernel;
        let out_width = self.out[3];
        for (r, patch) in patches.chunks_exact_mut(rows * out_width).enumerate() {
            let (channel, ky, kx) = (r / (kh * kw), r / kw % kh, r % kw);
            let plane = &image[channel * self.height * self.width..(channel + 1) * self.height * self.width];
            for (y, line) in patch.chunks_exact_mut(out_width).enumerate() {
                let source = ((from + y) * stride + ky).checked_sub(pad_before);
                let Some(source) = source.filter(|&source| source < self.height) else {
                    line.fill(F::zero());
                    continue;
                };
                let source = &plane[source * self.width..(source + 1) * self.width];
                if stride == 1 {
                    let start = pad_before.saturating_sub(kx).min(out_width);
                    let end = (self.width + pad_before).saturating_sub(kx).clamp(start, out_width);
                    line[..start].fill(F::zero());
                    line[end..].fill(F::zero());
                    if end > start {
                        let first = start + kx - pad_before;
                        line[start..end].copy_from_slice(&source[first..first + (end - start)]);
                    }
                    continue;
                }
                for (x, value) in line.iter_mut().enumerate() {
                    let at = (x * stride + kx).wrapping_sub(pad_before);
                    *value = source.get(at).copied().unwrap_or_else(F::zero);
                }
            }
        }
    }
}

fn conv2d<F: Element>(
    input: &Array<F>,
    weight: &NdTensor,
    bias: Option<&NdTensor>,
    options: Conv2dOptions,
) -> Result<NdTensor> {
    let weight = F::of(weight, "conv2d")?;
    let conv = Convolution::new(input.shape(), weight.shape(), options)?;
    let [_, out_channels, out_height, out_width] = conv.out;
    let bias = bias.map(|bias| norm::vector::<F>(bias, out_channels, "conv2d")).transpose()?;
    let depth = conv.channels * conv.kernel.0 * conv.kernel.1;
    let pixels = out_height * out_width;

    let (image, kernels) = (row_major(input), row_major(weight));
    let mut out = vec![F::zero(); elements(&conv.out, "conv2d")?];
    if !out.is_empty() {
        if let Some(bias) = &bias {
            for (plane, &value) in out.chunks_exact_mut(pixels).zip(bias.iter().cycle()) {
                plane.fill(value);
            }
        }
        if depth > 0 {
            let matrix = view((out_channels, depth), &kernels)?;
            let size = conv.channels * conv.height * conv.width;
            let rows_at_once = (PATCHES / (depth * out_width)).clamp(1, out_height);
            let mut buffer =
                vec![F::zero(); if conv.is_pointwise() { 0 } else { depth * rows_at_once * out_width }];
            for (b, out) in out.chunks_exact_mut(out_channels * pixels).enumerate().take(conv.batch) {
                let image = &image[b * size..(b + 1) * size];
                let mut product = view_mut((out_channels, pixels), out)?;
                if conv.is_pointwise() {
                    general_mat_mul(
                        F::one(),
                        &matrix,
                        &view((depth, pixels), image)?,
                        F::one(),
                        &mut product,
                    );
                    continue;
                }
                for from in (0..out_height).step_by(rows_at_once) {
                    let rows = rows_at_once.min(out_height - from);
                    let columns = from * out_width..(from + rows) * out_width;
                    let patches = &mut buffer[..depth * rows * out_width];
                    conv.unfold(image, from, rows, patches);
                    let patches = view((depth, columns.len()), patches)?;
                    let mut part = product.slice_mut(s![.., columns]);
                    general_mat_mul(F::one(), &matrix, &patches, F::one(), &mut part);
                }
            }
        }
    }
    Ok(F::tensor(pack(out, &conv.out, "conv2d")?))
}

fn view<F>(shape: (usize, usize), values: &[F]) -> Result<ArrayView2<'_, F>> {
    ArrayView2::from_shape(shape, values)
        .map_err(|_| Error::shape("conv2d", "a whole matrix", [shape.0, shape.1]))
}

fn view_mut<F>(shape: (usize, usize), values: &mut [F]) -> Result<ArrayViewMut2<'_, F>> {
    ArrayViewMut2::from_shape(shape, values)
        .map_err(|_| Error::shape("conv2d", "a whole matrix", [shape.0, shape.1]))
}

fn upsample<F: Element>(image: &Array<F>, height: usize, width: usize) -> Result<NdTensor> {
    let shape = shape::upsample_nearest(image.shape(), height, width)?;
    let (h, w) = (image.shape()[2], image.shape()[3]);
    let mut out = Vec::with_capacity(elements(&shape, "upsample_nearest")?);
    // 128 bits, so that no size overflows
    let source = |i: usize, from: usize, to: usize| (i as u128 * from as u128 / to as u128) as usize;
    let columns: Vec<usize> = (0..width).map(|x| source(x, w, width)).collect();
    for plane in row_major(image).chunks_exact(h * w) {
        for y in 0..height {
            let line = &plane[source(y, h, height) * w..][..w];
            out.extend(columns.iter().map(|&x| line[x]));
        }
    }
    Ok(F::tensor(pack(out, &shape, "upsample_nearest")?))
}

fn embedding<F: Element>(table: &Array<F>, ids: &NdIndices) -> Result<NdTensor> {
    let shape = shape::embedding(table.shape(), ids.dims())?;
    ids.check_below(table.shape()[0], "embedding")?;
    let channels = shape[2];
    let mut out = Vec::with_capacity(elements(&shape, "embedding")?);
    let rows = row_major(table);
    for &id in ids.rows().flatten() {
        out.extend_from_slice(&rows[id as usize * channels..][..channels]);
    }
    Ok(F::tensor(pack(out, &shape, "embedding")?))
}

fn gelu<F: Element>(array: &Array<F>) -> NdTensor {
    let (half, root) = (F::rounded(0.5), F::rounded(std::f64::consts::FRAC_1_SQRT_2));
    array::mapped(array, |x| half * x * (F::one() + (x * root).erf()))
}

fn silu<F: Element>(array: &Array<F>) -> NdTensor {
    array::mapped(array, |x| x / (F::one() + (-x).exp()))
}

impl NnOps for NdTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        dispatch!(self, array => conv2d(array, weight, bias, options))
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        dispatch!(self, array => upsample(array, height, width))
    }

    fn embedding(&self, ids: &NdIndices) -> Result<Self> {
        dispatch!(self, array => embedding(array, ids))
    }

    fn gelu(&self) -> Result<Self> {
        Ok(dispatch!(self, array => gelu(array)))
    }

    fn silu(&self) -> Result<Self> {
        Ok(dispatch!(self, array => silu(array)))
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        Ok(dispatch!(self, array => norm::layer_norm(array, weight, bias, epsilon)?.into()))
    }

    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        Ok(dispatch!(self, array => norm::group_norm(array, groups, weight, bias, epsilon)?.into()))
    }
}

#[cfg(test)]
mod tests;
