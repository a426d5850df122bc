//! How much a method reduces, where and when: the options that every method shares, whatever it does.

use serde::{Deserialize, Serialize};

use super::block::BlockId;
use super::levels::Levels;
use super::options::{Options, from_table, to_table};
use super::plan::Facts;
use super::schedule::{
    PruningSchedule, SCHEDULE, ScheduleQuery, ScheduleRegistry, ScheduleTable, Tau, missing_table, share,
};
use super::sharing::GuidanceMasks;
use crate::{Error, Result};

/// What users of token merging know `ratio` as.
const ALIAS: &str = "token_merging_ratio";

/// Strength, levels, schedule and guidance of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// The fraction of tokens removed, in `[0, 1)`: `floor(ratio · N)` of N tokens, in f64. A share such as `"63%"` is
    /// the same number. Also accepted as `token_merging_ratio`. Default 0.5.
    #[serde(deserialize_with = "share")]
    pub ratio: f64,
    /// Instead of `ratio`: the mean TFLOPs of one U-Net evaluation over the schedule (2 × MAC, one sample), from which
    /// a solver that knows the model finds the ratio. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tflops: Option<f64>,
    /// The resolution levels at which the method works: `"all"`, `"deepest"`, or a list such as `[1, 2]`.
    /// Default `"all"`.
    pub levels: Levels,
    /// The schedule's registered name: `constant`, `prune-less`, `prune-more`, `table`, or a registered one.
    /// Default `constant`.
    pub schedule: String,
    /// Options of a registered schedule. Default: none.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub schedule_options: Options,
    /// With `schedule = "table"`: the table itself. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<ScheduleTable>,
    /// With `prune-less` and `prune-more`: the number τ of early steps, as a count or a share. Default `"30%"`.
    pub tau: Tau,
    /// Whose decisions count in the halves of guidance: `per_row`, `cond` or `mean`; `first`: the first row's in the whole
    /// batch. Default `per_row`.
    pub guidance: GuidanceMasks,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            ratio: 0.5,
            budget_tflops: None,
            levels: Levels::All,
            schedule: "constant".into(),
            schedule_options: Options::new(),
            table: None,
            tau: Tau::default(),
            guidance: GuidanceMasks::default(),
        }
    }
}

impl Placement {
    /// Every key that [`Placement::read`] takes out of a method's options.
    pub const KEYS: [&'static str; 9] = [
        "ratio",
        ALIAS,
        "budget_tflops",
        "levels",
        "schedule",
        "schedule_options",
        "table",
        "tau",
        "guidance",
    ];

    /// This placement with `options` laid over it, and the options that are no placement's: the method's own.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option whose value has the wrong form, is out of range, contradicts another, or does
    /// nothing under the schedule that is chosen.
    pub fn read(&self, options: &Options) -> Result<(Self, Options)> {
        let mut own = options.clone();
        SCHEDULE.flatten(&mut own, &self.schedule)?;
        let mut given = Options::new();
        for key in Self::KEYS {
            let Some(value) = own.remove(key) else { continue };
            let name = if key == ALIAS { "ratio" } else { key };
            // Alone over the defaults, so that what is wrong with it is said under its name.
            let alone = Options::from_iter([(name.to_string(), value.clone())]);
            from_table::<Self>(alone).map_err(|reason| Error::config(key, reason))?;
            if given.insert(name.into(), value).is_some() {
                return Err(Error::config(ALIAS, "is another name of ratio: give one of them"));
            }
        }
        let mut all = to_table(self)?;
        if given.contains_key("ratio") {
            if given.get("budget_tflops").is_some_and(|budget| !budget.is_null()) {
                return Err(Error::config("budget_tflops", "takes the place of ratio: give one of them"));
            }
            // A ratio given on top of a preset with a budget replaces its budget.
            all.remove("budget_tflops");
        }
        all.extend(given.clone());
        let placement: Self = from_table(all).map_err(|reason| Error::config("options", reason))?;
        placement.validate()?;
        SCHEDULE.check_idle(&given, &placement.schedule)?;
        Ok((placement, own))
    }

    /// Every option with its value, but those that are not set or do nothing under this schedule. Read again they give
    /// the same placement.
    ///
    /// # Errors
    /// [`Error::Config`] when a value cannot be written.
    pub fn to_options(&self) -> Result<Options> {
        let mut all = to_table(self)?;
        SCHEDULE.remove_idle(&mut all, &self.schedule);
        if self.budget_tflops.is_some() {
            all.remove("ratio");
        }
        Ok(all)
    }

    /// Checks that every value is in range and no two contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
    pub fn validate(&self) -> Result<()> {
        check_ratio("ratio", self.ratio)?;
        if let Some(budget) = self.budget_tflops
            && !(budget > 0.0 && budget.is_finite())
        {
            let reason = format!("expected a positive number of TFLOPs, got {budget}");
            return Err(Error::config("budget_tflops", reason));
        }
        if self.levels == Levels::List(Vec::new()) {
            let reason = "expected \"all\", \"deepest\" or at least one level, got an empty list";
            return Err(Error::config("levels", reason));
        }
        self.tau.validate("tau")?;
        match (&self.table, self.schedule.as_str()) {
            (None, "table") => Err(missing_table()),
            (Some(table), "table") => table.validate("table"),
            (Some(_), other) => {
                let reason = format!("is used by schedule = \"table\" only, which is {other:?}");
                Err(Error::config("table", reason))
            }
            (None, _) => Ok(()),
        }
    }

