//! Linear multistep (Adams–Bashforth in σ), of order 4: diffusers' `LMSDiscreteScheduler`.
//!
//! ```text
//! x ← x + Σₖ cₖ dᵢ₋ₖ,   d = (x − x₀) / σ
//! cₖ = ∫ from σᵢ to σᵢ₊₁ of Πⱼ≠ₖ (τ − σᵢ₋ⱼ) / (σᵢ₋ₖ − σᵢ₋ⱼ) dτ
//! ```
//! A run from the middle of a schedule begins with order 1, since nothing is known of earlier steps. diffusers weighs the
//! derivatives there as if all were known.

use std::collections::VecDeque;

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::denoise::Denoiser;
use super::leveled::{Leveled, Rule};
use super::ops::{add_scaled, at, divide};
use super::sigmas::SigmaSchedule;
use crate::rng::NoiseSource;

/// Derivatives that a step uses, at most.
const ORDER: usize = 4;

/// LMS.
#[derive(Debug)]
pub(super) struct Lms<T> {
    denoiser: Denoiser,
    /// The last derivatives, the newest first.
    derivatives: VecDeque<T>,
}

impl<T: Tensor> Lms<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Leveled<Self>> {
        let rule = Self { denoiser: Denoiser::Plain(config.prediction), derivatives: VecDeque::new() };
        Ok(Leveled { schedule: SigmaSchedule::to_zero(config, steps)?, rule })
    }
}

impl<T: Tensor> Rule<T> for Lms<T> {
    fn step(
        &mut self,
        schedule: &SigmaSchedule,
        output: &T,
        step: usize,
        sample: &T,
        _noise: &mut dyn NoiseSource,
    ) -> Result<T> {
        let (sigma, next) = (at(&schedule.wide, step)?, at(&schedule.wide, step + 1)?);
        let clean = self.denoiser.denoised(output, sample, sigma as f32)?;
        self.derivatives.push_front(divide(&sample.sub(&clean)?, sigma as f32)?);
        self.derivatives.truncate(ORDER);
        let visited: Vec<f64> = schedule.wide.iter().take(step + 1).rev().copied().collect();
        let order = self.derivatives.len().min(visited.len());
        let mut moved = sample.clone();
        for (k, derivative) in self.derivatives.iter().take(order).enumerate() {
            let weight = integral(|tau| lagrange(&visited[..order], k, tau), sigma, next);
            moved = add_scaled(&moved, derivative, weight as f32)?;
        }
        Ok(moved)
    }
}

/// The polynomial that is 1 at `nodes[k]` and 0 at the other nodes.
fn lagrange(nodes: &[f64], k: usize, tau: f64) -> f64 {
    let own = nodes[k];
    let others = nodes.iter().enumerate().filter(|(j, _)| *j != k);
    others.map(|(_, node)| (tau - node) / (own - node)).product()
}

/// The integral of a cubic, exactly: Gauss–Legendre with two points.
fn integral(f: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let offset = half / 3f64.sqrt();
    half * (f(middle - offset) + f(middle + offset))
}
