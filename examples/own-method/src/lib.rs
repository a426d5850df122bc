//! A whole method of your own: every block runs on evenly spaced tokens. Each token that was left out then gets the
//! value of the last kept token before it. The method ignores the tokens' values, so every other method should be
//! better.
//!
//! ```text
//! own-method flops --prune every-kth --prune-opt every=3
//! own-method generate --prompt P --prune every-kth --prune-opt ratio=50%,schedule=prune-less --output kth.png
//! ```
//!
//! A method has two types. [`EveryKth`] is its plan: options and token counts, without tensors. The program computes
//! FLOPs and budgets from it. [`Spaced`] works on tensors.

use atedm::Extension;
use atedm_core::plugin::options::unknown_option;
use atedm_core::plugin::{
    Action, BlockShape, BuildContext, Event, Facts, IndexPlan, LayerTokens, MethodPlan, Options,
    PlacedSchedule, Placement, Registry, Site, StepOf, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result};

// ANCHOR: plan
/// The method's plan: no tensor.
#[derive(Debug)]
pub struct EveryKth {
    /// Ratio or budget, levels, schedule: the options that every method shares.
    placement: Placement,
    /// The ratio of a block at a step, as the placement says.
    schedule: PlacedSchedule,
}

impl EveryKth {
    /// The method from its options: those of a placement, and `every = k` as another way to say `ratio = 1 - 1/k`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong.
    pub fn describe(options: &Options, facts: &Facts<'_>) -> Result<Self> {
        let (mut placement, mut own) = Placement::default().read(options)?;
        if let Some(every) = own.remove("every") {
            if options.contains_key("ratio") || placement.budget_tflops.is_some() {
                return Err(Error::config(
                    "every",
                    "takes the place of ratio and budget_tflops: give one of them",
                ));
            }
            let every = every.as_u64().filter(|&every| every > 0).ok_or_else(|| {
                Error::config("every", format!("expected a whole number, at least 1, got {every}"))
            })?;
            placement = placement.with_ratio(1.0 - 1.0 / every as f64)?;
        }
        if let Some(key) = own.keys().next() {
            return Err(unknown_option(key, Placement::KEYS.into_iter().chain(["every"])));
        }
        let placement = placement.located(facts)?;
        Ok(Self { schedule: placement.build_for(facts)?, placement })
    }
}

impl MethodPlan for EveryKth {
    fn settings(&self) -> Options {
        self.placement.to_options().unwrap_or_default()
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        let ratio = self.schedule.ratio(block.id, step.index, step.total)?;
        let kept = kept(block.grid.tokens(), ratio);
        Ok(Some(vec![block.layer(kept); block.depth]))
    }

    fn budget_tflops(&self) -> Option<f64> {
        self.placement.budget_tflops
    }

    fn with_ratio(&self, ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        let solved = || {
            let placement = self.placement.clone().with_ratio(ratio)?;
            let plan: Box<dyn MethodPlan> =
                Box::new(Self { placement, schedule: self.schedule.with_ratio(ratio)? });
            Ok(plan)
        };
        Some(solved())
    }
}

/// How many of `tokens` stay: at least one.
fn kept(tokens: usize, ratio: f64) -> usize {
    (tokens - (ratio * tokens as f64).floor() as usize).max(tokens.min(1))
}
// ANCHOR_END: plan

// ANCHOR: method
/// The method itself, on tensors.
#[derive(Debug)]
pub struct Spaced {
    schedule: PlacedSchedule,
}

impl<T: AttentionOps> TokenReducer<T> for Spaced {
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        // As a block begins, the stream shrinks; as it ends, the pass restores it.
        let Event::LayerEnter { hidden } = event else { return Ok(Action::Continue) };
        let ratio = self.schedule.ratio(site.block, site.step.index, site.step.total)?;
        // Protected tokens stay, wherever they stand among the others.
        let (start, end) = site.protected;
        let free: Vec<u32> =
            (0..site.tokens as u32).filter(|&i| !(start..end).contains(&(i as usize))).collect();
        let count = kept(free.len(), ratio);
        if site.layer > 0 || count == free.len() {
            return Ok(Action::Continue);
        }
        let spaced = (0..count).map(|i| free[i * free.len() / count]);
        let mut stay: Vec<u32> = spaced.chain(start as u32..end as u32).collect();
        stay.sort_unstable();
        // Each token that goes takes back what the last kept one before it has become; the first one always stays.
        let gone = (0..site.tokens as u32).filter(|i| stay.binary_search(i).is_err());
        let donors: Vec<u32> =
            gone.map(|i| stay.partition_point(|&kept| kept < i).saturating_sub(1) as u32).collect();
        let (rows, device) = (site.rows.len(), hidden.device());
        let partition = Partition::<T>::from_kept(&vec![stay; rows], site.tokens, &device)?;
        let donors = T::Indices::from_host(&vec![donors; rows], &device)?;
        Ok(Action::UntilExit(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}
// ANCHOR_END: method

// ANCHOR: register
/// Everything this crate adds to the program.
pub struct Mine;

impl Extension for Mine {
    fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()> {
        registry.register_method("every-kth", EveryKth::describe, build)
    }
}

fn build<T: AttentionOps>(plan: &EveryKth, _: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
    plan.placement.expect_solved()?;
    Ok(Box::new(Spaced { schedule: plan.schedule.clone() }))
}
// ANCHOR_END: register
