//! A method without tensors: its options, its token counts, and the facts on which they depend.
//!
//! The program knows every method by its [`MethodPlan`]. Costs, budgets, `--plan`, `inspect`, the weights of a benchmark and
//! records come from it.

use std::any::Any;
use std::sync::Arc;

use super::nest::NestId;
use super::options::Options;
use super::schedule::ScheduleRegistry;
use super::site::Sublayer;
use super::tokens::{BlockShape, LayerTokens, ModelShape, StepOf};
use crate::Result;

/// The facts with which a method is described, besides its options.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The model at the size of the run. With `None`, checks that need a model do not happen.
    pub model: Option<&'a ModelShape>,
    /// The generator of a method's random numbers, `torch` or `chacha`. An option of the method can name another.
    pub rng: Option<&'a str>,
    /// The registered schedules.
    pub schedules: &'a ScheduleRegistry,
}

impl<'a> Facts<'a> {
    /// Facts that hold only schedules.
    pub fn new(schedules: &'a ScheduleRegistry) -> Self {
        Self { model: None, rng: None, schedules }
    }

    /// The same facts with a model.
    pub fn of_model(self, model: &'a ModelShape) -> Self {
        Self { model: Some(model), ..self }
    }

    /// The same facts with this generator.
    pub fn with_rng(self, rng: &'a str) -> Self {
        Self { rng: Some(rng), ..self }
    }
}

/// Whether a method computes scores in a block at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// It computes them for the first time in the run. This costs more than later times.
    First,
    /// It computes them again.
    Fresh,
    /// It computes none and uses the result of an earlier step.
    Reused,
}

/// A method with checked options. It has no tensor type, and the trait is object-safe. A registry entry makes a plan from a
/// table of options, and builds a [`TokenReducer`](super::TokenReducer) from the plan.
pub trait MethodPlan: Any + std::fmt::Debug + Send + Sync {
    /// Every option with its value, including defaults. Options without effect are left out. Records hold these settings, and
    /// hashes cover them. Given to the registry entry again, they describe the same method.
    fn settings(&self) -> Options;

    /// The common name of presets that differ only by their settings. Two presets of one family do the same under equal
    /// settings. `None`: the registered name stands for the method.
    fn family(&self) -> Option<&str> {
        None
    }

    /// The tokens that each layer of `block` runs on at `step`, one entry for each layer. `None`: only a run can tell.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a budget is not solved; [`Error::Plugin`](crate::Error::Plugin) if a part
    /// answers out of range.
    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>>;

    /// The nest that does not run at `step`, because the method has its output. The run begins with the first step. Counts and
    /// scoring of the nest's blocks have no meaning at this step. If only a run can tell, [`MethodPlan::tokens`] is `None`.
    fn replaced(&self, _step: StepOf) -> Option<NestId> {
        None
    }

    /// Whether an output that it gives in a sublayer's place fits a stream that another method of a stack has shrunk: it keeps
    /// outputs for every token of the block's entry ([`Reductions`](super::Reductions)). If not, a stack in which another
    /// member reduces that sublayer is refused.
    fn keeps_whole_outputs(&self) -> bool {
        false
    }

    /// The same method in a stack with these other members, for a method that does without something where they give the
    /// output of a sublayer: AT-EDM finds no map there. `None` where they change nothing of its counts.
    fn beside(&self, _others: &Others) -> Option<Box<dyn MethodPlan>> {
        None
    }

    /// Whether a guided run still uses guidance at `step`, if it begins with the first step. Without guidance an image has
    /// one batch row instead of two, for its negative prompt. So the step costs half. The method's
    /// [`TokenReducer::wants_guidance`](super::TokenReducer::wants_guidance) must give the same answer. Only guided runs
    /// ask.
    fn wants_guidance(&self, _step: StepOf) -> bool {
        true
    }

    /// The number of values that the method holds for one batch row from one step to the next, to use outputs again. Its
    /// knowledge of single tokens does not count.
    fn memory(&self, _model: &ModelShape) -> u64 {
        0
    }

    /// Whether the method computes scores in `block` at `step`. Callers ask only where tokens are removed.
    ///
    /// # Errors
    /// The same as [`MethodPlan::tokens`].
    fn scoring(&self, _block: &BlockShape, _step: StepOf) -> Result<Scoring> {
        Ok(Scoring::Fresh)
    }

    /// The budget in mean TFLOPs of an evaluation, as long as it is not solved for a ratio.
    fn budget_tflops(&self) -> Option<f64> {
        None
    }

    /// The same method with another ratio, which also takes the place of a budget. `None` if the method's cost does not depend
    /// on a ratio.
    fn with_ratio(&self, _ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        None
    }

