//! Several methods on one model: a stack.
//!
//! A stack is named by its members, outer first, joined by `+`: `deepcache+at-edm-fast`. Its options are a table for each
//! member, keyed by the member's name, so that a member reads what it reads alone:
//!
//! ```text
//! { "deepcache": { "cache_interval": 3 }, "at-edm-fast": { "ratio": 0.5 } }
//! ```
//!
//! The outer member is asked first. What it gives in a nest's or a sublayer's place, the others are not asked about: to
//! it they are part of the model. Two members may not do the same thing at the same place, see [`StackPlan::new`].

mod name;
mod plan;
mod reducer;

use serde_json::Value;

pub use name::{JOIN, is_stack, members};
pub use plan::StackPlan;

use super::options::Options;
use super::plan::{Facts, MethodPlan};
use super::reducer::TokenReducer;
use crate::backend::AttentionOps;
use crate::{Error, Result};

/// The option that a stack has itself: the mean TFLOPs of an evaluation, met by the one member that has a ratio.
const BUDGET: &str = "budget_tflops";

/// Describes every member by its table of options, and all of them together.
pub(super) fn describe(
    name: &str,
    options: &Options,
    facts: &Facts<'_>,
    describe: impl Fn(&str, &Options) -> Result<Box<dyn MethodPlan>>,
) -> Result<Box<dyn MethodPlan>> {
    let names: Vec<&str> = members(name).collect();
    if names.contains(&"") {
        return Err(Error::config("method", format!("expected a name on each side of {JOIN}, got {name:?}")));
    }
    if let Some(twice) = names.iter().enumerate().find(|(i, member)| names[..*i].contains(member)) {
        return Err(Error::config("method", format!("{} stands twice in {name}", twice.1)));
    }
    if let Some(key) = options.keys().find(|key| !names.contains(&key.as_str()) && *key != BUDGET) {
        let reason =
            format!("unknown option; the options of {name} are tables named {}", names.join(" and "));
        return Err(Error::config(key, reason));
    }
    let mut plans = Vec::with_capacity(names.len());
    for member in &names {
        plans.push(describe(member, &table(member, options)?).map_err(|error| within(member, error))?);
    }
    if let Some(budget) = options.get(BUDGET).filter(|budget| !budget.is_null()) {
        let with_ratio: Vec<usize> =
            (0..plans.len()).filter(|&i| plans[i].with_ratio(0.5).is_some()).collect();
        let [index] = with_ratio[..] else {
            let reason = format!(
                "expected one member whose ratio can meet it, and {} of {name} have one",
                with_ratio.len()
            );
            return Err(Error::config(BUDGET, reason));
        };
        let mut options = table(names[index], options)?;
        options.insert(BUDGET.into(), budget.clone());
        plans[index] = describe(names[index], &options).map_err(|error| within(names[index], error))?;
    }
    let members = names.iter().map(ToString::to_string).zip(plans);
    Ok(Box::new(StackPlan::new(members, facts.model)?))
}

/// The reducer of these members, outer first.
pub(super) fn build<T: AttentionOps>(
    members: Vec<(String, Box<dyn TokenReducer<T>>)>,
) -> Box<dyn TokenReducer<T>> {
    Box::new(reducer::Stack::new(members))
}

/// A member's options.
fn table(member: &str, options: &Options) -> Result<Options> {
    match options.get(member) {
        None | Some(Value::Null) => Ok(Options::new()),
        Some(Value::Object(options)) => Ok(options.clone()),
        Some(other) => Err(Error::config(member, format!("expected a table of options, got {other}"))),
    }
}

/// An error about a member's option, which stands in the member's table.
fn within(member: &str, error: Error) -> Error {
    match error {
        Error::Config { field, reason } if field != member && field != "method" => {
            Error::config(format!("{member}.{field}"), reason)
        }
        other => other,
    }
}
