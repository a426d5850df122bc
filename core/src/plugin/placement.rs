//! The options that every method shares: how much it reduces, where and when.

use serde::{Deserialize, Serialize};

use super::fraction::{check_ratio, share};
use super::levels::Levels;
use super::options::{Options, PartSlot, from_table, to_table};
use super::schedule::{ScheduleTable, Tau};
use super::sharing::GuidanceMasks;
use crate::{Error, Result};

/// The name of `ratio` in programs for token merging.
const ALIAS: &str = "token_merging_ratio";

/// The options of the schedule.
pub(super) const SCHEDULE: PartSlot = PartSlot {
    name: "schedule",
    options: "schedule_options",
    builtin: &[("prune-less", &["tau"]), ("prune-more", &["tau"]), ("constant", &[]), ("table", &["table"])],
};

/// Strength, levels, schedule and guidance of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// The fraction of tokens that are removed, in `[0, 1)`: `floor(ratio · N)` of N tokens, computed in f64. `"63%"` means
    /// 0.63. `token_merging_ratio` is another name of this option. Default 0.5.
    #[serde(deserialize_with = "share")]
    pub ratio: f64,
    /// Takes the place of `ratio`: the mean TFLOPs of one U-Net evaluation over the schedule (2 × MAC, one sample).
    /// A solver that knows the model finds the ratio for it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tflops: Option<f64>,
    /// The resolution levels at which the method works: `"all"`, `"deepest"`, or a list such as `[1, 2]`.
    /// Default `"all"`.
    pub levels: Levels,
    /// The schedule's name: `constant`, `prune-less`, `prune-more`, `table`, or a registered name.
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
    /// Which decisions count in the two halves of guidance: `per_row`, `cond` or `mean`. With `first` the decisions of the
    /// first row count for the whole batch. Default `per_row`.
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
    /// The keys that [`Placement::read`] takes out of a method's options.
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

    /// This placement with `options` laid over it. The second value holds the other options: the method's own.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option, if its value has the wrong type, is out of range, contradicts another option, or
    /// has no effect under the chosen schedule.
    pub fn read(&self, options: &Options) -> Result<(Self, Options)> {
        let mut own = options.clone();
        SCHEDULE.flatten(&mut own, &self.schedule)?;
        let mut given = Options::new();
        for key in Self::KEYS {
            let Some(value) = own.remove(key) else { continue };
            let name = if key == ALIAS { "ratio" } else { key };
            // Each option is read alone first, so that an error carries its name.
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
            // A given ratio replaces the budget of a preset.
            all.remove("budget_tflops");
        }
        all.extend(given.clone());
        let placement: Self = from_table(all).map_err(|reason| Error::config("options", reason))?;
        placement.validate()?;
        SCHEDULE.check_idle(&given, &placement.schedule)?;
        Ok((placement, own))
    }

    /// Every option with its value. Options that are not set or have no effect under this schedule are left out. Read again,
    /// the options give the same placement.
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

    /// Checks that every value is in range and that no two values contradict each other.
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

    /// The same placement with a solved `ratio` in place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(mut self, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        self.ratio = ratio;
        self.budget_tflops = None;
        Ok(self)
    }

    /// Checks that the placement has a ratio, and no budget that is still to be solved.
    ///
    /// # Errors
    /// [`Error::Config`] naming `budget_tflops`.
    pub fn expect_solved(&self) -> Result<()> {
        expect_solved(self.budget_tflops)
    }
}

/// Checks that there is no budget: a budget must be solved for a ratio first.
///
/// # Errors
/// [`Error::Config`] naming `budget_tflops`.
pub(super) fn expect_solved(budget: Option<f64>) -> Result<()> {
    match budget {
        Some(_) => {
            let reason = "a budget needs the model's FLOPs: solve it for a ratio first";
            Err(Error::config("budget_tflops", reason))
        }
        None => Ok(()),
    }
}

/// The error for `schedule = "table"` without one.
pub(super) fn missing_table() -> Error {
    Error::config("schedule", "\"table\" needs either table or schedule_file")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
}
