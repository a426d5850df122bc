//! UniPC, multistep, predicting clean samples (Zhao et al. 2023, algorithms 5 to 8): diffusers' `UniPCMultistepScheduler`.
//!
//! Each step first corrects the sample with the new output, and then predicts the next one. Both are, between two levels,
//!
//! ```text
//! x' = (α'σ' / ασ) x − α' (e⁻ʰ − 1) m₀ − α' B Σₖ ρₖ Dₖ,   Dₖ = (mₖ − m₀) / rₖ,   rₖ = (λₖ − λ₀) / h
//! ```
//! where m₀ is the clean sample at the first level and mₖ those at levels before it; `B` is `−h` or `e⁻ʰ − 1`. The corrector
//! has one more term, with the clean sample at the second level and r = 1. The ρ solve `Σₖ rₖⁱ ρₖ = bᵢ` for i = 0, 1, …
//! ([`Between`]); all but the corrector's first order and the predictor's second, where ρ = ½.

use std::collections::VecDeque;

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::{FinalSigma, Levels, Spacing, UniPcFactor};
use super::ops::{add_scaled, divide, scale};
use super::sampler::Sampler;
use super::solver::SolverSchedule;
use super::spacing::Visits;
use crate::rng::NoiseSource;

/// UniPC.
#[derive(Debug)]
pub(super) struct UniPc<T> {
    schedule: SolverSchedule,
    factor: UniPcFactor,
    order: usize,
    lower_order_final: bool,
    /// Clean samples of the last steps, the newest first.
    cleans: VecDeque<T>,
    last: Option<Last<T>>,
}

/// What the corrector needs of the step before.
#[derive(Debug)]
struct Last<T> {
    /// The sample before that step, corrected.
    sample: T,
    order: usize,
}

impl<T: Tensor> UniPc<T> {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        if config.unipc_factor == UniPcFactor::Bh1 && config.final_sigma == FinalSigma::Zero {
            let reason = "expected bh2 with final_sigmas_type zero, got bh1, whose factor is infinite there";
            return Err(config.error("solver_type", reason));
        }
        let visits = Visits { one_more: true, whole: true, ..Visits::new(config, steps) };
        let timesteps = visits.timesteps(config.spacing.unwrap_or(Spacing::Linspace))?;
        let schedule = SolverSchedule::new(config, timesteps, steps);
        // Unlike DPM++, it repeats the last of levels that are not the training ones.
        let schedule = match (config.final_sigma, config.levels) {
            (FinalSigma::Zero, _) | (FinalSigma::SigmaMin, Levels::Training) => schedule,
            (FinalSigma::SigmaMin, _) => {
                let last = schedule.last_level()?;
                schedule.ending_at(last)
            }
        };
        Ok(Self {
            schedule,
            factor: config.unipc_factor,
            order: config.solver_order,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            cleans: VecDeque::new(),
            last: None,
        })
    }

    /// The way from level `from` to the next, with `order − 1` levels before it.
    fn between(&self, from: usize, order: usize) -> Result<Between> {
        let (start, end) = (self.schedule.level(from)?, self.schedule.level(from + 1)?);
        let h = end.lambda - start.lambda;
        let earlier = |k: usize| Ok((self.schedule.level(from - k)?.lambda - start.lambda) / h);
        let ratios = (1..order).map(earlier).collect::<Result<Vec<f32>>>()?;
        let minus = -h;
        let exponential = minus.exp_m1();
        let factor = match self.factor {
            UniPcFactor::Bh1 => minus,
            UniPcFactor::Bh2 => exponential,
        };
        Ok(Between {
            kept: end.noise / start.noise,
            clean: -(end.alpha * exponential),
            slopes: -(end.alpha * factor),
            ratios,
            right: right_side(minus, exponential, factor, order),
        })
    }

    /// Dₖ of the levels before.
    fn slopes(&self, ratios: &[f32]) -> Result<Vec<T>> {
        let Some(newest) = self.cleans.front() else { return Ok(Vec::new()) };
        let earlier = self.cleans.iter().skip(1);
        ratios.iter().zip(earlier).map(|(&ratio, clean)| divide(&clean.sub(newest)?, ratio)).collect()
    }

    /// The sample of step `step`, corrected by the clean sample that its own output tells.
    fn corrected(&self, last: &Last<T>, step: usize, clean: &T) -> Result<T> {
        let Some(newest) = self.cleans.front() else { return Ok(clean.clone()) };
        let between = self.between(step - 1, last.order)?;
        let mut weights = match last.order {
            1 => vec![0.5],
            _ => between.weights(last.order),
        };
        let own = weights.pop().unwrap_or(0.5);
        let change = scale(&clean.sub(newest)?, own)?;
        let change = match sum(&self.slopes(&between.ratios)?, &weights)? {
            Some(slopes) => slopes.add(&change)?,
            None => change,
        };
        between.sample(&last.sample, newest, Some(&change))
    }

    /// The next sample.
    fn predicted(&self, step: usize, order: usize, sample: &T, newest: &T) -> Result<T> {
        let between = self.between(step, order)?;
        let weights = match order {
            1 => Vec::new(),
            2 => vec![0.5],
            _ => between.weights(order - 1),
        };
        let slopes = sum(&self.slopes(&between.ratios)?, &weights)?;
        between.sample(sample, newest, slopes.as_ref())
    }
}

