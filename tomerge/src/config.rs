//! A method with all its options: plain data with a gate in front of it.

use atedm_core::plugin::{BuildContext, Registry, ScheduleRegistry, Scheduled, TokenReducer, check_ratio};
use atedm_core::{AttentionOps, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::around::{AroundSublayers, Planner};
use crate::counts::TokenPlan;
use crate::placement::Placement;
use crate::presets;
use crate::rules::Rules;
use crate::sito::{Sito, SitoOptions};
use crate::todo::{Todo, TodoOptions};
use crate::toma::{Toma, TomaOptions};
use crate::tome::{Tome, TomeOptions};

/// What users of token merging know `ratio` as.
const ALIAS: &str = "token_merging_ratio";

/// A method's own options.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Method {
    /// Token Merging.
    Tome(TomeOptions),
    /// Token Downsampling.
    Todo(TodoOptions),
    /// Token merging with attention.
    Toma(TomaOptions),
    /// Similarity-based token pruning.
    Sito(SitoOptions),
}

impl Method {
    /// What the options answer without a tensor.
    pub fn rules(&self) -> &dyn Rules {
        match self {
            Self::Tome(options) => options,
            Self::Todo(options) => options,
            Self::Toma(options) => options,
            Self::Sito(options) => options,
        }
    }

    /// Options of the same method from a table.
    fn parsed(&self, table: Map<String, Value>) -> std::result::Result<Self, String> {
        Ok(match self {
            Self::Tome(_) => Self::Tome(parse(table)?),
            Self::Todo(_) => Self::Todo(parse(table)?),
            Self::Toma(_) => Self::Toma(parse(table)?),
            Self::Sito(_) => Self::Sito(parse(table)?),
        })
    }
}

