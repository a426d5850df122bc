//! One method in the race: its reducer, the steps that stand for its run, and what was measured of them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use atedm_core::plugin::{BuildContext, Run, Scoring, Step, TokenReducer};
use atedm_core::{AttentionOps, Backend, Result};

use super::clock::{Detail, Phase, SharedClock, Times, median};
use super::machine;
use super::plan::{Sample, longest_reuse, samples, steps_before};
use super::stage::Bench;
use super::timed::{Asked, Timed, timed_registry};
use crate::Extension;
use crate::failure::{Failure, Outcome};
use crate::method::Workload;
use crate::stored::StoredMaps;
use crate::subject::Costed;

/// What was measured of a sampled step, one entry a round.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Seconds of whole evaluations.
    pub(super) totals: Vec<f64>,
    /// Seconds by phase.
    pub(super) phases: Vec<Times>,
    /// What the last evaluation's forward pass was asked for.
    pub(super) asked: Vec<Asked>,
}

/// A method, or the full model.
pub(super) struct Contender<T: AttentionOps> {
    pub(super) costed: Costed,
    reducer: Timed<T>,
    clock: SharedClock,
    pub(super) samples: Vec<(Sample, Measured)>,
    /// The most resident memory of any evaluation in bytes, where the system tells.
    pub(super) peak: Option<u64>,
    steps: usize,
    /// The time step of every step, where the sampler says it.
    timesteps: Option<Vec<f64>>,
    every: usize,
    /// Steps that run untimed before the others: what they compute is used again.
    before: BTreeSet<usize>,
    evaluation: usize,
}

/// How evaluations are run and timed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    /// Store every map.
    pub(super) unfused: bool,
    /// Whether memory of the processor is the model's.
    pub(super) host_memory: bool,
}

impl<T: AttentionOps> Contender<T> {
    /// Builds the method with its parts timed.
    pub(super) fn new(
        costed: Costed,
        work: &Workload<'_>,
        extension: &impl Extension,
        clock: &SharedClock,
        conditions: Conditions,
    ) -> Outcome<Self> {
        let (registry, has_parts) = timed_registry::<T>(extension, clock)?;
        let inner = costed.method.build(&registry, &BuildContext::default())?;
        // what a method with timed parts does itself is the choice between tokens; of others nothing more is known
        let own = if has_parts.load(Ordering::Relaxed) { Phase::Selection } else { Phase::Scoring };
        let inner: Box<dyn TokenReducer<T>> =
            if conditions.unfused { Box::new(StoredMaps::new(inner)) } else { inner };
        let samples = samples(&costed, work)?;
        let mut before = BTreeSet::new();
        for sample in &samples {
            before.extend(steps_before(&costed, work, sample.step)?);
        }
        let samples = samples.into_iter().map(|sample| (sample, Measured::default()));
        Ok(Self {
            samples: samples.collect(),
            reducer: Timed::new(inner, clock.clone(), own),
            clock: clock.clone(),
            peak: None,
            steps: work.steps,
            timesteps: work.timesteps(),
            every: longest_reuse(&costed, work)?,
            before,
            evaluation: 0,
            costed,
        })
    }

    /// A run begins: the first times that blocks score are timed, if they differ from others, else an evaluation is not
    /// timed, so that everything is in place that later ones find.
    pub(super) fn warm_up<B: Backend<Tensor = T>>(&mut self, bench: &Bench<B>, detail: Detail) -> Outcome {
        let cold = self.of_kind(|kind| kind == Scoring::First);
        if cold.is_empty() {
            let last = self.samples.iter().map(|(sample, _)| sample.step).max().unwrap_or(0);
            self.begin(bench)?;
            self.fill(bench)?;
            let prediction = self.evaluate(bench, last, Detail::Total)?.0;
            return self.expect_finite(&prediction);
        }
        // the last of them, at the steps that reduce most, leaves every block with scores
        for index in cold {
            self.begin(bench)?;
            if let Some(prediction) = self.measure(bench, index, detail, None)? {
                self.expect_finite(&prediction)?;
            }
        }
        self.fill(bench)
    }

