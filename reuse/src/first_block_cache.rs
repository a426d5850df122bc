//! A first-block cache: what a model's first block adds tells whether the rest would give much the same as before.
//!
//! ```text
//! added = stream after the first block - stream before it
//! moved = mean |added - kept added| / mean |kept added|
//! moved <= threshold:  the rest gives its input + its kept residual       (the kept output where the shapes differ)
//! else:                the rest runs; added and its residual are kept
//! ```
//!
//! The rest is a nest: of a transformer nest 1, all blocks after the first one; of a U-Net nest 2, all between its second
//! skip connection and its use, where the first block is what lies between the first two skip connections.
//!
//! The measure and the default are those of diffusers' `FirstBlockCacheConfig` (after ParaAttention), which is made for
//! transformers.
//!
//! 1. diffusers decides for a batch; here each image decides for itself, with both its halves of guidance, so that its
//!    result does not depend on others. A batch runs if one of its images must; the others' outputs stay those kept.
//! 2. Where a nest's output has not the shape of its input, the output itself is kept. In SD-XL the shapes are the same.
//! 3. Where the first block changes the shape of the stream, the stream after it is measured.
//! 4. A measure that is not a number makes the nest run.

use atedm_core::plugin::{
    Action, BlockShape, BuildContext, Event, Facts, LayerTokens, MethodPlan, ModelShape, NestId, NestShape,
    NestSite, Options, Row, Run, Site, StepOf, TokenReducer,
};
use atedm_core::{AttentionOps, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::options::{read, settings};

/// Options of a first-block cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirstBlockCacheOptions {
    /// How far what the first block adds may move before the rest runs again, relative to its mean size. Default 0.05.
    pub threshold: f64,
}

impl Default for FirstBlockCacheOptions {
    fn default() -> Self {
        Self { threshold: 0.05 }
    }
}

impl FirstBlockCacheOptions {
    /// Checks that the threshold is a number.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        match self.threshold >= 0.0 && self.threshold.is_finite() {
            true => Ok(()),
            false => {
                let reason = format!("expected a finite number, at least 0, got {}", self.threshold);
                Err(Error::config("threshold", reason))
            }
        }
    }
}

/// A first-block cache as a registry knows it: what it leaves out, only a run can tell.
#[derive(Debug, Clone)]
pub struct FirstBlockCachePlan {
    options: FirstBlockCacheOptions,
}

impl FirstBlockCachePlan {
    /// The method from its options.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong or does not fit the model.
    pub fn describe(given: &Options, facts: &Facts<'_>) -> Result<Self> {
        let options: FirstBlockCacheOptions = read(given)?;
        options.validate()?;
        if facts.model.is_some_and(|model| rest_of(model).is_none()) {
            let reason = "the model names no nest after its first block";
            return Err(Error::config("first-block-cache", reason));
        }
        Ok(Self { options })
    }

    /// The method itself.
    ///
    /// # Errors
    /// [`Error::Config`] for kept sets to replay.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
        crate::checks::no_replay(context)?;
        Ok(Box::new(FirstBlockCache::new(self.options)))
    }
}

impl MethodPlan for FirstBlockCachePlan {
    fn settings(&self) -> Options {
        settings(&self.options)
    }

    fn tokens(&self, _block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(None)
    }

    /// What the first block adds has the size of the output of the nest around it.
    fn memory(&self, model: &ModelShape) -> u64 {
        let values = |nest: Option<&NestShape>| nest.map_or(0, |nest| nest.values);
        values(rest_of(model)) + values(model.nest(NestId(1)))
    }
}

/// The nest after the first block: nest 1 where that leaves a block out, else nest 2.
fn rest_of(model: &ModelShape) -> Option<&NestShape> {
    let outer = model.nest(NestId(1)).filter(|nest| nest.blocks.start > 0);
    outer.or_else(|| model.nest(NestId(2)))
}

/// What is kept of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    /// What the first block added.
    Added,
    /// What the rest added, or gave.
    Rest,
}

/// How far an evaluation is.
#[derive(Debug)]
enum Stage<T> {
    /// Before the first block.
    Begun,
    /// In the first block, which this stream entered.
    First(T),
    /// In the rest.
    Rest(NestId, Entered<T>),
    /// After it.
    Past,
}

/// What is known as the rest runs.
#[derive(Debug)]
struct Entered<T> {
    hidden: T,
    added: T,
    /// For each row whether the rest of its image is used again although the nest runs.
    again: Vec<bool>,
}

/// A first-block cache on tensors.
#[derive(Debug)]
pub struct FirstBlockCache<T> {
    options: FirstBlockCacheOptions,
    memory: Memory<Of, T>,
    stage: Stage<T>,
    /// Whether the model has told of a nest after the first block.
    heard: bool,
}

