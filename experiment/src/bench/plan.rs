//! Which steps of a run are timed, and for how many others each of them stands.

use std::collections::BTreeSet;

use atedm_core::plugin::{LayerTokens, Scoring, StepOf};
use atedm_sdxl::config::BlockInfo;
use atedm_sdxl::flops::{Rows, StepClass};

use crate::failure::Outcome;
use crate::method::{Workload, shape};
use crate::subject::Costed;

/// A step that is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Its index in the run.
    pub(super) step: usize,
    /// Which group of steps of equal FLOPs it is from; the index into [`atedm_sdxl::flops::RunCost::classes`].
    pub(super) class: usize,
    /// How many of the run's rows it has.
    pub(super) rows: Rows,
    /// What every reduced block does at it.
    pub(super) kind: Scoring,
    /// The number of steps that it stands for; not a whole one where blocks differ in what they do.
    pub(super) weight: f64,
}

/// The samples of a run: one of each group of steps, more where not every step scores or the first costs more.
///
/// Each block scores anew at its own rhythm. What a block's scoring takes does not depend on the others', so that a step
/// at which some score and some do not is a mean of steps at which all do the one or the other.
pub(super) fn samples(costed: &Costed, work: &Workload<'_>) -> Outcome<Vec<Sample>> {
    let Some(cost) = &costed.cost else {
        let step = work.steps.saturating_sub(1);
        let (rows, kind) = (Rows::All, Scoring::Fresh);
        return Ok(vec![Sample { step, class: 0, rows, kind, weight: work.steps as f64 }]);
    };
    let shares = shares(costed, work)?;
    let mut samples = Vec::new();
    for (class, StepClass { steps, cost, .. }) in cost.classes().iter().enumerate() {
        for (slot, kind) in [Scoring::First, Scoring::Fresh, Scoring::Reused].into_iter().enumerate() {
            let share = |step: &usize| shares.get(*step).and_then(|of| of.get(slot)).copied().unwrap_or(0.0);
            let weight: f64 = steps.iter().map(share).sum();
            // the step at which most blocks do this
            let most = steps.iter().rev().max_by(|a, b| share(a).total_cmp(&share(b)));
            if let (true, Some(&step)) = (weight > 0.0, most) {
                samples.push(Sample { step, class, rows: cost.rows, kind, weight });
            }
        }
    }
    Ok(samples)
}

/// The steps that must have run before a step so that everything it uses again is there: the latest at which each nest or
/// sublayer that does not run at this step ran.
pub(super) fn steps_before(costed: &Costed, work: &Workload<'_>, step: usize) -> Outcome<BTreeSet<usize>> {
    let total = work.steps;
    let mut before = BTreeSet::new();
    let replaced = |index: usize| costed.method.replaced(index, total);
    if let Some(nest) = replaced(step) {
        before.extend(
            (0..step).rev().find(|&index| !replaced(index).is_some_and(|other| other.contains(nest))),
        );
    }
    for block in work.blocks() {
        let running = |index: usize| -> Outcome<Vec<[bool; 3]>> {
            let layers = costed.method.tokens(&block, index, total)?.unwrap_or_default();
            let runs = |layer: &LayerTokens| {
                [layer.self_attention, layer.cross_attention, layer.feed_forward].map(|tokens| tokens > 0)
            };
            Ok(layers.iter().map(runs).collect())
        };
        let mut missing: Vec<[bool; 3]> =
            running(step)?.into_iter().map(|layer| layer.map(|runs| !runs)).collect();
        for index in (0..step).rev() {
            if !missing.iter().flatten().any(|missing| *missing) {
                break;
            }
            for (missing, runs) in missing.iter_mut().zip(running(index)?) {
                for (missing, runs) in missing.iter_mut().zip(runs) {
                    if *missing && runs {
                        *missing = false;
                        before.insert(index);
                    }
                }
            }
        }
    }
    Ok(before)
}

/// For each step the shares of its reduced blocks that score for the first time, anew, and not (anew where nothing is
/// reduced).
fn shares(costed: &Costed, work: &Workload<'_>) -> Outcome<Vec<[f64; 3]>> {
    let mut shares = Vec::with_capacity(work.steps);
    for index in 0..work.steps {
        let mut counts = [0usize; 3];
        for block in work.blocks() {
            if let Some(scoring) = scoring(costed, &block, index, work.steps)? {
                counts[match scoring {
                    Scoring::First => 0,
                    Scoring::Fresh => 1,
                    Scoring::Reused => 2,
                }] += 1;
            }
        }
        let all: usize = counts.iter().sum();
        shares.push(if all == 0 { [0.0, 1.0, 0.0] } else { counts.map(|count| count as f64 / all as f64) });
    }
    Ok(shares)
}

/// What the method finds out in a block at a step; `None` where it leaves the block whole.
fn scoring(costed: &Costed, block: &BlockInfo, index: usize, total: usize) -> Outcome<Option<Scoring>> {
    if costed.method.replaced(index, total).is_some_and(|nest| nest.contains(block.nest)) {
        return Ok(None);
    }
    let layers = costed.method.tokens(block, index, total)?.unwrap_or_default();
    let kept = layers.iter().map(LayerTokens::least).min();
    if kept.is_none_or(|kept| kept >= block.grid.tokens()) {
        return Ok(None);
    }
    Ok(Some(costed.method.plan().scoring(&shape(block), StepOf { index, total })?))
}

