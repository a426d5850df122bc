//! Samplers, as diffusers 0.42 computes them, and sgm's EulerEDM, the paper's.
//!
//! A [`SchedulerConfig`] is a checkpoint's `scheduler_config.json`; a [`SamplerChoice`] is what a user asked for;
//! [`SchedulerConfig::build`] turns both and a number of steps into a [`Sampler`].
//!
//! Precision: training noise levels are f32 with the cumulative product accumulated in f64 (torch's), inference
//! noise levels are interpolated in f64 and stored as f32 (numpy's part of diffusers), scalars of a step are f32,
//! and tensors keep the dtype of the sample, which the pipeline holds in f32.

mod ancestral;
mod choice;
mod config;
mod ddim;
mod dpm;
mod edm;
mod euler;
mod fields;
mod lcm;
mod ops;
mod spacing;
mod training;

use atedm_core::{Result, Tensor};

pub use choice::SamplerChoice;
pub use config::{BetaSchedule, FinalSigma, Prediction, SchedulerClass, SchedulerConfig, Spacing};
pub use edm::{EdmConfig, EdmSchedule};
pub use training::TrainingNoise;

use crate::rng::NoiseSource;

/// A sampler made for one number of steps. Object-safe: chosen by name at run time, called once a step.
///
/// Steps are numbered in the *full* schedule, so that a run may begin above 0 (image to image). Multistep samplers
/// remember earlier outputs: use a fresh sampler for each run.
pub trait Sampler<T: Tensor>: Send {
    /// The training timestep of each step, as the U-Net is told.
    fn timesteps(&self) -> &[f64];

    /// Noise level σ of each step, and one more: that of the result.
    fn sigmas(&self) -> &[f64];

    /// Factor on standard normal noise that makes the initial latents; 1 unless a sampler's latents grow with σ.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The U-Net's input for `sample` (`[batch, channels, height, width]`) before step `step`: the sample itself unless its
    /// variance grows with σ.
    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        let _ = step;
        Ok(sample.clone())
    }

    /// The sample after step `step`, from the U-Net's output (after guidance) and the sample before the step.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if there is no such step; what the backend or `noise` fail with.
    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T>;

    /// Clean latents brought to the noise level of step `step` with standard normal `noise` of the same shape: where
    /// a run that begins at that step starts from.
    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T>;
}

fn _object_safe<T: Tensor>(_: &dyn Sampler<T>) {}
