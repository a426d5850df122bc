//! The seam itself: a model reports events of each attention block, a [`TokenReducer`] answers with actions.

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
    /// A sublayer is about to run. Allowed answers: `Continue`, `Around`.
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
    },
    /// A sublayer's output was added. Allowed answers: `Continue`, `UntilExit`.
    After {
        /// Which one.
        sub: Sublayer,
        /// The residual stream `[b, tokens, channels]`.
        hidden: &'a T,
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
pub trait TokenReducer<T: AttentionOps>: Send {
    /// A run begins: forget per-image state.
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        Ok(())
    }
    /// A denoising step begins.
    fn begin_step(&mut self, _step: &Step, _rows: &[Row]) -> Result<()> {
        Ok(())
    }
    /// What this attention sublayer should return besides its output.
    fn wants(&mut self, _site: &Site<'_>, _sub: Sublayer) -> Result<GraphRequest<T>> {
        Ok(GraphRequest::None)
    }
    /// An event; see [`Event`] for the answers allowed.
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>>;
    /// A denoising step ended with this model output `[b, c, h, w]`.
    fn end_step(&mut self, _prediction: &T) -> Result<()> {
        Ok(())
    }
}

/// The identity: every block runs whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpruned;

impl<T: AttentionOps> TokenReducer<T> for Unpruned {
    fn on_event(&mut self, _site: &Site<'_>, _event: Event<'_, T>) -> Result<Action<T>> {
        Ok(Action::Continue)
    }
}

/// Checks that a tensor has the tokens `[b, n, c]` a reduction expects.
pub fn expect_tokens<T: Tensor>(tensor: &T, tokens: usize, op: &'static str) -> Result<()> {
    let shape = tensor.shape();
    if shape.len() == 3 && shape[1] == tokens {
        Ok(())
    } else {
        Err(crate::Error::shape(op, format!("[batch, {tokens}, channels]"), shape))
    }
}
