//! DeepCache (Ma, Fang and Wang, arXiv 2312.00858): a U-Net's inner part, which changes little from step to step, is
//! computed now and then; the steps between use its last output again.
//!
//! ```text
//! at a full step:     everything runs; what nest b + 1 gives is kept        (b = cache_branch_id)
//! at any other step:  what was kept stands for nest b + 1; the rest runs
//! ```
//!
//! Full steps, branches and names are those of the authors' `DeepCacheSDHelper` (package DeepCache 0.1.1): a U-Net's branch
//! `b` is the one of its skip connection `b`, three a stage in SD-XL, 0 the outermost. Uneven steps are of the authors'
//! pipeline, which calls the switch `uniform`.
//!
//! 1. The helper's own default interval is 1, which does nothing; the default here is 3, that of the authors' `main.py`.
//! 2. Branches are counted by skip connections, whatever a stage has; the helper counts three a stage.

mod schedule;

use atedm_core::plugin::{
    BlockShape, BuildContext, Facts, LayerTokens, MethodPlan, ModelShape, NestId, NestSite, Options, Run,
    StepOf, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Result};
use serde::{Deserialize, Serialize};

pub use schedule::uneven_steps;

use crate::checks::expect_heard;
use crate::memory::{Memory, StepCounter};
use crate::options::{at_least_one, read};

/// Options of DeepCache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepCacheOptions {
    /// Every so many-th step computes everything; 1 is every step. Default 3.
    pub cache_interval: usize,
    /// The branch from which on outputs are used again: nest `cache_branch_id + 1`. Default 0, the most that can be left out.
    pub cache_branch_id: usize,
    /// Whether full steps are evenly spaced. Default true.
    pub uniform: bool,
    /// With `uniform = false`: the step around which full steps are closest. Default 15, as in the authors' example.
    pub center: usize,
    /// With `uniform = false`: how uneven the steps are, above 1. Default 1.4, as in the authors' example.
    pub pow: f64,
}

impl Default for DeepCacheOptions {
    fn default() -> Self {
        Self { cache_interval: 3, cache_branch_id: 0, uniform: true, center: 15, pow: 1.4 }
    }
}

impl DeepCacheOptions {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        at_least_one("cache_interval", self.cache_interval)?;
        if !(self.pow > 1.0 && self.pow.is_finite()) {
            return Err(Error::config("pow", format!("expected a number above 1, got {}", self.pow)));
        }
        Ok(())
    }

    /// The nest whose output is used again.
    pub fn nest(&self) -> NestId {
        NestId::after_skip(self.cache_branch_id)
    }

    /// Checks that a model has the branch.
    ///
    /// # Errors
    /// [`Error::Config`] naming `cache_branch_id`.
    fn expect_branch(&self, model: &ModelShape) -> Result<()> {
        let reason = match model.nests.len() {
            _ if model.nest(self.nest()).is_some() => return Ok(()),
            0 | 1 => "the model has no branches: it names no nests".into(),
            nests => {
                format!("expected a branch of the model, 0 to {}, got {}", nests - 2, self.cache_branch_id)
            }
        };
        Err(Error::config("cache_branch_id", reason))
    }

    /// Which of a run's steps compute everything.
    ///
    /// # Errors
    /// As [`uneven_steps`].
    pub fn full_steps(&self, steps: usize) -> Result<Vec<bool>> {
        match self.uniform || self.cache_interval == 1 {
            true => Ok((0..steps).map(|step| step.is_multiple_of(self.cache_interval)).collect()),
            false => uneven_steps(steps, self.cache_interval, self.center, self.pow),
        }
    }
}

/// DeepCache as a registry knows it.
#[derive(Debug, Clone)]
pub struct DeepCachePlan {
    options: DeepCacheOptions,
    /// The full steps of the run that it is planned for, if its length is known.
    full: Option<Vec<bool>>,
}

impl DeepCachePlan {
    /// The method from its options.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong, does nothing, or does not fit the model.
    pub fn describe(given: &Options, facts: &Facts<'_>) -> Result<Self> {
        let options: DeepCacheOptions = read(given)?;
        options.validate()?;
        if let (true, Some(idle)) =
            (options.uniform, ["center", "pow"].iter().find(|key| given.contains_key(**key)))
        {
            return Err(Error::config(*idle, "does nothing here: it is an option of uniform = false"));
        }
        let full = facts.model.map(|model| {
            options.expect_branch(model)?;
            options.full_steps(model.steps)
        });
        Ok(Self { full: full.transpose()?, options })
    }

    /// The method itself.
    ///
    /// # Errors
    /// [`Error::Config`] for kept sets to replay.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
        crate::checks::no_replay(context)?;
        Ok(Box::new(DeepCache::new(self.options.clone())))
    }
}

impl MethodPlan for DeepCachePlan {
    fn settings(&self) -> Options {
        let mut settings = crate::options::settings(&self.options);
        if self.options.uniform {
            settings.remove("center");
            settings.remove("pow");
        }
        settings
    }

    fn tokens(&self, block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(Some(block.whole()))
    }

    fn replaced(&self, step: StepOf) -> Option<NestId> {
        let is_full = |full: &[bool]| full.get(step.index).copied().unwrap_or(true);
        let is_full = match &self.full {
            Some(full) if full.len() == step.total => is_full(full),
            // steps that do not fit a run are an error as soon as it is known
            _ => self.options.full_steps(step.total).map_or(true, |full| is_full(&full)),
        };
        (!is_full).then(|| self.options.nest())
    }

    fn memory(&self, model: &ModelShape) -> u64 {
        model.nest(self.options.nest()).map_or(0, |nest| nest.values)
    }
}

/// DeepCache on tensors.
#[derive(Debug)]
pub struct DeepCache<T> {
    options: DeepCacheOptions,
    steps: StepCounter,
    /// The full steps of this run, once it has begun.
    full: Option<Vec<bool>>,
    memory: Memory<(), T>,
    /// Whether the model has told of the nest.
    heard: bool,
}

impl<T: AttentionOps> DeepCache<T> {
    /// The method with these options, which must be valid.
    pub fn new(options: DeepCacheOptions) -> Self {
        Self { options, steps: StepCounter::default(), full: None, memory: Memory::default(), heard: false }
    }

    fn is_full(&mut self, site: &NestSite<'_>) -> Result<bool> {
        let number = self.steps.number(site.step.index);
        let full = match &mut self.full {
            Some(full) => full,
            none => none.insert(self.options.full_steps(site.step.total - (site.step.index - number))?),
        };
        Ok(full.get(number).copied().unwrap_or(true))
    }
}

impl<T: AttentionOps> TokenReducer<T> for DeepCache<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.steps.begin(run);
        self.full = None;
        self.memory.clear();
        Ok(())
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, _hidden: &T) -> Result<Option<T>> {
        if site.nest != self.options.nest() {
            return Ok(None);
        }
        self.heard = true;
        match self.is_full(site)? {
            true => Ok(None),
            false => self.memory.recall(&(), site.rows),
        }
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        if site.nest == self.options.nest() {
            self.memory.keep((), site.rows, output)?;
        }
        Ok(None)
    }

    fn end_step(&mut self, _prediction: &T) -> Result<()> {
        expect_heard(self.heard, "cache_branch_id", self.options.nest())
    }
}
