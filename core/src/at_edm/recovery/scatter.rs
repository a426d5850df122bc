//! The plan of every recovery that computes own values for pruned tokens. It scatters kept tokens over a background.

use crate::backend::{Partition, Tensor};
use crate::plugin::{Reduction, expect_tokens};
use crate::{Indices, Result};

/// The values at the places of pruned tokens.
pub(super) trait Background<T>: Clone + std::fmt::Debug + Send + 'static {
    /// The recovery's name in errors.
    const NAME: &'static str;

    /// A value for each of `tokens` tokens, `[b, tokens, channels]`. `reduced` holds the kept tokens
    /// `[b, kept, channels]` and sets the dtype.
    ///
    /// # Errors
    /// Those of the backend's operations.
    fn behind(&self, reduced: &T, tokens: usize) -> Result<T>;

    /// The same for what a sublayer adds ([`Reduction::restore_added`]).
    ///
    /// # Errors
    /// As the backend's operations.
    fn behind_added(&self, added: &T, tokens: usize) -> Result<T> {
        self.behind(added, tokens)
    }
}

/// A reduction that shrinks by one gather and restores by one scatter over a background.
#[derive(Debug, Clone)]
pub(super) struct ScatterPlan<T: Tensor, B> {
    /// Kept positions in the stream, `[b, kept]`.
    kept: T::Indices,
    /// The number of tokens in the stream before shrinking.
    tokens: usize,
    background: B,
}

impl<T: Tensor, B> ScatterPlan<T, B> {
    pub(super) fn new(partition: Partition<T>, background: B) -> Self {
        Self { tokens: partition.tokens(), kept: partition.kept, background }
    }
}

impl<T: Tensor, B: Background<T>> Reduction<T> for ScatterPlan<T, B> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }
    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.tokens, B::NAME)?;
        full.gather(1, &self.kept)
    }
    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept.dims().1, B::NAME)?;
        reduced.scatter_into(&self.background.behind(reduced, self.tokens)?, &self.kept)
    }
    fn restore_added(&self, added: &T) -> Result<T> {
        expect_tokens(added, self.kept.dims().1, B::NAME)?;
        added.scatter_into(&self.background.behind_added(added, self.tokens)?, &self.kept)
    }
    fn name(&self) -> &str {
        B::NAME
    }
    fn positions(&self) -> Option<Result<T::Indices>> {
        Some(Ok(self.kept.clone()))
    }
    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
