//! How much is reduced, where and when: the options that every method here shares with AT-EDM.

use std::path::PathBuf;

use atedm_core::at_edm::schedule::ScheduleTable;
use atedm_core::at_edm::{AtEdmConfig, Tau};
use atedm_core::plugin::{Gate, GuidanceMasks, Levels, PruningSchedule, ScheduleRegistry, check_ratio};
use atedm_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Strength, levels, schedule and guidance of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// The fraction of tokens removed, in `[0, 1)`: `floor(ratio · N)` of N tokens, in f64. Also accepted as
    /// `token_merging_ratio`. Default 0.5 (for ToDo: of keys and values by similarity at level 0).
    pub ratio: f64,
    /// Instead of `ratio`: the mean TFLOPs of one U-Net evaluation over the schedule (2 × MAC, one sample), from which
    /// a solver that knows the model finds the ratio. Default: none.
    pub budget_tflops: Option<f64>,
    /// The resolution levels at which the method works: `"all"`, `"deepest"`, or a list such as `[1, 2]`.
    /// Default `"all"`.
    pub levels: Levels,
    /// The schedule's registered name: `constant`, `prune-less`, `prune-more`, `table`, or a registered one.
    /// Default `constant`.
    pub schedule: String,
    /// Options of a registered schedule. Default: none.
    pub schedule_options: Map<String, Value>,
    /// With `schedule = "table"`: the table itself. Default: none.
    pub table: Option<ScheduleTable>,
    /// With `schedule = "table"`: a `.toml` or `.json` file that holds the table. Default: none.
    pub schedule_file: Option<PathBuf>,
    /// The number τ of early steps of `prune-less` and `prune-more`, as a count or a share. Default `"30%"`.
    pub tau: Tau,
    /// Whose similarities decide in the halves of guidance: `per_row`, `cond` or `mean`; `first`: the first row's in the
    /// whole batch. Default `per_row`.
    pub guidance: GuidanceMasks,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            ratio: 0.5,
            budget_tflops: None,
            levels: Levels::All,
            schedule: "constant".into(),
            schedule_options: Map::new(),
            table: None,
            schedule_file: None,
            tau: Tau::default(),
            guidance: GuidanceMasks::PerRow,
        }
    }
}

impl Placement {
    /// That every value is in range and no two contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
    pub fn validate(&self) -> Result<()> {
        check_ratio("ratio", self.ratio)?;
        // The rest is said as AT-EDM says it.
        self.as_at_edm().validate()
    }

    /// The gate of this placement: the schedule, confined to the levels.
    ///
    /// # Errors
    /// [`Error::Config`] for an unsolved budget, an unresolved `"deepest"`, or a schedule that is not registered.
    pub fn gate(&self, schedules: &ScheduleRegistry) -> Result<Gate> {
        self.validate()?;
        if self.budget_tflops.is_some() {
            let reason = "a budget needs the model's FLOPs: solve it for a ratio first";
            return Err(Error::config("budget_tflops", reason));
        }
        let schedule: Box<dyn PruningSchedule> = schedules.build(&self.as_at_edm())?;
        Gate::new(schedule, self.levels.clone(), self.ratio)
    }

    /// These options where AT-EDM has them: a registry builds schedules from such a table.
    fn as_at_edm(&self) -> AtEdmConfig {
        AtEdmConfig {
            ratio: self.ratio,
            budget_tflops: self.budget_tflops,
            levels: self.levels.clone(),
            schedule: self.schedule.clone(),
            schedule_options: self.schedule_options.clone(),
            table: self.table.clone(),
            schedule_file: self.schedule_file.clone(),
            tau: self.tau,
            guidance: self.guidance,
            ..AtEdmConfig::default()
        }
    }
}
