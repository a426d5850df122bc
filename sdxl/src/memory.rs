//! The memory that a run needs, by formula, before anything is loaded.
//!
//! The estimate counts the weights in the run's dtype, and a fixed amount for the program. It also counts the tensors
//! that are alive at the peaks of the U-Net and of the autoencoder's decoder. These are the stream, the skip
//! connections, and the intermediate tensors of a residual block, a transformer layer or an enlargement.
//!
//! Attention maps are not stored, so they do not count. The estimate leaves out the memory of a pruning method, and the
//! encoder of image to image. The encoder needs less than the decoder.

use atedm_core::plugin::Grid;
use atedm_core::{DType, Result};

use crate::checkpoint::{Checkpoint, Part};
use crate::config::{KlConfig, TinyVaeConfig, UNetConfig, VaeConfig};

/// The program, its tokenizers, and its kernels' buffers on the CPU: 40 MB (measured).
const PROGRAM: u64 = 40_000_000;

/// The properties of a run that its memory depends on, besides the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Height and width of the latents.
    pub latents: Grid,
    /// Images in the batch.
    pub images: usize,
    /// Whether each image has a second row for classifier-free guidance.
    pub guided: bool,
    /// The dtype of the run. The autoencoder's dtype may differ ([`VaeConfig::dtype_beside`]).
    pub dtype: DType,
    /// Width and height in pixels of the tiles in which images are decoded; `None` for whole images.
    pub tile: Option<usize>,
}

/// The bytes that a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights of both text encoders. They are needed only before the first step.
    pub text_encoders: u64,
    /// Weights of the U-Net.
    pub unet: u64,
    /// Weights of a ControlNet beside it.
    pub controlnet: u64,
    /// Weights of the autoencoder.
    pub vae: u64,
    /// Largest activations of a U-Net evaluation.
    pub denoising: u64,
    /// Largest activations of decoding one image.
    pub decoding: u64,
}

impl Memory {
    /// Computes the estimate from the headers of the checkpoint's weight files and from its configurations.
    ///
    /// # Errors
    /// [`atedm_core::Error::Io`] or [`atedm_core::Error::Weights`] naming a weight file whose header cannot be read.
    pub fn of(checkpoint: &Checkpoint, work: &Workload) -> Result<Self> {
        let weights = |part: Part, dtype: DType| -> Result<u64> {
            Ok(bytes(checkpoint.contents(part)?.parameters as f64, dtype))
        };
        let vae_dtype = checkpoint.vae().dtype_beside(work.dtype);
        let controlnet = checkpoint.control_contents()?;
        let first = weights(Part::TextEncoder, work.dtype)?;
        Ok(Self {
            text_encoders: first.saturating_add(weights(Part::TextEncoder2, work.dtype)?),
            unet: weights(Part::UNet, work.dtype)?,
            controlnet: controlnet.map_or(0, |contents| bytes(contents.parameters as f64, work.dtype)),
            vae: weights(Part::Vae, vae_dtype)?,
            denoising: bytes(unet_values(checkpoint.unet(), work), work.dtype),
            decoding: bytes(vae_values(checkpoint.vae(), work), vae_dtype),
        })
    }

    /// The peak of a run that frees the text encoders before its first step, the program included.
    pub fn peak(&self) -> u64 {
        let activations = self.text_encoders.max(self.denoising).max(self.decoding);
        [self.unet, self.controlnet, self.vae, activations].into_iter().fold(PROGRAM, u64::saturating_add)
    }
}

/// Converts a number of values to bytes. Sizes that are too large become the largest number.
fn bytes(values: f64, dtype: DType) -> u64 {
    (values * dtype.size_in_bytes() as f64) as u64
}

