//! Level 2: the further operations of a U-Net, an autoencoder and a text encoder.

use super::Tensor;
use crate::backend::generic;
use crate::{Error, Result};

/// Geometry of a 2-D convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// The step between output pixels in both directions.
    pub stride: usize,
    /// The number of zero rows added at the top and zero columns added at the left.
    pub pad_before: usize,
    /// The number of zero rows added at the bottom and zero columns added at the right. The VAE encoder's
    /// downsampler pads only there.
    pub pad_after: usize,
}

impl Conv2dOptions {
    /// Stride 1 and the padding that keeps the size for an odd kernel.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, pad_before: kernel / 2, pad_after: kernel / 2 }
    }
    /// The given stride, with the same padding on all sides.
    pub fn strided(stride: usize, padding: usize) -> Self {
        Self { stride, pad_before: padding, pad_after: padding }
    }
    /// The height or width of the output for that of the input.
    pub fn output_len(&self, input: usize, kernel: usize) -> usize {
        (input + self.pad_before + self.pad_after).saturating_sub(kernel) / self.stride + 1
    }
    /// The output's shape `[b, co, h', w']`. Its inputs are the shapes of the image `[b, ci, h, w]`, the weight
    /// `[co, ci, kh, kw]` and the bias `[co]`. Every backend calls it before a convolution. A batch or channel
    /// count of 0 passes; a backend may refuse it.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit, the kernel is empty, or the padded image is smaller than the
    /// kernel. [`Error::Config`] for a stride of 0.
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
    /// 2-D convolution (cross-correlation, as in torch): `[b, ci, h, w]` with `weight [co, ci, kh, kw]` and
    /// `bias [co]` → `[b, co, h', w']`.
    ///
    /// # Errors
    /// As [`Conv2dOptions::output_shape`], and [`Error::DType`] unless all operands have one float dtype.
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self>;

    /// Lays out a weight `[co, ci, kh, kw]` for the fastest [`NnOps::conv2d`] of this library. A model calls it
    /// once, when it loads. Shape and values stay the same.
    fn conv2d_weight(self) -> Result<Self> {
        Ok(self)
    }

    /// Nearest-neighbour resize of `[b, c, h, w]` to `height` x `width`. The source index is `floor(i * in / out)`,
    /// as in torch's `nearest`.
    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self>;

    /// Looks up token ids `[batch, length]` in this table `[vocabulary, channels]` → `[batch, length, channels]`.
    fn embedding(&self, ids: &Self::Indices) -> Result<Self>;

    /// GELU with the error function, the default of diffusers and torch. It is not the tanh approximation.
    fn gelu(&self) -> Result<Self>;

    /// `x * sigmoid(x)`.
    fn silu(&self) -> Result<Self>;

    /// `x * sigmoid(1.702 x)` (OpenAI CLIP's activation).
    fn quick_gelu(&self) -> Result<Self> {
        generic::quick_gelu(self)
    }

    /// Packs a weight `[out, in]` for the fastest [`NnOps::linear`] and [`NnOps::geglu`] of this library. A model calls it once,
    /// when it loads. The result has the same shape and dtype, and fits nothing but these two operations.
    fn linear_weight(self) -> Result<Self> {
        Ok(self)
    }

    /// `[.., in]` with `weight [out, in]` and `bias [out]` → `[.., out]`.
    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        generic::linear(self, weight, bias)
    }

    /// Layer norm over the last axis with `weight [channels]` and `bias [channels]`. Statistics use the accumulator dtype.
    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        generic::layer_norm(self, weight, bias, epsilon)
    }

    /// Group norm of `[b, c, ..]` over `groups` groups of channels, with `weight [c]` and `bias [c]`. Statistics
    /// use the accumulator dtype.
    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        generic::group_norm(self, groups, weight, bias, epsilon)
    }

    /// [`NnOps::group_norm`], then [`NnOps::silu`]. Every resnet begins with it.
    fn group_norm_silu(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        self.group_norm(groups, weight, bias, epsilon)?.silu()
    }

    /// GEGLU: `linear` to `[.., 2 n]`, then the first half times the GELU of the second half → `[.., n]` (diffusers' order).
    fn geglu(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        generic::geglu(self, weight, bias)
    }
}
