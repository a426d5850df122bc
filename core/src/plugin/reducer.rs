//! The seam itself: a model reports events of each attention block, a [`TokenReducer`] answers with actions.

use super::nest::NestSite;
use super::site::{Row, Site, Step, Sublayer};
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest};
use crate::{Result, Tensor};

/// One image (or batch of images) about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Steps of the full schedule.
    pub steps: usize,
    /// The seed of the run.
    pub seed: u64,
    /// What each batch row is.
    pub rows: &'a [Row],
    /// The step that comes first, above 0 where a run starts from an image.
    pub first: usize,
}

impl<'a> Run<'a> {
    /// A run of the full schedule.
    pub fn new(steps: usize, seed: u64, rows: &'a [Row]) -> Self {
        Self { steps, seed, rows, first: 0 }
    }
}

/// What the model tells at one point of a transformer layer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, T> {
    /// A layer begins. Allowed answers: `Continue`, `UntilExit`.
    LayerEnter {
        /// The residual stream `[b, tokens, channels]`.
        hidden: &'a T,
    },
    /// A sublayer is about to run. Allowed answers: `Continue`, `Around`, `Replace`.
    Before {
        /// Which one.
        sub: Sublayer,
        /// The residual stream `[b, tokens, channels]`.
        hidden: &'a T,
        /// The sublayer's normalised input `[b, tokens, channels]`.
        normed: &'a T,
    },
    /// An attention sublayer has run; its output is not yet added. Allowed answer: `Continue`.
    Attended {
        /// Which one.
        sub: Sublayer,
        /// The graph, if [`TokenReducer::wants`] asked for it. Keep it no longer than this layer.
        graph: Option<AttentionGraph<T>>,
        /// The vote `[b, h, tokens]` that attention cast on its way, if it was asked for one and cast it.
        first_vote: Option<T>,
        /// The values `[b, h, tokens, dim]`.
        values: &'a T,
        /// The sublayer's output `[b, tokens, channels]`, every token of the stream restored.
        output: &'a T,
    },
    /// A sublayer's output was added. Allowed answers: `Continue`, `UntilExit`.
    After {
        /// Which one.
        sub: Sublayer,
        /// The residual stream `[b, tokens, channels]`, with the output.
        hidden: &'a T,
        /// What was added `[b, tokens, channels]`.
        output: &'a T,
    },
    /// The block ends, everything is restored. Allowed answer: `Continue`.
    BlockExit {
        /// The residual stream `[b, all tokens, channels]`.
        hidden: &'a T,
    },
}

/// Which inputs of a sublayer an [`Action::Around`] reduces. Queries decide the number of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Queries only: outputs are restored before the residual.
    Queries,
    /// Keys and values only (self-attention): nothing to restore.
    KeysValues,
    /// Both (for the feed-forward: its input).
    Both,
}

/// The answer to an [`Event`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Action<T: Tensor> {
    /// Nothing.
    Continue,
    /// Reduce this sublayer's input, restore its output before the residual (ToMe, ToDo).
    Around {
        /// What is reduced.
        scope: Scope,
        /// How.
        by: Box<dyn Reduction<T>>,
    },
    /// Shrink the residual stream now and restore it at the block's exit; several form a stack, last in, first out (AT-EDM).
    UntilExit(Box<dyn Reduction<T>>),
    /// Do not run this sublayer: its output, before the residual, is this `[b, tokens, channels]` (T-GATE).
    Replace(T),
}

/// A way to make fewer tokens and to get all of them back: index, dense and grid-resize plans are implementors.
pub trait Reduction<T: Tensor>: Send + std::fmt::Debug {
    /// Tokens after shrinking.
    fn kept(&self) -> usize;
    /// `[b, tokens, channels]` → `[b, kept, channels]`.
    fn shrink(&self, full: &T) -> Result<T>;
    /// `[b, kept, channels]` → `[b, tokens, channels]`.
    fn restore(&self, reduced: &T) -> Result<T>;
    /// What errors call it.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
    /// The positions `[b, kept]`, among the tokens before shrinking, that the kept tokens stand for; `None` if they stand for
    /// no single ones. A token that several were merged into stands for the one that they were merged into.
    fn positions(&self) -> Option<Result<T::Indices>> {
        None
    }
    /// The positions of the tokens that stand in the kept ones' places in records and pictures: [`Reduction::positions`],
    /// but for mixtures of many tokens around a chosen one, which stand for no single position.
    fn representatives(&self) -> Option<Result<T::Indices>> {
        self.positions()
    }
    /// A copy, for plans cached over layers and steps.
    fn clone_box(&self) -> Box<dyn Reduction<T>>;
}

/// A method that makes attention blocks cheaper. Object-safe, chosen by name from a registry.
///
/// Every function has a default that leaves the model as it is. A wrapper around another method names it by
/// [`TokenReducer::inner`], and writes only the functions in which it does something itself.
pub trait TokenReducer<T: AttentionOps>: Send {
    /// The method that this one wraps. The defaults of all other functions ask it. `None`: this is a method of its own.
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        None
    }
    /// A run begins: forget per-image state.
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.begin_run(run))
    }
    /// Whether a step of a guided run is guided; asked before [`TokenReducer::begin_step`]. Without guidance the batch is
    /// its negative rows alone, and what they give is the prediction (T-GATE). The method's plan says the same beforehand
    /// ([`MethodPlan::wants_guidance`](super::MethodPlan::wants_guidance)).
    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.inner().is_none_or(|inner| inner.wants_guidance(step))
    }
    /// A denoising step begins.
    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.begin_step(step, rows))
    }
    /// What this attention sublayer should return besides its output.
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        self.inner().map_or(Ok(GraphRequest::None), |inner| inner.wants(site, sub))
    }
    /// An event; see [`Event`] for the answers allowed.
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        self.inner().map_or(Ok(Action::Continue), |inner| inner.on_event(site, event))
    }
    /// A nest is about to run on `hidden`. The answer stands for its output; with `None` it runs.
    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        self.inner().map_or(Ok(None), |inner| inner.enter_nest(site, hidden))
    }
    /// A nest has run and gave `output`. The answer, if any, stands for it: so a method that uses earlier outputs again can
    /// decide for each row of a batch. Not told of a nest whose output was given in its place.
    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        self.inner().map_or(Ok(None), |inner| inner.leave_nest(site, output))
    }
    /// A denoising step ended with this model output `[b, c, h, w]`.
    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.end_step(prediction))
    }
}

/// The identity: every block runs whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpruned;

impl<T: AttentionOps> TokenReducer<T> for Unpruned {}

/// Checks that a tensor has the tokens `[b, n, c]` a reduction expects.
pub fn expect_tokens<T: Tensor>(tensor: &T, tokens: usize, op: &'static str) -> Result<()> {
    let shape = tensor.shape();
    if shape.len() == 3 && shape[1] == tokens {
        Ok(())
    } else {
        Err(crate::Error::shape(op, format!("[batch, {tokens}, channels]"), shape))
    }
}
