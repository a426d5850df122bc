//! Small tensor arithmetic shared by the samplers.

use atedm_core::{Error, Result, Tensor};

use super::kinds::Prediction;
use crate::rng::NoiseSource;

/// `tensor * factor`.
pub(super) fn scale<T: Tensor>(tensor: &T, factor: f32) -> Result<T> {
    tensor.affine(f64::from(factor), 0.0)
}

/// `a + b * factor`.
pub(super) fn add_scaled<T: Tensor>(a: &T, b: &T, factor: f32) -> Result<T> {
    a.add(&scale(b, factor)?)
}

/// `tensor / divisor` by true division. A product with the inverse would round once more.
pub(super) fn divide<T: Tensor>(tensor: &T, divisor: f32) -> Result<T> {
    let ones = vec![1; tensor.shape().len()];
    tensor.div(&T::full(f64::from(divisor), &ones, tensor.dtype(), &tensor.device())?)
}

/// `tensor` clipped to `±limit`, if there is a limit.
pub(super) fn clip<T: Tensor>(tensor: T, limit: Option<f64>) -> Result<T> {
    match limit {
        Some(limit) => tensor.clamp_min(-limit)?.affine(-1.0, 0.0)?.clamp_min(-limit)?.affine(-1.0, 0.0),
        None => Ok(tensor),
    }
}

/// Standard normal noise with the shape and dtype of `tensor`.
pub(super) fn noise_like<T: Tensor>(tensor: &T, noise: &mut dyn NoiseSource) -> Result<T> {
    let shape = tensor.shape();
    T::from_f32(&noise.standard_normal(&shape)?, &shape, tensor.dtype(), &tensor.device())
}

/// The clean sample and the noise from a U-Net output, for samples `x = √ᾱ x₀ + √(1 − ᾱ) ε`.
pub(super) fn split<T: Tensor>(output: &T, sample: &T, alpha: f32, prediction: Prediction) -> Result<(T, T)> {
    let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    Ok(match prediction {
        Prediction::Epsilon => (divide(&add_scaled(sample, output, -noise)?, signal)?, output.clone()),
        Prediction::Sample => (output.clone(), divide(&add_scaled(sample, output, -signal)?, noise)?),
        Prediction::VPrediction => (
            add_scaled(&scale(sample, signal)?, output, -noise)?,
            add_scaled(&scale(output, signal)?, sample, noise)?,
        ),
    })
}

/// `√ᾱ clean + √(1 − ᾱ) noise`.
pub(super) fn mix<T: Tensor>(clean: &T, noise: &T, alpha: f32) -> Result<T> {
    add_scaled(&scale(clean, alpha.sqrt())?, noise, (1.0 - alpha).sqrt())
}

/// Entry `step` of a table with one entry per step.
pub(super) fn at<V: Copy>(values: &[V], step: usize) -> Result<V> {
    values.get(step).copied().ok_or_else(|| Error::config("step", format!("the schedule has no step {step}")))
}

/// f32 values as f64.
pub(super) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
