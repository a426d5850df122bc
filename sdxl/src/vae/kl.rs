//! diffusers' `AutoencoderKL`.

use atedm_core::backend::dims;
use atedm_core::{AttentionOps, Backend, Error, Result, Weights};

use super::tiles::{TileOptions, blend_in_sequence};
use super::{check_channels, no_encoder};
use crate::config::KlConfig;
use crate::layers::{
    Bias, Conv2d, ConvShape, GroupNorm, Linear, Resnet, ResnetShape, downsampling, plain_attention, to_image,
    to_tokens,
};

/// Epsilon of every norm, fixed in diffusers.
const EPSILON: f64 = 1e-6;

/// `AutoencoderKL` with its weights.
#[derive(Debug)]
pub struct AutoencoderKl<B: Backend> {
    config: KlConfig,
    encoder: Option<Encoder<B::Tensor>>,
    decoder: Decoder<B::Tensor>,
}

impl<B: Backend> AutoencoderKl<B> {
    /// Loads the decoder, and the encoder if its weights are there.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] naming the tensor that is missing or has another shape.
    pub fn load(weights: &Weights<B::Tensor>, config: &KlConfig) -> Result<Self> {
        if config.channels.is_empty() {
            return Err(Error::config("block_out_channels", "expected at least one stage"));
        }
        let encoder = weights.contains("encoder.conv_in.weight").then(|| Encoder::load(weights, config));
        Ok(Self {
            encoder: encoder.transpose()?,
            decoder: Decoder::load(weights, config)?,
            config: config.clone(),
        })
    }

    /// The configuration that it was loaded with.
    pub fn config(&self) -> &KlConfig {
        &self.config
    }

    /// Decodes unscaled latents `[b, c, h, w]` to an image `[b, 3, factor · h, factor · w]`.
    pub fn decode(&self, latents: &B::Tensor) -> Result<B::Tensor> {
        check_channels(latents, self.config.latent_channels, "VAE decode")?;
        self.decoder.forward(latents)
    }

    /// Decodes in tiles (diffusers' `tiled_decode`).
    pub fn decode_tiled(&self, latents: &B::Tensor, tiles: &TileOptions) -> Result<B::Tensor> {
        let [_, _, height, width] = check_channels(latents, self.config.latent_channels, "VAE decode")?;
        let stages = self.config.channels.len().saturating_sub(1) as u32;
        let tiles = tiles.check(1 << stages)?;
        if height <= tiles.latents && width <= tiles.latents {
            return self.decode(latents);
        }
        blend_in_sequence(latents, &tiles, |tile| self.decoder.forward(tile))
    }

    /// Encodes an image `[b, 3, h, w]` to the mean and log-variance of its latents, `[b, 2 c, h / factor, w / factor]`.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] if the checkpoint holds no encoder.
    pub fn encode(&self, image: &B::Tensor) -> Result<B::Tensor> {
        check_channels(image, self.config.in_channels, "VAE encode")?;
        self.encoder.as_ref().ok_or_else(no_encoder)?.forward(image)
    }
}

fn resnet<T: AttentionOps>(
    weights: &Weights<T>,
    config: &KlConfig,
    inputs: usize,
    outputs: usize,
) -> Result<Resnet<T>> {
    let groups = config.norm_groups;
    Resnet::load(weights, ResnetShape { inputs, outputs, time: None, groups, epsilon: EPSILON, scale: 1.0 })
}

/// Resnets, and the convolution that halves the grid or follows a doubling.
#[derive(Debug)]
struct Stage<T> {
    resnets: Vec<Resnet<T>>,
    resize: Option<Conv2d<T>>,
}

#[derive(Debug)]
struct Encoder<T> {
    conv_in: Conv2d<T>,
    stages: Vec<Stage<T>>,
    mid: Mid<T>,
    norm: GroupNorm<T>,
    conv_out: Conv2d<T>,
    quant: Option<Conv2d<T>>,
}

impl<T: AttentionOps> Encoder<T> {
    fn load(weights: &Weights<T>, config: &KlConfig) -> Result<Self> {
        let root = weights;
        let weights = &root.scope("encoder");
        let channels = &config.channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let stage = |i: usize| {
            let weights = weights.scope("down_blocks").scope(i);
            let layer = |j: usize| {
                let inputs = if j == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
                resnet(&weights.scope("resnets").scope(j), config, inputs, channels[i])
            };
            let halve = (i + 1 < channels.len()).then(|| {
                let shape = ConvShape::halving(channels[i], downsampling(0));
                Conv2d::load(&weights.scope("downsamplers.0.conv"), shape)
            });
            Ok(Stage {
                resnets: (0..config.layers).map(layer).collect::<Result<_>>()?,
                resize: halve.transpose()?,
            })
        };
        let moments = 2 * config.latent_channels;
        let quant = config
            .quant_conv
            .then(|| Conv2d::load(&root.scope("quant_conv"), ConvShape::same(moments, moments, 1)));
        Ok(Self {
            conv_in: Conv2d::load(&weights.scope("conv_in"), ConvShape::same(config.in_channels, first, 3))?,
            stages: (0..channels.len()).map(stage).collect::<Result<_>>()?,
            mid: Mid::load(&weights.scope("mid_block"), config, last)?,
            norm: GroupNorm::load(&weights.scope("conv_norm_out"), last, config.norm_groups, EPSILON)?,
            conv_out: Conv2d::load(&weights.scope("conv_out"), ConvShape::same(last, moments, 3))?,
            quant: quant.transpose()?,
        })
    }

