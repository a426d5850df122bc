//! Ancestral sampling of DDPM (Ho et al. 2020, equations 6 and 7): diffusers' `DDPMScheduler`.
//!
//! ```text
//! α = ᾱ / ᾱ',   β = 1 − α
//! x ← √ᾱ' β / (1 − ᾱ) x₀ + √α (1 − ᾱ') / (1 − ᾱ) x + √v z,   v = (1 − ᾱ') / (1 − ᾱ) β   (or β)
//! ```
//! ᾱ' is that of the next timestep of the run, and 1 after the last.

use atedm_core::{Result, Tensor};

use super::alphas::{AlphaSchedule, sigmas_of};
use super::config::SchedulerConfig;
use super::kinds::{DdpmVariance, Prediction};
use super::ops::{add_scaled, at, clip, mix, noise_like, scale, split};
use super::sampler::Sampler;
use crate::rng::NoiseSource;

/// Lowest variance, as diffusers has it.
const LEAST_VARIANCE: f32 = 1e-20;

/// DDPM.
#[derive(Debug, Clone)]
pub(super) struct Ddpm {
    timesteps: Vec<f64>,
    /// ᾱ of each step, and 1 after the last.
    alphas: Vec<f32>,
    sigmas: Vec<f64>,
    prediction: Prediction,
    clip: Option<f64>,
    variance: DdpmVariance,
}

impl Ddpm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let AlphaSchedule { timesteps, visited, .. } = AlphaSchedule::new(config, steps)?;
        let alphas: Vec<f32> = visited.into_iter().chain([1.0]).collect();
        Ok(Self {
            timesteps,
            sigmas: sigmas_of(alphas.iter().copied()),
            alphas,
            prediction: config.prediction,
            clip: config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range),
            variance: config.ddpm_variance,
        })
    }
}

impl<T: Tensor> Sampler<T> for Ddpm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        let (timestep, before) = (at(&self.timesteps, step)?, at(&self.alphas, step)?);
        let after = at(&self.alphas, step + 1)?;
        let (clean, _) = split(output, sample, before, self.prediction)?;
        let clean = clip(clean, self.clip)?;
        let alpha = before / after;
        let (beta, rest) = (1.0 - alpha, 1.0 - before);
        let of_clean = scale(&clean, after.sqrt() * beta / rest)?;
        let mean = add_scaled(&of_clean, sample, alpha.sqrt() * (1.0 - after) / rest)?;
        if timestep <= 0.0 {
            return Ok(mean);
        }
        let variance = match self.variance {
            DdpmVariance::Small => ((1.0 - after) / rest * beta).max(LEAST_VARIANCE),
            DdpmVariance::Large => beta,
        };
        add_scaled(&mean, &noise_like(sample, noise)?, variance.sqrt())
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        mix(clean, noise, at(&self.alphas, step)?)
    }
}