/// The peak number of activation values in a U-Net evaluation.
fn unet_values(config: &UNetConfig, work: &Workload) -> f64 {
    let grids = config.grids(work.latents.height, work.latents.width);
    let pixels: Vec<f64> = grids.iter().map(|grid| grid.tokens() as f64).collect();
    let last = pixels.len().saturating_sub(1);
    let attention = |channels: usize, depths: Option<&usize>| match depths {
        // the image, the stream, its norm, the feed-forward's inner layer (8 c) and its gated half (4 c)
        Some(depth) if *depth > 0 => 15.0 * channels as f64,
        _ => 0.0,
    };
    let mut skips = vec![pixels[0] * config.base_channels() as f64];
    let mut peak = 0.0f64;
    // A ControlNet's copy of a layer runs after the layer. Meanwhile the layer's output and the ControlNet's stream are alive.
    let beside = if config.control.is_some() { 2.0 } else { 0.0 };
    for (i, stage) in config.down.iter().enumerate() {
        for layer in 0..stage.layers {
            let from = if layer == 0 { stage.in_channels } else { stage.channels };
            // the input stream is the latest skip connection itself, so it counts once
            let resnet = resnet(from, stage.channels) - from as f64;
            let depth = stage.attention.as_ref().and_then(|depths| depths.get(layer));
            let held: f64 = skips.iter().sum();
            let running = pixels[i] * resnet.max(attention(stage.channels, depth));
            let output = pixels[i] * stage.channels as f64;
            peak = peak.max(held + running + beside * output);
            skips.push(output);
        }
        if stage.downsample {
            skips.push(pixels[i + 1] * stage.channels as f64);
        }
    }
    if let Some(mid) = &config.mid {
        let held: f64 = skips.iter().sum();
        let widest = resnet(mid.channels, mid.channels).max(attention(mid.channels, mid.attention.as_ref()));
        peak = peak.max(held + pixels[last] * widest);
    }
    for (i, stage) in config.up.iter().enumerate() {
        let level = last - i;
        for layer in 0..stage.layers {
            let inputs = stage.resnet_inputs(layer);
            let held: f64 = skips.iter().sum();
            skips.pop();
            let rest: f64 = skips.iter().sum();
            let joining = held + pixels[level] * (inputs.stream + inputs.joined()) as f64;
            let depth = stage.attention.as_ref().and_then(|depths| depths.get(layer));
            let running = resnet(inputs.joined(), stage.channels).max(attention(stage.channels, depth));
            peak = peak.max(joining).max(rest + pixels[level] * running);
        }
        if stage.upsample {
            let held: f64 = skips.iter().sum();
            let channels = stage.channels as f64;
            peak = peak.max(held + channels * (pixels[level] + 2.0 * pixels[level - 1]));
        }
    }
    let rows = work.images as f64 * if work.guided { 2.0 } else { 1.0 };
    rows * peak
}

/// Channels that are alive together in a residual block, its input included.
fn resnet(from: usize, to: usize) -> f64 {
    let (from, to) = (from as f64, to as f64);
    // first the input's norm and the first convolution's output; at the end both summands and the sum
    let summands = if from == to { 1.0 } else { 2.0 };
    from + (from + to).max((summands + 1.0) * to)
}

/// The peak number of activation values while one image is decoded.
fn vae_values(config: &VaeConfig, work: &Workload) -> f64 {
    let tile = work.tile.map_or(usize::MAX, |pixels| (pixels / config.factor().max(1)).max(1));
    let latents = work.latents.height.min(tile) as f64 * work.latents.width.min(tile) as f64;
    match config {
        VaeConfig::Kl(config) => kl_values(config, latents),
        VaeConfig::Tiny(config) => tiny_values(config, latents),
    }
}

fn kl_values(config: &KlConfig, latents: f64) -> f64 {
    let mut from = config.channels.last().copied().unwrap_or(0);
    let mut pixels = latents;
    let mut peak = pixels * resnet(from, from);
    for (i, &channels) in config.channels.iter().enumerate().rev() {
        peak = peak.max(pixels * resnet(from, channels).max(resnet(channels, channels)));
        if i > 0 {
            // the stream, enlarged fourfold, and convolved
            peak = peak.max(pixels * 9.0 * channels as f64);
            pixels *= 4.0;
        }
        from = channels;
    }
    peak
}

