//! Counts the tokens that a method leaves, without reading anything back from the device.

use std::collections::BTreeMap;

use atedm_core::plugin::{PruneRecord, Site};
use atedm_core::{AttentionOps, Indices};
use atedm_sdxl::config::BlockInfo;

use super::record::LevelTokens;
use crate::failure::Outcome;
use crate::method::{Method, Workload};

/// Sums over the decisions at one level.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    decisions: u64,
    tokens: u64,
    kept: u64,
    votes: u64,
}

/// The decisions of a run, by resolution level.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    levels: BTreeMap<usize, Sums>,
}

impl Tally {
    /// The counts of a method by formula, for methods that are slow to observe. `None` if only a run can tell.
    pub(crate) fn planned(method: &Method, work: &Workload<'_>) -> Outcome<Option<Self>> {
        let mut tally = Self::default();
        for step in work.evaluated_steps() {
            let replaced = method.replaced(step, work.steps);
            let runs = |block: &BlockInfo| !replaced.is_some_and(|nest| nest.contains(block.nest));
            let blocks = work.unet_at(step).blocks(work.latents.height, work.latents.width);
            for block in blocks.into_iter().filter(runs) {
                let Some(layers) = method.tokens(&block, step, work.steps)? else { return Ok(None) };
                let tokens = block.grid.tokens();
                for layer in layers {
                    // a method that reduces only keys keeps every token; a layer that does not run removes none
                    let each = [layer.self_attention, layer.cross_attention, layer.feed_forward];
                    let kept = each.into_iter().filter(|kept| *kept > 0).min().unwrap_or(tokens);
                    if kept < tokens {
                        tally.add(block.id.level, tokens, kept, 0);
                    }
                }
            }
        }
        Ok(Some(tally))
    }

    /// Counts one decision.
    pub(crate) fn count<T: AttentionOps>(&mut self, site: &Site<'_>, record: &PruneRecord<'_, T>) {
        let (_, kept) = record.kept.dims();
        self.add(site.block.level, record.tokens, kept, record.votes);
    }

    fn add(&mut self, level: usize, tokens: usize, kept: usize, votes: usize) {
        let sums = self.levels.entry(level).or_default();
        sums.decisions += 1;
        sums.tokens += tokens as u64;
        sums.kept += kept as u64;
        sums.votes += votes as u64;
    }

    /// Means by level, finest first.
    pub(crate) fn levels(&self) -> Vec<LevelTokens> {
        let mean = |sum: u64, sums: &Sums| sum as f64 / sums.decisions.max(1) as f64;
        let of = |(&level, sums): (&usize, &Sums)| LevelTokens {
            level,
            decisions: sums.decisions,
            tokens: mean(sums.tokens, sums),
            kept: mean(sums.kept, sums),
            votes: mean(sums.votes, sums),
        };
        self.levels.iter().map(of).collect()
    }
}