/// A method, how much it reduces, where and when. As options it is one flat table.
#[derive(Debug, Clone, PartialEq)]
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
    pub fn from_options(preset: &str, options: &Map<String, Value>) -> Result<Self> {
        let base = Self::preset(preset).ok_or_else(|| {
            let names = presets::names().join(", ");
            Error::config("preset", format!("expected one of {names}, got {preset:?}"))
        })?;
        let (mut placement, mut own) = (table(&base.placement)?, table(&base.method)?);
        if options.contains_key("ratio") && options.contains_key(ALIAS) {
            return Err(Error::config(ALIAS, "is another name of ratio: give one of them"));
        }
        let ratio_given = options.contains_key("ratio") || options.contains_key(ALIAS);
        if ratio_given && options.get("budget_tflops").is_some_and(|budget| !budget.is_null()) {
            return Err(Error::config("budget_tflops", "takes the place of ratio: give one of them"));
        }
        for (key, value) in options {
            let name = if key == ALIAS { "ratio" } else { key };
            let target = if placement.contains_key(name) { &mut placement } else { &mut own };
            match target.get_mut(name) {
                // A table given is laid over the preset's, entry by entry.
                Some(Value::Object(below)) if value.is_object() && name != "schedule_options" => {
                    below
                        .extend(value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
                    // Steps that are listed take the place of the preset's every so many-th.
                    if name == "reuse" && value.get("at").is_some_and(|at| !at.is_null()) {
                        below.insert("steps".into(), value.get("steps").cloned().unwrap_or_else(|| 1.into()));
                    }
                }
                Some(slot) => *slot = value.clone(),
                None => {
                    let mut known: Vec<&str> =
                        placement.keys().chain(own.keys()).map(String::as_str).collect();
                    known.push(ALIAS);
                    known.sort_unstable();
                    let reason = format!("unknown option; expected one of {}", known.join(", "));
                    return Err(Error::config(key, reason));
                }
            }
            // Alone over the defaults, so that what is wrong with it is said under its name.
            let alone = |all: &Map<String, Value>| Map::from_iter([(name.to_string(), all[name].clone())]);
            let checked = match placement.contains_key(name) {
                true => parse::<Placement>(alone(&placement)).map(drop),
                false => base.method.parsed(alone(&own)).map(drop),
            };
            checked.map_err(|reason| Error::config(key, reason))?;
        }
        let wrong = |reason: String| Error::config("options", reason);
        let config = Self {
            placement: parse(placement).map_err(wrong)?,
            method: base.method.parsed(own).map_err(wrong)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Every option with its value; those that are not set are left out.
    ///
    /// # Errors
    /// [`Error::Config`] when a value cannot be written.
    pub fn to_options(&self) -> Result<Map<String, Value>> {
        let mut all = table(&self.placement)?;
        all.extend(table(&self.method)?);
        all.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|table| !table.is_empty()));
        Ok(all)
    }

    /// That every value is in range and no two contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
    pub fn validate(&self) -> Result<()> {
        self.placement.validate()?;
        let rules = self.method.rules();
        if self.placement.budget_tflops.is_some() && (!rules.has_ratio() || rules.decides_by_data()) {
            let reason = "no ratio decides what this configuration costs: give its own options";
            return Err(Error::config("budget_tflops", reason));
        }
        rules.validate()
    }

    /// The same configuration for a model whose deepest attention level is known: `levels = "deepest"` becomes a list.
    pub fn resolve(mut self, deepest_level: usize) -> Self {
        self.placement.levels = self.placement.levels.resolved(deepest_level);
        self
    }

    /// The same configuration with a solved `ratio` in place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(mut self, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        self.placement.ratio = ratio;
        self.placement.budget_tflops = None;
        Ok(self)
    }

    /// How many tokens every layer runs on, as far as that is known without tokens ([`TokenPlan::is_exact`]).
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration is invalid, holds an unsolved budget or an unresolved level, or names
    /// a schedule that is not registered.
    pub fn plan_with(&self, schedules: &ScheduleRegistry) -> Result<TokenPlan> {
        self.validate()?;
        let gate = self.placement.gate(schedules)?;
        Ok(TokenPlan::new(gate, self.method.clone(), self.placement.ratio))
    }

    /// The method itself; its schedule is looked up in `registry`.
    ///
    /// # Errors
    /// As [`MergeConfig::plan_with`].
    pub fn build<T: AttentionOps>(
        &self,
        context: &BuildContext<T>,
        registry: &Registry<T>,
    ) -> Result<Box<dyn TokenReducer<T>>> {
        self.validate()?;
        if context.replay.is_some() {
            let reason = "kept sets can be replayed for AT-EDM only: merging has no single kept set";
            return Err(Error::config("masks", reason));
        }
        let config = match context.deepest_level {
            Some(level) => self.clone().resolve(level),
            None => self.clone(),
        };
        let gate = config.placement.gate(registry.schedules())?;
        let Placement { ratio, guidance, .. } = config.placement;
        let reuse = config.method.rules().reuse();
        let planner: Box<dyn Planner<T>> = match config.method {
            Method::Tome(options) => Box::new(Tome::new(options, guidance, context.seed)),
            Method::Todo(options) => Box::new(Todo::new(options, guidance, context.seed)),
            Method::Toma(options) => Box::new(Toma { options, guidance }),
            Method::Sito(options) => Box::new(Sito::new(options, guidance, context.seed)),
        };
        let method = AroundSublayers::new(planner, ratio, reuse, context.observer.clone());
        Ok(Box::new(Scheduled::new(method, gate)))
    }
}

/// As a table of options.
fn table(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(table)) => Ok(table),
        Ok(other) => Err(Error::config("options", format!("expected a table, got {other}"))),
        Err(error) => Err(Error::config("options", error.to_string())),
    }
}

fn parse<O: DeserializeOwned>(table: Map<String, Value>) -> std::result::Result<O, String> {
    serde_json::from_value(Value::Object(table)).map_err(|error| error.to_string())
}