impl<T: AttentionOps> FirstBlockCache<T> {
    /// The method with these options, which must be valid.
    pub fn new(options: FirstBlockCacheOptions) -> Self {
        Self { options, memory: Memory::default(), stage: Stage::Begun, heard: false }
    }

    /// For each row whether its image uses the rest again.
    fn decide(&self, added: &T, rows: &[Row]) -> Result<Vec<bool>> {
        // how far each row moved, and the size of what was kept of it
        let mut sums: Vec<Option<(f64, f64)>> = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            sums.push(match self.memory.recall(&Of::Added, &[*row])? {
                Some(kept) => Some((mean_size(&added.narrow(0, i, 1)?.sub(&kept)?)?, mean_size(&kept)?)),
                None => None,
            });
        }
        let of_image = |image: u64| {
            let mut both = (0.0, 0.0);
            for (_, sum) in rows.iter().zip(&sums).filter(|(row, _)| row.image == image) {
                let (moved, kept) = (*sum)?;
                both = (both.0 + moved, both.1 + kept);
            }
            Some(both.0 / both.1)
        };
        let threshold = self.options.threshold;
        Ok(rows.iter().map(|row| of_image(row.image).is_some_and(|moved| moved <= threshold)).collect())
    }

    /// What the rest gives if it is used again: for `hidden` `[rows, ..]`.
    fn again(&self, hidden: &T, rows: &[Row]) -> Result<Option<T>> {
        let Some(rest) = self.memory.recall(&Of::Rest, rows)? else { return Ok(None) };
        match rest.shape() == hidden.shape() {
            true => hidden.add(&rest).map(Some),
            false => Ok(Some(rest)),
        }
    }
}

/// The mean of the absolute values, on the host.
fn mean_size<T: Tensor>(tensor: &T) -> Result<f64> {
    let tensor = tensor.cast(tensor.dtype().accumulator())?;
    let size = tensor.clamp_min(0.0)?.add(&tensor.affine(-1.0, 0.0)?.clamp_min(0.0)?)?;
    let elements = size.shape().iter().product::<usize>();
    let mean = size.reshape(&[1, elements])?.mean(1)?;
    Ok(mean.to_f32()?.first().copied().map_or(f64::NAN, f64::from))
}

impl<T: AttentionOps> TokenReducer<T> for FirstBlockCache<T> {
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        self.memory.clear();
        self.stage = Stage::Begun;
        Ok(())
    }

    fn on_event(&mut self, _site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        // a transformer's first block begins without a nest of its own
        if let (Event::LayerEnter { hidden }, Stage::Begun) = (event, &self.stage) {
            self.stage = Stage::First(hidden.clone());
        }
        Ok(Action::Continue)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        if site.nest == NestId::EVALUATION {
            self.stage = Stage::Begun;
            return Ok(None);
        }
        let first = match std::mem::replace(&mut self.stage, Stage::Past) {
            Stage::Begun => {
                self.stage = Stage::First(hidden.clone());
                return Ok(None);
            }
            Stage::First(first) => first,
            later => {
                self.stage = later;
                return Ok(None);
            }
        };
        self.heard = true;
        let added = match hidden.shape() == first.shape() {
            true => hidden.sub(&first)?,
            false => hidden.clone(),
        };
        let again = self.decide(&added, site.rows)?;
        if again.iter().all(|again| *again)
            && let Some(output) = self.again(hidden, site.rows)?
        {
            return Ok(Some(output));
        }
        self.stage = Stage::Rest(site.nest, Entered { hidden: hidden.clone(), added, again });
        Ok(None)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        let Entered { hidden, added, again } = match std::mem::replace(&mut self.stage, Stage::Past) {
            Stage::Rest(nest, entered) if nest == site.nest => entered,
            other => {
                self.stage = other;
                return Ok(None);
            }
        };
        let same = hidden.shape() == output.shape();
        let rest = if same { output.sub(&hidden)? } else { output.clone() };
        let mut rows_out = Vec::with_capacity(site.rows.len());
        for (i, (row, again)) in site.rows.iter().zip(&again).enumerate() {
            let row = std::slice::from_ref(row);
            let kept = if *again { self.again(&hidden.narrow(0, i, 1)?, row)? } else { None };
            if kept.is_none() {
                self.memory.keep(Of::Added, row, &added.narrow(0, i, 1)?)?;
                self.memory.keep(Of::Rest, row, &rest.narrow(0, i, 1)?)?;
            }
            rows_out.push(match kept {
                Some(kept) => kept,
                None => output.narrow(0, i, 1)?,
            });
        }
        match again.iter().any(|again| *again) {
            true => T::concat(&rows_out.iter().collect::<Vec<_>>(), 0).map(Some),
            false => Ok(None),
        }
    }

    fn end_step(&mut self, _prediction: &T) -> Result<()> {
        match self.heard {
            true => Ok(()),
            false => {
                Err(Error::config("first-block-cache", "the model tells of no nest after its first block"))
            }
        }
    }
}
