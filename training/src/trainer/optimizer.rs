//! AdamW (Loshchilov and Hutter 2019, algorithm 2) on one flat buffer, with an average of the weights over the steps.
//!
//! ```text
//! g ← g · min(1, clip / ‖g‖)
//! m ← β₁ m + (1 − β₁) g;   v ← β₂ v + (1 − β₂) g²
//! θ ← θ − η (m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + λ θ)
//! θ̄ ← d θ̄ + (1 − d) θ,   d = min(average, (1 + t) / (10 + t))
//! ```
//!
//! λ is 0 for tensors of one axis (biases and norms).

use atedm_core::{Error, Result};
use atedm_tch::{OrBackend, TorchResult};
use serde::{Deserialize, Serialize};
use tch::Tensor as Raw;

use super::parameters::Parameters;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.99;
const EPSILON: f64 = 1e-8;

/// Length, learning rate and batch of a course: the table `training` of a recipe's parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Steps of the optimizer.
    pub steps: u64,
    /// Images a step.
    pub batch: usize,
    /// Threads that share a batch. They are part of the recipe, because sums depend on their number.
    pub workers: usize,
    /// The learning rate η after the first `warmup` steps. Before that it rises from 0.
    pub learning_rate: f64,
    /// Steps in which η rises.
    pub warmup: u64,
    /// Last steps, in which η falls to 0.
    pub cooldown: u64,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// The maximum length of the gradient.
    pub clip: f64,
    /// d, the share of the old average that is kept in a step.
    pub average: f64,
}

impl Course {
    /// Checks every field. Error messages put `table` before the field's name.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(&self, table: &str) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(format!("{table}.{field}"), reason));
        if self.steps == 0 {
            return fail("steps", "expected at least 1, got 0".into());
        }
        if self.workers == 0 || self.batch == 0 || !self.batch.is_multiple_of(self.workers) {
            let reason = format!("expected a multiple of workers = {}, got {}", self.workers, self.batch);
            return fail("batch", reason);
        }
        if self.warmup.saturating_add(self.cooldown) > self.steps {
            let reason = format!("warmup and cooldown take more than the {} steps", self.steps);
            return fail("warmup", reason);
        }
        let ranges = [
            ("learning_rate", self.learning_rate, f64::MIN_POSITIVE..=1.0),
            ("weight_decay", self.weight_decay, 0.0..=10.0),
            ("clip", self.clip, f64::MIN_POSITIVE..=1e9),
            ("average", self.average, 0.0..=0.999_999),
        ];
        for (field, value, range) in ranges {
            if !range.contains(&value) {
                return fail(field, format!("expected {} to {}, got {value}", range.start(), range.end()));
            }
        }
        Ok(())
    }

    /// η of step `step` (from 0).
    pub fn rate(&self, step: u64) -> f64 {
        let rise = (step + 1) as f64 / self.warmup.max(1) as f64;
        let fall = (self.steps.saturating_sub(step)) as f64 / (self.cooldown + 1) as f64;
        self.learning_rate * rise.min(fall).min(1.0)
    }
}

/// The optimizer's own state, in the same flat layout as the parameters.
#[derive(Debug)]
pub struct AdamW {
    /// m, the first moment.
    pub first: Raw,
    /// v, the second moment.
    pub second: Raw,
    /// θ̄, the average of the parameters.
    pub average: Raw,
    decayed: Raw,
}

impl AdamW {
    /// The state at the beginning: moments are zero, and the average equals the parameters.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let values = parameters.values();
        let make = || -> TorchResult<Self> {
            let decayed = values.f_zeros_like()?;
            for slot in parameters.slots().iter().filter(|slot| slot.shape.len() > 1) {
                let piece = decayed.f_narrow(0, slot.range.start as i64, slot.range.len() as i64)?;
                let mut piece = piece;
                let _ = piece.f_fill_(1.0)?;
            }
            let average = values.f_detach()?.f_mul_scalar(1.0)?;
            Ok(Self { first: values.f_zeros_like()?, second: values.f_zeros_like()?, average, decayed })
        };
        make().or_backend("optimizer")
    }

    /// One step with this gradient; `step` counts from 0. Gives the gradient's length before clipping.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the gradient is not finite. The parameters then stay unchanged.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        gradient: &Raw,
        course: &Course,
        step: u64,
    ) -> Result<f64> {
        let length = gradient.f_norm().and_then(|norm| norm.f_double_value(&[])).or_backend("optimizer")?;
        if !length.is_finite() {
            return Err(Error::NotFinite { what: format!("the gradient of step {step}") });
        }
        let scale = (course.clip / length.max(f64::MIN_POSITIVE)).min(1.0);
        tch::no_grad(|| self.update(parameters, gradient, course, (step, scale))).or_backend("optimizer")?;
        Ok(length)
    }

    fn update(
        &mut self,
        parameters: &Parameters,
        gradient: &Raw,
        course: &Course,
        (step, scale): (u64, f64),
    ) -> TorchResult<()> {
        let count = (step + 1) as i32;
        let rate = course.rate(step);
        let mut values = parameters.values().shallow_clone();
        let gradient = gradient.f_mul_scalar(scale)?;
        let _ = self.first.f_mul_scalar_(BETA1)?.f_add_(&gradient.f_mul_scalar(1.0 - BETA1)?)?;
        let _ = self.second.f_mul_scalar_(BETA2)?.f_add_(&gradient.f_square()?.f_mul_scalar(1.0 - BETA2)?)?;
        let root =
            self.second.f_mul_scalar(1.0 / (1.0 - BETA2.powi(count)))?.f_sqrt()?.f_add_scalar(EPSILON)?;
        let mut change = self.first.f_div(&root)?.f_mul_scalar(rate / (1.0 - BETA1.powi(count)))?;
        if course.weight_decay > 0.0 {
            let decay = values.f_mul(&self.decayed)?.f_mul_scalar(rate * course.weight_decay)?;
            let _ = change.f_add_(&decay)?;
        }
        let _ = values.f_sub_(&change)?;
        let kept = course.average.min((1.0 + step as f64) / (10.0 + step as f64));
        let _ = self.average.f_mul_scalar_(kept)?.f_add_(&values.f_mul_scalar(1.0 - kept)?)?;
        Ok(())
    }
}
