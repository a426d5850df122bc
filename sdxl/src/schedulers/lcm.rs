//! Latent consistency sampling (Luo et al. 2023, algorithm 3): diffusers' `LCMScheduler`.
//!
//! ```text
//! s = 10 t,   c_skip = ¼ / (s² + ¼),   c_out = s / √(s² + ¼)
//! y = c_out x₀ + c_skip x,   x ← √ᾱ' y + √(1 − ᾱ') z   (the last step: x ← y)
//! ```

use atedm_core::{Result, Tensor};

use super::alphas::sigmas_of;
use super::config::SchedulerConfig;
use super::distilled::DistilledSchedule;
use super::kinds::Prediction;
use super::ops::{add_scaled, at, clip, mix, noise_like, scale, split};
use super::sampler::Sampler;
use crate::rng::NoiseSource;

/// Variance of the data in the boundary condition: `0.5²`.
const DATA_VARIANCE: f32 = 0.25;

/// LCM.
#[derive(Debug, Clone)]
pub(super) struct Lcm {
    timesteps: Vec<f64>,
    /// ᾱ of each step.
    alphas: Vec<f32>,
    sigmas: Vec<f64>,
    prediction: Prediction,
    clip: Option<f64>,
    timestep_scaling: f64,
}

impl Lcm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let DistilledSchedule { timesteps, alphas, .. } = DistilledSchedule::new(config, steps)?;
        let sigmas = sigmas_of(alphas.iter().copied().chain([1.0]));
        Ok(Self {
            timesteps,
            alphas,
            sigmas,
            prediction: config.prediction,
            clip: config.clip_sample.unwrap_or(false).then_some(config.clip_sample_range),
            timestep_scaling: config.timestep_scaling,
        })
    }
}

impl<T: Tensor> Sampler<T> for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        let (clean, _) = split(output, sample, at(&self.alphas, step)?, self.prediction)?;
        let clean = clip(clean, self.clip)?;
        let scaled = (at(&self.timesteps, step)? * self.timestep_scaling) as f32;
        let spread = scaled * scaled + DATA_VARIANCE;
        let denoised = add_scaled(&scale(&clean, scaled / spread.sqrt())?, sample, DATA_VARIANCE / spread)?;
        match self.alphas.get(step + 1) {
            Some(&next) => mix(&denoised, &noise_like(sample, noise)?, next),
            None => Ok(denoised),
        }
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        mix(clean, noise, at(&self.alphas, step)?)
    }
}
