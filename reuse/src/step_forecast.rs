//! Forecasts whole evaluations from earlier ones: TaylorSeer (arXiv 2503.06923) on the model's output. It corresponds
//! to diffusers' `TaylorSeerCacheConfig` if only the last projection is cached.
//!
//! ```text
//! step k of the run runs if k < disable_cache_before_step, or k >= disable_cache_after_step,
//!                        or (k - disable_cache_before_step - 1) is a multiple of cache_interval
//! any other step is y + (k - n) y' + (k - n)^2 / 2 y''     (up to max_order; n is the last step that ran, y its output)
//! y'  = (y - y_1) / (n - n_1)                              divided differences over the last steps that ran
//! y'' = (y' - y'_1) / (n - n_1)
//! ```
//!
//! There are two departures:
//!
//! 1. Outputs are stored in the model's type, and their differences are computed in its accumulator's type. diffusers
//!    stores differences, and rounds them to bf16 by default.
//! 2. If a sampler evaluates twice per step, both evaluations of a step are forecast. diffusers counts evaluations.

use std::collections::VecDeque;

use atedm_core::plugin::{
    BlockShape, BuildContext, Facts, LayerTokens, MethodPlan, ModelShape, NestId, NestSite, Options, Row,
    Run, StepOf, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Result};
use serde::{Deserialize, Serialize};

use crate::checks::{InputSize, expect_heard};
use crate::memory::{Memory, StepCounter};
use crate::options::{at_least_one, read, settings};

/// Options of a forecast of evaluations. Names and defaults are those of diffusers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepForecastOptions {
    /// The interval between steps that run, after the first steps; 1 means every step. Default 5.
    pub cache_interval: usize,
    /// The number of first steps, which all run; at least 1. Default 3.
    pub disable_cache_before_step: usize,
    /// The step from which on all steps run. Default: none.
    pub disable_cache_after_step: Option<usize>,
    /// The order of the Taylor series: 0, 1 or 2. Default 1.
    pub max_order: usize,
}

impl Default for StepForecastOptions {
    fn default() -> Self {
        Self { cache_interval: 5, disable_cache_before_step: 3, disable_cache_after_step: None, max_order: 1 }
    }
}

impl StepForecastOptions {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        at_least_one("cache_interval", self.cache_interval)?;
        at_least_one("disable_cache_before_step", self.disable_cache_before_step)?;
        match self.max_order {
            0..=2 => Ok(()),
            order => Err(Error::config("max_order", format!("expected 0, 1 or 2, got {order}"))),
        }
    }

    /// Whether a step runs. Steps are counted from the run's first step.
    pub fn runs(&self, step: usize) -> bool {
        let Some(after) = step.checked_sub(self.disable_cache_before_step) else { return true };
        let is_late = self.disable_cache_after_step.is_some_and(|late| step >= late);
        is_late || (after + self.cache_interval - 1).is_multiple_of(self.cache_interval)
    }
}

/// The plan of a forecast of evaluations.
#[derive(Debug, Clone)]
pub struct StepForecastPlan {
    options: StepForecastOptions,
}

impl StepForecastPlan {
    /// Makes the plan from the method's options.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong or does not fit the run.
    pub fn describe(given: &Options, facts: &Facts<'_>) -> Result<Self> {
        let options: StepForecastOptions = read(given)?;
        options.validate()?;
        if let (Some(late), Some(model)) = (options.disable_cache_after_step, facts.model)
            && late > model.steps
        {
            let reason = format!("expected at most the run's {} steps, got {late}", model.steps);
            return Err(Error::config("disable_cache_after_step", reason));
        }
        Ok(Self { options })
    }

    /// Builds the method.
    ///
    /// # Errors
    /// [`Error::Config`] if there are kept sets to replay.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
        crate::checks::no_replay(context)?;
        Ok(Box::new(StepForecast::new(self.options.clone())))
    }
}

impl MethodPlan for StepForecastPlan {
    fn settings(&self) -> Options {
        settings(&self.options)
    }

    fn tokens(&self, block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(Some(block.whole()))
    }

    fn replaced(&self, step: StepOf) -> Option<NestId> {
        (!self.options.runs(step.index)).then_some(NestId::EVALUATION)
    }

    fn memory(&self, model: &ModelShape) -> u64 {
        let outputs = self.options.max_order as u64 + 1;
        model.nest(NestId::EVALUATION).map_or(0, |nest| nest.values.saturating_mul(outputs))
    }
}

/// A forecast of evaluations on tensors.
#[derive(Debug)]
pub struct StepForecast<T> {
    options: StepForecastOptions,
    steps: StepCounter,
    /// The outputs of the last steps that ran, newest first.
    ran: VecDeque<(usize, Memory<(), T>)>,
    input: InputSize,
    /// Whether the model has reported its evaluations.
    heard: bool,
}

