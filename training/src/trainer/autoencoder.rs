//! Trains the autoencoder (`AutoencoderKL`). The loss is reconstruction plus a weak pull of the latents towards a normal
//! distribution.
//!
//! ```text
//! z = μ + exp(ln σ² / 2) ε;   loss = |x − D(z)| + (x − D(z))² + β · ½ mean(μ² + σ² − 1 − ln σ²)
//! ```

use std::sync::Arc;

use atedm_core::{DType, Result, Tensor, Weights};
use atedm_tch::{Device, OrBackend, TchTensor, Torch, TorchResult};
use tch::{Kind, Tensor as Raw};

use super::course::Worker;
use super::draws::noise;
use crate::scenes::{SceneSource, Split};
use atedm_sdxl::config::KlConfig;
use atedm_sdxl::vae::AutoencoderKl;

/// One worker's share of the batches.
pub(super) struct AutoencoderWorker {
    pub(super) source: Arc<dyn SceneSource>,
    pub(super) config: KlConfig,
    pub(super) seed: u64,
    /// Pixels of a side.
    pub(super) size: usize,
    /// Images of a whole batch, and those of this worker.
    pub(super) batch: u64,
    pub(super) share: std::ops::Range<u64>,
    /// β.
    pub(super) pull: f64,
    pub(super) device: Device,
}

/// Pictures of the scenes `numbers` of a stream: `[n, 3, size, size]` from −1 to 1.
pub(super) fn pictures(
    source: &dyn SceneSource,
    split: Split,
    numbers: std::ops::Range<u64>,
    size: usize,
    device: Device,
) -> Result<TchTensor> {
    let count = (numbers.end - numbers.start) as usize;
    let mut values = Vec::with_capacity(count * 3 * size * size);
    for number in numbers {
        values.extend(source.scene(split, number).render(size).to_signed());
    }
    TchTensor::from_f32(&values, &[count, 3, size, size], DType::F32, &device)
}

impl Worker for AutoencoderWorker {
    fn loss(&mut self, weights: &Weights<TchTensor>, step: u64) -> Result<TchTensor> {
        let first = step * self.batch;
        let numbers = first + self.share.start..first + self.share.end;
        let images = pictures(&*self.source, Split::Train, numbers.clone(), self.size, self.device)?;
        let vae = AutoencoderKl::<Torch>::load(&weights.scope("vae"), &self.config)?;
        let moments = Raw::from(vae.encode(&images)?);
        let shape: Vec<usize> = moments.size().iter().map(|&len| len as usize).collect();
        let latent = [shape[1] / 2, shape[2], shape[3]];
        let drawn = noise(self.seed, numbers, &latent)?;
        let drawn = TchTensor::from_f32(
            &drawn,
            &[shape[0], latent[0], latent[1], latent[2]],
            DType::F32,
            &self.device,
        )?;
        let (latents, pull) = sampled(&moments, drawn.as_ref()).or_backend("autoencoder")?;
        let decoded = vae.decode(&TchTensor::from(latents))?;
        let loss = || -> TorchResult<Raw> {
            let error = decoded.as_ref().f_sub(images.as_ref())?;
            let sum = error.f_abs()?.f_mean(Kind::Float)?.f_add(&error.f_square()?.f_mean(Kind::Float)?)?;
            sum.f_add(&pull.f_mul_scalar(self.pull)?)
        };
        loss().map(TchTensor::from).or_backend("autoencoder")
    }
}

/// Latents drawn from their distributions, and the divergence of these distributions from the normal one.
fn sampled(moments: &Raw, noise: &Raw) -> TorchResult<(Raw, Raw)> {
    let channels = moments.size().get(1).copied().unwrap_or(0) / 2;
    let (mean, logarithm) = (moments.f_narrow(1, 0, channels)?, moments.f_narrow(1, channels, channels)?);
    // diffusers' bounds
    let logarithm = logarithm.f_clamp(-30.0, 20.0)?;
    let deviation = logarithm.f_mul_scalar(0.5)?.f_exp()?;
    let latents = mean.f_add(&deviation.f_mul(noise)?)?;
    let spread = deviation.f_square()?.f_sub(&logarithm)?.f_sub_scalar(1.0)?;
    let pull = mean.f_square()?.f_add(&spread)?.f_mean(Kind::Float)?.f_mul_scalar(0.5)?;
    Ok((latents, pull))
}
