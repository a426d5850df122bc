//! Which tokens matter: the importance score of every token of a layer.
//!
//! A scorer of one's own is one type and one name:
//!
//! ```
//! use atedm_core::at_edm::{Parts, ScoreInput, Scores, TokenScorer};
//! use atedm_core::{AttentionOps, Result, Tensor};
//!
//! /// A token matters as much as its largest channel.
//! #[derive(Debug)]
//! struct Peak;
//!
//! impl<T: AttentionOps> TokenScorer<T> for Peak {
//!     fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
//!         let shape = input.hidden.shape();
//!         let tokens = input.hidden.max(2)?.reshape(&shape[..2])?;
//!         Ok(Scores { tokens, votes: 0 })
//!     }
//! }
//!
//! fn register<T: AttentionOps>(parts: &mut Parts<T>) -> Result<()> {
//!     parts.register_scorer("peak", |_| Ok(Box::new(Peak))) // in a configuration: scorer = "peak"
//! }
//! ```

mod comparison;
mod heads;
mod page_rank;
mod random;
mod warm;

pub use comparison::{TokenNorm, ValueNorm};
pub(in crate::at_edm) use page_rank::check_level_iterations;
pub use page_rank::{PageRank, PageRankOptions, Start};
pub use random::RandomScores;
pub use warm::WarmPageRank;
pub(in crate::at_edm) use warm::check_cold_iterations;

use super::options::ScoreSource;
use crate::backend::{AttentionGraph, AttentionOps};
use crate::plugin::{Run, Site};
use crate::{DType, Error, Result, Tensor};

/// What a scorer must be given; nobody pays for what is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScoreNeeds {
    /// The attention graph of this sublayer.
    pub graph: Option<ScoreSource>,
    /// The values of self-attention.
    pub values: bool,
}

/// What a scorer sees, at the moment of pruning.
#[derive(Debug)]
pub struct ScoreInput<'a, T: Tensor> {
    /// The pruning layer; `site.tokens` tokens are to be scored.
    pub site: &'a Site<'a>,
    /// The residual stream `[b, tokens, channels]`.
    pub hidden: &'a T,
    /// The graph, if needed: `[b, h, tokens, tokens]` for self-, `[b, h, tokens, text]` for cross-attention.
    pub graph: Option<&'a AttentionGraph<T>>,
    /// The vote `[b, h, tokens]` that attention cast on its way with [`TokenScorer::first_vote_scores`], if it cast one.
    pub first_vote: Option<&'a T>,
    /// The values `[b, h, tokens, dim]` of self-attention, if needed.
    pub values: Option<&'a T>,
    /// Tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block; `None` while it is whole.
    pub positions: Option<&'a T::Indices>,
    /// The run's seed.
    pub seed: u64,
}

impl<'a, T: Tensor> ScoreInput<'a, T> {
    /// The graph, which the scorer named in its needs.
    ///
    /// # Errors
    /// [`Error::Plugin`] when the model gave none.
    pub fn graph(&self) -> Result<&'a AttentionGraph<T>> {
        self.graph.ok_or_else(|| self.missing("attention graph"))
    }

    /// The values, which the scorer named in its needs.
    ///
    /// # Errors
    /// [`Error::Plugin`] when the model gave none.
    pub fn values(&self) -> Result<&'a T> {
        self.values.ok_or_else(|| self.missing("attention values"))
    }

    fn missing(&self, what: &str) -> Error {
        let reason = format!("the model gave no {what} at {} layer {}", self.site.block, self.site.layer);
        Error::Plugin { name: "at-edm".into(), reason }
    }
}

/// A scorer's answer.
#[derive(Debug, Clone)]
pub struct Scores<T> {
    /// The importance of every token, `[b, tokens]`; the highest are kept.
    pub tokens: T,
    /// Votes cast; 0 for scorers that do not vote.
    pub votes: usize,
}

/// Gives every token an importance. Object-safe, found by name in a registry.
pub trait TokenScorer<T: AttentionOps>: Send + std::fmt::Debug {
    /// What [`ScoreInput`] must hold.
    fn needs(&self) -> ScoreNeeds {
        ScoreNeeds::default()
    }

    /// A run begins: forget what was remembered of the one before.
    ///
    /// # Errors
    /// Whatever the scorer finds wrong with the run.
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        Ok(())
    }

    /// The scores `[b, h, tokens]` whose vote the attention's forward pass may cast on the way, if they are known
    /// before it runs; asked only of scorers that need the self-attention graph. If it does cast it,
    /// [`TokenScorer::score`] then gets it as [`ScoreInput::first_vote`].
    ///
    /// # Errors
    /// As the backend's operations.
    fn first_vote_scores(&self, _query: &FirstVoteQuery<'_, T>) -> Result<Option<T>> {
        Ok(None)
    }

    /// Scores the tokens.
    ///
    /// # Errors
    /// As the backend's operations; [`Error::Plugin`] when the input lacks what [`TokenScorer::needs`] named.
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>>;
}

/// Asks for the scores that the first vote is cast with: where, and of which form.
#[derive(Debug)]
pub struct FirstVoteQuery<'a, T: Tensor> {
    /// The pruning layer; `site.tokens` tokens are to be scored.
    pub site: &'a Site<'a>,
    /// Tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block; `None` while it is whole.
    pub positions: Option<&'a T::Indices>,
    /// `[b, h, tokens]`.
    pub shape: [usize; 3],
    /// The accumulator dtype of the tokens.
    pub dtype: DType,
    /// Where.
    pub device: T::Device,
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn TokenScorer<crate::reference::NdTensor>>) {}
}
