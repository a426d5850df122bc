//! The trait of samplers.

use atedm_core::{Result, Tensor};

use crate::rng::NoiseSource;

/// A sampler for a fixed number of steps. It is object-safe: it is chosen by name at run time and called once per step.
///
/// Steps are numbered in the *full* schedule, so a run may begin above 0 (image to image). Multistep samplers remember
/// earlier outputs. Use a fresh sampler for each run.
pub trait Sampler<T: Tensor>: Send {
    /// The training timestep of each step, which the U-Net gets as input.
    fn timesteps(&self) -> &[f64];

    /// The noise level σ of each step, and the level of the result at the end.
    fn sigmas(&self) -> &[f64];

    /// The factor that turns standard normal noise into initial latents. It is 1 unless the sampler's latents grow with
    /// σ.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The U-Net's input for `sample` (`[batch, channels, height, width]`) before step `step`. It is the sample itself
    /// unless the sample's variance grows with σ.
    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        let _ = step;
        Ok(sample.clone())
    }

    /// The sample after step `step`. `output` is the U-Net's output after guidance, `sample` the sample before the
    /// step.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if there is no such step; the errors of the backend and of `noise`.
    fn step(&mut self, output: &T, step: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T>;

    /// Adds standard normal `noise` of the same shape to clean latents, up to the noise level of step `step`. A run
    /// that begins at that step starts from these latents.
    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T>;
}

fn _object_safe<T: Tensor>(_: &dyn Sampler<T>) {}
