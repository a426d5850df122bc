//! A placement's schedule, built by its name and limited to the placement's levels.

use super::block::BlockId;
use super::fraction::check_ratio;
use super::levels::Levels;
use super::placement::{Placement, expect_solved};
use super::plan::Facts;
use super::schedule::{PruningSchedule, ScheduleQuery, ScheduleRegistry};
use crate::{Error, Result};

impl Placement {
    /// The same placement for the model in `facts`: `levels = "deepest"` becomes a list. Without a model nothing changes.
    ///
    /// # Errors
    /// [`Error::Config`] naming `levels` for a level that the model does not have.
    pub fn located(mut self, facts: &Facts<'_>) -> Result<Self> {
        if let Some(model) = facts.model {
            let deepest = model.deepest_level();
            self.levels.check(deepest)?;
            self.levels = self.levels.resolved(deepest);
        }
        Ok(self)
    }

    /// The schedule of this placement, limited to its levels. If the placement has a budget, the schedule answers with an
    /// error until [`PlacedSchedule::with_ratio`] gives it a ratio.
    ///
    /// # Errors
    /// [`Error::Config`] for a value out of range, an unresolved `"deepest"`, or a schedule that is not registered.
    pub fn build(&self, schedules: &ScheduleRegistry) -> Result<PlacedSchedule> {
        self.validate()?;
        let schedule = PlacedSchedule::new(schedules.build(self)?, self.levels.clone(), self.ratio)?;
        Ok(PlacedSchedule { budget: self.budget_tflops, ..schedule })
    }

    /// The same as [`Placement::build`]. If `facts` hold a model, the schedule must also fit its blocks and steps.
    ///
    /// # Errors
    /// The same as [`Placement::build`]; [`Error::Config`] if the schedule does not fit the model or the steps.
    pub fn build_for(&self, facts: &Facts<'_>) -> Result<PlacedSchedule> {
        let schedule = self.build(facts.schedules)?;
        if let Some(model) = facts.model {
            schedule.begin(model.steps)?;
            schedule.schedule.check_blocks(&model.blocks)?;
        }
        Ok(schedule)
    }
}

/// A schedule limited to some levels. It alone decides whether a block is reduced, and how much.
#[derive(Debug)]
pub struct PlacedSchedule {
    schedule: Box<dyn PruningSchedule>,
    levels: Levels,
    ratio: f64,
    /// A budget that is not solved for a ratio yet.
    budget: Option<f64>,
}

impl PlacedSchedule {
    /// A schedule that removes `ratio` of the tokens at `levels`, as `schedule` distributes it.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)` or `levels` is an unresolved [`Levels::Deepest`].
    pub fn new(schedule: Box<dyn PruningSchedule>, levels: Levels, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        if levels == Levels::Deepest {
            let reason =
                "\"deepest\" needs the model: describe the method for a model whose blocks are known";
            return Err(Error::config("levels", reason));
        }
        Ok(Self { schedule, levels, ratio, budget: None })
    }

    /// The fraction of tokens to remove in `block` at `step` of `total` steps; 0 if the block stays whole.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the schedule answers with a value outside `[0, 1)`; [`Error::Config`] if a budget is not solved.
    pub fn ratio(&self, block: BlockId, step: usize, total: usize) -> Result<f64> {
        expect_solved(self.budget)?;
        if !self.levels.contains(block.level) {
            return Ok(0.0);
        }
        let ratio = self.schedule.ratio(&ScheduleQuery { block, step, total, ratio: self.ratio });
        if (0.0..1.0).contains(&ratio) {
            Ok(ratio)
        } else {
            Err(Error::Plugin {
                name: "schedule".into(),
                reason: format!("expected a ratio in [0, 1) for {block} at step {step}, got {ratio}"),
            })
        }
    }

    /// The same schedule with another ratio. The ratio also takes the place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(&self, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        Ok(Self { ratio, budget: None, ..self.clone() })
    }

    /// Checks that the schedule fits a run of `steps` steps.
    ///
    /// # Errors
    /// The same as [`PruningSchedule::begin`].
    pub fn begin(&self, steps: usize) -> Result<()> {
        self.schedule.begin(steps)
    }
}

impl Clone for PlacedSchedule {
    fn clone(&self) -> Self {
        let Self { schedule, levels, ratio, budget } = self;
        Self { schedule: schedule.clone_box(), levels: levels.clone(), ratio: *ratio, budget: *budget }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{BlockShape, Grid, ModelShape, Stage, Tau};

    #[test]
    fn a_placed_schedule_answers_once_its_budget_is_solved() {
        let schedules = ScheduleRegistry::with_builtins();
        let block = BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 2 };
        let shape = BlockShape::new(block, 1, Grid::new(2, 2));
        let model = ModelShape::new(vec![shape], 4);
        let facts = Facts::new(&schedules).of_model(&model);
        let placement =
            Placement { levels: Levels::Deepest, budget_tflops: Some(3.0), ..Placement::default() };
        assert!(placement.build(&schedules).is_err(), "which level is deepest?");
        let placement = placement.located(&facts).unwrap();
        let schedule = placement.build_for(&facts).unwrap();
        assert!(schedule.ratio(block, 0, 4).unwrap_err().to_string().starts_with("budget_tflops: "));
        assert_eq!(schedule.with_ratio(0.25).unwrap().ratio(block, 0, 4).unwrap(), 0.25);
        let late = Placement { schedule: "prune-less".into(), tau: Tau::Steps(5), ..placement.clone() };
        assert!(late.build_for(&facts).unwrap_err().to_string().starts_with("tau: "));
        let below = Placement { levels: Levels::List(vec![3]), ..placement };
        assert!(below.located(&facts).unwrap_err().to_string().starts_with("levels: "));
    }
}
