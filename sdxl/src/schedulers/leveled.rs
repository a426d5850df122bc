//! Samplers that evaluate the U-Net once at each level of a [`SigmaSchedule`]. They differ only in their rule.

use atedm_core::{Result, Tensor};

use super::ops::{add_scaled, at};
use super::sampler::Sampler;
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// A rule on a schedule of noise levels.
#[derive(Debug, Clone)]
pub(super) struct Leveled<R> {
    pub(super) schedule: SigmaSchedule,
    pub(super) rule: R,
}

/// How a sample gets from one noise level to the next.
pub(super) trait Rule<T: Tensor>: Send {
    /// The sample at the next level, from the U-Net's output and the sample at the level of `step`.
    fn step(
        &mut self,
        schedule: &SigmaSchedule,
        output: &T,
        step: usize,
        sample: &T,
        noise: &mut dyn NoiseSource,
    ) -> Result<T>;
}

impl<T: Tensor, R: Rule<T>> Sampler<T> for Leveled<R> {
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

    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T> {
        self.rule.step(&self.schedule, output, step, sample, noise)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        add_scaled(clean, noise, at(&self.schedule.sigmas, step)?)
    }
}