    /// The same method without rules that stop its work early depending on the data; `None` if it has no such rule. A benchmark
    /// uses this, since its random data would stop the work at another point than real data.
    fn without_early_stop(&self) -> Option<Box<dyn MethodPlan>> {
        None
    }

    /// The same method with scores iterated until they no longer change. `bench` compares the kept sets of fewer votes with its
    /// kept sets. `None` if the method iterates no scores.
    fn converged(&self) -> Option<Box<dyn MethodPlan>> {
        None
    }

    /// Whether every token that the method leaves stands for one place of the stream before. Rotary tables and other tables of
    /// tokens can then follow. A model that [needs positions](ModelShape::needs_positions) refuses a method that gives none.
    fn gives_positions(&self) -> bool {
        true
    }

    /// Whether an observer makes the method slower. A caller that only counts tokens should then ask [`MethodPlan::tokens`].
    fn is_slow_to_watch(&self) -> bool {
        false
    }

    /// What the options alone do not show, for instance that nothing is reduced. One sentence for each remark.
    ///
    /// # Errors
    /// The same as [`MethodPlan::tokens`].
    fn remarks(&self, _model: &ModelShape) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

impl dyn MethodPlan {
    /// The plan as the type `P`, if it is of that type.
    pub(crate) fn downcast_ref<P: MethodPlan>(&self) -> Option<&P> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// The other members of a stack, as one of them sees them.
#[derive(Debug, Clone, Default)]
pub struct Others(Vec<Arc<dyn MethodPlan>>);

impl Others {
    /// These methods.
    pub fn new(plans: Vec<Arc<dyn MethodPlan>>) -> Self {
        Self(plans)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them let `sub` run in a layer of `block`, which has it, at `step`. A method of which only a run can
    /// tell, or whose budget is not solved, is taken to do so.
    ///
    /// # Errors
    /// As [`MethodPlan::tokens`].
    pub fn run(&self, sub: Sublayer, block: &BlockShape, layer: usize, step: StepOf) -> Result<bool> {
        for plan in self.0.iter().filter(|plan| plan.budget_tflops().is_none()) {
            let layers = plan.tokens(block, step)?.unwrap_or_default();
            if layers.get(layer).is_some_and(|layer| layer.of_queries(sub) == 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all of them want guidance at `step`.
    pub fn want_guidance(&self, step: StepOf) -> bool {
        self.0.iter().all(|plan| plan.wants_guidance(step))
    }
}

/// The plan of a method that reduces nothing: every block runs on all tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole;

impl MethodPlan for Whole {
    fn settings(&self) -> Options {
        Options::new()
    }

    fn tokens(&self, block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(Some(block.whole()))
    }
}

/// The plan of a method whose token counts only a run can tell. It holds the options as they were given.
#[derive(Debug, Clone, Default)]
pub struct RunTells {
    /// The options.
    pub options: Options,
}

impl MethodPlan for RunTells {
    fn settings(&self) -> Options {
        self.options.clone()
    }

    fn tokens(&self, _block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(None)
    }
}

/// The [`Scoring`] of a block at `step`, for methods that use scores at several steps.
///
/// The function walks through the steps up to `step`. `kept` gives the number of tokens that stay at a step, or `None` if the
/// block stays whole. `serves` says whether scores of its first step are used at its second. `first` is the answer for the first
/// step with scores.
///
/// # Errors
/// The errors of `kept`.
pub fn scoring_of(
    step: StepOf,
    mut kept: impl FnMut(StepOf) -> Result<Option<usize>>,
    serves: impl Fn(usize, usize) -> bool,
    first: Scoring,
) -> Result<Scoring> {
    let mut found: Option<(usize, usize)> = None;
    let mut scoring = Scoring::Fresh;
    for index in 0..=step.index {
        let Some(kept) = kept(StepOf { index, ..step })? else { continue };
        scoring = match found {
            None => first,
            Some((at, of)) if of == kept && serves(at, index) => Scoring::Reused,
            Some(_) => Scoring::Fresh,
        };
        if scoring != Scoring::Reused {
            found = Some((index, kept));
        }
    }
    Ok(scoring)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn MethodPlan>) {}

    #[test]
    fn what_is_found_serves_until_it_is_too_old_or_of_other_counts() {
        use Scoring::{First, Fresh, Reused};
        let at = |index| {
            let kept = |step: StepOf| Ok((step.index > 0).then_some(if step.index < 4 { 8 } else { 6 }));
            scoring_of(StepOf { index, total: 9 }, kept, |at, now| now - at < 2, First).unwrap()
        };
        assert_eq!([1, 2, 3, 4, 5, 6].map(at), [First, Reused, Fresh, Fresh, Reused, Fresh]);
    }
}
