//! Which steps of a run are timed, and for how many others each of them stands.

use std::collections::BTreeMap;

use atedm_core::plugin::BlockId;
use serde_json::Value;

use crate::commands::subject::Costed;
use crate::failure::Outcome;
use crate::method::Workload;

/// What a method does anew at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It scores for the first time in the run (with `cold_iterations`, more votes).
    First,
    /// It scores.
    Fresh,
    /// It uses what it found at an earlier step.
    Reused,
}

/// A step that is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Its index in the run.
    pub(super) step: usize,
    /// Which group of steps of equal FLOPs it is from; the index into [`atedm_sdxl::flops::RunCost::classes`].
    pub(super) class: usize,
    /// What every reduced block does at it.
    pub(super) kind: Kind,
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
        return Ok(vec![Sample { step, class: 0, kind: Kind::Fresh, weight: work.steps as f64 }]);
    };
    let shares = shares(costed, work, &Rhythm::of(&costed.method.settings))?;
    let mut samples = Vec::new();
    for (class, steps) in cost.classes().iter().map(|class| &class.steps).enumerate() {
        for (slot, kind) in [Kind::First, Kind::Fresh, Kind::Reused].into_iter().enumerate() {
            let share = |step: &usize| shares.get(*step).and_then(|of| of.get(slot)).copied().unwrap_or(0.0);
            let weight: f64 = steps.iter().map(share).sum();
            // the step at which most blocks do this
            let most = steps.iter().rev().max_by(|a, b| share(a).total_cmp(&share(b)));
            if let (true, Some(&step)) = (weight > 0.0, most) {
                samples.push(Sample { step, class, kind, weight });
            }
        }
    }
    Ok(samples)
}

/// When blocks score anew, by the methods' options.
struct Rhythm {
    /// A result serves so many evaluations (`rescore_every`).
    every: usize,
    /// Everything is made anew at multiples of this step (`reuse.steps`) …
    multiple: Option<usize>,
    /// … or at these steps (`reuse.at`).
    at: Option<Vec<usize>>,
    /// Whether a first time costs more (`cold_iterations`).
    cold: bool,
}

impl Rhythm {
    fn of(settings: &Value) -> Self {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).map(|number| number as usize);
        let reuse = settings.get("reuse");
        let at = reuse.and_then(|reuse| reuse.get("at")).and_then(Value::as_array);
        Self {
            every: number(settings.get("rescore_every")).unwrap_or(1),
            multiple: number(reuse.and_then(|reuse| reuse.get("steps"))),
            at: at.map(|steps| steps.iter().filter_map(|step| number(Some(step))).collect()),
            cold: settings.get("cold_iterations").is_some_and(|votes| !votes.is_null()),
        }
    }

    /// Whether what was found at step `found` is used at `step`.
    fn serves(&self, found: usize, step: usize) -> bool {
        match (&self.at, self.multiple) {
            (Some(steps), _) => !steps.contains(&step),
            (None, Some(multiple)) => !step.is_multiple_of(multiple.max(1)),
            (None, None) => step - found < self.every,
        }
    }
}

/// For each step the shares of its reduced blocks that score for the first time, anew, and not (anew where nothing is
/// reduced).
fn shares(costed: &Costed, work: &Workload<'_>, rhythm: &Rhythm) -> Outcome<Vec<[f64; 3]>> {
    let blocks = work.blocks();
    let mut found: BTreeMap<BlockId, (usize, usize)> = BTreeMap::new();
    let mut shares = Vec::with_capacity(work.steps);
    for step in 0..work.steps {
        let mut counts = [0usize; 3];
        for block in &blocks {
            let layers = costed.method.tokens(block, step, work.steps)?.unwrap_or_default();
            let least = |layer: &atedm_core::at_edm::LayerTokens| {
                layer.self_attention.min(layer.self_keys).min(layer.cross_attention).min(layer.feed_forward)
            };
            let whole = block.grid.tokens();
            let kept = layers.iter().map(least).min().unwrap_or(whole);
            if kept == whole {
                continue;
            }
            let slot = match found.get(&block.id) {
                None if rhythm.cold => 0,
                Some(&(at, of)) if of == kept && rhythm.serves(at, step) => 2,
                _ => 1,
            };
            if slot < 2 {
                found.insert(block.id, (step, kept));
            }
            if let Some(count) = counts.get_mut(slot) {
                *count += 1;
            }
        }
        let all: usize = counts.iter().sum();
        shares.push(if all == 0 { [0.0, 1.0, 0.0] } else { counts.map(|count| count as f64 / all as f64) });
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{Grid, ScheduleRegistry};
    use atedm_sdxl::config::UNetConfig;
    use atedm_sdxl::schedulers::SchedulerConfig;
    use serde_json::{Map, json};

    use super::*;
    use crate::prune::PruneSpec;

    fn of(method: &str, options: Value) -> Vec<Sample> {
        let unet = UNetConfig::sdxl_base();
        let (latents, scheduler) = (Grid { height: 128, width: 128 }, SchedulerConfig::sdxl());
        let work =
            Workload { unet: &unet, latents, text: 77, steps: 50, scheduler: &scheduler, sampler: None };
        let options = options.as_object().cloned().unwrap_or_else(Map::new);
        let spec = PruneSpec { method: method.into(), options };
        let costed = Costed::new(&spec, &work, &ScheduleRegistry::with_builtins()).unwrap();
        let samples = samples(&costed, &work).unwrap();
        let weight: f64 = samples.iter().map(|sample| sample.weight).sum();
        assert!((weight - 50.0).abs() < 1e-9, "{samples:?}");
        samples
    }

    #[track_caller]
    fn weigh(samples: &[Sample], expected: &[(usize, Kind, f64)]) {
        assert_eq!(samples.len(), expected.len(), "{samples:?}");
        for (got, &(class, kind, weight)) in samples.iter().zip(expected) {
            assert_eq!((got.class, got.kind), (class, kind), "{samples:?}");
            assert!((got.weight - weight).abs() < 1e-9, "{got:?} instead of {weight}");
        }
    }

    #[test]
    fn early_and_late_steps_stand_for_theirs() {
        let sample = |step, class, weight| Sample { step, class, kind: Kind::Fresh, weight };
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
                (0, Kind::Fresh, 8.0),
                (0, Kind::Reused, 7.0),
                (1, Kind::Fresh, fresh),
                (1, Kind::Reused, 35.0 - fresh),
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
                (0, Kind::First, 1.0),
                (0, Kind::Fresh, 14.0),
                (1, Kind::First, 4.0 / 11.0),
                (1, Kind::Fresh, 35.0 - 4.0 / 11.0),
            ],
        );
    }

    #[test]
    fn rhythms_of_merging() {
        let rhythm = Rhythm::of(&json!({"reuse": {"steps": 5, "at": null, "layers": 1}}));
        assert!(rhythm.serves(0, 4) && !rhythm.serves(0, 5) && rhythm.serves(5, 6));
        let rhythm = Rhythm::of(&json!({"reuse": {"steps": 1, "at": [0, 7]}}));
        assert!(rhythm.serves(0, 6) && !rhythm.serves(0, 7));
        assert!(!Rhythm::of(&json!({})).serves(3, 4));
    }
}
