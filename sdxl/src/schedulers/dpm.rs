//! DPM-Solver++, multistep, second order (Lu et al. 2022, algorithm 2): diffusers' `DPMSolverMultistepScheduler` with the
//! midpoint rule, without noise (`dpmsolver++`, "2M") and with it (`sde-dpmsolver++`, "2M SDE").
//!
//! [`solver`](super::solver) has the step. D₀ is the clean sample at step i, and
//!
//! ```text
//! D₁ = (D₀ − x₀ at step i − 1) / r,   r = (λᵢ − λᵢ₋₁) / h      (none in first order)
//! ```
//! With EDM's preconditioning: `EDMDPMSolverMultistepScheduler`.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::{DpmAlgorithm, FinalSigma, Spacing};
use super::ops::{noise_like, scale};
use super::sampler::Sampler;
use super::solver::{Move, SolverSchedule};
use super::spacing::Visits;
use crate::rng::NoiseSource;

/// Runs with fewer steps take a first-order last step if `lower_order_final` is set.
const SHORT_RUN: usize = 15;

/// DPM-Solver++ 2M.
#[derive(Debug)]
pub(super) struct DpmMultistep<T> {
    schedule: SolverSchedule,
    algorithm: DpmAlgorithm,
    second_order: bool,
    first_order_end: bool,
    /// The clean sample predicted by the previous step.
    previous: Option<T>,
}

impl<T: Tensor> DpmMultistep<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let visits = Visits { one_more: true, whole: true, ..Visits::new(config, steps) };
        let timesteps = visits.timesteps(config.spacing.unwrap_or(Spacing::Linspace))?;
        Self::with(config, SolverSchedule::new(config, timesteps, steps))
    }

    /// The sampler with EDM's preconditioning.
    pub(super) fn edm(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        Self::with(config, SolverSchedule::edm(config, steps)?)
    }

    fn with(config: &SchedulerConfig, schedule: SolverSchedule) -> Result<Self> {
        let is_short = config.lower_order_final.unwrap_or(true) && schedule.timesteps.len() < SHORT_RUN;
        Ok(Self {
            algorithm: config.algorithm,
            second_order: config.expect_low_order()? == 2,
            first_order_end: config.euler_at_final || config.final_sigma == FinalSigma::Zero || is_short,
            schedule,
            previous: None,
        })
    }
}

impl<T: Tensor> Sampler<T> for DpmMultistep<T> {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.schedule.wide
    }

    fn init_noise_sigma(&self) -> f64 {
        self.schedule.initial()
    }

    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        self.schedule.scale_input(sample, step)
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        let (from, to) = (self.schedule.level(step)?, self.schedule.level(step + 1)?);
        let clean = self.schedule.denoised(output, step, sample)?;
        let drawn = match self.algorithm {
            DpmAlgorithm::Ode => None,
            DpmAlgorithm::Sde => Some(noise_like(sample, noise)?),
        };
        let is_last = step + 1 == self.schedule.timesteps.len();
        let previous = self.previous.replace(clean.clone()).filter(|_| self.second_order);
        let slope = match previous {
            Some(previous) if !(is_last && self.first_order_end) && step > 0 => {
                let before = self.schedule.level(step - 1)?.lambda;
                let ratio = (from.lambda - before) / (to.lambda - from.lambda);
                Some(scale(&clean.sub(&previous)?, 1.0 / ratio)?)
            }
            _ => None,
        };
        Move { sample, clean: &clean, slope, noise: drawn.as_ref() }.between(from, to)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        self.schedule.add_noise(clean, noise, step)
    }
}
