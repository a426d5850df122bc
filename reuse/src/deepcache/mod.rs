//! DeepCache (Ma, Fang and Wang, arXiv 2312.00858). The inner part of a U-Net changes little from step to step. It is
//! computed only at full steps. The steps between reuse its last output.
//!
//! ```text
//! at a full step:     everything runs; the output of nest b + 1 is stored   (b = cache_branch_id)
//! at any other step:  the stored output replaces nest b + 1; the rest runs
//! ```
//!
//! Full steps, branches and names are those of the authors' `DeepCacheSDHelper` (package DeepCache 0.1.1). Branch `b`
//! of a U-Net belongs to its skip connection `b`. SD-XL has three branches per stage; branch 0 is the outermost. Uneven
//! steps come from the authors' pipeline, which calls the switch `uniform`.
//!
//! There are two departures:
//!
//! 1. The helper's default interval is 1, which does nothing. The default here is 3, as in the authors' `main.py`.
//! 2. Branches are counted by skip connections, whatever a stage has. The helper counts three per stage.

mod schedule;

use atedm_core::plugin::{
    BlockShape, BuildContext, Facts, LayerTokens, MethodPlan, ModelShape, NestId, NestSite, Options, Run,
    StepOf, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Result};
use serde::{Deserialize, Serialize};

pub use schedule::uneven_steps;

use crate::checks::{InputSize, expect_heard};
use crate::memory::{Memory, StepCounter};
use crate::options::{at_least_one, read};

/// Options of DeepCache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepCacheOptions {
    /// The interval between steps that compute everything; 1 means every step. Default 3.
    pub cache_interval: usize,
    /// The branch from which on outputs are reused: nest `cache_branch_id + 1`. Default 0, which reuses the most.
    pub cache_branch_id: usize,
    /// Whether full steps are evenly spaced. Default true.
    pub uniform: bool,
    /// With `uniform = false`: the step around which full steps are densest. Default 15, as in the authors' example.
    pub center: usize,
    /// With `uniform = false`: how uneven the steps are, greater than 1. Default 1.4, as in the authors' example.
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

    /// The nest whose output is reused.
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

    /// For each step of a run, whether it computes everything.
    ///
    /// # Errors
    /// The errors of [`uneven_steps`].
    pub fn full_steps(&self, steps: usize) -> Result<Vec<bool>> {
        match self.uniform || self.cache_interval == 1 {
            true => Ok((0..steps).map(|step| step.is_multiple_of(self.cache_interval)).collect()),
            false => uneven_steps(steps, self.cache_interval, self.center, self.pow),
        }
    }
}

/// The plan of DeepCache: the method without tensors.
#[derive(Debug, Clone)]
pub struct DeepCachePlan {
    options: DeepCacheOptions,
    /// The full steps of the planned run, if its length is known.
    full: Option<Vec<bool>>,
}

impl DeepCachePlan {
    /// Makes the plan from the method's options.
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

    /// Builds the method.
    ///
    /// # Errors
    /// [`Error::Config`] if there are kept sets to replay.
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
            // invalid steps give an error as soon as the run's length is known
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
    /// The full steps of this run. They are computed at its first step.
    full: Option<Vec<bool>>,
    memory: Memory<(), T>,
    input: InputSize,
    /// Whether the model has reported the nest.
    heard: bool,
}

impl<T: AttentionOps> DeepCache<T> {
    /// Creates the method. The options must be valid.
    pub fn new(options: DeepCacheOptions) -> Self {
        Self {
            options,
            steps: StepCounter::default(),
            full: None,
            memory: Memory::default(),
            input: InputSize::default(),
            heard: false,
        }
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

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        if site.nest != self.options.nest() {
            return Ok(None);
        }
        self.heard = true;
        let again = match self.is_full(site)? {
            true => None,
            false => self.memory.recall(&(), site.rows)?,
        };
        match again {
            Some(_) => self.input.expect(hidden)?,
            None => self.input.store(hidden),
        }
        Ok(again)
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
