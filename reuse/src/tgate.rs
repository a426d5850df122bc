//! T-GATE (Liu et al., arXiv 2404.02747): cross-attention converges early, so from the gate step on its output is used again
//! and guidance ends; before that, self-attention is computed now and then.
//!
//! ```text
//! step of the run        cross-attention              self-attention                         rows of an image
//! < gate - 1             runs; its mean over the      runs up to warm_up, then every         both halves
//!                        halves is kept               sp_interval-th step; else used again
//! = gate - 1             the same                     runs; its mean over the halves         both halves
//!                                                     is kept
//! >= gate                used again                   every fi_interval-th step; else        the negative half
//!                                                     used again
//! ```
//!
//! Steps, names and defaults are those of the authors' program for SD-XL (package tgate 1.0.0, `tgate_scheduler`, `tgate`).
//!
//! 1. The mean is over the halves of an image that are in the batch; without guidance an output is kept as it is. The
//!    authors' program has a switch for that, `lcm`.
//! 2. What cross-attention gave last before the gate is used from there on. That is what it gave in the step before the gate,
//!    unless another method of a stack left the layer out.
//! 3. Where nothing is kept yet, a sublayer runs, and what it gives is kept.
//! 4. An output is kept for every token of the block's entry. Where another method of a stack has shrunk the stream, the
//!    tokens that it removed get what they would get at the block's exit, and of what is kept the tokens of the stream get
//!    theirs.

use atedm_core::plugin::{
    Action, BlockId, BlockShape, BuildContext, Event, Facts, LayerTokens, MethodPlan, ModelShape, Options,
    Run, Site, Step, StepOf, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Result};
use serde::{Deserialize, Serialize};

use crate::memory::{Memory, StepCounter};
use crate::options::{at_least_one, read, settings};

/// Options of T-GATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TGateOptions {
    /// The step from which cross-attention is used again and guidance ends. Default 10.
    pub gate_step: usize,
    /// Before the gate self-attention runs at every so many-th step. Default 5.
    pub sp_interval: usize,
    /// From the gate on self-attention runs at every so many-th step. Default 1.
    pub fi_interval: usize,
    /// The step up to which self-attention always runs. Default 2.
    pub warm_up: usize,
}

impl Default for TGateOptions {
    fn default() -> Self {
        Self { gate_step: 10, sp_interval: 5, fi_interval: 1, warm_up: 2 }
    }
}

/// What becomes of a sublayer at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It runs.
    Run,
    /// It runs, and its output is kept.
    Keep,
    /// It runs, and the mean of its output over the halves of guidance is kept.
    KeepMean,
    /// What was kept stands for its output.
    Again,
}

impl TGateOptions {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        at_least_one("gate_step", self.gate_step)?;
        at_least_one("sp_interval", self.sp_interval)?;
        at_least_one("fi_interval", self.fi_interval)
    }

    /// Whether a step is guided.
    fn guides(&self, step: usize) -> bool {
        step < self.gate_step
    }

    fn of(&self, sub: Sublayer, step: usize) -> Use {
        match sub {
            Sublayer::CrossAttention if step < self.gate_step => Use::KeepMean,
            Sublayer::CrossAttention => Use::Again,
            Sublayer::SelfAttention => match self.of_self_attention(step) {
                // nothing is kept that is not used
                Use::Again => Use::Again,
                _ if self.of_self_attention(step + 1) != Use::Again => Use::Run,
                keep => keep,
            },
            _ => Use::Run,
        }
    }

    /// Self-attention as the authors' schedule has it, which keeps more than it uses.
    fn of_self_attention(&self, step: usize) -> Use {
        let every = |interval: usize| match step.is_multiple_of(interval) {
            true => Use::Keep,
            false => Use::Again,
        };
        if step + 1 == self.gate_step {
            Use::KeepMean
        } else if step >= self.gate_step {
            every(self.fi_interval)
        } else if step < self.warm_up {
            Use::Run
        } else if step == self.warm_up {
            Use::Keep
        } else {
            every(self.sp_interval)
        }
    }
}

/// T-GATE as a registry knows it.
#[derive(Debug, Clone)]
pub struct TGatePlan {
    options: TGateOptions,
}

impl TGatePlan {
    /// The method from its options.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong or does not fit the run.
    pub fn describe(given: &Options, facts: &Facts<'_>) -> Result<Self> {
        let options: TGateOptions = read(given)?;
        options.validate()?;
        if let Some(model) = facts.model.filter(|model| options.gate_step >= model.steps) {
            let reason =
                format!("expected a step below the run's {}, got {}", model.steps, options.gate_step);
            return Err(Error::config("gate_step", reason));
        }
        Ok(Self { options })
    }

    /// The method itself.
    ///
    /// # Errors
    /// [`Error::Config`] for kept sets to replay.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
        crate::checks::no_replay(context)?;
        Ok(Box::new(TGate::new(self.options)))
    }
}

