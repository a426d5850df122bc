//! What a sampler is.

use atedm_core::{Result, Tensor};

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