/// The way between two levels.
struct Between {
    /// Factor on the sample.
    kept: f32,
    /// Factor on m₀.
    clean: f32,
    /// Factor on `Σ ρ D`.
    slopes: f32,
    /// rₖ of the levels before.
    ratios: Vec<f32>,
    /// bᵢ.
    right: Vec<f32>,
}

impl Between {
    /// ρ of the first `count` of the levels before and the end, whose r is 1.
    fn weights(&self, count: usize) -> Vec<f32> {
        let ratios: Vec<f32> = self.ratios.iter().copied().chain([1.0]).take(count).collect();
        let power =
            |power: usize| -> Vec<f32> { ratios.iter().map(|ratio| ratio.powi(power as i32)).collect() };
        solve((0..count).map(power).collect(), self.right[..count].to_vec())
    }

    /// The sample at the end.
    fn sample<T: Tensor>(&self, start: &T, newest: &T, slopes: Option<&T>) -> Result<T> {
        let moved = add_scaled(&scale(start, self.kept)?, newest, self.clean)?;
        match slopes {
            Some(slopes) => add_scaled(&moved, slopes, self.slopes),
            None => Ok(moved),
        }
    }
}

/// bᵢ for `i` from 1 to `order`: `i! φᵢ₊₁(−h) (−h) / B`, by the recursion of φ.
fn right_side(minus: f32, exponential: f32, factor: f32, order: usize) -> Vec<f32> {
    let mut phi = exponential / minus - 1.0;
    let mut factorial = 1.0;
    let mut right = Vec::with_capacity(order);
    for i in 1..=order {
        right.push(phi * factorial / factor);
        factorial *= (i + 1) as f32;
        phi = phi / minus - 1.0 / factorial;
    }
    right
}

/// The sum of tensors with their weights.
fn sum<T: Tensor>(tensors: &[T], weights: &[f32]) -> Result<Option<T>> {
    let mut sum: Option<T> = None;
    for (tensor, &weight) in tensors.iter().zip(weights) {
        sum = Some(match sum {
            Some(sum) => add_scaled(&sum, tensor, weight)?,
            None => scale(tensor, weight)?,
        });
    }
    Ok(sum)
}

/// The solution of `rows · x = right`: elimination with the largest pivot. At most three equations.
fn solve(mut rows: Vec<Vec<f32>>, mut right: Vec<f32>) -> Vec<f32> {
    let count = right.len();
    for column in 0..count {
        let size = |row: &usize| rows[*row][column].abs();
        let pivot = (column..count).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        rows.swap(column, pivot);
        right.swap(column, pivot);
        let (row, value) = (rows[column].clone(), right[column]);
        for below in column + 1..count {
            let share = rows[below][column] / row[column];
            for (entry, above) in rows[below].iter_mut().zip(&row) {
                *entry -= share * above;
            }
            right[below] -= share * value;
        }
    }
    for column in (0..count).rev() {
        let known: f32 = (column + 1..count).map(|later| rows[column][later] * right[later]).sum();
        right[column] = (right[column] - known) / rows[column][column];
    }
    right
}

impl<T: Tensor> Sampler<T> for UniPc<T> {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.schedule.wide
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        self.schedule.level(step + 1)?;
        let clean = self.schedule.denoised(output, step, sample)?;
        let sample = match self.last.take().filter(|_| step > 0) {
            Some(last) => self.corrected(&last, step, &clean)?,
            None => sample.clone(),
        };
        self.cleans.push_front(clean.clone());
        self.cleans.truncate(self.order);
        let left = self.schedule.timesteps.len() - step;
        let most = if self.lower_order_final { self.order.min(left) } else { self.order };
        let order = most.min(self.cleans.len()).min(step + 1);
        let next = self.predicted(step, order, &sample, &clean)?;
        self.last = Some(Last { sample, order });
        Ok(next)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        self.schedule.add_noise(clean, noise, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved_with_the_largest_pivot() {
        let rows = vec![vec![0.0, 2.0, 1.0], vec![1.0, 1.0, 1.0], vec![4.0, -1.0, 0.5]];
        // x = 1, y = -2, z = 3
        let got = solve(rows, vec![-1.0, 2.0, 7.5]);
        assert!(got.iter().zip([1.0, -2.0, 3.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    }

    /// As h goes to 0, b₁ goes to ½ and b₂ to ⅓.
    #[test]
    fn right_sides_of_small_steps() {
        let minus: f32 = -1e-2;
        let right = right_side(minus, minus.exp_m1(), minus, 2);
        assert!((right[0] - 0.5).abs() < 2e-2 && (right[1] - 1.0 / 3.0).abs() < 2e-2, "{right:?}");
    }
}
