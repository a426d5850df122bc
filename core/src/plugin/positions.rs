//! The tokens of a block's entry on which a sublayer runs. Tables with a row for each token are gathered by these positions.
//!
//! Rotary tables, masks and modulations belong to places. A token keeps its place when other tokens are removed.
//! Number the stream at the block's entry `0..tokens`, and stack its reductions one on the other:
//!
//! ```text
//! stream     p₀ = kept₀          pᵢ = pᵢ₋₁[keptᵢ]       UntilExit, in the order of the answers
//! sublayer   p[kept]                                     Around, of its queries, its keys or both
//! table      table[p]                                    what the sublayer's tokens are rotated, masked or scaled with
//! ```

use std::cell::OnceCell;

use super::reducer::{Reduction, Reductions};
use crate::backend::Tensor;
use crate::{Error, Indices, Result};

/// The reductions of a stream that wait for the block's exit.
#[derive(Debug)]
pub(super) struct Stack<T: Tensor> {
    /// The number of tokens at the block's entry, once known.
    entry: Option<usize>,
    reductions: Vec<Box<dyn Reduction<T>>>,
    /// The positions of the stream's tokens, once computed.
    positions: OnceCell<T::Indices>,
}

impl<T: Tensor> Stack<T> {
    pub(super) fn new() -> Self {
        Self { entry: None, reductions: Vec::new(), positions: OnceCell::new() }
    }

    /// Notes the number of tokens in the stream. The first call sets the number at the block's entry.
    pub(super) fn enter(&mut self, tokens: usize) {
        self.entry.get_or_insert(tokens);
    }

    pub(super) fn push(&mut self, reduction: Box<dyn Reduction<T>>) {
        self.reductions.push(reduction);
        self.positions = OnceCell::new();
    }

    pub(super) fn pop(&mut self) -> Option<Box<dyn Reduction<T>>> {
        self.positions = OnceCell::new();
        self.reductions.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reductions.is_empty()
    }

    /// What has shrunk the stream so far.
    pub(super) fn reductions(&self) -> Reductions<'_, T> {
        Reductions::new(&self.reductions)
    }

    /// The stream's positions.
    pub(super) fn positions(&self) -> Positions<'_, T> {
        Positions { stack: Some(self), around: None }
    }

    /// The positions `[b, tokens]`. `None` while the stream is whole.
    fn indices(&self) -> Result<Option<T::Indices>> {
        if let Some(known) = self.positions.get() {
            return Ok(Some(known.clone()));
        }
        let mut composed: Option<T::Indices> = None;
        for reduction in &self.reductions {
            composed = Some(then(composed, reduction.as_ref())?);
        }
        Ok(composed.map(|composed| self.positions.get_or_init(|| composed).clone()))
    }
}

/// The positions after one more reduction.
fn then<T: Tensor>(before: Option<T::Indices>, reduction: &dyn Reduction<T>) -> Result<T::Indices> {
    let kept = reduction.positions().ok_or_else(|| Error::Plugin {
        name: reduction.name().into(),
        reason:
            "its tokens stand for no single positions, by which this model gathers rotary or other tables"
                .into(),
    })??;
    match before {
        Some(before) => before.gather(&kept),
        None => Ok(kept),
    }
}

/// The places of some tokens in the sequence that entered the block. They are computed only when asked for.
#[derive(Debug)]
pub struct Positions<'a, T: Tensor> {
    /// `None` outside of any pass.
    stack: Option<&'a Stack<T>>,
    around: Option<&'a dyn Reduction<T>>,
}

// Written by hand: a derive would require `T: Copy`, but these are only references.
impl<T: Tensor> Clone for Positions<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Tensor> Copy for Positions<'_, T> {}

impl<'a, T: Tensor> Positions<'a, T> {
    /// The positions outside of any pass, where no token is missing.
    pub fn whole() -> Self {
        Self { stack: None, around: None }
    }

    /// The positions of the same tokens after a reduction around their sublayer.
    pub(super) fn around(self, by: Option<&'a dyn Reduction<T>>) -> Self {
        Self { around: by, ..self }
    }

    /// The place of every token, `[b, m]`. `None` while nothing is reduced.
    ///
    /// # Errors
    /// [`Error::Plugin`] names a reduction whose tokens have no single positions.
    pub fn indices(&self) -> Result<Option<T::Indices>> {
        let stream = self.stack.map_or(Ok(None), Stack::indices)?;
        match self.around {
            Some(around) => then(stream, around).map(Some),
            None => Ok(stream),
        }
    }

    /// The rows of a table that belong to these tokens: `[b, m, d]`. The table is `[tokens, d]` or `[b, tokens, d]`,
    /// with a row for every token of the entry. While nothing is reduced the result is the table itself.
    ///
    /// # Errors
    /// As [`Positions::indices`]. [`Error::Shape`] for a table with other numbers of tokens or rows.
    pub fn rows(&self, table: &T) -> Result<T> {
        const OP: &str = "rows of a table";
        let shape = table.shape();
        let (rows, tokens) = match shape[..] {
            [tokens, _] => (1, tokens),
            [rows, tokens, _] => (rows, tokens),
            _ => return Err(Error::shape(OP, "[tokens, d] or [batch, tokens, d]", shape)),
        };
        if let Some(entry) = self.stack.and_then(|stack| stack.entry)
            && tokens != entry
        {
            return Err(Error::shape(OP, format!("a row for each of the block's {entry} tokens"), shape));
        }
        let Some(at) = self.indices()? else { return Ok(table.clone()) };
        let (batch, _) = at.dims();
        let table = table.reshape(&[rows, tokens, shape[shape.len() - 1]])?;
        match rows {
            rows if rows == batch => table.gather(1, &at),
            1 => T::concat(&vec![&table; batch], 0)?.gather(1, &at),
            _ => Err(Error::shape(OP, format!("one table or {batch}, one for each row"), shape)),
        }
    }
}
