//! The model's side of the seam: one pass through one attention block.
//!
//! A model with its own layers calls [`BlockPass`] around them. This is the whole integration:
//!
//! ```text
//! let mut pass = BlockPass::enter(reducer, &step, &rows, block, depth, grid);
//! for (i, layer) in layers.iter().enumerate() {
//!     x = pass.layer(i, x)?;
//!     x = pass.attention(SelfAttention,  x, |x| norm1(x), |input| attn1(input))?;
//!     x = pass.attention(CrossAttention, x, |x| norm2(x), |input| attn2(input, text))?;
//!     x = pass.feed_forward(x, |x| norm3(x), |input| ff(input.tokens))?;
//! }
//! x = pass.exit(x)?;
//! ```
//!
//! Layers may also have two other forms:
//!
//! ```text
//! x = pass.attention(JointAttention, x, |x| norm1(x), |input| {      two streams: the closure holds the text itself,
//!     let (image, text_out) = joint(input, &text)?;                  and hands the text's output out in a variable
//!     text = text_out;
//!     Ok(image)
//! })?;
//! x = pass.parallel(x, |x| norm(x), |input| attend_and_feed_forward(input))?;
//! ```
//!
//! [`AttentionInput::query_rows`] and [`AttentionInput::key_rows`] serve rotary embeddings. They give the rows of a
//! table that belong to the current tokens.

use super::block::BlockId;
use super::nest::NestSite;
use super::positions::{Positions, Stack};
use super::reducer::{Action, Event, Reduction, Scope, TokenReducer};
use super::site::{Grid, Row, Site, Step, Sublayer};
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest, Tensor};
use crate::{Error, Result};

/// The input of an attention sublayer. It is normalised, and reduced if a plugin says so.
#[derive(Debug)]
pub struct AttentionInput<'a, T: Tensor> {
    /// The tokens `[b, m, channels]` for the queries. In a parallel sublayer they are also the feed-forward's input.
    pub queries: &'a T,
    /// The tokens `[b, n, channels]` for keys and values. Cross-attention ignores them and uses the text.
    pub keys_values: &'a T,
    /// The places of the queries in the sequence that entered the block.
    pub query_positions: Positions<'a, T>,
    /// The places of keys and values in that sequence. Cross-attention ignores them.
    pub key_positions: Positions<'a, T>,
    /// What to return of the map.
    pub graph: &'a GraphRequest<T>,
}

impl<'a, T: Tensor> AttentionInput<'a, T> {
    /// The input of a sublayer outside of any pass. It has these tokens, and none is missing.
    pub fn whole(tokens: &'a T, graph: &'a GraphRequest<T>) -> Self {
        let (query_positions, key_positions) = (Positions::whole(), Positions::whole());
        Self { queries: tokens, keys_values: tokens, query_positions, key_positions, graph }
    }

    /// The rows of a table that belong to the queries: `[b, m, d]`. The table is `[tokens, d]` or `[b, tokens, d]`,
    /// with a row for every token of the block's entry. While nothing is reduced the result is the table itself.
    ///
    /// # Errors
    /// As [`Positions::rows`].
    pub fn query_rows(&self, table: &T) -> Result<T> {
        self.query_positions.rows(table)
    }

    /// The rows of a table that belong to keys and values: `[b, n, d]`.
    ///
    /// # Errors
    /// As [`Positions::rows`].
    pub fn key_rows(&self, table: &T) -> Result<T> {
        self.key_positions.rows(table)
    }
}

/// The result of an attention sublayer.
#[derive(Debug)]
pub struct AttentionOutput<T> {
    /// The output `[b, m, channels]`, after the output projection and before the residual.
    pub hidden: T,
    /// The graph, if it was requested.
    pub graph: Option<AttentionGraph<T>>,
    /// The vote that attention cast ([`Attended::first_vote`](crate::backend::Attended::first_vote)).
    pub first_vote: Option<T>,
    /// The values `[b, h, n, dim]`.
    pub values: T,
}

