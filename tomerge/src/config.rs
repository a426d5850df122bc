//! A method with all its options: plain data, and the checks of its values.

use atedm_core::plugin::options::{from_table, to_table, unknown_option};
use atedm_core::plugin::{Options, Placement};
use atedm_core::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::dito::DitoOptions;
use crate::ibtm::IbtmOptions;
use crate::method_options::MethodOptions;
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
    /// What the options say about the method without a tensor.
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

    /// Reads options of the same method from a table.
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

/// A method and its placement. Its options form one flat table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MergeConfig {
    /// How much, where and when.
    pub placement: Placement,
    /// The method's own options.
    pub method: Method,
}

impl MergeConfig {
    /// This configuration with `options` laid over it.
    pub(crate) fn overlaid(&self, options: &Options) -> Result<Self> {
        let (placement, given) = self.placement.read(options)?;
        let mut own = to_table(&self.method)?;
        for (key, value) in &given {
            match own.get_mut(key) {
                // A given table is laid over the preset's table, entry by entry.
                Some(Value::Object(below)) if value.is_object() => {
                    below
                        .extend(value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
                    // A list of steps takes the place of the preset's interval.
                    if key == "reuse" && value.get("at").is_some_and(|at| !at.is_null()) {
                        below.insert("steps".into(), value.get("steps").cloned().unwrap_or_else(|| 1.into()));
                    }
                }
                Some(slot) => *slot = value.clone(),
                None => return Err(unknown_option(key, known(&own))),
            }
            // Each option is read alone first, so that an error carries its name.
            let alone = Options::from_iter([(key.clone(), own[key].clone())]);
            self.method.parsed(alone).map_err(|reason| Error::config(key, reason))?;
        }
        let method = self.method.parsed(own).map_err(|reason| Error::config("options", reason))?;
        let config = Self { placement, method };
        config.validate()?;
        Ok(config)
    }

    /// Every option with its value. Options that are not set or have no effect are left out.
    ///
    /// # Errors
    /// [`Error::Config`] when a value cannot be written.
    pub fn to_options(&self) -> Result<Options> {
        let mut all = self.placement.to_options()?;
        all.extend(to_table(&self.method)?);
        all.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|table| !table.is_empty()));
        Ok(all)
    }

    /// Checks that every value is in range and that no two values contradict each other.
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
}

/// The options that a method knows: its own, which are the keys of `own`, and those of every method.
fn known(own: &Options) -> impl Iterator<Item = &str> {
    own.keys().map(String::as_str).chain(Placement::KEYS)
}
