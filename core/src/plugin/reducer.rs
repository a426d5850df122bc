//! The seam itself: a model reports events of each attention block, and a [`TokenReducer`] answers with actions.

use super::nest::NestSite;
use super::site::{Row, Site, Step, Sublayer};
use super::spots::Spots;
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest};
use crate::{Result, Tensor};

/// One image, or one batch of images, that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The number of steps in the full schedule.
    pub steps: usize,
    /// The seed of the run.
    pub seed: u64,
    /// A description of each batch row.
    pub rows: &'a [Row],
    /// The first step of the run. It is above 0 where a run starts from an image.
    pub first: usize,
    /// Where the run paints a given picture again; `None` if it paints everything.
    pub painted: Option<&'a Spots>,
}

impl<'a> Run<'a> {
    /// A run of the full schedule.
    pub fn new(steps: usize, seed: u64, rows: &'a [Row]) -> Self {
        Self { steps, seed, rows, first: 0, painted: None }
    }
}

/// The model's report at one point of a transformer layer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, T: Tensor> {
    /// A layer begins. Allowed answers: `Continue`, `UntilExit`.
    LayerEnter {
        /// The residual stream `[b, tokens, channels]`.
        hidden: &'a T,
    },
    /// A sublayer is about to run. Allowed answers: `Continue`, `Around`, `Replace`.
    Before {
        /// The sublayer.
        sub: Sublayer,
        /// The residual stream `[b, tokens, channels]`.
        hidden: &'a T,
        /// The sublayer's normalised input `[b, tokens, channels]`.
        normed: &'a T,
        /// What has shrunk the stream since the block's entry.
        reductions: Reductions<'a, T>,
    },
    /// An attention sublayer has run. Its output is not yet added. Allowed answer: `Continue`.
    Attended {
        /// The sublayer.
        sub: Sublayer,
        /// The graph, if [`TokenReducer::wants`] requested it. Do not store it beyond this layer.
        graph: Option<AttentionGraph<T>>,
        /// The vote `[b, h, tokens]` that attention cast. `None` if none was requested or attention cast none.
        first_vote: Option<T>,
        /// The values `[b, h, tokens, dim]`.
        values: &'a T,
        /// The sublayer's output `[b, tokens, channels]`, with every token of the stream restored.
        output: &'a T,
    },
    /// A sublayer's output was added. Allowed answers: `Continue`, `UntilExit`.
    After {
        /// The sublayer.
        sub: Sublayer,
        /// The residual stream `[b, tokens, channels]`, including the output.
        hidden: &'a T,
        /// The output that was added, `[b, tokens, channels]`.
        output: &'a T,
        /// What had shrunk the stream when it was added.
        reductions: Reductions<'a, T>,
    },
    /// The block ends, and every token is restored. Allowed answer: `Continue`.
    BlockExit {
        /// The residual stream `[b, all tokens, channels]`.
        hidden: &'a T,
    },
}

/// The inputs of a sublayer that an [`Action::Around`] reduces. The queries set the number of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Only the queries. Outputs are restored before the residual.
    Queries,
    /// Only keys and values (self-attention). Nothing is restored.
    KeysValues,
    /// Both. For the feed-forward this is its input.
    Both,
}

/// The answer to an [`Event`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Action<T: Tensor> {
    /// Do nothing.
    Continue,
    /// Reduce this sublayer's input, and restore its output before the residual (ToMe, ToDo).
    Around {
        /// The part of the input that is reduced.
        scope: Scope,
        /// The reduction.
        by: Box<dyn Reduction<T>>,
    },
    /// Shrink the residual stream now, and restore it at the block's exit (AT-EDM). Several form a stack: last in, first out.
    UntilExit(Box<dyn Reduction<T>>),
    /// Do not run this sublayer. Use this `[b, tokens, channels]` as its output, before the residual (T-GATE).
    Replace(T),
}