    /// Runs the steps whose outputs are used again.
    fn fill<B: Backend<Tensor = T>>(&mut self, bench: &Bench<B>) -> Outcome {
        for step in self.before.clone() {
            self.evaluate(bench, step, Detail::Total)?;
        }
        Ok(())
    }

    fn expect_finite(&self, prediction: &T) -> Outcome {
        if prediction.to_f32()?.iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        let (label, dtype) = (&self.costed.label, prediction.dtype());
        Err(Failure::run(format!("{label}: the U-Net's prediction is not finite in {dtype}")))
    }

    /// One evaluation of every other sampled step.
    pub(super) fn round<B: Backend<Tensor = T>>(
        &mut self,
        bench: &Bench<B>,
        detail: Detail,
        conditions: Conditions,
    ) -> Outcome {
        for index in self.of_kind(|kind| kind != Scoring::First) {
            self.measure(bench, index, detail, Some(conditions))?;
        }
        Ok(())
    }

    /// The positions of samples of some kinds.
    fn of_kind(&self, wanted: impl Fn(Scoring) -> bool) -> Vec<usize> {
        let kinds = self.samples.iter().map(|(sample, _)| sample.kind).enumerate();
        kinds.filter(|&(_, kind)| wanted(kind)).map(|(index, _)| index).collect()
    }

    fn begin<B: Backend<Tensor = T>>(&mut self, bench: &Bench<B>) -> Result<()> {
        self.reducer.begin_run(&Run::new(self.steps, 0, bench.rows()))
    }

    /// Times one evaluation of a sample, and its peak of memory under `watched` conditions.
    fn measure<B: Backend<Tensor = T>>(
        &mut self,
        bench: &Bench<B>,
        index: usize,
        detail: Detail,
        watched: Option<Conditions>,
    ) -> Outcome<Option<T>> {
        let Some(&(sample, _)) = self.samples.get(index) else { return Ok(None) };
        // kept sets of an earlier step serve the next evaluation only if it is near enough
        self.evaluation += if sample.kind == Scoring::Reused { 1 } else { self.every };
        self.reducer.take_asked();
        let reset = watched.is_some_and(|conditions| conditions.host_memory) && machine::reset_peak();
        let (prediction, times) = self.evaluate(bench, sample.step, detail)?;
        let peak = if reset { machine::peak_bytes() } else { None };
        self.peak = self.peak.max(peak);
        let asked = self.reducer.take_asked();
        if let Some((_, measured)) = self.samples.get_mut(index) {
            measured.asked = asked;
            match detail {
                Detail::Total => measured.totals.push(times.total()),
                Detail::Phases => measured.phases.push(times),
            }
        }
        Ok(Some(prediction))
    }

    /// The last round in words: the seconds of each sampled step.
    pub(super) fn last_round(&self) -> String {
        let last = |measured: &Measured| {
            let phases = measured.phases.last().map_or(0.0, Times::total);
            measured.totals.last().copied().unwrap_or(phases)
        };
        let of_rounds = self.samples.iter().filter(|(sample, _)| sample.kind != Scoring::First);
        let seconds: Vec<String> = of_rounds.map(|(_, measured)| format!("{:.3}", last(measured))).collect();
        format!("{} {} s", self.costed.label, seconds.join(" "))
    }

    fn evaluate<B: Backend<Tensor = T>>(
        &mut self,
        bench: &Bench<B>,
        index: usize,
        detail: Detail,
    ) -> Result<(T, Times)> {
        let known = self.timesteps.as_ref().and_then(|timesteps| timesteps.get(index));
        // else from nearly 1000 at the first step to 0
        let evenly = 999.0 * (1.0 - index as f64 / self.steps.max(1) as f64);
        let timestep = known.copied().unwrap_or(evenly);
        let step = Step { index, total: self.steps, evaluation: self.evaluation, sigma: 1.0, timestep };
        let reducer = &mut self.reducer;
        self.clock.time(detail, || bench.evaluate(reducer, &step))
    }
}

impl Measured {
    /// The median evaluation in seconds.
    pub(super) fn median(&self) -> f64 {
        if self.totals.is_empty() {
            return median(self.phases.iter().map(Times::total).collect());
        }
        median(self.totals.clone())
    }
}
