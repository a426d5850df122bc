//! Euler steps of the probability-flow ODE. One implementation serves three samplers:
//! - diffusers' `EulerDiscreteScheduler`;
//! - the original SD-XL code's (`sgm`) `EulerEDMSampler` over its `LegacyDDPMDiscretization`, which is the paper's
//!   sampler;
//! - diffusers' `EDMEulerScheduler` with EDM's preconditioning and without churn.
//!
//! ```text
//! d = (x − x₀) / σᵢ,   x ← x + d (σᵢ₊₁ − σᵢ)
//! ```
//! (Karras et al. 2022, algorithm 2 with γ = 0.) The U-Net's input is `x / √(σ² + s²)`, where s² is the data's
//! variance.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Denoiser;
use super::edm::{self, Family};
use super::ops::{add_scaled, at, divide};
use super::sampler::Sampler;
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// Euler steps as in diffusers, sgm or EDM. The three differ in their noise levels and in how they read an output.
#[derive(Debug, Clone)]
pub(super) struct Euler {
    schedule: SigmaSchedule,
    denoiser: Denoiser,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = SigmaSchedule::discrete(config, steps)?;
        Ok(Self { schedule, denoiser: Denoiser::Plain(config.prediction) })
    }

    pub(super) fn sgm(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = SigmaSchedule::legacy(config, steps)?;
        Ok(Self { schedule, denoiser: Denoiser::Plain(config.prediction) })
    }

    pub(super) fn edm(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let (preconditioning, schedule) = edm::schedule(config, steps, Family::Euler)?;
        Ok(Self { schedule, denoiser: Denoiser::Edm(preconditioning) })
    }
}

impl<T: Tensor> Sampler<T> for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.schedule.wide
    }

    fn init_noise_sigma(&self) -> f64 {
        self.schedule.initial
    }

    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        self.schedule.scale_input(sample, step)
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        let sigma = at(&self.schedule.sigmas, step)?;
        let next = at(&self.schedule.sigmas, step + 1)?;
        let clean = self.denoiser.denoised(output, sample, sigma)?;
        let derivative = divide(&sample.sub(&clean)?, sigma)?;
        add_scaled(sample, &derivative, next - sigma)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        add_scaled(clean, noise, at(&self.schedule.sigmas, step)?)
    }
}
