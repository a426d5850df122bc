//! Registers the methods by name.

use atedm_core::plugin::Registry;
use atedm_core::{AttentionOps, Result};

use crate::deepcache::DeepCachePlan;
use crate::first_block_cache::FirstBlockCachePlan;
use crate::step_forecast::StepForecastPlan;
use crate::tgate::TGatePlan;

/// Adds every method of this crate.
///
/// # Errors
/// [`Error::Config`](atedm_core::Error::Config) if a name is taken.
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
