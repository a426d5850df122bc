//! Euler ancestral: diffusers' `EulerAncestralDiscreteScheduler`.
//!
//! ```text
//! σ_up² = σᵢ₊₁² (σᵢ² − σᵢ₊₁²) / σᵢ²,   σ_down² = σᵢ₊₁² − σ_up²
//! x ← x + (x − x₀) / σᵢ · (σ_down − σᵢ) + σ_up z
//! ```

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Denoiser;
use super::kinds::{Levels, Prediction};
use super::leveled::{Leveled, Rule};
use super::ops::{add_scaled, at, divide, noise_like};
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// Euler ancestral. It has only the training levels, and its final level is always 0.
#[derive(Debug, Clone)]
pub(super) struct EulerAncestral {
    denoiser: Denoiser,
}

impl EulerAncestral {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Leveled<Self>> {
        if config.prediction == Prediction::Sample {
            let reason = "expected epsilon or v_prediction for euler-a, got sample";
            return Err(config.error("prediction_type", reason));
        }
        let schedule = SigmaSchedule::to_zero(&config.with_levels(Levels::Training), steps)?;
        Ok(Leveled { schedule, rule: Self { denoiser: Denoiser::Plain(config.prediction) } })
    }
}

impl<T: Tensor> Rule<T> for EulerAncestral {
    fn step(
        &mut self,
        schedule: &SigmaSchedule,
        output: &T,
        step: usize,
        sample: &T,
        noise: &mut dyn NoiseSource,
    ) -> Result<T> {
        let from = at(&schedule.sigmas, step)?;
        let to = at(&schedule.sigmas, step + 1)?;
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        let down = (to * to - up * up).sqrt();
        let clean = self.denoiser.denoised(output, sample, from)?;
        let derivative = divide(&sample.sub(&clean)?, from)?;
        let moved = add_scaled(sample, &derivative, down - from)?;
        // The last step does not use this noise. It is drawn so that the generator's state stays that of diffusers.
        add_scaled(&moved, &noise_like(sample, noise)?, up)
    }
}
