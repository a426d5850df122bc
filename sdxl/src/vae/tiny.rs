//! diffusers' `AutoencoderTiny`: TAESD and TAESDXL.
//!
//! Two styles of names are read. One is diffusers' (`decoder.layers.0.weight`). The other is that of the original
//! sequential nets below `encoder.` and `decoder.` (`decoder.1.weight`). Their decoder begins with a clamp, so its
//! numbers are higher by one.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::{Backend, Error, NnOps, Result, Tensor, Weights};

use super::tiles::{TileOptions, blend_by_mask};
use super::{check_channels, no_encoder};
use crate::config::TinyVaeConfig;
use crate::layers::{Conv2d, ConvShape};

/// `AutoencoderTiny` with its weights.
#[derive(Debug)]
pub struct AutoencoderTiny<B: Backend> {
    config: TinyVaeConfig,
    encoder: Option<Vec<Step<B::Tensor>>>,
    decoder: Vec<Step<B::Tensor>>,
}

/// One entry of the sequential nets.
#[derive(Debug)]
enum Step<T> {
    Conv(Conv2d<T>),
    Relu,
    Block([Conv2d<T>; 3]),
    Upsample(usize),
}

impl<B: Backend> AutoencoderTiny<B> {
    /// Loads the decoder, and the encoder if its weights are there.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] naming the tensor that is missing or has another shape.
    pub fn load(weights: &Weights<B::Tensor>, config: &TinyVaeConfig) -> Result<Self> {
        let sides = [
            &config.encoder_channels,
            &config.decoder_channels,
            &config.encoder_blocks,
            &config.decoder_blocks,
        ];
        if sides.iter().any(|list| list.is_empty()) {
            return Err(Error::config("num_decoder_blocks", "expected at least one stage on each side"));
        }
        let named = |side: &str, original: usize| {
            let side = weights.scope(side);
            let plain = side.contains(&format!("{original}.weight"));
            let layers = side.scope("layers");
            if plain && !layers.contains("0.weight") { (side, original) } else { (layers, 0) }
        };
        let (encoder, first) = named("encoder", 0);
        let encoder = encoder
            .contains(&format!("{first}.weight"))
            .then(|| load_encoder(&encoder, first, config))
            .transpose()?;
        let (decoder, first) = named("decoder", 1);
        Ok(Self { encoder, decoder: load_decoder(&decoder, first, config)?, config: config.clone() })
    }

    /// The configuration that it was loaded with.
    pub fn config(&self) -> &TinyVaeConfig {
        &self.config
    }

    /// Decodes unscaled latents `[b, c, h, w]` to an image `[b, 3, factor · h, factor · w]` with values from −1 to 1.
    pub fn decode(&self, latents: &B::Tensor) -> Result<B::Tensor> {
        check_channels(latents, self.config.latent_channels, "VAE decode")?;
        // 3 tanh(x / 3) with tanh(y) = 1 − 2 / (e^{2y} + 1). This form has the right limits at both ends.
        let grown = latents.affine(2.0 / 3.0, 0.0)?.exp()?.affine(1.0, 1.0)?;
        let six = B::Tensor::full(6.0, &[1, 1, 1, 1], latents.dtype(), &latents.device())?;
        let clamped = six.div(&grown)?.affine(-1.0, 3.0)?;
        run(&self.decoder, clamped)?.affine(2.0, -1.0)
    }

    /// Decodes in tiles (diffusers' `_tiled_decode`).
    pub fn decode_tiled(&self, latents: &B::Tensor, tiles: &TileOptions) -> Result<B::Tensor> {
        check_channels(latents, self.config.latent_channels, "VAE decode")?;
        let factor = self.config.upsampling.pow(self.config.decoder_blocks.len().saturating_sub(1) as u32);
        blend_by_mask(latents, &tiles.check(factor)?, |tile| self.decode(tile))
    }

    /// Encodes an image `[b, 3, h, w]` with values from −1 to 1 to unscaled latents `[b, c, h / 8, w / 8]`.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] if the checkpoint holds no encoder.
    pub fn encode(&self, image: &B::Tensor) -> Result<B::Tensor> {
        check_channels(image, self.config.in_channels, "VAE encode")?;
        run(self.encoder.as_ref().ok_or_else(no_encoder)?, image.affine(0.5, 0.5)?)
    }
}

fn load_encoder<T: NnOps>(
    weights: &Weights<T>,
    first: usize,
    config: &TinyVaeConfig,
) -> Result<Vec<Step<T>>> {
    let mut net = Net { weights, next: first, steps: Vec::new() };
    let channels = config.encoder_channels[0];
    for (i, &blocks) in config.encoder_blocks.iter().enumerate() {
        net.conv(match i {
            0 => ConvShape::same(config.in_channels, channels, 3),
            _ => ConvShape::halving(channels, Conv2dOptions::strided(2, 1)).without_bias(),
        })?;
        net.blocks(blocks, channels)?;
    }
    net.conv(ConvShape::same(channels, config.latent_channels, 3))?;
    Ok(net.steps)
}

fn load_decoder<T: NnOps>(
    weights: &Weights<T>,
    first: usize,
    config: &TinyVaeConfig,
) -> Result<Vec<Step<T>>> {
    let mut net = Net { weights, next: first, steps: Vec::new() };
    let channels = config.decoder_channels[0];
    net.conv(ConvShape::same(config.latent_channels, channels, 3))?;
    net.plain(Step::Relu);
    let last = config.decoder_blocks.len() - 1;
    for (i, &blocks) in config.decoder_blocks.iter().enumerate() {
        net.blocks(blocks, channels)?;
        if i == last {
            net.conv(ConvShape::same(channels, config.out_channels, 3))?;
        } else {
            net.plain(Step::Upsample(config.upsampling));
            net.conv(ConvShape::same(channels, channels, 3).without_bias())?;
        }
    }
    Ok(net.steps)
}

/// Builds a sequential net with numbered entries.
struct Net<'a, T> {
    weights: &'a Weights<T>,
    next: usize,
    steps: Vec<Step<T>>,
}

impl<T: NnOps> Net<'_, T> {
    fn plain(&mut self, step: Step<T>) {
        self.steps.push(step);
        self.next += 1;
    }

    fn conv(&mut self, shape: ConvShape) -> Result<()> {
        let conv = Conv2d::load(&self.weights.scope(self.next), shape)?;
        self.plain(Step::Conv(conv));
        Ok(())
    }

    fn blocks(&mut self, count: usize, channels: usize) -> Result<()> {
        for _ in 0..count {
            let weights = self.weights.scope(self.next).scope("conv");
            let conv = |i: usize| Conv2d::load(&weights.scope(i), ConvShape::same(channels, channels, 3));
            let block = [conv(0)?, conv(2)?, conv(4)?];
            self.plain(Step::Block(block));
        }
        Ok(())
    }
}

fn run<T: NnOps>(steps: &[Step<T>], x: T) -> Result<T> {
    let relu = |x: T| x.clamp_min(0.0);
    steps.iter().try_fold(x, |x, step| match step {
        Step::Conv(conv) => conv.forward(&x),
        Step::Relu => relu(x),
        Step::Block([first, second, third]) => {
            let inner = relu(second.forward(&relu(first.forward(&x)?)?)?)?;
            relu(third.forward(&inner)?.add(&x)?)
        }
        Step::Upsample(factor) => {
            let [_, _, height, width] = dims(&x, "VAE upsampling")?;
            x.upsample_nearest(factor * height, factor * width)
        }
    })
}