impl MethodPlan for TGatePlan {
    fn settings(&self) -> Options {
        settings(&self.options)
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        let mut layer = block.layer(block.grid.tokens());
        for sub in [Sublayer::SelfAttention, Sublayer::CrossAttention] {
            if block.sublayers.contains(&sub) && matches!(self.options.of(sub, step.index), Use::Again) {
                layer.set(sub, 0, 0);
            }
        }
        Ok(Some(vec![layer; block.depth]))
    }

    fn keeps_whole_outputs(&self) -> bool {
        true
    }

    fn wants_guidance(&self, step: StepOf) -> bool {
        self.options.guides(step.index)
    }

    fn memory(&self, model: &ModelShape) -> u64 {
        let keeps =
            |step: usize| matches!(self.options.of(Sublayer::SelfAttention, step), Use::Keep | Use::KeepMean);
        let outputs = 1 + u64::from((0..model.steps).any(keeps));
        let values = |block: &BlockShape| block.depth * block.grid.tokens() * block.channels;
        model.blocks.iter().map(|block| values(block) as u64 * outputs).sum()
    }

    fn remarks(&self, _model: &ModelShape) -> Result<Vec<String>> {
        let gate = self.options.gate_step;
        Ok(vec![format!(
            "guidance ends at step {gate}: from there an image is one row, of the negative prompt"
        )])
    }
}

/// T-GATE on tensors.
#[derive(Debug)]
pub struct TGate<T> {
    options: TGateOptions,
    steps: StepCounter,
    memory: Memory<(BlockId, usize, Sublayer), T>,
}

impl<T: AttentionOps> TGate<T> {
    /// The method with these options, which must be valid.
    pub fn new(options: TGateOptions) -> Self {
        Self { options, steps: StepCounter::default(), memory: Memory::default() }
    }
}

impl<T: AttentionOps> TokenReducer<T> for TGate<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.steps.begin(run);
        self.memory.clear();
        Ok(())
    }

    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.options.guides(self.steps.number(step.index))
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let (Event::Before { sub, .. } | Event::After { sub, .. }) = event else {
            return Ok(Action::Continue);
        };
        let now = self.options.of(sub, self.steps.number(site.step.index));
        if now == Use::Run {
            return Ok(Action::Continue);
        }
        let place = (site.block, site.layer, sub);
        match event {
            Event::Before { reductions, .. } if now == Use::Again => {
                let kept = self.memory.recall(&place, site.rows)?;
                let output = kept.map(|whole| reductions.shrink(&whole)).transpose()?;
                return Ok(output.map_or(Action::Continue, Action::Replace));
            }
            Event::After { output, reductions, .. } if now == Use::KeepMean => {
                self.memory.keep_mean(place, site.rows, &reductions.restore_added(output)?)?;
            }
            Event::After { output, reductions, .. }
                if now == Use::Keep || !self.memory.has(&place, site.rows) =>
            {
                self.memory.keep(place, site.rows, &reductions.restore_added(output)?)?;
            }
            _ => {}
        }
        Ok(Action::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_again(options: TGateOptions, sub: Sublayer, steps: usize) -> Vec<usize> {
        (0..steps).filter(|&step| options.of(sub, step) == Use::Again).collect()
    }

    /// What `tgate_scheduler` of the authors' package says.
    #[test]
    fn steps_are_the_authors() {
        let of = |options| {
            let again = |sub| used_again(options, sub, 14);
            (again(Sublayer::CrossAttention), again(Sublayer::SelfAttention))
        };
        let (cross, own) = of(TGateOptions::default());
        assert_eq!((cross, own), (vec![10, 11, 12, 13], vec![3, 4, 6, 7, 8]));
        let (cross, own) = of(TGateOptions { gate_step: 9, sp_interval: 3, fi_interval: 2, warm_up: 1 });
        assert_eq!((cross, own), ((9..14).collect(), vec![2, 4, 5, 7, 9, 11, 13]));
        let (_, own) = of(TGateOptions { sp_interval: 1, ..TGateOptions::default() });
        assert!(own.is_empty());
    }

    /// Of self-attention only what a later step uses is kept.
    #[test]
    fn nothing_is_kept_that_is_not_used() {
        let options = TGateOptions::default();
        let kept: Vec<usize> = (0..14)
            .filter(|&step| matches!(options.of(Sublayer::SelfAttention, step), Use::Keep | Use::KeepMean))
            .collect();
        assert_eq!(kept, [2, 5]);
        let late = TGateOptions { gate_step: 9, fi_interval: 2, ..options };
        assert_eq!(late.of(Sublayer::SelfAttention, 8), Use::KeepMean);
    }

    #[test]
    fn a_gate_beyond_the_run_is_refused() {
        let schedules = atedm_core::plugin::ScheduleRegistry::with_builtins();
        let model = ModelShape::new(Vec::new(), 8);
        let facts = Facts::new(&schedules).of_model(&model);
        let error = TGatePlan::describe(&Options::new(), &facts).unwrap_err().to_string();
        assert_eq!(error, "gate_step: expected a step below the run's 8, got 10");
    }
}
