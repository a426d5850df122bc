//! DDIM with η = 0 (Song et al. 2021, equation 12): diffusers' `DDIMScheduler`.
//!
//! ```text
//! x ← √ᾱ' x₀ + √(1 − ᾱ') ε,   ᾱ' of timestep t − ⌊train / steps⌋
//! ```

use atedm_core::{Error, Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::{Prediction, Spacing};
use super::ops::{add_scaled, at, clip, mix, scale, split};
use super::sampler::Sampler;
use super::spacing::Visits;
use super::training::TrainingNoise;
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
        let train = config.num_train_timesteps;
        let visits = Visits { train, steps, offset: config.steps_offset, one_more: false, whole: true };
        let timesteps = visits.timesteps(config.spacing.unwrap_or(Spacing::Leading));
        let noise = TrainingNoise::new(config);
        let first = at(&noise.alphas_cumprod, 0)?;
        let last = if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { first };
        let stride = train / steps;
        let mut alphas = Vec::with_capacity(timesteps.len());
        for &t in &timesteps {
            let t = t.max(0.0) as usize;
            let before = noise.alphas_cumprod.get(t).copied().ok_or_else(|| {
                Error::config(
                    "steps",
                    format!("{steps} steps with steps_offset {} pass timestep {train}", config.steps_offset),
                )
            })?;
            let after = t.checked_sub(stride).and_then(|t| noise.alphas_cumprod.get(t)).copied();
            alphas.push(Alphas { before, after: after.unwrap_or(last) });
        }
        let level = |alpha: f32| f64::from(((1.0 - alpha) / alpha).sqrt());
        let end = alphas.last().map(|alphas| level(alphas.after));
        let sigmas = alphas.iter().map(|alphas| level(alphas.before)).chain(end).collect();
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
        let clean = match self.clip {
            Some(limit) => clip(&clean, limit)?,
            None => clean,
        };
        add_scaled(&scale(&clean, after.sqrt())?, &noise, (1.0 - after).sqrt())
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        mix(clean, noise, at(&self.alphas, step)?.before)
    }
}