/// A way to make fewer tokens and to restore all of them. Index, dense and grid-resize plans implement it.
pub trait Reduction<T: Tensor>: Send + std::fmt::Debug {
    /// The number of tokens after shrinking.
    fn kept(&self) -> usize;
    /// `[b, tokens, channels]` → `[b, kept, channels]`.
    fn shrink(&self, full: &T) -> Result<T>;
    /// `[b, kept, channels]` → `[b, tokens, channels]`.
    fn restore(&self, reduced: &T) -> Result<T>;
    /// [`Reduction::restore`] for what a sublayer adds to the tokens:
    /// `restore(x + added) = restore(x) + restore_added(added)`. The default is `restore`, which is right unless `restore`
    /// brings values of its own, as direct copy does.
    fn restore_added(&self, added: &T) -> Result<T> {
        self.restore(added)
    }
    /// What errors call it.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
    /// The positions `[b, kept]` of the kept tokens among the tokens before shrinking. `None` if they have no
    /// single positions. A token into which others were merged keeps its own position.
    fn positions(&self) -> Option<Result<T::Indices>> {
        None
    }
    /// The positions that records and pictures show for the kept tokens. They equal [`Reduction::positions`], except
    /// for mixtures of many tokens around a chosen one. A mixture has no single position and shows the chosen token's.
    fn representatives(&self) -> Option<Result<T::Indices>> {
        self.positions()
    }
    /// A copy. Caches of plans over layers and steps need it.
    fn clone_box(&self) -> Box<dyn Reduction<T>>;
}

/// The reductions that lie between a block's entry and its stream, in the order in which they were made.
#[derive(Debug)]
pub struct Reductions<'a, T: Tensor>(&'a [Box<dyn Reduction<T>>]);

// By hand: a derive would ask for `T: Copy`, and this is only a reference.
impl<T: Tensor> Clone for Reductions<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Tensor> Copy for Reductions<'_, T> {}

impl<'a, T: Tensor> Reductions<'a, T> {
    /// These reductions.
    pub fn new(reductions: &'a [Box<dyn Reduction<T>>]) -> Self {
        Self(reductions)
    }

    /// Those of a stream that is whole.
    pub fn none() -> Self {
        Self(&[])
    }

    /// What belongs to the stream's tokens of a sublayer's output for every token of the block's entry:
    /// `[b, all tokens, channels]` → `[b, tokens, channels]`.
    ///
    /// # Errors
    /// Those of the reductions, such as [`Error::Shape`](crate::Error::Shape) for another number of tokens.
    pub fn shrink(&self, whole: &T) -> Result<T> {
        self.0.iter().try_fold(whole.clone(), |output, reduction| reduction.shrink(&output))
    }

    /// A sublayer's output for every token of the block's entry: removed tokens get what the block's exit would give them.
    /// `[b, tokens, channels]` → `[b, all tokens, channels]`.
    ///
    /// # Errors
    /// As [`Reductions::shrink`].
    pub fn restore_added(&self, output: &T) -> Result<T> {
        self.0.iter().rev().try_fold(output.clone(), |output, reduction| reduction.restore_added(&output))
    }
}

/// A method that makes attention blocks cheaper. Object-safe, chosen by name from a registry.
///
/// Every function has a default that changes nothing. A wrapper around another method returns that method from
/// [`TokenReducer::inner`]. It then implements only the functions whose behaviour it changes.
pub trait TokenReducer<T: AttentionOps>: Send {
    /// The method that this one wraps; `None` if it wraps none. By default, every other function calls the wrapped method.
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        None
    }
    /// A run begins: forget per-image state.
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.begin_run(run))
    }
    /// Whether a step of a guided run is guided; asked before [`TokenReducer::begin_step`]. Without guidance the batch is
    /// its negative rows alone, and what they give is the prediction (T-GATE). The method's plan must give the same answer
    /// ([`MethodPlan::wants_guidance`](super::MethodPlan::wants_guidance)).
    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.inner().is_none_or(|inner| inner.wants_guidance(step))
    }
    /// An evaluation of the model begins. Most samplers make one a step; [`Step::index`] counts steps, [`Step::evaluation`]
    /// evaluations.
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
    /// An evaluation ended with this model output `[b, c, h, w]`.
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
