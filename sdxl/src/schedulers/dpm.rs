//! DPM-Solver++, multistep, second order (Lu et al. 2022, algorithm 2): diffusers' `DPMSolverMultistepScheduler`
//! with `dpmsolver++` and the midpoint rule.
//!
//! ```text
//! αᵢ = 1/√(σᵢ² + 1),   λᵢ = ln αᵢ − ln(αᵢ σᵢ),   h = λᵢ₊₁ − λᵢ,   r = (λᵢ − λᵢ₋₁) / h
//! x ← (αᵢ₊₁ σᵢ₊₁ / αᵢ σᵢ) x − αᵢ₊₁ (e⁻ʰ − 1) (D₀ + ½ D₁)
//! D₀ = x₀ at step i,   D₁ = (D₀ − x₀ at step i − 1) / r      (D₁ = 0 in first order)
//! ```
//! With EDM's preconditioning α is 1 throughout: `EDMDPMSolverMultistepScheduler`.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Preconditioning;
use super::edm;
use super::kinds::{FinalSigma, Prediction, Spacing};
use super::ops::{add_scaled, at, divide, scale, widen};
use super::sampler::Sampler;
use super::sigmas::SigmaSchedule;
use super::spacing::{Visits, interpolate};
use super::training::{TrainingNoise, karras};
use crate::rng::NoiseSource;

/// Runs with fewer steps take a first-order last step if `lower_order_final` is set.
const SHORT_RUN: usize = 15;

/// DPM-Solver++ 2M.
#[derive(Debug)]
pub(super) struct DpmMultistep<T> {
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    wide: Vec<f64>,
    prediction: Prediction,
    second_order: bool,
    first_order_end: bool,
    edm: Option<(Preconditioning, SigmaSchedule)>,
    /// The clean sample predicted by the previous step.
    previous: Option<T>,
}

/// A noise level of the schedule.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// α.
    alpha: f32,
    /// ασ.
    noise: f32,
    /// λ.
    lambda: f32,
}

impl<T: Tensor> DpmMultistep<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Self {
        let noise = TrainingNoise::new(config);
        let train = config.num_train_timesteps;
        let visits = Visits { train, steps, offset: config.steps_offset, one_more: true, whole: true };
        let mut timesteps = visits.timesteps(config.spacing.unwrap_or(Spacing::Linspace));
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(t, &noise.sigmas)).collect();
        if config.karras {
            // The bounds are those of all training levels. Euler's are those of the chosen levels.
            let all: Vec<f64> = noise.sigmas.iter().rev().map(|&sigma| f64::from(sigma)).collect();
            sigmas = karras(&all, config.sigma_bounds, steps);
            timesteps = sigmas.iter().map(|&sigma| noise.timestep_of(sigma).round_ties_even()).collect();
        }
        let last = match config.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => noise.sigmas.first().copied().unwrap_or(0.0),
        };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([last]).collect();
        Self::with(config, timesteps, sigmas)
    }

    /// The sampler with EDM's preconditioning.
    pub(super) fn edm(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let (preconditioning, schedule) = edm::schedule(config, steps)?;
        let plain = Self::with(config, schedule.timesteps.clone(), schedule.sigmas.clone());
        Ok(Self { edm: Some((preconditioning, schedule)), ..plain })
    }

    fn with(config: &SchedulerConfig, timesteps: Vec<f64>, sigmas: Vec<f32>) -> Self {
        let first_order_end = config.euler_at_final
            || config.final_sigma == FinalSigma::Zero
            || (config.lower_order_final && timesteps.len() < SHORT_RUN);
        Self {
            timesteps,
            wide: widen(&sigmas),
            sigmas,
            prediction: config.prediction,
            second_order: config.solver_order == 2,
            first_order_end,
            edm: None,
            previous: None,
        }
    }

    fn level(&self, index: usize) -> Result<Level> {
        let sigma = at(&self.sigmas, index)?;
        if self.edm.is_some() {
            return Ok(Level { alpha: 1.0, noise: sigma, lambda: -sigma.ln() });
        }
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        let noise = sigma * alpha;
        Ok(Level { alpha, noise, lambda: alpha.ln() - noise.ln() })
    }

    /// The clean sample from a U-Net output at step `step`.
    fn denoised(&self, output: &T, step: usize, sample: &T) -> Result<T> {
        let Level { alpha, noise, .. } = self.level(step)?;
        match (&self.edm, self.prediction) {
            (Some((preconditioning, _)), _) => preconditioning.denoised(output, sample, noise),
            (None, Prediction::Epsilon) => divide(&add_scaled(sample, output, -noise)?, alpha),
            (None, Prediction::Sample) => Ok(output.clone()),
            (None, Prediction::VPrediction) => add_scaled(&scale(sample, alpha)?, output, -noise),
        }
    }
}

impl<T: Tensor> Sampler<T> for DpmMultistep<T> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.wide
    }

    fn init_noise_sigma(&self) -> f64 {
        self.edm.as_ref().map_or(1.0, |(_, schedule)| schedule.initial)
    }

    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        match &self.edm {
            Some((_, schedule)) => schedule.scale_input(sample, step),
            None => Ok(sample.clone()),
        }
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        let Level { noise, lambda, .. } = self.level(step)?;
        let next = self.level(step + 1)?;
        let clean = self.denoised(output, step, sample)?;
        let h = next.lambda - lambda;
        let weight = next.alpha * ((-h).exp() - 1.0);
        let moved = add_scaled(&scale(sample, next.noise / noise)?, &clean, -weight)?;
        let is_last = step + 1 == self.timesteps.len();
        let previous = self.previous.replace(clean.clone()).filter(|_| self.second_order);
        match previous {
            Some(previous) if !(is_last && self.first_order_end) && step > 0 => {
                let before = self.level(step - 1)?.lambda;
                let ratio = (lambda - before) / h;
                let slope = scale(&clean.sub(&previous)?, 1.0 / ratio)?;
                add_scaled(&moved, &slope, -0.5 * weight)
            }
            _ => Ok(moved),
        }
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        let level = self.level(step)?;
        add_scaled(&scale(clean, level.alpha)?, noise, level.noise)
    }
}
