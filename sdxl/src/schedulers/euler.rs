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
use super::leveled::{Leveled, Rule};
use super::ops::{add_scaled, at, divide};
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// Euler steps as in diffusers, sgm or EDM. The three differ in their noise levels and in how they read an output.
#[derive(Debug, Clone)]
pub(super) struct Euler {
    denoiser: Denoiser,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Leveled<Self>> {
        let schedule = SigmaSchedule::discrete(config, steps)?;
        Ok(Leveled { schedule, rule: Self { denoiser: Denoiser::Plain(config.prediction) } })
    }

    pub(super) fn sgm(config: &SchedulerConfig, steps: usize) -> Result<Leveled<Self>> {
        let schedule = SigmaSchedule::legacy(config, steps)?;
        Ok(Leveled { schedule, rule: Self { denoiser: Denoiser::Plain(config.prediction) } })
    }

    pub(super) fn edm(config: &SchedulerConfig, steps: usize) -> Result<Leveled<Self>> {
        let (preconditioning, schedule) = edm::schedule(config, steps, Family::Euler)?;
        Ok(Leveled { schedule, rule: Self { denoiser: Denoiser::Edm(preconditioning) } })
    }
}

impl<T: Tensor> Rule<T> for Euler {
    fn step(
        &mut self,
        schedule: &SigmaSchedule,
        output: &T,
        step: usize,
        sample: &T,
        _noise: &mut dyn NoiseSource,
    ) -> Result<T> {
        let sigma = at(&schedule.sigmas, step)?;
        let next = at(&schedule.sigmas, step + 1)?;
        let clean = self.denoiser.denoised(output, sample, sigma)?;
        let derivative = divide(&sample.sub(&clean)?, sigma)?;
        add_scaled(sample, &derivative, next - sigma)
    }
}
