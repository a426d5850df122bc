//! ControlNet: a copy of the U-Net's first half that also sees a picture, as diffusers' `ControlNetModel` computes it.
//!
//! ```text
//! x_0 = conv_in(latents) + embedded picture            x_d = the copy of the U-Net's step d of x_(d-1)
//! skip connection d  +=  scale · output_d(x_d)         the middle's output  +=  scale · output_mid(mid(x_last))
//! ```
//! `output_d` are 1×1 convolutions. The skip connections change, the U-Net's own way down does not. `beside.rs` runs it.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::plugin::Stage;
use atedm_core::{AttentionOps, Error, Result, Weights};

use super::embedding::Embedding;
use super::stages::{DownStep, Mid, StagePlace};
use crate::config::{ControlNetConfig, UNetConfig};
use crate::layers::{Bias, Conv2d, ConvShape};

/// Channels of a picture.
const RGB: usize = 3;

/// A ControlNet with its weights.
#[derive(Debug)]
pub struct ControlNet<T> {
    config: ControlNetConfig,
    picture: PictureEmbedding<T>,
    pub(super) embedding: Embedding<T>,
    /// The copies of the steps down, each with the convolution of its output.
    pub(super) steps: Vec<(DownStep<T>, Conv2d<T>)>,
    pub(super) mid: Mid<T>,
    pub(super) mid_output: Conv2d<T>,
}

/// A ControlNet in one evaluation of a U-Net.
#[derive(Debug)]
pub struct Controlled<'a, T> {
    /// The ControlNet.
    pub net: &'a ControlNet<T>,
    /// The picture `[1, channels, h, w]` from [`ControlNet::embed`], at the latents' size. It serves all rows.
    pub picture: &'a T,
    /// The factor of the ControlNet's outputs: 1 as trained, 0 without effect.
    pub scale: f64,
}

impl<T> Clone for Controlled<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Controlled<'_, T> {}

impl<T: AttentionOps> ControlNet<T> {
    /// Loads every tensor of a ControlNet's folder.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensor that is missing or has another shape. [`Error::Config`] without a middle.
    pub fn load(weights: &Weights<T>, config: &ControlNetConfig) -> Result<Self> {
        let half = &config.half;
        let base = half.base_channels();
        let conv_in = ConvShape::same(half.in_channels, base, half.conv_in_kernel);
        let mut down = vec![(DownStep::first(Conv2d::load(&weights.scope("conv_in"), conv_in)?), base)];
        for (i, stage) in half.down.iter().enumerate() {
            let place = StagePlace { stage: Stage::ControlDown, index: i, level: i };
            let weights = weights.scope("down_blocks").scope(i);
            let steps = DownStep::load_stage(&weights, half, stage, place)?;
            down.extend(steps.into_iter().map(|step| (step, stage.channels)));
        }
        let pointwise = |weights: &Weights<T>, channels: usize| {
            Conv2d::load(weights, ConvShape::same(channels, channels, 1))
        };
        let outputs = weights.scope("controlnet_down_blocks");
        let steps = down.into_iter().enumerate().map(|(i, (step, channels))| {
            let output = pointwise(&outputs.scope(i), channels)?;
            Ok((step, output))
        });
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let mid = half.mid.as_ref().ok_or_else(|| Error::config("mid_block_type", "expected a middle"))?;
        let place =
            StagePlace { stage: Stage::ControlMid, index: 0, level: half.down.len().saturating_sub(1) };
        Ok(Self {
            picture: PictureEmbedding::load(&weights.scope("controlnet_cond_embedding"), config)?,
            embedding: Embedding::load(weights, half)?,
            steps,
            mid: Mid::load(&weights.scope("mid_block"), half, mid, place)?,
            mid_output: pointwise(&weights.scope("controlnet_mid_block"), mid.channels)?,
            config: config.clone(),
        })
    }

    /// The configuration with which it was loaded.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Embeds a picture `[1, 3, height, width]` with values from 0 to 1, in RGB. The result serves every evaluation of a run.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape; errors of the backend.
    pub fn embed(&self, picture: &T) -> Result<T> {
        let shape: [usize; 4] = dims(picture, "ControlNet's picture")?;
        let [rows, channels, height, width] = shape;
        if rows != 1 || channels != RGB || height == 0 || width == 0 {
            return Err(Error::shape("ControlNet's picture", "[1, 3, height, width]", shape));
        }
        self.picture.forward(picture)
    }
}

impl<T: AttentionOps> Controlled<'_, T> {
    /// Checks that the ControlNet fits a U-Net of this configuration, and its picture latents of this size.
    pub(super) fn check(&self, unet: &UNetConfig, [height, width]: [usize; 2]) -> Result<()> {
        let config = &self.net.config;
        if let Some((field, reason)) = config.misfit(unet) {
            return Err(Error::config(format!("controlnet: {field}"), reason));
        }
        let expected = [1, config.half.base_channels(), height, width];
        match self.picture.shape() == expected {
            true => Ok(()),
            false => Err(Error::shape("ControlNet's picture", format!("{expected:?}"), self.picture.shape())),
        }
    }
}

/// Convolutions from a picture to the first stage's channels: diffusers' `ControlNetConditioningEmbedding`.
#[derive(Debug)]
struct PictureEmbedding<T> {
    /// All but the last. Each is followed by SiLU.
    convolutions: Vec<Conv2d<T>>,
    last: Conv2d<T>,
}

impl<T: AttentionOps> PictureEmbedding<T> {
    fn load(weights: &Weights<T>, config: &ControlNetConfig) -> Result<Self> {
        let channels = &config.picture_channels;
        let (first, last) =
            (channels.first().copied().unwrap_or(RGB), channels.last().copied().unwrap_or(RGB));
        let mut convolutions = vec![Conv2d::load(&weights.scope("conv_in"), ConvShape::same(RGB, first, 3))?];
        let blocks = weights.scope("blocks");
        for (i, pair) in channels.windows(2).enumerate() {
            let &[from, to] = pair else { continue };
            let halving = ConvShape {
                inputs: from,
                outputs: to,
                kernel: 3,
                options: Conv2dOptions::strided(2, 1),
                bias: Bias::With,
            };
            convolutions.push(Conv2d::load(&blocks.scope(2 * i), ConvShape::same(from, from, 3))?);
            convolutions.push(Conv2d::load(&blocks.scope(2 * i + 1), halving)?);
        }
        let shape = ConvShape::same(last, config.half.base_channels(), 3);
        Ok(Self { convolutions, last: Conv2d::load(&weights.scope("conv_out"), shape)? })
    }

    fn forward(&self, picture: &T) -> Result<T> {
        let mut hidden = picture.clone();
        for convolution in &self.convolutions {
            hidden = convolution.forward(&hidden)?.silu()?;
        }
        self.last.forward(&hidden)
    }
}
