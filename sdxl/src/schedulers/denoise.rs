//! The clean sample from a U-Net's output, for samples `x = x₀ + σ ε`.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::Prediction;
use super::ops::{add_scaled, divide, scale};

impl SchedulerConfig {
    /// The clean latents that a U-Net's `output` points to. `input` is what the U-Net saw: the latents at noise level `sigma`,
    /// as a sampler scales them ([`Sampler::scale_input`](super::Sampler::scale_input)).
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn denoised<T: Tensor>(&self, output: &T, input: &T, sigma: f64) -> Result<T> {
        let sigma = sigma as f32;
        let data = self.edm.as_ref().map_or(1.0, |edm| edm.sigma_data as f32);
        let sample = scale(input, (sigma * sigma + data * data).sqrt())?;
        match self.edm {
            Some(_) => {
                let sign = if self.prediction == Prediction::VPrediction { -1.0 } else { 1.0 };
                Preconditioning::new(data, sign).denoised(output, &sample, sigma)
            }
            None => denoised(output, &sample, sigma, self.prediction),
        }
    }
}

/// How to read a U-Net's output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Denoiser {
    /// A model over training betas.
    Plain(Prediction),
    /// A model with EDM's preconditioning.
    Edm(Preconditioning),
}

impl Denoiser {
    /// The clean sample from a U-Net output at noise level `sigma`.
    pub(super) fn denoised<T: Tensor>(&self, output: &T, sample: &T, sigma: f32) -> Result<T> {
        match self {
            Self::Plain(prediction) => denoised(output, sample, sigma, *prediction),
            Self::Edm(preconditioning) => preconditioning.denoised(output, sample, sigma),
        }
    }
}

/// The clean sample from a U-Net output at noise level `sigma`, for samples `x = x₀ + σ ε`.
///
/// ```text
/// epsilon       x₀ = x − σ ε
/// v_prediction  x₀ = −v σ / √(σ² + 1) + x / (σ² + 1)
/// ```
fn denoised<T: Tensor>(output: &T, sample: &T, sigma: f32, prediction: Prediction) -> Result<T> {
    match prediction {
        Prediction::Epsilon => add_scaled(sample, output, -sigma),
        Prediction::Sample => Ok(output.clone()),
        Prediction::VPrediction => {
            let variance = sigma * sigma + 1.0;
            add_scaled(&divide(sample, variance)?, output, -sigma / variance.sqrt())
        }
    }
}

/// The preconditioning of one checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preconditioning {
    /// Standard deviation of the data.
    data: f32,
    /// 1, or −1 for v-prediction.
    sign: f32,
}

impl Preconditioning {
    pub(super) fn new(data: f32, sign: f32) -> Self {
        Self { data, sign }
    }

    /// The clean sample from a U-Net output at noise level `sigma`.
    pub(super) fn denoised<T: Tensor>(&self, output: &T, sample: &T, sigma: f32) -> Result<T> {
        let (data, variance) = (self.data * self.data, sigma * sigma + self.data * self.data);
        let kept = scale(sample, data / variance)?;
        add_scaled(&kept, output, self.sign * sigma * self.data / variance.sqrt())
    }
}