    /// The same for a model that is known: `levels = "deepest"` becomes a list. Where none is known, as it is.
    ///
    /// # Errors
    /// [`Error::Config`] naming `levels` for a level below the model's deepest.
    pub fn located(mut self, facts: &Facts<'_>) -> Result<Self> {
        if let Some(model) = facts.model {
            let deepest = model.deepest_level();
            self.levels.check(deepest)?;
            self.levels = self.levels.resolved(deepest);
        }
        Ok(self)
    }

    /// The same with a solved `ratio` in place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(mut self, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        self.ratio = ratio;
        self.budget_tflops = None;
        Ok(self)
    }

    /// Checks that a ratio is there, not a budget that is still to be solved.
    ///
    /// # Errors
    /// [`Error::Config`] naming `budget_tflops`.
    pub fn expect_solved(&self) -> Result<()> {
        expect_solved(self.budget_tflops)
    }

    /// The schedule of this placement, confined to its levels. While a budget is not solved, every question to it is an error.
    ///
    /// # Errors
    /// [`Error::Config`] for a value out of range, an unresolved `"deepest"`, or a schedule that is not registered.
    pub fn build(&self, schedules: &ScheduleRegistry) -> Result<PlacedSchedule> {
        self.validate()?;
        let schedule = PlacedSchedule::new(schedules.build(self)?, self.levels.clone(), self.ratio)?;
        Ok(PlacedSchedule { budget: self.budget_tflops, ..schedule })
    }

    /// [`Placement::build`] for a method that is being described: its schedule fits the model and the steps of the run, if they
    /// are known.
    ///
    /// # Errors
    /// As [`Placement::build`]; [`Error::Config`] when the schedule does not fit the model or the steps.
    pub fn build_for(&self, facts: &Facts<'_>) -> Result<PlacedSchedule> {
        let schedule = self.build(facts.schedules)?;
        if let Some(model) = facts.model {
            schedule.begin(model.steps)?;
            schedule.schedule.check_blocks(&model.blocks)?;
        }
        Ok(schedule)
    }
}

fn expect_solved(budget: Option<f64>) -> Result<()> {
    match budget {
        Some(_) => {
            let reason = "a budget needs the model's FLOPs: solve it for a ratio first";
            Err(Error::config("budget_tflops", reason))
        }
        None => Ok(()),
    }
}

/// A schedule confined to some levels: the one place that decides whether and how much a block is reduced.
#[derive(Debug)]
pub struct PlacedSchedule {
    schedule: Box<dyn PruningSchedule>,
    levels: Levels,
    ratio: f64,
    /// A budget for which no ratio is known yet.
    budget: Option<f64>,
}

impl PlacedSchedule {
    /// A schedule that lets `ratio` through at `levels`, as `schedule` distributes it.
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

    /// The fraction to remove in `block` at `step` of `total`; 0 where the block stays whole.
    ///
    /// # Errors
    /// [`Error::Plugin`] when the schedule answers with a value outside `[0, 1)`; [`Error::Config`] while a budget is not
    /// solved.
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

    /// The same schedule for another ratio, in place of a budget if there is one.
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
    /// As [`PruningSchedule::begin`].
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

/// Checks that `ratio`, a fraction of tokens to remove, is in `[0, 1)`.
///
/// # Errors
/// [`Error::Config`] naming `field`.
pub fn check_ratio(field: &str, ratio: f64) -> Result<()> {
    if (0.0..1.0).contains(&ratio) {
        Ok(())
    } else {
        let reason = format!("expected a fraction of tokens to remove, at least 0 and below 1, got {ratio}");
        Err(Error::config(field, reason))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::{BlockShape, Grid, ModelShape, Stage};

    fn read(options: Value) -> Result<(Placement, Options)> {
        let preset = Placement { budget_tflops: Some(3.0), ..Placement::default() };
        preset.read(options.as_object().unwrap())
    }

    #[test]
    fn a_methods_own_options_are_left() {
        let (placement, own) = read(json!({"ratio": "25%", "levels": "1+2", "mine": [1]})).unwrap();
        assert_eq!((placement.ratio, placement.budget_tflops), (0.25, None));
        assert_eq!(placement.levels, Levels::List(vec![1, 2]));
        assert_eq!(Value::Object(own), json!({"mine": [1]}));
        assert_eq!(read(json!({})).unwrap().0.budget_tflops, Some(3.0));
        let (placement, _) = read(json!({"schedule": {"name": "prune-less", "tau": 4}})).unwrap();
        assert_eq!((placement.schedule.as_str(), placement.tau), ("prune-less", Tau::Steps(4)));
        let again = placement.read(&placement.to_options().unwrap()).unwrap();
        assert_eq!(again, (placement, Options::new()));
    }

    #[test]
    fn what_does_nothing_under_the_schedule_is_an_error() {
        for (options, message) in [
            (
                json!({"tau": "10%"}),
                "tau: does nothing here: it is an option of schedule = \"prune-less\" or \"prune-more\", which is \
                 \"constant\"",
            ),
            (
                json!({"table": {"entries": []}, "schedule": "prune-less"}),
                "table: is used by schedule = \"table\" only, which is \"prune-less\"",
            ),
            (
                json!({"schedule": {"name": "constant", "tau": 1}}),
                "schedule.tau: unknown option; constant takes none",
            ),
            (json!({"schedule": "table"}), "schedule: \"table\" needs either table or schedule_file"),
        ] {
            assert_eq!(read(options).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_placed_schedule_answers_once_its_budget_is_solved() {
        let schedules = ScheduleRegistry::with_builtins();
        let block = BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 2 };
        let shape = BlockShape::new(block, 1, Grid::new(2, 2));
        let model = ModelShape::new(vec![shape], 4);
        let facts = Facts::new(&schedules).of_model(&model);
        let placement = Placement { levels: Levels::Deepest, ..read(json!({})).unwrap().0 };
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
