//! The trait of samplers.

use atedm_core::{Result, Tensor};

use crate::rng::NoiseSource;

/// A sampler made for one number of steps. Object-safe: chosen by name at run time, called once for each evaluation of the
/// U-Net.
///
/// Most samplers evaluate the U-Net once a step. Others evaluate it again inside a step (Heun): [`Sampler::step_of`] tells
/// which step an evaluation belongs to. Evaluations and steps are numbered in the *full* schedule, so that a run may begin
/// above 0 (image to image). Multistep samplers remember earlier outputs: use a fresh sampler for each run.
pub trait Sampler<T: Tensor>: Send {
    /// The training timestep of each evaluation, as the U-Net is told.
    fn timesteps(&self) -> &[f64];

    /// Noise level σ of each evaluation, and one more: that of the result.
    fn sigmas(&self) -> &[f64];

    /// The step that an evaluation belongs to. Steps never fall and leave out no number.
    fn step_of(&self, evaluation: usize) -> usize {
        evaluation
    }

    /// Factor on standard normal noise that makes the initial latents; 1 unless a sampler's latents grow with σ.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The U-Net's input for `sample` (`[batch, channels, height, width]`) before an evaluation: the sample itself unless
    /// its variance grows with σ.
    fn scale_input(&self, sample: &T, evaluation: usize) -> Result<T> {
        let _ = evaluation;
        Ok(sample.clone())
    }

    /// The sample after an evaluation, from the U-Net's output (after guidance) and the sample before it.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if there is no such evaluation; what the backend or `noise` fail with.
    fn step(&mut self, output: &T, evaluation: usize, sample: &T, noise: &mut dyn NoiseSource) -> Result<T>;

    /// Clean latents brought to the noise level of an evaluation with standard normal `noise` of the same shape: where a
    /// run that begins there starts from.
    fn add_noise(&self, clean: &T, noise: &T, evaluation: usize) -> Result<T>;

    /// The first evaluation of each step.
    fn first_evaluations(&self) -> Vec<usize> {
        let begins =
            |&evaluation: &usize| evaluation == 0 || self.step_of(evaluation) != self.step_of(evaluation - 1);
        (0..self.timesteps().len()).filter(begins).collect()
    }
}

fn _object_safe<T: Tensor>(_: &dyn Sampler<T>) {}
