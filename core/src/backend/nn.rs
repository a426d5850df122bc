//! Level 2: what a U-Net, an autoencoder and a text encoder need on top.

use super::Tensor;
use crate::backend::generic;
use crate::{Error, Result};

/// Geometry of a 2-D convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Step between output pixels, both directions.
    pub stride: usize,
    /// Zero rows added at the top and columns at the left.
    pub pad_before: usize,
    /// Zero rows added at the bottom and columns at the right (the VAE encoder's downsampler pads only there).
    pub pad_after: usize,
}

impl Conv2dOptions {
    /// Stride 1 and the padding that keeps the size for an odd kernel.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, pad_before: kernel / 2, pad_after: kernel / 2 }
    }
    /// The given stride, the same padding on all sides.
    pub fn strided(stride: usize, padding: usize) -> Self {
        Self { stride, pad_before: padding, pad_after: padding }
    }
    /// The output's height or width for an input's.
    pub fn output_len(&self, input: usize, kernel: usize) -> usize {
        (input + self.pad_before + self.pad_after).saturating_sub(kernel) / self.stride + 1
    }
    /// The output's shape `[b, co, h', w']` for shapes `[b, ci, h, w]` of the image, `[co, ci, kh, kw]` of the weight and `[co]`
    /// of the bias: what every backend checks before it convolves. A batch or channels of 0 pass; a backend may refuse them.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit, the kernel is empty, or the padded image is smaller than it; [`Error::Config`] for
    /// a stride of 0.
    pub fn output_shape(
        &self,
        image: &[usize],
        weight: &[usize],
        bias: Option<&[usize]>,
    ) -> Result<[usize; 4]> {
        let &[batch, channels, height, width] = image else {
            return Err(Error::shape("conv2d", "[b, ci, h, w]", image));
        };
        let &[outputs, inputs, kernel_height, kernel_width] = weight else {
            return Err(Error::shape("conv2d weight", "[co, ci, kh, kw]", weight));
        };
        if inputs != channels || kernel_height == 0 || kernel_width == 0 {
            let expected = format!("[co, {channels}, 1 or more, 1 or more]");
            return Err(Error::shape("conv2d weight", expected, weight));
        }
        if let Some(bias) = bias.filter(|&bias| bias != [outputs]) {
            return Err(Error::shape("conv2d bias", format!("[{outputs}]"), bias));
        }
        if self.stride == 0 {
            return Err(Error::config("stride", "expected at least 1, got 0"));
        }
        let padding = self.pad_before.checked_add(self.pad_after);
        let fits = |length: usize, kernel: usize| {
            padding.and_then(|padding| padding.checked_add(length)).is_some_and(|padded| padded >= kernel)
        };
        if !fits(height, kernel_height) || !fits(width, kernel_width) {
            let expected = format!("an image of at least {kernel_height} x {kernel_width} when padded");
            return Err(Error::shape("conv2d", expected, image));
        }
        Ok([batch, outputs, self.output_len(height, kernel_height), self.output_len(width, kernel_width)])
    }
}

/// Neural-network operations.
pub trait NnOps: Tensor {
    /// 2-D convolution (cross-correlation, as torch): `[b, ci, h, w]` with `weight [co, ci, kh, kw]`, `bias [co]` → `[b, co, h', w']`.
    ///
    /// # Errors
    /// As [`Conv2dOptions::output_shape`], and [`Error::DType`] unless all have one float dtype.
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self>;

    /// A weight `[co, ci, kh, kw]` laid out as this library's [`NnOps::conv2d`] is fastest with: models call it once, when they
    /// load. Shape and values stay the same.
    fn conv2d_weight(self) -> Result<Self> {
        Ok(self)
    }

    /// Nearest-neighbour resize of `[b, c, h, w]` to `height` x `width`: source index `floor(i * in / out)`, as torch's `nearest`.
    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self>;

    /// Rows of this table `[vocabulary, channels]` for token ids `[batch, length]` → `[batch, length, channels]`.
    fn embedding(&self, ids: &Self::Indices) -> Result<Self>;

    /// GELU with the error function (diffusers' and torch's default; not the tanh approximation).
    fn gelu(&self) -> Result<Self>;

    /// `x * sigmoid(x)`.
    fn silu(&self) -> Result<Self>;

    /// `x * sigmoid(1.702 x)` (OpenAI CLIP's activation).
    fn quick_gelu(&self) -> Result<Self> {
        generic::quick_gelu(self)
    }

    /// `[.., in]` with `weight [out, in]`, `bias [out]` → `[.., out]`.
    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        generic::linear(self, weight, bias)
    }

    /// Layer norm over the last axis with `weight [channels]`, `bias [channels]`; statistics in the accumulator dtype.
    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        generic::layer_norm(self, weight, bias, epsilon)
    }

    /// Group norm of `[b, c, ..]` over `groups` runs of channels, `weight [c]`, `bias [c]`; statistics in the accumulator dtype.
    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        generic::group_norm(self, groups, weight, bias, epsilon)
    }

    /// [`NnOps::group_norm`] followed by [`NnOps::silu`]: every resnet's opening.
    fn group_norm_silu(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        self.group_norm(groups, weight, bias, epsilon)?.silu()
    }

    /// GEGLU: `linear` to `[.., 2 n]`, then first half times the GELU of the second → `[.., n]` (diffusers' order).
    fn geglu(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        generic::geglu(self, weight, bias)
    }
}
