//! Which steps of a run are timed, and for how many others each of them stands.

use std::collections::BTreeMap;

use atedm_core::plugin::BlockId;

use crate::commands::subject::Costed;
use crate::failure::Outcome;
use crate::method::Workload;

/// A step that is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Its index in the run.
    pub(super) step: usize,
    /// Which group of steps of equal FLOPs it is from; the index into [`atedm_sdxl::flops::RunCost::classes`].
    pub(super) class: usize,
    /// Whether kept sets of the evaluation before serve it (`rescore_every`).
    pub(super) reuses: bool,
    /// The number of steps that it stands for; not a whole one where only some blocks score anew.
    pub(super) weight: f64,
}

/// The samples of a run: one of each group of steps, or two where kept sets serve several steps.
///
/// Each block scores anew at its own rhythm. What a block's scoring takes does not depend on the others', so that steps
/// at which some score and some reuse are the mean of steps at which all do the one or the other.
pub(super) fn samples(costed: &Costed, work: &Workload<'_>) -> Outcome<Vec<Sample>> {
    let Some(cost) = &costed.cost else {
        let step = work.steps.saturating_sub(1);
        return Ok(vec![Sample { step, class: 0, reuses: false, weight: work.steps as f64 }]);
    };
    let every = costed.method.settings.get("rescore_every").and_then(serde_json::Value::as_u64).unwrap_or(1);
    let scored = scored_shares(costed, work, every as usize)?;
    let mut samples = Vec::new();
    for (class, steps) in cost.classes().iter().map(|class| &class.steps).enumerate() {
        let fresh: f64 = steps.iter().filter_map(|&step| scored.get(step)).sum();
        let reused = steps.len() as f64 - fresh;
        let Some(&step) = steps.first() else { continue };
        samples.push(Sample { step, class, reuses: false, weight: fresh });
        if reused > 0.0 {
            samples.push(Sample { step, class, reuses: true, weight: reused });
        }
    }
    Ok(samples)
}

/// For each step the share of its pruned blocks that score anew when a kept set serves `every` evaluations (1 where
/// nothing is pruned).
fn scored_shares(costed: &Costed, work: &Workload<'_>, every: usize) -> Outcome<Vec<f64>> {
    let blocks = work.blocks();
    let mut scored_at: BTreeMap<BlockId, (usize, usize)> = BTreeMap::new();
    let mut shares = Vec::with_capacity(work.steps);
    for step in 0..work.steps {
        let (mut pruned, mut scored) = (0usize, 0usize);
        for block in &blocks {
            let layers = costed.method.tokens(block, step, work.steps)?.unwrap_or_default();
            let kept = layers.last().map_or(block.grid.tokens(), |layer| layer.self_attention);
            if kept == block.grid.tokens() {
                continue;
            }
            pruned += 1;
            let serves = |&(at, of): &(usize, usize)| of == kept && step - at < every;
            if !scored_at.get(&block.id).is_some_and(serves) {
                scored_at.insert(block.id, (step, kept));
                scored += 1;
            }
        }
        shares.push(if pruned == 0 { 1.0 } else { scored as f64 / pruned as f64 });
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{Grid, ScheduleRegistry};
    use atedm_sdxl::config::UNetConfig;
    use serde_json::{Map, json};

    use super::*;
    use crate::prune::PruneSpec;

    fn of(options: serde_json::Value) -> Vec<Sample> {
        let unet = UNetConfig::sdxl_base();
        let work = Workload { unet: &unet, latents: Grid { height: 128, width: 128 }, text: 77, steps: 50 };
        let options = options.as_object().cloned().unwrap_or_else(Map::new);
        let spec = PruneSpec { method: "at-edm".into(), options };
        let costed = Costed::new(&spec, &work, &ScheduleRegistry::with_builtins()).unwrap();
        samples(&costed, &work).unwrap()
    }

    #[test]
    fn early_and_late_steps_stand_for_theirs() {
        let sample = |step, class, weight| Sample { step, class, reuses: false, weight };
        assert_eq!(of(json!({})), [sample(0, 0, 15.0), sample(15, 1, 35.0)]);
        assert_eq!(of(json!({"schedule": "constant"})), [sample(0, 0, 50.0)]);
    }

    /// Every second step: 8 of 15 early ones score; then seven blocks at 17 and four, from step 15 on, at 18 of 35.
    #[test]
    fn reused_kept_sets_are_weighed() {
        let samples = of(json!({"rescore_every": 2}));
        let weights: Vec<(usize, bool, f64)> =
            samples.iter().map(|sample| (sample.class, sample.reuses, sample.weight)).collect();
        assert_eq!(weights.len(), 4);
        let fresh = (7.0 * 17.0 + 4.0 * 18.0) / 11.0;
        let expected = [(0, false, 8.0), (0, true, 7.0), (1, false, fresh), (1, true, 35.0 - fresh)];
        for (got, expected) in weights.iter().zip(expected) {
            assert_eq!((got.0, got.1), (expected.0, expected.1));
            assert!((got.2 - expected.2).abs() < 1e-9, "{got:?} instead of {expected:?}");
        }
    }
}
