//! The model's side of the seam: one pass through one attention block.
//!
//! A model with its own layers calls [`BlockPass`] around them; that is the whole integration:
//!
//! ```text
//! let mut pass = BlockPass::enter(reducer, &step, &rows, block, depth, grid);
//! for (i, layer) in layers.iter().enumerate() {
//!     x = pass.layer(i, x)?;
//!     x = pass.attention(SelfAttention,  x, |x| norm1(x), |input| attn1(input))?;
//!     x = pass.attention(CrossAttention, x, |x| norm2(x), |input| attn2(input, text))?;
//!     x = pass.feed_forward(x, |x| norm3(x), |x| ff(x))?;
//! }
//! x = pass.exit(x)?;
//! ```

use super::reducer::{Action, Event, Reduction, Scope, TokenReducer};
use super::site::{BlockId, Grid, Row, Site, Step, Sublayer};
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest};
use crate::{Error, Result};

/// What an attention sublayer gets: inputs already normalised and, if a plugin says so, reduced.
#[derive(Debug)]
pub struct AttentionInput<'a, T> {
    /// `[b, m, channels]`, to be projected to queries.
    pub queries: &'a T,
    /// `[b, n, channels]`, to be projected to keys and values; for cross-attention ignore it and use the text.
    pub keys_values: &'a T,
    /// What to return of the map.
    pub graph: &'a GraphRequest<T>,
}

/// What an attention sublayer gives back.
#[derive(Debug)]
pub struct AttentionOutput<T> {
    /// `[b, m, channels]`, after the output projection, before the residual.
    pub hidden: T,
    /// The graph, if it was asked for.
    pub graph: Option<AttentionGraph<T>>,
    /// The vote that attention cast on its way ([`Attended::first_vote`](crate::backend::Attended::first_vote)).
    pub first_vote: Option<T>,
    /// The values `[b, h, n, dim]`.
    pub values: T,
}

/// A reduction of one sublayer's inputs.
type Around<T> = (Scope, Box<dyn Reduction<T>>);

/// One pass through one attention block: turns a reducer's actions into shrinking and restoring, and checks them.
pub struct BlockPass<'a, T: AttentionOps> {
    reducer: &'a mut dyn TokenReducer<T>,
    rows: &'a [Row],
    block: BlockId,
    depth: usize,
    step: Step,
    grid: Grid,
    protected: (usize, usize),
    layer: usize,
    stack: Vec<Box<dyn Reduction<T>>>,
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
            stack: Vec::new(),
        }
    }

    /// Tokens `start..end` may not be removed (text or register tokens in a joint sequence).
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

    /// Handles an event whose only active answer is to shrink the stream until the exit.
    fn shrink_stream(&mut self, event: Event<'_, T>, name: &str, hidden: T) -> Result<T> {
        let site = self.site(tokens(&hidden)?);
        match self.reducer.on_event(&site, event)? {
            Action::Continue => Ok(hidden),
            Action::UntilExit(reduction) => {
                let shrunk = reduction.shrink(&hidden)?;
                self.stack.push(reduction);
                Ok(shrunk)
            }
            Action::Around { .. } => Err(self.misplaced("Around", name)),
        }
    }

    /// Asks for a reduction around one sublayer.
    fn around(&mut self, sub: Sublayer, hidden: &T, normed: &T) -> Result<Option<Around<T>>> {
        let site = self.site(tokens(hidden)?);
        match self.reducer.on_event(&site, Event::Before { sub, hidden, normed })? {
            Action::Continue => Ok(None),
            Action::Around { scope, by } => Ok(Some((scope, by))),
            Action::UntilExit(_) => Err(self.misplaced("UntilExit", "Before")),
        }
    }

    /// Layer `index` begins with this residual stream.
    pub fn layer(&mut self, index: usize, hidden: T) -> Result<T> {
        self.layer = index;
        let handle = hidden.clone();
        self.shrink_stream(Event::LayerEnter { hidden: &handle }, "LayerEnter", hidden)
    }

    /// One attention sublayer with its residual: `hidden + attend(norm(hidden))`.
    pub fn attention(
        &mut self,
        sub: Sublayer,
        hidden: T,
        norm: impl FnOnce(&T) -> Result<T>,
        attend: impl FnOnce(AttentionInput<'_, T>) -> Result<AttentionOutput<T>>,
    ) -> Result<T> {
        let normed = norm(&hidden)?;
        let around = self.around(sub, &hidden, &normed)?;
        let site = self.site(tokens(&hidden)?);
        let wants = self.reducer.wants(&site, sub)?;
        let reduced = around.as_ref().map(|(_, by)| by.shrink(&normed)).transpose()?;
        let (queries, keys_values) = match (&around, &reduced) {
            (Some((Scope::Queries, _)), Some(small)) => (small, &normed),
            (Some((Scope::KeysValues, _)), Some(small)) => (&normed, small),
            (Some((Scope::Both, _)), Some(small)) => (small, small),
            _ => (&normed, &normed),
        };
        let output = attend(AttentionInput { queries, keys_values, graph: &wants })?;
        let AttentionOutput { hidden: attended, graph, first_vote, values } = output;
        let event = Event::Attended { sub, graph, first_vote, values: &values };
        match self.reducer.on_event(&site, event)? {
            Action::Continue => {}
            _ => return Err(self.misplaced("a reduction", "Attended")),
        }
        let full = match &around {
            Some((Scope::Queries | Scope::Both, by)) => by.restore(&attended)?,
            _ => attended,
        };
        let hidden = hidden.add(&full)?;
        let handle = hidden.clone();
        self.shrink_stream(Event::After { sub, hidden: &handle }, "After", hidden)
    }

    /// The feed-forward sublayer with its residual: `hidden + feed_forward(norm(hidden))`.
    pub fn feed_forward(
        &mut self,
        hidden: T,
        norm: impl FnOnce(&T) -> Result<T>,
        feed_forward: impl FnOnce(&T) -> Result<T>,
    ) -> Result<T> {
        let sub = Sublayer::FeedForward;
        let normed = norm(&hidden)?;
        let full = match self.around(sub, &hidden, &normed)? {
            Some((_, by)) => by.restore(&feed_forward(&by.shrink(&normed)?)?)?,
            None => feed_forward(&normed)?,
        };
        let hidden = hidden.add(&full)?;
        let handle = hidden.clone();
        self.shrink_stream(Event::After { sub, hidden: &handle }, "After", hidden)
    }

    /// Leaves the block: restores every token, last reduction first.
    pub fn exit(mut self, hidden: T) -> Result<T> {
        let mut hidden = hidden;
        while let Some(reduction) = self.stack.pop() {
            hidden = reduction.restore(&hidden)?;
        }
        let site = self.site(tokens(&hidden)?);
        match self.reducer.on_event(&site, Event::BlockExit { hidden: &hidden })? {
            Action::Continue => Ok(hidden),
            _ => Err(self.misplaced("a reduction", "BlockExit")),
        }
    }
}

fn tokens<T: AttentionOps>(hidden: &T) -> Result<usize> {
    let [_, n, _] = crate::backend::dims(hidden, "attention block")?;
    Ok(n)
}
