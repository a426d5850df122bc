//! Layers that the models share. Each holds its weights and its geometry. Names are those of the checkpoint.

use atedm_core::backend::{AttentionOptions, Conv2dOptions, dims};
use atedm_core::{AttentionOps, NnOps, Result, Weights};

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    With,
    Without,
}

fn bias<T: NnOps>(weights: &Weights<T>, bias: Bias, channels: usize) -> Result<Option<T>> {
    match bias {
        Bias::With => weights.tensor("bias", &[channels]).map(Some),
        Bias::Without => Ok(None),
    }
}

/// A linear layer: `[.., inputs]` → `[.., outputs]`.
#[derive(Debug)]
pub(crate) struct Linear<T> {
    pub(crate) weight: T,
    pub(crate) bias: Option<T>,
}

impl<T: NnOps> Linear<T> {
    pub(crate) fn load(weights: &Weights<T>, inputs: usize, outputs: usize, has: Bias) -> Result<Self> {
        let weight = weights.tensor("weight", &[outputs, inputs])?.linear_weight()?;
        Ok(Self { weight, bias: bias(weights, has, outputs)? })
    }

    /// Loads a 1×1 convolution (`[outputs, inputs, 1, 1]` in the checkpoint) as the equivalent linear layer over
    /// pixels.
    pub(crate) fn load_pointwise(weights: &Weights<T>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = weights.tensor("weight", &[outputs, inputs, 1, 1])?.reshape(&[outputs, inputs])?;
        let weight = weight.linear_weight()?;
        Ok(Self { weight, bias: bias(weights, Bias::With, outputs)? })
    }

    pub(crate) fn forward(&self, x: &T) -> Result<T> {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// A convolution: `[b, inputs, h, w]` → `[b, outputs, h', w']`.
#[derive(Debug)]
pub(crate) struct Conv2d<T> {
    weight: T,
    bias: Option<T>,
    options: Conv2dOptions,
}

/// Geometry of a [`Conv2d`]: channels, kernel, stride and padding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) options: Conv2dOptions,
    pub(crate) bias: Bias,
}

impl ConvShape {
    /// An odd kernel with stride 1 and a bias. The output has the size of the input.
    pub(crate) fn same(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self { inputs, outputs, kernel, options: Conv2dOptions::same(kernel), bias: Bias::With }
    }

    /// A 3×3 kernel with stride 2.
    pub(crate) fn halving(channels: usize, options: Conv2dOptions) -> Self {
        Self { inputs: channels, outputs: channels, kernel: 3, options, bias: Bias::With }
    }

    pub(crate) fn without_bias(self) -> Self {
        Self { bias: Bias::Without, ..self }
    }
}

/// The downsampler's geometry for diffusers' `padding`. With 0, one row and one column of zeros are added at the end
/// only.
pub(crate) fn downsampling(padding: usize) -> Conv2dOptions {
    match padding {
        0 => Conv2dOptions { stride: 2, pad_before: 0, pad_after: 1 },
        p => Conv2dOptions::strided(2, p),
    }
}

impl<T: NnOps> Conv2d<T> {
    pub(crate) fn load(weights: &Weights<T>, shape: ConvShape) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel, options, bias: has } = shape;
        let weight = weights.tensor("weight", &[outputs, inputs, kernel, kernel])?.conv2d_weight()?;
        Ok(Self { weight, bias: bias(weights, has, outputs)?, options })
    }

    pub(crate) fn forward(&self, x: &T) -> Result<T> {
        x.conv2d(&self.weight, self.bias.as_ref(), self.options)
    }
}

/// Group norm of `[b, c, ..]`.
#[derive(Debug)]
pub(crate) struct GroupNorm<T> {
    weight: T,
    bias: T,
    groups: usize,
    epsilon: f64,
}

impl<T: NnOps> GroupNorm<T> {
    pub(crate) fn load(weights: &Weights<T>, channels: usize, groups: usize, epsilon: f64) -> Result<Self> {
        let (weight, bias) = (weights.tensor("weight", &[channels])?, weights.tensor("bias", &[channels])?);
        Ok(Self { weight, bias, groups, epsilon })
    }

    pub(crate) fn forward(&self, x: &T) -> Result<T> {
        x.group_norm(self.groups, &self.weight, &self.bias, self.epsilon)
    }

    /// The norm, followed by `x · sigmoid(x)`.
    pub(crate) fn forward_silu(&self, x: &T) -> Result<T> {
        x.group_norm_silu(self.groups, &self.weight, &self.bias, self.epsilon)
    }
}

/// Layer norm over the last axis.
#[derive(Debug)]
pub(crate) struct LayerNorm<T> {
    weight: T,
    bias: T,
    epsilon: f64,
}

impl<T: NnOps> LayerNorm<T> {
    pub(crate) fn load(weights: &Weights<T>, channels: usize, epsilon: f64) -> Result<Self> {
        Ok(Self {
            weight: weights.tensor("weight", &[channels])?,
            bias: weights.tensor("bias", &[channels])?,
            epsilon,
        })
    }