/// The reducer's answer before a sublayer.
enum Answer<T: Tensor> {
    /// The sublayer runs. Its input is reduced if there is a reduction.
    Runs(Option<Around<T>>),
    /// The sublayer does not run. This is its output.
    Replaced(T),
}

/// The input of a feed-forward.
#[derive(Debug)]
pub struct FeedForwardInput<'a, T: Tensor> {
    /// The tokens `[b, m, channels]`. They are normalised, and reduced if a plugin says so.
    pub tokens: &'a T,
    /// Their places in the sequence that entered the block.
    pub positions: Positions<'a, T>,
}

impl<T: Tensor> FeedForwardInput<'_, T> {
    /// The rows of a table that belong to the tokens, as in [`AttentionInput::query_rows`].
    ///
    /// # Errors
    /// As [`Positions::rows`].
    pub fn rows(&self, table: &T) -> Result<T> {
        self.positions.rows(table)
    }
}

/// A reduction of one sublayer's inputs.
struct Around<T: Tensor> {
    scope: Scope,
    by: Box<dyn Reduction<T>>,
}

/// One pass through one attention block. It checks a reducer's actions, and shrinks and restores tokens as they say.
///
/// A pass ends with [`BlockPass::exit`]. The model makes a mistake if it drops a pass that still lacks tokens
/// although no call failed. Debug builds then panic.
#[must_use = "tokens that were removed come back with `exit`"]
pub struct BlockPass<'a, T: AttentionOps> {
    reducer: &'a mut dyn TokenReducer<T>,
    rows: &'a [Row],
    block: BlockId,
    depth: usize,
    step: Step,
    grid: Grid,
    protected: (usize, usize),
    layer: usize,
    stack: Stack<T>,
    /// Whether a call is running or ended with an error.
    under_way: bool,
}

impl<'a, T: AttentionOps> BlockPass<'a, T> {
    /// Enters `block`, which has `depth` layers on `grid`.
    pub fn enter(
        reducer: &'a mut dyn TokenReducer<T>,
        step: &Step,
        rows: &'a [Row],
        block: BlockId,
        depth: usize,
        grid: Grid,
    ) -> Self {
        Self {
            reducer,
            rows,
            block,
            depth,
            step: *step,
            grid,
            protected: (0, 0),
            layer: 0,
            stack: Stack::new(),
            under_way: false,
        }
    }

    /// Protects tokens `start..end` from removal, such as text or register tokens in a joint sequence.
    pub fn with_protected(mut self, start: usize, end: usize) -> Self {
        self.protected = (start, end);
        self
    }

