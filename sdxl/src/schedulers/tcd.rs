//! Trajectory consistency sampling (Zheng et al. 2024, "strategic stochastic sampling"): diffusers' `TCDScheduler`.
//!
//! ```text
//! s = ⌊(1 − γ) t'⌋,   y = √ᾱₛ x₀ + √(1 − ᾱₛ) ε,   x ← √(ᾱ' / ᾱₛ) y + √(1 − ᾱ' / ᾱₛ) z
//! ```
//!
//! `t'` is the next timestep, 0 after the last, and `ᾱ'` is its ᾱ. The last step adds no noise. γ is diffusers' default of
//! `eta`.

use atedm_core::{Result, Tensor};

use super::alphas::sigmas_of;
use super::config::SchedulerConfig;
use super::distilled::DistilledSchedule;
use super::kinds::Prediction;
use super::ops::{add_scaled, at, mix, noise_like, scale, split};
use super::sampler::Sampler;
use crate::rng::NoiseSource;

/// γ: 0 adds no noise, 1 draws all of it anew.
const STOCHASTICITY: f32 = 0.3;

/// TCD.
#[derive(Debug, Clone)]
pub(super) struct Tcd {
    timesteps: Vec<f64>,
    steps: Vec<Alphas>,
    sigmas: Vec<f64>,
    prediction: Prediction,
}

/// ᾱ of a step.
#[derive(Debug, Clone, Copy)]
struct Alphas {
    before: f32,
    /// ᾱ of `s`, to which the model's own prediction goes.
    between: f32,
    /// ᾱ after the step; `None` for the last step, which ends at `between`.
    after: Option<f32>,
}

impl Tcd {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let DistilledSchedule { timesteps, alphas, trained } = DistilledSchedule::new(config, steps)?;
        let step = |(i, &before): (usize, &f32)| {
            let next = timesteps.get(i + 1).copied().unwrap_or(0.0);
            let between = at(&trained, ((1.0 - STOCHASTICITY) * next as f32) as usize)?;
            Ok(Alphas { before, between, after: alphas.get(i + 1).copied() })
        };
        let steps = alphas.iter().enumerate().map(step).collect::<Result<Vec<_>>>()?;
        let end = at(&trained, 0)?;
        let sigmas = sigmas_of(alphas.iter().copied().chain([end]));
        Ok(Self { timesteps, steps, sigmas, prediction: config.prediction })
    }
}

impl<T: Tensor> Sampler<T> for Tcd {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        let Alphas { before, between, after } = at(&self.steps, step)?;
        let (clean, predicted) = split(output, sample, before, self.prediction)?;
        let less_noisy = mix(&clean, &predicted, between)?;
        let Some(after) = after else { return Ok(less_noisy) };
        let kept = after / between;
        add_scaled(&scale(&less_noisy, kept.sqrt())?, &noise_like(sample, noise)?, (1.0 - kept).sqrt())
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        mix(clean, noise, at(&self.steps, step)?.before)
    }
}
