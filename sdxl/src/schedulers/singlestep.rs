//! DPM-Solver++, singlestep, second order (Lu et al. 2022, algorithm 1): diffusers' `DPMSolverSinglestepScheduler` with the
//! midpoint rule, without noise (`dpmsolver++`, "2S") and with it (`sde-dpmsolver++`, "SDE").
//!
//! Steps come in pairs. The first of a pair is of first order. The second goes from where the first began, in second order:
//! its D₀ is the clean sample of the first step, and
//!
//! ```text
//! D₁ = (x₀ at step i − D₀) / r,   r = (λᵢ − λᵢ₋₁) / (λᵢ₊₁ − λᵢ₋₁)
//! ```
//! [`solver`](super::solver) has the step. Timesteps lie evenly from the last to the first, whatever the config says.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::{DpmAlgorithm, FinalSigma, Spacing};
use super::ops::{noise_like, scale};
use super::sampler::Sampler;
use super::solver::{Move, SolverSchedule};
use super::spacing::Visits;
use crate::rng::NoiseSource;

/// DPM-Solver++ 2S.
#[derive(Debug)]
pub(super) struct DpmSinglestep<T> {
    schedule: SolverSchedule,
    algorithm: DpmAlgorithm,
    /// Whether each step is the second of a pair.
    seconds: Vec<bool>,
    /// The first step of a pair.
    first: Option<First<T>>,
}

/// What the second step of a pair needs of the first.
#[derive(Debug)]
struct First<T> {
    sample: T,
    clean: T,
}

impl<T: Tensor> DpmSinglestep<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let visits = Visits { one_more: true, whole: true, ..Visits::new(config, steps) };
        let timesteps = visits.timesteps(Spacing::Linspace)?;
        Ok(Self {
            schedule: SolverSchedule::new(config, timesteps, steps),
            algorithm: config.algorithm,
            seconds: seconds(config, steps)?,
            first: None,
        })
    }
}

/// Which steps are the second of a pair. The last is of first order where it ends without noise. With `lower_order_final`,
/// which odd numbers of steps need, the last two of an even number are too.
fn seconds(config: &SchedulerConfig, steps: usize) -> Result<Vec<bool>> {
    let paired = config.expect_low_order()? == 2;
    let to_zero = config.final_sigma == FinalSigma::Zero;
    let lower = config.lower_order_final.unwrap_or(false) || to_zero || !steps.is_multiple_of(2);
    let is_second = |step: usize| paired && step % 2 == 1 && !(step + 1 == steps && lower);
    Ok((0..steps).map(is_second).collect())
}

impl<T: Tensor> Sampler<T> for DpmSinglestep<T> {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.schedule.wide
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        let (here, to) = (self.schedule.level(step)?, self.schedule.level(step + 1)?);
        let clean = self.schedule.denoised(output, step, sample)?;
        let drawn = match self.algorithm {
            DpmAlgorithm::Ode => None,
            DpmAlgorithm::Sde => Some(noise_like(sample, noise)?),
        };
        let noise = drawn.as_ref();
        let is_second = self.seconds.get(step).copied().unwrap_or(false);
        // A run may begin at the second step of a pair, which then is of first order.
        if let Some(first) = self.first.take().filter(|_| is_second) {
            let from = self.schedule.level(step - 1)?;
            let ratio = (here.lambda - from.lambda) / (to.lambda - from.lambda);
            let slope = Some(scale(&clean.sub(&first.clean)?, 1.0 / ratio)?);
            return Move { sample: &first.sample, clean: &first.clean, slope, noise }.between(from, to);
        }
        let moved = Move { sample, clean: &clean, slope: None, noise }.between(here, to)?;
        self.first = Some(First { sample: sample.clone(), clean });
        Ok(moved)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        self.schedule.add_noise(clean, noise, step)
    }
}
