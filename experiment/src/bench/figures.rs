//! From measured steps to a method's figures.

use atedm_core::AttentionOps;
use atedm_sdxl::config::BlockInfo;
use atedm_sdxl::flops::RunCost;

use super::clock::{Phase, Times};
use super::contender::{Contender, Measured};
use super::plan::Sample;
use super::votes::Prices;

/// What is said of one method.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) name: String,
    /// Milliseconds of a step of the dearest group, of the cheapest, and the mean over the schedule.
    pub(super) prune_less_ms: f64,
    pub(super) normal_ms: f64,
    pub(super) mean_ms: f64,
    /// The mean step by phase, in seconds.
    pub(super) phases: Times,
    /// FLOP of one evaluation for each of the run's rows: the mean over the schedule; `None` for a plugin.
    pub(super) flops_mean: Option<f64>,
    /// Steps of the schedule that run on half of the rows, because guidance has ended.
    pub(super) unguided_steps: usize,
    /// The share of kept tokens that converged scores would keep too.
    pub(super) overlap: Option<f64>,
    pub(super) peak_bytes: Option<u64>,
}

impl Figures {
    /// Puts a contender's rounds together.
    pub(super) fn new<T: AttentionOps>(
        contender: &Contender<T>,
        prices: &Prices,
        blocks: &[BlockInfo],
    ) -> Self {
        let samples = &contender.samples;
        let cost = contender.costed.cost.as_ref();
        // the class of the dearest and of the cheapest steps
        let tflop = |class: usize| {
            cost.and_then(|cost| cost.classes().get(class)).map_or(0.0, |class| class.cost.tflop())
        };
        let classes = || samples.iter().map(|(sample, _)| sample.class);
        let dearest = classes().max_by(|&a, &b| tflop(a).total_cmp(&tflop(b))).unwrap_or(0);
        let cheapest = classes().min_by(|&a, &b| tflop(a).total_cmp(&tflop(b))).unwrap_or(0);
        let of_class = |class: usize| samples.iter().filter(move |(sample, _)| sample.class == class);
        let mean = |samples: &mut dyn Iterator<Item = &(Sample, Measured)>| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for (sample, measured) in samples {
                sum += sample.weight * measured.median();
                weight += sample.weight;
            }
            1e3 * sum / f64::max(weight, f64::MIN_POSITIVE)
        };
        let mut phases = Times::default();
        let all: f64 = samples.iter().map(|(sample, _)| sample.weight).sum();
        for (sample, measured) in samples {
            let mut medians = Times::medians(&measured.phases);
            // votes cast inside a forward pass are scoring, too
            medians.rebook(Phase::Attention, Phase::Scoring, prices.of(&measured.asked, blocks));
            for (phase, _) in Phase::ALL {
                phases.add(phase, medians.of(phase) * sample.weight / all.max(f64::MIN_POSITIVE));
            }
        }
        let mean_ms = mean(&mut samples.iter());
        // medians of parts do not add up to the median of the whole: the rest is what remains
        let parts = phases.total() - phases.of(Phase::Rest);
        phases.add(Phase::Rest, 1e-3 * mean_ms - parts - phases.of(Phase::Rest));
        Self {
            name: contender.costed.label.clone(),
            prune_less_ms: mean(&mut of_class(dearest)),
            normal_ms: mean(&mut of_class(cheapest)),
            mean_ms,
            phases,
            flops_mean: cost.map(|cost| 1e12 * cost.mean_tflop()),
            unguided_steps: cost.map_or(0, RunCost::unguided_steps),
            overlap: None,
            peak_bytes: contender.peak,
        }
    }

    /// The share of the mean step that the method itself takes.
    pub(super) fn scoring_share(&self) -> f64 {
        1e3 * self.phases.overhead() / self.mean_ms
    }
}
