//! ToMe's plan for one layer.

use atedm_core::plugin::{GuidanceMasks, Reduction, Run, Scope, Site, Sublayer};
use atedm_core::{AttentionOps, Indices, Result};

use super::{MergeCounts, TomeOptions, Variant};
use crate::around::{Moment, Planner};
use crate::draws::Draws;
use crate::matching::{Sides, match_tokens};
use crate::merge::{MergePlan, Merges};
use crate::method_options::MethodOptions;

/// The planner of ToMe.
#[derive(Debug)]
pub(crate) struct Tome {
    options: TomeOptions,
    guidance: GuidanceMasks,
    draws: Draws,
}

impl Tome {
    pub(crate) fn new(options: TomeOptions, guidance: GuidanceMasks, seed: u64) -> Self {
        let draws = Draws::new(options.rng, seed);
        Self { options, guidance, draws }
    }
}

impl<T: AttentionOps> Planner<T> for Tome {
    fn moment(&self) -> Moment {
        match self.options.variant {
            Variant::Tomesd => Moment::LayerInput,
            Variant::Comfy => Moment::Normalised,
        }
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn begin(&mut self, run: &Run<'_>) {
        self.draws = Draws::new(self.options.rng, run.seed);
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let Some(MergeCounts { merged, .. }) = self.options.counts(ratio, site.block.level, site.grid) else {
            return Ok(None);
        };
        let cells = self.options.cells(site.grid);
        let offsets = if self.options.use_rand { self.draws.offsets(&cells, site) } else { None };
        let split = cells.split(offsets.as_deref()).around(site.protected);
        let sides = Sides::of_split(&split, metric.shape().first().copied().unwrap_or(0), &metric.device())?;
        let matching = match_tokens(metric, &sides, self.guidance, site.rows)?;
        let merged = match self.options.threshold {
            None => merged,
            Some(threshold) => matching.at_least(threshold, self.options.threshold_count)?,
        };
        if merged == 0 {
            return Ok(None);
        }
        let chosen = matching.choose(merged)?;
        let merges = Merges { merged: chosen.kept.to_host()?, destination: matching.destination.to_host()? };
        let plan = MergePlan::<T>::new(&split, &merges, site.tokens, self.options.merge, &metric.device())?;
        Ok(Some(Box::new(plan)))
    }
}
