//! Trains the U-Net and both text encoders with ε-prediction, on the noise levels that the sampler uses.
//!
//! ```text
//! x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε;   loss = w_t mean (ε̂(x_t, t, text) − ε)²
//! w_t = min(SNR_t, γ) / SNR_t,    SNR_t = ᾱ_t / (1 − ᾱ_t)          (Hang et al. 2023, min-SNR-γ for ε-prediction)
//! ```
//!
//! Timesteps are stratified: image `i` of a batch of `B` draws from the `i`-th of `B` equal parts of the schedule. A
//! dropped caption becomes zero embeddings. The sampler's unconditional rows are the same
//! (`force_zeros_for_empty_prompt`).

use std::sync::Arc;

use atedm_core::backend::dims;
use atedm_core::plugin::{Row, Step, Unpruned};
use atedm_core::{Backend, DType, Error, Result, Tensor, Weights};
use atedm_tch::{Device, OrBackend, TchTensor, Torch, TorchResult};
use tch::{Kind, Tensor as Raw};

use super::autoencoder::pictures;
use super::course::Worker;
use super::draws::{Use, noise, uniforms};
use crate::scenes::{SceneSource, Split};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig};
use atedm_sdxl::schedulers::TrainingNoise;
use atedm_sdxl::text::TextEncoder;
use atedm_sdxl::tokenizer::ClipTokenizer;
use atedm_sdxl::unet::{UNet, UNetInput};
use atedm_sdxl::vae::Vae;

/// One worker's share of the batches.
pub(super) struct DiffusionWorker {
    pub(super) source: Arc<dyn SceneSource>,
    pub(super) unet: UNetConfig,
    pub(super) text: [TextEncoderConfig; 2],
    pub(super) tokenizers: [ClipTokenizer; 2],
    pub(super) vae: Vae<Torch>,
    pub(super) levels: TrainingNoise,
    pub(super) seed: u64,
    /// Pixels of a side.
    pub(super) size: usize,
    /// Images of a whole batch, and those of this worker.
    pub(super) batch: u64,
    pub(super) share: std::ops::Range<u64>,
    /// γ of min-SNR-γ.
    pub(super) gamma: f64,
    /// Share of images without their caption.
    pub(super) dropout: f64,
    pub(super) device: Device,
    pub(super) dtype: DType,
}

/// The random numbers of each row.
struct Drawn {
    timesteps: Vec<usize>,
    with_caption: Vec<f32>,
    captions: Vec<String>,
}

impl DiffusionWorker {
    fn draw(&self, first: u64) -> Drawn {
        let levels = self.levels.alphas_cumprod.len();
        let mut drawn = Drawn { timesteps: Vec::new(), with_caption: Vec::new(), captions: Vec::new() };
        for place in self.share.clone() {
            let number = first + place;
            let mut uniform = uniforms(self.seed, Use::Conditioning, number);
            let at = (place as f64 + uniform()) / self.batch as f64 * levels as f64;
            drawn.timesteps.push((at as usize).min(levels - 1));
            drawn.with_caption.push(if uniform() < self.dropout { 0.0 } else { 1.0 });
            let scene = self.source.scene(Split::Train, number);
            drawn.captions.push(scene.varied_caption(self.seed, number));
        }
        drawn
    }

    /// A column of numbers `[rows, 1, ..]` with `axes` axes.
    fn column(&self, values: &[f32], axes: usize) -> Result<TchTensor> {
        let shape: Vec<usize> = std::iter::once(values.len()).chain(vec![1; axes - 1]).collect();
        TchTensor::from_f32(values, &shape, DType::F32, &self.device)
    }