    fn forward(&self, image: &T) -> Result<T> {
        let mut x = self.conv_in.forward(image)?;
        for stage in &self.stages {
            for resnet in &stage.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(halve) = &stage.resize {
                x = halve.forward(&x)?;
            }
        }
        let x = self.mid.forward(&x)?;
        let x = self.conv_out.forward(&self.norm.forward_silu(&x)?)?;
        self.quant.as_ref().map_or(Ok(x.clone()), |quant| quant.forward(&x))
    }
}

#[derive(Debug)]
struct Decoder<T> {
    post_quant: Option<Conv2d<T>>,
    conv_in: Conv2d<T>,
    mid: Mid<T>,
    stages: Vec<Stage<T>>,
    norm: GroupNorm<T>,
    conv_out: Conv2d<T>,
}

impl<T: AttentionOps> Decoder<T> {
    fn load(weights: &Weights<T>, config: &KlConfig) -> Result<Self> {
        let root = weights;
        let weights = &root.scope("decoder");
        let channels: Vec<usize> = config.channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let stage = |i: usize| {
            let weights = weights.scope("up_blocks").scope(i);
            let layer = |j: usize| {
                let inputs = if j == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
                resnet(&weights.scope("resnets").scope(j), config, inputs, channels[i])
            };
            let double = (i + 1 < channels.len()).then(|| {
                let shape = ConvShape::same(channels[i], channels[i], 3);
                Conv2d::load(&weights.scope("upsamplers.0.conv"), shape)
            });
            Ok(Stage {
                resnets: (0..=config.layers).map(layer).collect::<Result<_>>()?,
                resize: double.transpose()?,
            })
        };
        let latents = config.latent_channels;
        let post_quant = config
            .post_quant_conv
            .then(|| Conv2d::load(&root.scope("post_quant_conv"), ConvShape::same(latents, latents, 1)));
        Ok(Self {
            post_quant: post_quant.transpose()?,
            conv_in: Conv2d::load(&weights.scope("conv_in"), ConvShape::same(latents, first, 3))?,
            mid: Mid::load(&weights.scope("mid_block"), config, first)?,
            stages: (0..channels.len()).map(stage).collect::<Result<_>>()?,
            norm: GroupNorm::load(&weights.scope("conv_norm_out"), last, config.norm_groups, EPSILON)?,
            conv_out: Conv2d::load(
                &weights.scope("conv_out"),
                ConvShape::same(last, config.out_channels, 3),
            )?,
        })
    }

    fn forward(&self, latents: &T) -> Result<T> {
        let mut x = match &self.post_quant {
            Some(conv) => conv.forward(latents)?,
            None => latents.clone(),
        };
        x = self.mid.forward(&self.conv_in.forward(&x)?)?;
        for stage in &self.stages {
            for resnet in &stage.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(conv) = &stage.resize {
                let [_, _, height, width] = dims(&x, "VAE upsampling")?;
                x = conv.forward(&x.upsample_nearest(2 * height, 2 * width)?)?;
            }
        }
        self.conv_out.forward(&self.norm.forward_silu(&x)?)
    }
}

/// Resnet, attention over all pixels with one head (or none), resnet.
#[derive(Debug)]
struct Mid<T> {
    first: Resnet<T>,
    attention: Option<Attention<T>>,
    second: Resnet<T>,
}

impl<T: AttentionOps> Mid<T> {
    fn load(weights: &Weights<T>, config: &KlConfig, channels: usize) -> Result<Self> {
        let resnet = |i: usize| resnet(&weights.scope("resnets").scope(i), config, channels, channels);
        let attention = config
            .mid_attention
            .then(|| Attention::load(&weights.scope("attentions.0"), channels, config.norm_groups));
        Ok(Self { first: resnet(0)?, attention: attention.transpose()?, second: resnet(1)? })
    }

    fn forward(&self, x: &T) -> Result<T> {
        let mut x = self.first.forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.second.forward(&x, None)
    }
}

#[derive(Debug)]
struct Attention<T> {
    norm: GroupNorm<T>,
    q: Linear<T>,
    k: Linear<T>,
    v: Linear<T>,
    out: Linear<T>,
}

impl<T: AttentionOps> Attention<T> {
    fn load(weights: &Weights<T>, channels: usize, groups: usize) -> Result<Self> {
        // Old checkpoints name the projections query, key, value and proj_attn, and may store them as 1×1 convolutions.
        let project = |name: &str, old: &str| {
            let weights = if weights.scope(name).contains("weight") || !weights.scope(old).contains("weight")
            {
                weights.scope(name)
            } else {
                weights.scope(old)
            };
            match weights.shape_of("weight") {
                Some(shape) if shape.len() == 4 => Linear::load_pointwise(&weights, channels, channels),
                _ => Linear::load(&weights, channels, channels, Bias::With),
            }
        };
        Ok(Self {
            norm: GroupNorm::load(&weights.scope("group_norm"), channels, groups, EPSILON)?,
            q: project("to_q", "query")?,
            k: project("to_k", "key")?,
            v: project("to_v", "value")?,
            out: project("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, image: &T) -> Result<T> {
        let [_, _, height, width] = dims(image, "VAE attention")?;
        let tokens = to_tokens(&self.norm.forward(image)?)?;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(&tokens));
        let attended = plain_attention(&q?, &k?, &v?, 1, None)?;
        to_image(&self.out.forward(&attended)?, height, width)?.add(image)
    }
}
