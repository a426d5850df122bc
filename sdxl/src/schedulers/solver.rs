//! What solvers in the logarithm of the signal-to-noise ratio share: DPM-Solver++ and UniPC.
//!
//! ```text
//! αᵢ = 1/√(σᵢ² + 1),   λᵢ = ln αᵢ − ln(αᵢ σᵢ),   h = λ' − λ
//! x ← (α'σ' / ασ) x − α' (e⁻ʰ − 1) (D₀ + ½ D₁)                                             without noise
//! x ← (α'σ' / ασ) e⁻ʰ x + α' (1 − e⁻²ʰ) (D₀ + ½ D₁) + α'σ' √(1 − e⁻²ʰ) z                   with noise
//! ```
//! D₀ is a clean sample and D₁ its slope in λ, in units of h. Samples are `α (x₀ + σ ε)`. With EDM's preconditioning α is 1
//! throughout.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Preconditioning;
use super::edm::{self, Family};
use super::kinds::{FinalSigma, Levels, Prediction};
use super::levels::spread;
use super::ops::{add_scaled, at, divide, scale, widen};
use super::sigmas::SigmaSchedule;
use super::spacing::interpolate;
use super::training::TrainingNoise;

/// Timesteps and noise levels of a run, and how outputs are read there.
#[derive(Debug)]
pub(super) struct SolverSchedule {
    /// Timesteps told to the U-Net.
    pub(super) timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// σ for callers, one more than timesteps.
    pub(super) wide: Vec<f64>,
    prediction: Prediction,
    edm: Option<(Preconditioning, SigmaSchedule)>,
}

/// A noise level of the schedule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// α.
    pub(super) alpha: f32,
    /// ασ.
    pub(super) noise: f32,
    /// λ.
    pub(super) lambda: f32,
}

impl SolverSchedule {
    /// Over betas: the training levels at `timesteps`, or `steps` other levels between the ends of training.
    pub(super) fn new(config: &SchedulerConfig, timesteps: Vec<f64>, steps: usize) -> Self {
        let noise = TrainingNoise::new(config);
        let all: Vec<f64> = noise.sigmas.iter().rev().map(|&sigma| f64::from(sigma)).collect();
        let (sigmas, timesteps) = match spread(&all, config, steps) {
            None => (timesteps.iter().map(|&t| interpolate(t, &noise.sigmas)).collect(), timesteps),
            Some(sigmas) => {
                // Whole ones; diffusers rounds those of Karras' levels and cuts the others.
                let whole =
                    |t: f64| if config.levels == Levels::Karras { t.round_ties_even() } else { t.trunc() };
                let timesteps = sigmas.iter().map(|&sigma| whole(noise.timestep_of(sigma))).collect();
                (sigmas, timesteps)
            }
        };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma: f64| sigma as f32).collect();
        let last = match config.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => noise.sigmas.first().copied().unwrap_or(0.0),
        };
        Self::with(config, timesteps, sigmas.into_iter().chain([last]).collect())
    }

    /// Over EDM's preconditioning.
    ///
    /// # Errors
    /// As [`edm::schedule`].
    pub(super) fn edm(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let (preconditioning, schedule) = edm::schedule(config, steps, Family::Multistep)?;
        let plain = Self::with(config, schedule.timesteps.clone(), schedule.sigmas.clone());
        Ok(Self { edm: Some((preconditioning, schedule)), ..plain })
    }

    fn with(config: &SchedulerConfig, timesteps: Vec<f64>, sigmas: Vec<f32>) -> Self {
        Self { timesteps, wide: widen(&sigmas), sigmas, prediction: config.prediction, edm: None }
    }

    /// The same with another level after the last step.
    pub(super) fn ending_at(self, sigma: f32) -> Self {
        let steps = self.timesteps.len();
        let sigmas: Vec<f32> = self.sigmas.iter().take(steps).copied().chain([sigma]).collect();
        Self { wide: widen(&sigmas), sigmas, ..self }
    }

    /// The level of the last step, before it.
    pub(super) fn last_level(&self) -> Result<f32> {
        at(&self.sigmas, self.timesteps.len() - 1)
    }

    /// Noise level `index`.
    pub(super) fn level(&self, index: usize) -> Result<Level> {
        let sigma = at(&self.sigmas, index)?;
        if self.edm.is_some() {
            return Ok(Level { alpha: 1.0, noise: sigma, lambda: -sigma.ln() });
        }
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        let noise = sigma * alpha;
        Ok(Level { alpha, noise, lambda: alpha.ln() - noise.ln() })
    }

    /// The clean sample that a U-Net output at step `step` tells.
    pub(super) fn denoised<T: Tensor>(&self, output: &T, step: usize, sample: &T) -> Result<T> {
        let Level { alpha, noise, .. } = self.level(step)?;
        match (&self.edm, self.prediction) {
            (Some((preconditioning, _)), _) => preconditioning.denoised(output, sample, noise),
            (None, Prediction::Epsilon) => divide(&add_scaled(sample, output, -noise)?, alpha),
            (None, Prediction::Sample) => Ok(output.clone()),
            (None, Prediction::VPrediction) => add_scaled(&scale(sample, alpha)?, output, -noise),
        }
    }

    /// Factor on the initial noise.
    pub(super) fn initial(&self) -> f64 {
        self.edm.as_ref().map_or(1.0, |(_, schedule)| schedule.initial)
    }

    /// The U-Net's input.
    pub(super) fn scale_input<T: Tensor>(&self, sample: &T, step: usize) -> Result<T> {
        match &self.edm {
            Some((_, schedule)) => schedule.scale_input(sample, step),
            None => Ok(sample.clone()),
        }
    }

    /// Clean latents with noise of the level of step `step`.
    pub(super) fn add_noise<T: Tensor>(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        let level = self.level(step)?;
        add_scaled(&scale(clean, level.alpha)?, noise, level.noise)
    }
}

/// A step of DPM-Solver++ from one level to another.
pub(super) struct Move<'a, T> {
    /// The sample at the level where it begins.
    pub(super) sample: &'a T,
    /// D₀.
    pub(super) clean: &'a T,
    /// D₁; none in first order.
    pub(super) slope: Option<T>,
    /// z, where the stochastic equation is solved.
    pub(super) noise: Option<&'a T>,
}

impl<T: Tensor> Move<'_, T> {
    /// The sample at level `to`.
    pub(super) fn between(self, from: Level, to: Level) -> Result<T> {
        let Self { sample, clean, slope, noise } = self;
        let h = to.lambda - from.lambda;
        let (kept, weight) = match noise {
            None => (to.noise / from.noise, -(to.alpha * ((-h).exp() - 1.0))),
            Some(_) => (to.noise / from.noise * (-h).exp(), to.alpha * (1.0 - (-2.0 * h).exp())),
        };
        let mut moved = add_scaled(&scale(sample, kept)?, clean, weight)?;
        if let Some(slope) = slope {
            moved = add_scaled(&moved, &slope, 0.5 * weight)?;
        }
        match noise {
            Some(noise) => add_scaled(&moved, noise, to.noise * (1.0 - (-2.0 * h).exp()).sqrt()),
            None => Ok(moved),
        }
    }
}
