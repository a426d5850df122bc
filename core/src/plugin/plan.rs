//! What a method is before any tensor exists: its options, its token counts, and what they depend on.
//!
//! A [`MethodPlan`] is what the program knows a method by. Costs, budgets, `--plan`, `inspect`, the weights of a benchmark
//! and what a record says of a run come from it, for any method alike.

use std::any::Any;
use std::sync::Arc;

use super::nest::NestId;
use super::options::Options;
use super::schedule::ScheduleRegistry;
use super::site::Sublayer;
use super::tokens::{BlockShape, LayerTokens, ModelShape, StepOf};
use crate::Result;

/// For what a method is described, besides its options.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The model at the size of the run. `None`: it is not known, and what depends on it is not checked.
    pub model: Option<&'a ModelShape>,
    /// The generator that a method draws random numbers from unless its options name one: `torch` or `chacha`.
    pub rng: Option<&'a str>,
    /// The registered schedules.
    pub schedules: &'a ScheduleRegistry,
}

impl<'a> Facts<'a> {
    /// Nothing is known but the schedules.
    pub fn new(schedules: &'a ScheduleRegistry) -> Self {
        Self { model: None, rng: None, schedules }
    }

    /// The same for a model that is known.
    pub fn of_model(self, model: &'a ModelShape) -> Self {
        Self { model: Some(model), ..self }
    }

    /// The same for a program that draws its numbers from this generator.
    pub fn with_rng(self, rng: &'a str) -> Self {
        Self { rng: Some(rng), ..self }
    }
}

/// What a method finds out in a block at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// For the first time in the run, which costs more than later times.
    First,
    /// Anew.
    Fresh,
    /// Nothing: what was found at an earlier step serves again.
    Reused,
}

/// A method with checked options, without a tensor. Object-safe; a registry entry makes it of a table of options and builds
/// a [`TokenReducer`](super::TokenReducer) of it.
pub trait MethodPlan: Any + std::fmt::Debug + Send + Sync {
    /// Every option with its value, defaults too, but those that do nothing beside the others: what records hold and what
    /// hashes cover. Given to the registry entry again they describe the same method.
    fn settings(&self) -> Options;

    /// What presets have in common that differ by their settings alone: with equal settings they do the same. `None`: the
    /// registered name says what the method is.
    fn family(&self) -> Option<&str> {
        None
    }

    /// The tokens that each layer of `block` runs on at `step`; `None` where only a run can tell.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) while a budget is not solved, [`Error::Plugin`](crate::Error::Plugin) when a
    /// part answers out of range.
    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>>;

    /// The nest that does not run at `step`, because the method has its output, in a run that begins with the first step.
    /// Counts and scoring of blocks in it mean nothing at this step. Where only a run can tell, [`MethodPlan::tokens`] is
    /// `None`.
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

    /// Values that the method holds for one batch row from one step to the next: outputs to be used again. What it knows
    /// of single tokens is left out.
    fn memory(&self, _model: &ModelShape) -> u64 {
        0
    }

    /// What the method finds out in `block` at `step`. Asked only where tokens are removed.
    ///
    /// # Errors
    /// As [`MethodPlan::tokens`].
    fn scoring(&self, _block: &BlockShape, _step: StepOf) -> Result<Scoring> {
        Ok(Scoring::Fresh)
    }

    /// The mean TFLOPs of an evaluation that are asked for, while no ratio is found for them.
    fn budget_tflops(&self) -> Option<f64> {
        None
    }

    /// The same method with another ratio, in place of a budget if there is one; `None` where no ratio decides what the
    /// method costs.
    fn with_ratio(&self, _ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        None
    }

    /// The same method without rules that stop its work early when its data allow; `None` where there are none. Data that
    /// were made up for a benchmark would decide otherwise than real ones.
    fn without_early_stop(&self) -> Option<Box<dyn MethodPlan>> {
        None
    }

    /// The same method with scores that are iterated until they no longer change, whatever that costs: its kept sets are
    /// what those of fewer votes are compared with. `None` where no scores are iterated.
    fn converged(&self) -> Option<Box<dyn MethodPlan>> {
        None
    }

    /// Whether every token that it leaves stands for one place of those before, so that rotary tables and the like can
    /// follow. A model that [needs positions](ModelShape::needs_positions) refuses a method that gives none.
    fn gives_positions(&self) -> bool {
        true
    }

    /// Whether telling an observer takes time that the method alone would not, so that who only counts had better ask
    /// [`MethodPlan::tokens`].
    fn is_slow_to_watch(&self) -> bool {
        false
    }

    /// What a user should know who reads only the options: one sentence each.
    ///
    /// # Errors
    /// As [`MethodPlan::tokens`].
    fn remarks(&self, _model: &ModelShape) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

impl dyn MethodPlan {
    /// The plan as its own type, if it is of that type.
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

/// The plan of the identity: every block runs whole.
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

/// The plan of a method of which only a run can tell what it removes: its options, as they were given.
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

/// When every evaluated step of a block finds out something anew, for methods that use it again.
///
/// Walks the steps up to `step`: `kept` says how many tokens of the block stay at each (`None`: it is left whole), `serves`
/// whether what was found at the first of two steps is used at the second.
///
/// # Errors
/// Those of `kept`.
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
