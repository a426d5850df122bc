//! A method with all its options: plain data that is checked before use.

use atedm_core::plugin::options::{from_table, to_table, unknown_option};
use atedm_core::plugin::{Options, Placement, ScheduleRegistry};
use atedm_core::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::counts::TokenPlan;
use crate::dito::DitoOptions;
use crate::ibtm::IbtmOptions;
use crate::method_options::MethodOptions;
use crate::presets;
use crate::sito::SitoOptions;
use crate::todo::TodoOptions;
use crate::toma::TomaOptions;
use crate::tome::TomeOptions;

/// A method's own options.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Method {
    /// Token Merging.
    Tome(TomeOptions),
    /// Token Downsampling.
    Todo(TodoOptions),
    /// Token merging with attention.
    Toma(TomaOptions),
    /// Similarity-based token pruning.
    Sito(SitoOptions),
    /// Importance-based token merging.
    Ibtm(IbtmOptions),
    /// Merging by the similarity of outputs.
    Dito(DitoOptions),
}

impl Method {
    /// What the options answer without a tensor.
    pub fn options(&self) -> &dyn MethodOptions {
        match self {
            Self::Tome(options) => options,
            Self::Todo(options) => options,
            Self::Toma(options) => options,
            Self::Sito(options) => options,
            Self::Ibtm(options) => options,
            Self::Dito(options) => options,
        }
    }

    /// Options of the same method from a table.
    fn parsed(&self, table: Options) -> std::result::Result<Self, String> {
        Ok(match self {
            Self::Tome(_) => Self::Tome(from_table(table)?),
            Self::Todo(_) => Self::Todo(from_table(table)?),
            Self::Toma(_) => Self::Toma(from_table(table)?),
            Self::Sito(_) => Self::Sito(from_table(table)?),
            Self::Ibtm(_) => Self::Ibtm(from_table(table)?),
            Self::Dito(_) => Self::Dito(from_table(table)?),
        })
    }
}

/// A method, how much it reduces, where and when. As options it is one flat table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MergeConfig {
    /// How much, where and when.
    pub placement: Placement,
    /// The method's own options.
    pub method: Method,
}

impl MergeConfig {
    /// The named preset, one of [`presets::names`].
    pub fn preset(name: &str) -> Option<Self> {
        presets::find(name)
    }

    /// A preset with these options laid over it: what a command line or a configuration file says.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown preset or key (listing the known ones), and for a value of the wrong form or
    /// out of range.
    pub fn from_options(preset: &str, options: &Options) -> Result<Self> {
        let base = Self::preset(preset).ok_or_else(|| {
            let names = presets::names().join(", ");
            Error::config("preset", format!("expected one of {names}, got {preset:?}"))
        })?;
        let (placement, given) = base.placement.read(options)?;
        let mut own = to_table(&base.method)?;
        for (key, value) in &given {
            match own.get_mut(key) {
                // A table given is laid over the preset's, entry by entry.
                Some(Value::Object(below)) if value.is_object() => {
                    below
                        .extend(value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
                    // Steps that are listed take the place of the preset's every so many-th.
                    if key == "reuse" && value.get("at").is_some_and(|at| !at.is_null()) {
                        below.insert("steps".into(), value.get("steps").cloned().unwrap_or_else(|| 1.into()));
                    }
                }
                Some(slot) => *slot = value.clone(),
                None => return Err(unknown_option(key, known(&own))),
            }
            // Alone over the defaults, so that what is wrong with it is said under its name.
            let alone = Options::from_iter([(key.clone(), own[key].clone())]);
            base.method.parsed(alone).map_err(|reason| Error::config(key, reason))?;
        }
        let method = base.method.parsed(own).map_err(|reason| Error::config("options", reason))?;
        let config = Self { placement, method };
        config.validate()?;
        Ok(config)
    }

    /// Every option with its value; those that are not set, or do nothing beside the others, are left out.
    ///
    /// # Errors
    /// [`Error::Config`] when a value cannot be written.
    pub fn to_options(&self) -> Result<Options> {
        let mut all = self.placement.to_options()?;
        all.extend(to_table(&self.method)?);
        all.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|table| !table.is_empty()));
        Ok(all)
    }

    /// Checks that every value is in range and no two contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
    pub fn validate(&self) -> Result<()> {
        self.placement.validate()?;
        let options = self.method.options();
        if self.placement.budget_tflops.is_some() && (!options.has_ratio() || options.decides_by_data()) {
            let reason = "no ratio decides what this configuration costs: give its own options";
            return Err(Error::config("budget_tflops", reason));
        }
        options.validate()
    }

    /// The same configuration with a solved `ratio` in place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(self, ratio: f64) -> Result<Self> {
        Ok(Self { placement: self.placement.with_ratio(ratio)?, ..self })
    }

    /// How many tokens every layer runs on, as far as that is known without tokens ([`TokenPlan::is_exact`]).
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration is invalid, holds an unsolved budget or an unresolved level, or names
    /// a schedule that is not registered.
    pub fn plan_with(&self, schedules: &ScheduleRegistry) -> Result<TokenPlan> {
        self.validate()?;
        self.placement.expect_solved()?;
        let schedule = self.placement.build(schedules)?;
        Ok(TokenPlan::new(schedule, self.method.clone(), self.placement.ratio))
    }
}

/// The options that a method knows, where `own` are those that are not every method's.
fn known(own: &Options) -> impl Iterator<Item = &str> {
    own.keys().map(String::as_str).chain(Placement::KEYS)
}