    pub(crate) fn forward(&self, x: &T) -> Result<T> {
        x.layer_norm(&self.weight, &self.bias, self.epsilon)
    }
}

/// `[b, n, heads · dim]` → `[b, heads, n, dim]`.
pub(crate) fn split_heads<T: NnOps>(x: &T, heads: usize) -> Result<T> {
    let [b, n, c] = dims(x, "split heads")?;
    x.reshape(&[b, n, heads, c / heads.max(1)])?.permute(&[0, 2, 1, 3])
}

/// `[b, heads, n, dim]` → `[b, n, heads · dim]`.
pub(crate) fn merge_heads<T: NnOps>(x: &T) -> Result<T> {
    let [b, h, n, d] = dims(x, "merge heads")?;
    x.permute(&[0, 2, 1, 3])?.reshape(&[b, n, h * d])
}

/// `[b, c, h, w]` → `[b, h · w, c]`.
pub(crate) fn to_tokens<T: NnOps>(image: &T) -> Result<T> {
    let [b, c, h, w] = dims(image, "image to tokens")?;
    image.permute(&[0, 2, 3, 1])?.reshape(&[b, h * w, c])
}

/// `[b, h · w, c]` → `[b, c, h, w]`.
pub(crate) fn to_image<T: NnOps>(tokens: &T, height: usize, width: usize) -> Result<T> {
    let [b, _, c] = dims(tokens, "tokens to image")?;
    tokens.reshape(&[b, height, width, c])?.permute(&[0, 3, 1, 2])
}

/// Attention without a graph, on projected queries, keys and values `[b, n, c]`.
pub(crate) fn plain_attention<T: AttentionOps>(
    q: &T,
    k: &T,
    v: &T,
    heads: usize,
    bias: Option<&T>,
) -> Result<T> {
    let (q, k, v) = (split_heads(q, heads)?, split_heads(k, heads)?, split_heads(v, heads)?);
    let [_, _, _, dim] = dims(&q, "attention")?;
    let hidden =
        T::attention(&q, &k, &v, AttentionOptions { bias, ..AttentionOptions::for_dim(dim) })?.hidden;
    merge_heads(&hidden)
}

/// The residual block of U-Net and autoencoder (diffusers' `ResnetBlock2D`):
///
/// `x' = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))`
#[derive(Debug)]
pub(crate) struct Resnet<T> {
    norm1: GroupNorm<T>,
    conv1: Conv2d<T>,
    time: Option<Linear<T>>,
    norm2: GroupNorm<T>,
    conv2: Conv2d<T>,
    shortcut: Option<Conv2d<T>>,
    scale: f64,
}

/// Geometry of a [`Resnet`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetShape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Channels of the time embedding, if the block takes one.
    pub(crate) time: Option<usize>,
    pub(crate) groups: usize,
    pub(crate) epsilon: f64,
    /// The divisor of the output.
    pub(crate) scale: f64,
}

impl<T: NnOps> Resnet<T> {
    pub(crate) fn load(weights: &Weights<T>, shape: ResnetShape) -> Result<Self> {
        let ResnetShape { inputs, outputs, time, groups, epsilon, scale } = shape;
        let time = time.map(|time| Linear::load(&weights.scope("time_emb_proj"), time, outputs, Bias::With));
        let shortcut = (inputs != outputs)
            .then(|| Conv2d::load(&weights.scope("conv_shortcut"), ConvShape::same(inputs, outputs, 1)));
        Ok(Self {
            norm1: GroupNorm::load(&weights.scope("norm1"), inputs, groups, epsilon)?,
            conv1: Conv2d::load(&weights.scope("conv1"), ConvShape::same(inputs, outputs, 3))?,
            time: time.transpose()?,
            norm2: GroupNorm::load(&weights.scope("norm2"), outputs, groups, epsilon)?,
            conv2: Conv2d::load(&weights.scope("conv2"), ConvShape::same(outputs, outputs, 3))?,
            shortcut: shortcut.transpose()?,
            scale,
        })
    }

    /// Maps `x [b, inputs, h, w]` to `[b, outputs, h, w]`. `time [b, channels]` has already been through SiLU.
    pub(crate) fn forward(&self, x: &T, time: Option<&T>) -> Result<T> {
        let mut hidden = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(project), Some(time)) = (&self.time, time) {
            let shift = project.forward(time)?;
            let [b, c] = dims(&shift, "time embedding")?;
            hidden = hidden.add(&shift.reshape(&[b, c, 1, 1])?)?;
        }
        // At full resolution these are the largest tensors of all. So each is freed as early as possible.
        let normed = self.norm2.forward_silu(&hidden)?;
        drop(hidden);
        let hidden = self.conv2.forward(&normed)?;
        drop(normed);
        let sum = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?.add(&hidden)?,
            None => x.add(&hidden)?,
        };
        if self.scale == 1.0 { Ok(sum) } else { sum.affine(1.0 / self.scale, 0.0) }
    }
}