/// The number of evaluations after which nothing that was found serves any more: one more than the longest row of steps at
/// which a block finds out nothing.
pub(super) fn longest_reuse(costed: &Costed, work: &Workload<'_>) -> Outcome<usize> {
    let mut longest = 0;
    for block in work.blocks() {
        let mut row = 0;
        for index in 0..work.steps {
            let reused = scoring(costed, &block, index, work.steps)? == Some(Scoring::Reused);
            row = if reused { row + 1 } else { 0 };
            longest = longest.max(row);
        }
    }
    Ok(longest + 1)
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::Grid;
    use atedm_core::reference::NdTensor;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::extension::registry;
    use crate::spec::PruneSpec;
    use crate::subject::Subject;

    fn costed<R>(method: &str, options: Value, of: impl FnOnce(&Costed, &Workload<'_>) -> R) -> R {
        let subject = Subject::sdxl_base();
        let work = Workload { latents: Grid::new(128, 128), ..subject.workload(50) };
        let options = options.as_object().cloned().unwrap_or_else(Map::new);
        let spec = PruneSpec { method: method.into(), options };
        let registry = registry::<NdTensor>(&()).unwrap();
        of(&Costed::new(&spec, &work, registry.catalogue()).unwrap(), &work)
    }

    fn of(method: &str, options: Value) -> Vec<Sample> {
        let samples = costed(method, options, |costed, work| samples(costed, work).unwrap());
        let weight: f64 = samples.iter().map(|sample| sample.weight).sum();
        assert!((weight - 50.0).abs() < 1e-9, "{samples:?}");
        samples
    }

    #[track_caller]
    fn weigh(samples: &[Sample], expected: &[(usize, Scoring, f64)]) {
        assert_eq!(samples.len(), expected.len(), "{samples:?}");
        for (got, &(class, kind, weight)) in samples.iter().zip(expected) {
            assert_eq!((got.class, got.kind), (class, kind), "{samples:?}");
            assert!((got.weight - weight).abs() < 1e-9, "{got:?} instead of {weight}");
        }
    }

    #[test]
    fn early_and_late_steps_stand_for_theirs() {
        let (rows, kind) = (Rows::All, Scoring::Fresh);
        let sample = |step, class, weight| Sample { step, class, rows, kind, weight };
        assert_eq!(of("at-edm", json!({})), [sample(0, 0, 15.0), sample(15, 1, 35.0)]);
        assert_eq!(of("at-edm", json!({"schedule": "constant"})), [sample(0, 0, 50.0)]);
        assert_eq!(of("none", json!({})), [sample(0, 0, 50.0)]);
    }

    /// Every second step: 8 of 15 early ones score; then seven blocks at 17 and four, from step 15 on, at 18 of 35.
    #[test]
    fn reused_kept_sets_are_weighed() {
        let fresh = (7.0 * 17.0 + 4.0 * 18.0) / 11.0;
        weigh(
            &of("at-edm", json!({"rescore_every": 2})),
            &[
                (0, Scoring::Fresh, 8.0),
                (0, Scoring::Reused, 7.0),
                (1, Scoring::Fresh, fresh),
                (1, Scoring::Reused, 35.0 - fresh),
            ],
        );
    }

    /// Seven blocks are cold at step 0, the four that are spared early at step 15.
    #[test]
    fn first_times_are_weighed() {
        let cold = json!({"warm_start": true, "cold_iterations": 5, "max_iterations": 1});
        weigh(
            &of("at-edm", cold),
            &[
                (0, Scoring::First, 1.0),
                (0, Scoring::Fresh, 14.0),
                (1, Scoring::First, 4.0 / 11.0),
                (1, Scoring::Fresh, 35.0 - 4.0 / 11.0),
            ],
        );
    }

    /// Of 50 steps ten are guided: five of them compute everything, and five use self-attention again. The others run on
    /// half of the rows.
    #[test]
    fn steps_without_guidance_are_a_kind_of_their_own() {
        let samples = of("tgate", json!({}));
        let got: Vec<_> = samples.iter().map(|sample| (sample.rows, sample.weight)).collect();
        assert_eq!(got, [(Rows::All, 5.0), (Rows::All, 5.0), (Rows::Half, 40.0)]);
        // full steps of DeepCache, and others, are two kinds with guidance and two without
        let samples = of("deepcache+tgate", json!({"tgate": {"sp_interval": 1}}));
        let got: Vec<_> = samples.iter().map(|sample| (sample.rows, sample.weight)).collect();
        assert_eq!(got, [(Rows::All, 4.0), (Rows::All, 6.0), (Rows::Half, 27.0), (Rows::Half, 13.0)]);
    }

    /// Plans of every fifth step serve the four after it.
    #[test]
    fn reused_plans_are_weighed() {
        weigh(
            &of("toma", json!({"reuse": {"steps": 5}})),
            &[(0, Scoring::Fresh, 10.0), (0, Scoring::Reused, 40.0)],
        );
    }

    #[test]
    fn what_is_found_serves_so_long() {
        let longest = |method: &str, options: Value| {
            costed(method, options, |costed, work| longest_reuse(costed, work).unwrap())
        };
        assert_eq!(longest("at-edm", json!({"rescore_every": 3})), 3);
        assert_eq!(longest("at-edm", json!({})), 1);
        assert_eq!(longest("toma", json!({"reuse": {"steps": 5}})), 5);
    }
}
