//! The methods by name.

use atedm_core::plugin::{BuildContext, Registry};
use atedm_core::{AttentionOps, Error, Result};

use crate::deepcache::DeepCachePlan;
use crate::first_block_cache::FirstBlockCachePlan;
use crate::step_forecast::StepForecastPlan;
use crate::tgate::TGatePlan;

/// Adds every method of this crate.
///
/// # Errors
/// [`Error::Config`] when a name is taken.
pub fn register<T: AttentionOps>(registry: &mut Registry<T>) -> Result<()> {
    registry.register_method("deepcache", DeepCachePlan::describe, DeepCachePlan::build)?;
    registry.register_method("tgate", TGatePlan::describe, TGatePlan::build)?;
    registry.register_method(
        "first-block-cache",
        FirstBlockCachePlan::describe,
        FirstBlockCachePlan::build,
    )?;
    registry.register_method("step-forecast", StepForecastPlan::describe, StepForecastPlan::build)
}

/// Checks that no kept sets are to be replayed: these methods remove no tokens.
///
/// # Errors
/// [`Error::Config`] naming `masks`.
pub(crate) fn no_replay<T: AttentionOps>(context: &BuildContext<T>) -> Result<()> {
    match context.replay {
        Some(_) => Err(Error::config(
            "masks",
            "kept sets can be replayed for AT-EDM only: this method keeps every token",
        )),
        None => Ok(()),
    }
}