    fn site(&self, tokens: usize) -> Site<'a> {
        Site {
            block: self.block,
            layer: self.layer,
            depth: self.depth,
            step: self.step,
            grid: self.grid,
            tokens,
            protected: self.protected,
            rows: self.rows,
        }
    }

    fn misplaced(&self, action: &str, event: &str) -> Error {
        Error::Plugin {
            name: format!("at {} layer {}", self.block, self.layer),
            reason: format!("answered {action} to {event}, where it is not allowed"),
        }
    }

    /// Runs one call of the model. An error in it ends the pass, which then need not reach its exit.
    fn call<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        self.under_way = true;
        let result = body(self)?;
        self.under_way = false;
        Ok(result)
    }

    /// Follows the answer to an event at which the stream may be shrunk until the exit.
    fn shrink_stream(&mut self, answer: Action<T>, event: &str, hidden: T) -> Result<T> {
        match answer {
            Action::Continue => Ok(hidden),
            Action::UntilExit(reduction) => {
                let shrunk = reduction.shrink(&hidden)?;
                self.stack.push(reduction);
                Ok(shrunk)
            }
            Action::Around { .. } => Err(self.misplaced("Around", event)),
            Action::Replace(_) => Err(self.misplaced("Replace", event)),
        }
    }

    /// Asks the reducer how one sublayer runs.
    fn ask(&mut self, sub: Sublayer, hidden: &T, normed: &T) -> Result<Answer<T>> {
        let site = self.site(tokens(hidden)?);
        self.stack.enter(site.tokens);
        let event = Event::Before { sub, hidden, normed, reductions: self.stack.reductions() };
        match self.reducer.on_event(&site, event)? {
            Action::Continue => Ok(Answer::Runs(None)),
            Action::Around { scope, by } => Ok(Answer::Runs(Some(Around { scope, by }))),
            Action::Replace(output) if output.shape() == hidden.shape() => Ok(Answer::Replaced(output)),
            Action::Replace(output) => Err(Error::shape(
                "an output in a sublayer's place",
                format!("{:?} at {} layer {}", hidden.shape(), self.block, self.layer),
                output.shape(),
            )),
            Action::UntilExit(_) => Err(self.misplaced("UntilExit", "Before")),
        }
    }

    /// Adds a sublayer's restored output to the stream and reports it.
    fn add(&mut self, sub: Sublayer, hidden: &T, output: &T) -> Result<T> {
        let hidden = hidden.add(output)?;
        let site = self.site(tokens(&hidden)?);
        let event = Event::After { sub, hidden: &hidden, output, reductions: self.stack.reductions() };
        let answer = self.reducer.on_event(&site, event)?;
        self.shrink_stream(answer, "After", hidden)
    }

    /// The places of the stream's current tokens in the sequence that entered the block. They serve tables that are
    /// used outside of sublayers, such as the scale and shift of a norm.
    pub fn positions(&self) -> Positions<'_, T> {
        self.stack.positions()
    }

    /// Layer `index` begins with this residual stream.
    ///
    /// # Errors
    /// Those of the reducer and of the backend's operations. [`Error::Plugin`] for an answer that is not allowed.
    pub fn layer(&mut self, index: usize, hidden: T) -> Result<T> {
        self.call(|pass| {
            pass.layer = index;
            let site = pass.site(tokens(&hidden)?);
            pass.stack.enter(site.tokens);
            let answer = pass.reducer.on_event(&site, Event::LayerEnter { hidden: &hidden })?;
            pass.shrink_stream(answer, "LayerEnter", hidden)
        })
    }

    /// One attention sublayer with its residual: `hidden + attend(norm(hidden))`.
    ///
    /// In [`Sublayer::JointAttention`] the stream is the image's. `attend` holds the text and stores the text's
    /// output itself. Its values are the image's. Its graph is the image part of the map, from image queries and
    /// image keys only ([`GraphRequest::from_qk`]).
    ///
    /// # Errors
    /// As [`BlockPass::layer`], and those of `norm` and `attend`.
    pub fn attention(
        &mut self,
        sub: Sublayer,
        hidden: T,
        norm: impl FnOnce(&T) -> Result<T>,
        attend: impl FnOnce(AttentionInput<'_, T>) -> Result<AttentionOutput<T>>,
    ) -> Result<T> {
        self.call(|pass| {
            let normed = norm(&hidden)?;
            let around = match pass.ask(sub, &hidden, &normed)? {
                Answer::Replaced(output) => return pass.add(sub, &hidden, &output),
                Answer::Runs(around) => around,
            };
            let site = pass.site(tokens(&hidden)?);
            let wants = pass.reducer.wants(&site, sub)?;
            let reduced = around.as_ref().map(|around| around.by.shrink(&normed)).transpose()?;
            let (whole, positions) = (&normed, pass.stack.positions());
            let of = |reduces: fn(Scope) -> bool| match (&around, &reduced) {
                (Some(Around { scope, by }), Some(small)) if reduces(*scope) => {
                    (small, positions.around(Some(by.as_ref())))
                }
                _ => (whole, positions),
            };
            let (queries, query_positions) = of(|scope| scope != Scope::KeysValues);
            let (keys_values, key_positions) = of(|scope| scope != Scope::Queries);
            let graph = &wants;
            let input = AttentionInput { queries, keys_values, query_positions, key_positions, graph };
            let AttentionOutput { hidden: attended, graph, first_vote, values } = attend(input)?;
            let output = match &around {
                Some(Around { scope: Scope::Queries | Scope::Both, by }) => by.restore(&attended)?,
                _ => attended,
            };
            let event = Event::Attended { sub, graph, first_vote, values: &values, output: &output };
            match pass.reducer.on_event(&site, event)? {
                Action::Continue => {}
                _ => return Err(pass.misplaced("another answer than Continue", "Attended")),
            }
            pass.add(sub, &hidden, &output)
        })
    }

    /// One sublayer that is attention and feed-forward at once, with its residual: `hidden + branch(norm(hidden))`.
    /// Its feed-forward runs on [`AttentionInput::queries`].
    ///
    /// # Errors
    /// As [`BlockPass::attention`].
    pub fn parallel(
        &mut self,
        hidden: T,
        norm: impl FnOnce(&T) -> Result<T>,
        branch: impl FnOnce(AttentionInput<'_, T>) -> Result<AttentionOutput<T>>,
    ) -> Result<T> {
        self.attention(Sublayer::Parallel, hidden, norm, branch)
    }

    /// The feed-forward sublayer with its residual: `hidden + feed_forward(norm(hidden))`.
    ///
    /// # Errors
    /// As [`BlockPass::layer`], and those of `norm` and `feed_forward`.
    pub fn feed_forward(
        &mut self,
        hidden: T,
        norm: impl FnOnce(&T) -> Result<T>,
        feed_forward: impl FnOnce(FeedForwardInput<'_, T>) -> Result<T>,
    ) -> Result<T> {
        self.call(|pass| {
            let sub = Sublayer::FeedForward;
            let normed = norm(&hidden)?;
            let around = match pass.ask(sub, &hidden, &normed)? {
                Answer::Replaced(output) => return pass.add(sub, &hidden, &output),
                Answer::Runs(around) => around,
            };
            let positions = pass.stack.positions();
            let output = match &around {
                Some(Around { by, .. }) => {
                    let positions = positions.around(Some(by.as_ref()));
                    by.restore(&feed_forward(FeedForwardInput { tokens: &by.shrink(&normed)?, positions })?)?
                }
                None => feed_forward(FeedForwardInput { tokens: &normed, positions })?,
            };
            pass.add(sub, &hidden, &output)
        })
    }

    /// Leaves the block. It restores every token, with the last reduction first.
    ///
    /// # Errors
    /// As [`BlockPass::layer`].
    pub fn exit(mut self, hidden: T) -> Result<T> {
        self.call(|pass| {
            let mut hidden = hidden;
            while let Some(reduction) = pass.stack.pop() {
                hidden = reduction.restore(&hidden)?;
            }
            let site = pass.site(tokens(&hidden)?);
            match pass.reducer.on_event(&site, Event::BlockExit { hidden: &hidden })? {
                Action::Continue => Ok(hidden),
                _ => Err(pass.misplaced("another answer than Continue", "BlockExit")),
            }
        })
    }
}

impl<T: AttentionOps> Drop for BlockPass<'_, T> {
    fn drop(&mut self) {
        debug_assert!(
            self.stack.is_empty() || self.under_way || std::thread::panicking(),
            "the pass through {} was dropped without `exit`: its stream lacks tokens",
            self.block
        );
    }
}

/// Runs `inner` on `hidden` as a nest, unless the reducer gives an output instead.
///
/// `inner` gets the reducer back, for the blocks and nests inside this one.
///
/// # Errors
/// Those of the reducer and of `inner`.
pub fn nest<T: AttentionOps>(
    reducer: &mut dyn TokenReducer<T>,
    site: &NestSite<'_>,
    hidden: T,
    inner: impl FnOnce(&mut dyn TokenReducer<T>, T) -> Result<T>,
) -> Result<T> {
    if let Some(output) = reducer.enter_nest(site, &hidden)? {
        return Ok(output);
    }
    let output = inner(reducer, hidden)?;
    let instead = reducer.leave_nest(site, &output)?;
    Ok(instead.unwrap_or(output))
}

fn tokens<T: AttentionOps>(hidden: &T) -> Result<usize> {
    let [_, n, _] = crate::backend::dims(hidden, "attention block")?;
    Ok(n)
}