    /// Text tokens `[rows, length, channels]` and pooled text `[rows, channels]`. Both are zero where the caption is
    /// dropped.
    fn condition(&self, weights: &Weights<TchTensor>, drawn: &Drawn) -> Result<[TchTensor; 2]> {
        let mut encoded = Vec::with_capacity(2);
        let parts = ["text_encoder", "text_encoder_2"].iter().zip(&self.text).zip(&self.tokenizers);
        for ((part, config), tokenizer) in parts {
            let ids = |caption: &String| {
                let tokens = tokenizer.encode(caption)?;
                let fits = tokens.cut == 0;
                let reason =
                    || Error::config("context", format!("{} tokens cut off {caption:?}", tokens.cut));
                if fits { Ok(tokens.ids) } else { Err(reason()) }
            };
            let ids = drawn.captions.iter().map(ids).collect::<Result<Vec<_>>>()?;
            encoded
                .push(TextEncoder::<Torch>::load(&weights.scope(part), config)?.encode(&ids, &self.device)?);
        }
        let hidden: Vec<&TchTensor> = encoded.iter().map(|output| &output.hidden).collect();
        let pooled = encoded.last().and_then(|output| output.pooled.as_ref());
        let pooled =
            pooled.ok_or_else(|| Error::config("text_encoder_2", "expected one with a projection"))?;
        let tokens = TchTensor::concat(&hidden, 2)?;
        let kept = |axes| self.column(&drawn.with_caption, axes)?.cast(self.dtype);
        Ok([tokens.mul(&kept(3)?)?, pooled.mul(&kept(2)?)?])
    }
}

impl Worker for DiffusionWorker {
    fn loss(&mut self, weights: &Weights<TchTensor>, step: u64) -> Result<TchTensor> {
        let first = step * self.batch;
        let numbers = first + self.share.start..first + self.share.end;
        let drawn = self.draw(first);
        let clean = Torch::inference(|| -> Result<TchTensor> {
            let images = pictures(&*self.source, Split::Train, numbers.clone(), self.size, self.device)?;
            self.vae.scale(&self.vae.encode(&images)?)
        })?;
        let [rows, channels, height, width] = dims(&clean, "latents")?;
        let values = noise(self.seed, numbers, &[channels, height, width])?;
        let noise = TchTensor::from_f32(&values, &[rows, channels, height, width], DType::F32, &self.device)?;
        let alphas = drawn.timesteps.iter().map(|&t| self.levels.alphas_cumprod[t]);
        let [signal, rest, weight] = [
            alphas.clone().map(f32::sqrt).collect::<Vec<_>>(),
            alphas.clone().map(|alpha| (1.0 - alpha).sqrt()).collect(),
            alphas.map(|alpha| min_snr(f64::from(alpha), self.gamma) as f32).collect(),
        ];
        let noisy = clean.mul(&self.column(&signal, 4)?)?.add(&noise.mul(&self.column(&rest, 4)?)?)?;

        let [text, pooled] = self.condition(weights, &drawn)?;
        let unet = UNet::<Torch>::load(&weights.scope("unet"), &self.unet)?;
        let side = self.size as f32;
        let timesteps: Vec<f64> = drawn.timesteps.iter().map(|&t| t as f64).collect();
        let input = UNetInput {
            latents: &noisy.cast(self.dtype)?,
            timesteps: &timesteps,
            text: &text,
            pooled: &pooled,
            time_ids: &vec![[side, side, 0.0, 0.0, side, side]; rows],
            timestep_cond: None,
            step: &Step { index: 0, total: 1, evaluation: 0, sigma: 0.0, timestep: 0.0 },
            rows: &Row::singles(rows),
            control: None,
        };
        let prediction = unet.forward(&input, &mut Unpruned)?.cast(DType::F32)?;
        let weight = self.column(&weight, 4)?;
        let loss = || -> TorchResult<Raw> {
            let error = prediction.as_ref().f_sub(noise.as_ref())?.f_square()?;
            error.f_mul(weight.as_ref())?.f_mean(Kind::Float)
        };
        loss().map(TchTensor::from).or_backend("diffusion")
    }
}

/// The weight w of the noise level with this ᾱ.
pub(crate) fn min_snr(alpha: f64, gamma: f64) -> f64 {
    let ratio = alpha / (1.0 - alpha);
    ratio.min(gamma) / ratio
}