impl<T: AttentionOps> StepForecast<T> {
    /// Creates the method. The options must be valid.
    pub fn new(options: StepForecastOptions) -> Self {
        let (steps, ran, input) = (StepCounter::default(), VecDeque::new(), InputSize::default());
        Self { options, steps, ran, input, heard: false }
    }

    /// The forecast for these rows at a step. `None` if nothing is stored for them.
    fn forecast(&self, step: usize, rows: &[Row]) -> Result<Option<T>> {
        let mut known = Vec::new();
        for (ran, memory) in self.ran.iter().take(self.options.max_order + 1) {
            match memory.recall(&(), rows)? {
                Some(output) => known.push((*ran, output)),
                None => break,
            }
        }
        let weights = weights(step, &known.iter().map(|(ran, _)| *ran).collect::<Vec<_>>());
        let dtype = match known.first() {
            Some((_, output)) => output.dtype(),
            None => return Ok(None),
        };
        let mut sum: Option<T> = None;
        for ((_, output), weight) in known.iter().zip(weights) {
            let part = output.cast(dtype.accumulator())?.affine(weight, 0.0)?;
            sum = Some(match sum {
                Some(sum) => sum.add(&part)?,
                None => part,
            });
        }
        sum.map(|sum| sum.cast(dtype)).transpose()
    }
}

/// The weights of the last outputs in the forecast of `step`: a Taylor series of the highest order that they allow.
/// `ran` holds the steps of at most three outputs, newest first.
fn weights(step: usize, ran: &[usize]) -> Vec<f64> {
    let between = |later: usize, earlier: usize| ran[later].abs_diff(ran[earlier]) as f64;
    let Some(&newest) = ran.first() else { return Vec::new() };
    let ahead = step.abs_diff(newest) as f64;
    match ran.len() {
        1 => vec![1.0],
        2 => {
            let first = ahead / between(1, 0);
            vec![1.0 + first, -first]
        }
        _ => {
            let (near, far) = (between(1, 0), between(2, 1));
            let (first, second) = (ahead / near, ahead * ahead / 2.0 / near);
            vec![1.0 + first + second / near, -first - second / near - second / far, second / far]
        }
    }
}

impl<T: AttentionOps> TokenReducer<T> for StepForecast<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.steps.begin(run);
        self.ran.clear();
        Ok(())
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        if site.nest != NestId::EVALUATION {
            return Ok(None);
        }
        self.heard = true;
        let step = self.steps.number(site.step.index);
        let forecast = match self.options.runs(step) {
            true => None,
            false => self.forecast(step, site.rows)?,
        };
        match forecast {
            Some(_) => self.input.expect(hidden)?,
            None => self.input.store(hidden),
        }
        Ok(forecast)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        if site.nest == NestId::EVALUATION {
            let step = self.steps.number(site.step.index);
            if self.ran.front().is_none_or(|(newest, _)| *newest != step) {
                self.ran.push_front((step, Memory::default()));
                self.ran.truncate(self.options.max_order + 1);
            }
            if let Some((_, memory)) = self.ran.front_mut() {
                memory.keep((), site.rows, output)?;
            }
        }
        Ok(None)
    }

    fn end_step(&mut self, _prediction: &T) -> Result<()> {
        expect_heard(self.heard, "step-forecast", NestId::EVALUATION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_run_are_diffusers() {
        // `_measure_should_compute` of diffusers 0.42
        let ran = |options: StepForecastOptions, steps: usize| {
            (0..steps).filter(|&step| options.runs(step)).collect::<Vec<_>>()
        };
        assert_eq!(ran(StepForecastOptions::default(), 20), [0, 1, 2, 4, 9, 14, 19]);
        let options = StepForecastOptions {
            cache_interval: 4,
            disable_cache_after_step: Some(9),
            ..StepForecastOptions::default()
        };
        assert_eq!(ran(options, 12), [0, 1, 2, 4, 8, 9, 10, 11]);
        let every = StepForecastOptions { cache_interval: 1, ..StepForecastOptions::default() };
        assert_eq!(ran(every, 6), [0, 1, 2, 3, 4, 5]);
    }

    /// A series of order n continues a polynomial of degree n if the last steps that ran are one apart. For degree 1,
    /// divided differences are always exact.
    #[test]
    fn a_line_is_continued_and_the_second_order_bends() {
        let line = |step: usize| 3.0 + 2.0 * step as f64;
        for ran in [vec![4, 2], vec![9, 4, 2]] {
            let forecast: f64 = weights(12, &ran).iter().zip(&ran).map(|(w, &s)| w * line(s)).sum();
            assert!((forecast - line(12)).abs() < 1e-12, "{ran:?}: {forecast}");
        }
        // y = 7, 3, 1 at steps 4, 2, 1: y' = 2, before that 2, y'' = 0
        assert_eq!(weights(6, &[4, 2, 1]), [1.0 + 1.0 + 0.5, -1.0 - 0.5 - 1.0, 1.0]);
    }
}
