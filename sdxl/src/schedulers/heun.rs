//! Heun's method on the probability-flow ODE: diffusers' `HeunDiscreteScheduler`.
//!
//! ```text
//! d = (x − x₀) / σᵢ,        x' = x + d (σᵢ₊₁ − σᵢ)             the first evaluation of a step
//! d' = (x' − x₀') / σᵢ₊₁,   x ← x + ½ (d + d') (σᵢ₊₁ − σᵢ)     the second
//! ```
//! (Karras et al. 2022, algorithm 1.) The last step has the first evaluation alone, because σ is 0 after it.

use atedm_core::{Error, Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Denoiser;
use super::ops::{add_scaled, at, clip, divide, scale};
use super::sampler::Sampler;
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// Heun. Evaluation 2i is the first of step i, evaluation 2i + 1 the second.
#[derive(Debug)]
pub(super) struct Heun<T> {
    schedule: SigmaSchedule,
    /// By evaluation.
    timesteps: Vec<f64>,
    /// By evaluation.
    sigmas: Vec<f64>,
    denoiser: Denoiser,
    clip: Option<f64>,
    begun: Option<Begun<T>>,
}

/// What the second evaluation of a step needs of the first.
#[derive(Debug)]
struct Begun<T> {
    sample: T,
    derivative: T,
}

/// The noise level at which an evaluation sees its sample: both evaluations around a level share it.
fn level_of(evaluation: usize) -> usize {
    evaluation.div_ceil(2)
}

impl<T: Tensor> Heun<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = SigmaSchedule::to_zero(config, steps)?;
        let evaluations = 2 * schedule.timesteps.len() - 1;
        let by_level = |values: &[f64], count: usize| {
            (0..count).map(|evaluation| at(values, level_of(evaluation))).collect::<Result<Vec<f64>>>()
        };
        Ok(Self {
            timesteps: by_level(&schedule.timesteps, evaluations)?,
            sigmas: by_level(&schedule.wide, evaluations + 1)?,
            schedule,
            denoiser: Denoiser::Plain(config.prediction),
            clip: config.clip_sample.unwrap_or(false).then_some(config.clip_sample_range),
            begun: None,
        })
    }
}

impl<T: Tensor> Sampler<T> for Heun<T> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step_of(&self, evaluation: usize) -> usize {
        evaluation / 2
    }

    fn init_noise_sigma(&self) -> f64 {
        self.schedule.initial
    }

    fn scale_input(&self, sample: &T, evaluation: usize) -> Result<T> {
        self.schedule.scale_input(sample, level_of(evaluation))
    }

    fn step(&mut self, output: &T, evaluation: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        at(&self.timesteps, evaluation)?;
        let sigmas = &self.schedule.sigmas;
        let level = level_of(evaluation);
        let sigma = at(sigmas, level)?;
        let clean = clip(self.denoiser.denoised(output, sample, sigma)?, self.clip)?;
        let derivative = divide(&sample.sub(&clean)?, sigma)?;
        if evaluation.is_multiple_of(2) {
            let moved = add_scaled(sample, &derivative, at(sigmas, level + 1)? - sigma)?;
            self.begun = Some(Begun { sample: sample.clone(), derivative });
            return Ok(moved);
        }
        let Some(begun) = self.begun.take() else {
            let reason =
                format!("evaluation {evaluation} ends a step of which the first evaluation is missing");
            return Err(Error::config("step", reason));
        };
        let mean = scale(&begun.derivative.add(&derivative)?, 0.5)?;
        add_scaled(&begun.sample, &mean, sigma - at(sigmas, level - 1)?)
    }

    fn add_noise(&self, clean: &T, noise: &T, evaluation: usize) -> Result<T> {
        add_scaled(clean, noise, at(&self.schedule.sigmas, level_of(evaluation))?)
    }
}
