//! DDIM with η = 0 (Song et al. 2021, equation 12): diffusers' `DDIMScheduler`.
//!
//! ```text
//! x ← √ᾱ' x₀ + √(1 − ᾱ') ε,   ᾱ' of timestep t − ⌊train / steps⌋
//! ```

use atedm_core::{Result, Tensor};

use super::alphas::{AlphaSchedule, sigmas_of};
use super::config::SchedulerConfig;
use super::kinds::Prediction;
use super::ops::{add_scaled, at, clip, mix, scale, split};
use super::sampler::Sampler;
use crate::rng::NoiseSource;

/// DDIM, deterministic.
#[derive(Debug, Clone)]
pub(super) struct Ddim {
    timesteps: Vec<f64>,
    alphas: Vec<Alphas>,
    sigmas: Vec<f64>,
    prediction: Prediction,
    clip: Option<f64>,
}

/// ᾱ before and after a step.
#[derive(Debug, Clone, Copy)]
struct Alphas {
    before: f32,
    after: f32,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let AlphaSchedule { timesteps, visited, trained } = AlphaSchedule::new(config, steps)?;
        let first = at(&trained, 0)?;
        let last = if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { first };
        let stride = config.num_train_timesteps / steps;
        let after = |&t: &f64| {
            let earlier = (t.max(0.0) as usize).checked_sub(stride);
            earlier.and_then(|t| trained.get(t)).copied().unwrap_or(last)
        };
        let alphas: Vec<Alphas> = visited
            .iter()
            .zip(timesteps.iter().map(after))
            .map(|(&before, after)| Alphas { before, after })
            .collect();
        let end = alphas.last().map(|alphas| alphas.after);
        let sigmas = sigmas_of(visited.into_iter().chain(end));
        let clip = config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range);
        Ok(Self { timesteps, alphas, sigmas, prediction: config.prediction, clip })
    }
}

impl<T: Tensor> Sampler<T> for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        let Alphas { before, after } = at(&self.alphas, step)?;
        let (clean, noise) = split(output, sample, before, self.prediction)?;
        let clean = clip(clean, self.clip)?;
        add_scaled(&scale(&clean, after.sqrt())?, &noise, (1.0 - after).sqrt())
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        mix(clean, noise, at(&self.alphas, step)?.before)
    }
}