fn tiny_values(config: &TinyVaeConfig, latents: f64) -> f64 {
    let channels = config.decoder_channels.first().copied().unwrap_or(0) as f64;
    let growth = (config.upsampling * config.upsampling) as f64;
    let stages = config.decoder_blocks.len().saturating_sub(1) as i32;
    let pixels = latents * growth.powi(stages);
    // a block's input, inner state, output, sum and clipped sum; or the stream, enlarged, and convolved
    channels * pixels * 5.0f64.max(if stages > 0 { 1.0 / growth + 2.0 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(latents: usize, images: usize) -> Workload {
        let latents = Grid::new(latents, latents);
        Workload { latents, images, guided: true, dtype: DType::F16, tile: None }
    }

    fn vae(channels: Vec<usize>) -> VaeConfig {
        let json = serde_json::json!({
            "_class_name": "AutoencoderKL", "block_out_channels": channels,
            "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
            "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        });
        VaeConfig::from_json(std::path::Path::new("vae/config.json"), json).unwrap()
    }

    /// SD-XL's decoder has its peak in the first residual block of the last stage, at full size. The block has 256
    /// channels in, which are normed, and 128 out.
    #[test]
    fn decoding_sd_xl() {
        let config = vae(vec![128, 256, 512, 512]);
        let whole = vae_values(&config, &work(128, 1));
        assert_eq!(whole, 640.0 * 1024.0 * 1024.0);
        // images are decoded one by one
        assert_eq!(vae_values(&config, &work(128, 4)), whole);
        let tiled = Workload { tile: Some(512), ..work(128, 1) };
        assert_eq!(vae_values(&config, &tiled), whole / 4.0);
        let narrow = Workload { latents: Grid::new(32, 128), ..tiled };
        assert_eq!(vae_values(&config, &narrow), 640.0 * 256.0 * 512.0);
        let tiny = VaeConfig::Tiny(TinyVaeConfig::default());
        assert_eq!(vae_values(&tiny, &work(128, 1)), 320.0 * 1024.0 * 1024.0);
    }

    /// The U-Net has its peak in the first feed-forward of `up.1`: 640 channels on a quarter of the latents. The skip
    /// connections of `down.0`, of its downsampling, and of `down.1`'s first layer are alive too.
    #[test]
    fn evaluating_sd_xl() {
        let config = UNetConfig::sdxl_base();
        let quarter = 64.0 * 64.0;
        let skips = 3.0 * 320.0 * 4.0 * quarter + (320.0 + 640.0) * quarter;
        let expected = 2.0 * (skips + 15.0 * 640.0 * quarter);
        assert_eq!(unet_values(&config, &work(128, 1)), expected);
        assert_eq!(unet_values(&config, &work(128, 3)), 3.0 * expected);
        let single = Workload { guided: false, ..work(128, 1) };
        assert_eq!(unet_values(&config, &single), expected / 2.0);
    }

    #[test]
    fn sizes_beyond_counting_stay_numbers() {
        let mut config = UNetConfig::sdxl_base();
        config.down.iter_mut().for_each(|stage| stage.channels = 1 << 16);
        let values = unet_values(&config, &work(1 << 15, usize::MAX));
        assert!(values.is_finite());
        assert_eq!(bytes(values, DType::F32), u64::MAX);
    }

    #[test]
    fn the_peak_is_the_dearest_phase() {
        let memory = Memory { text_encoders: 4, unet: 10, controlnet: 0, vae: 1, denoising: 2, decoding: 3 };
        assert_eq!(memory.peak(), PROGRAM + 15);
        assert_eq!(Memory { controlnet: 5, ..memory }.peak(), PROGRAM + 20);
        assert_eq!(Memory { decoding: 7, ..memory }.peak(), PROGRAM + 18);
        assert_eq!(Memory { denoising: u64::MAX, ..memory }.peak(), u64::MAX);
    }
}
