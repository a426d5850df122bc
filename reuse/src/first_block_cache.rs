//! A first-block cache. The output of a model's first block predicts whether the rest would change much. If not, the
//! rest is reused.
//!
//! ```text
//! added = stream after the first block - stream before it
//! moved = mean |added - stored added| / mean |stored added|
//! moved <= threshold:  the rest gives its input + its stored residual     (the stored output where the shapes differ)
//! else:                the rest runs; added and its residual are stored
//! ```
//!
//! The rest is a nest. In a transformer it is nest 1: all blocks after the first one. In a U-Net it is nest 2:
//! everything between the second skip connection and its use. The U-Net's first block is then the part between the
//! first two skip connections.
//!
//! The measure and the default are those of diffusers' `FirstBlockCacheConfig` (after ParaAttention), which is made for
//! transformers. There are four departures:
//!
//! 1. diffusers decides for a whole batch. Here each image decides for itself, with both its halves of guidance, so its
//!    result does not depend on other images. A batch runs if one of its images must run. The others then still reuse
//!    their stored outputs.
//! 2. If a nest's output has another shape than its input, the output itself is stored. In SD-XL the shapes are equal.
//! 3. If the first block changes the shape of the stream, the stream after it is measured.
//! 4. If the measure is not a number, the nest runs.

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
    /// The threshold on `moved`: how much the first block's contribution may change, relative to its mean size. Default
    /// 0.05.
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

/// The plan of a first-block cache. Only a run can tell what it leaves out.
#[derive(Debug, Clone)]
pub struct FirstBlockCachePlan {
    options: FirstBlockCacheOptions,
}

impl FirstBlockCachePlan {
    /// Makes the plan from the method's options.
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

    /// Builds the method.
    ///
    /// # Errors
    /// [`Error::Config`] if there are kept sets to replay.
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

    /// The first block's contribution has the size of the output of the nest around it.
    fn memory(&self, model: &ModelShape) -> u64 {
        let values = |nest: Option<&NestShape>| nest.map_or(0, |nest| nest.values);
        values(rest_of(model)) + values(model.nest(NestId(1)))
    }
}

/// The nest after the first block: nest 1 if it leaves a block out, else nest 2.
fn rest_of(model: &ModelShape) -> Option<&NestShape> {
    let outer = model.nest(NestId(1)).filter(|nest| nest.blocks.start > 0);
    outer.or_else(|| model.nest(NestId(2)))
}

/// The tensors stored for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    /// The first block's contribution.
    Added,
    /// The residual of the rest, or its output.
    Rest,
}

/// The progress of an evaluation.
#[derive(Debug)]
enum Stage<T> {
    /// Before the first block.
    Begun,
    /// In the first block. The stream had this value before it.
    First(T),
    /// In the rest.
    Rest(NestId, Entered<T>),
    /// After the rest.
    Past,
}

/// The data of the rest while it runs.
#[derive(Debug)]
struct Entered<T> {
    hidden: T,
    added: T,
    /// For each row, whether the rest of its image is reused although the nest runs.
    again: Vec<bool>,
}

/// A first-block cache on tensors.
#[derive(Debug)]
pub struct FirstBlockCache<T> {
    options: FirstBlockCacheOptions,
    memory: Memory<Of, T>,
    stage: Stage<T>,
    /// Whether the model has reported a nest after the first block.
    heard: bool,
}

impl<T: AttentionOps> FirstBlockCache<T> {
    /// Creates the method. The options must be valid.
    pub fn new(options: FirstBlockCacheOptions) -> Self {
        Self { options, memory: Memory::default(), stage: Stage::Begun, heard: false }
    }

    /// For each row, whether its image reuses the rest.
    fn decide(&self, added: &T, rows: &[Row]) -> Result<Vec<bool>> {
        // for each row, the size of its change and the size of its stored value
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

    /// The output of the rest if it is reused, for `hidden` `[rows, ..]`.
    fn again(&self, hidden: &T, rows: &[Row]) -> Result<Option<T>> {
        let Some(rest) = self.memory.recall(&Of::Rest, rows)? else { return Ok(None) };
        match rest.shape() == hidden.shape() {
            true => hidden.add(&rest).map(Some),
            false => Ok(Some(rest)),
        }
    }
}

/// The mean of the absolute values, computed on the host.
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
        // a transformer's first block has no nest of its own
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
