//! The importance score of every token of a layer.
//!
//! Your own scorer takes one type and one name:
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

/// The inputs that a scorer needs. Nothing else is computed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScoreNeeds {
    /// The attention graph of this sublayer.
    pub graph: Option<ScoreSource>,
    /// The values of self-attention.
    pub values: bool,
}

/// The input of a scorer, at the moment of pruning.
#[derive(Debug)]
pub struct ScoreInput<'a, T: Tensor> {
    /// The pruning layer. The scorer scores `site.tokens` tokens.
    pub site: &'a Site<'a>,
    /// The residual stream `[b, tokens, channels]`.
    pub hidden: &'a T,
    /// The graph, if needed: `[b, h, tokens, tokens]` for self-attention, `[b, h, tokens, text]` for cross-attention.
    pub graph: Option<&'a AttentionGraph<T>>,
    /// The vote `[b, h, tokens]` that attention cast with [`TokenScorer::first_vote_scores`]. `None` if it cast none.
    pub first_vote: Option<&'a T>,
    /// The values `[b, h, tokens, dim]` of self-attention, if needed.
    pub values: Option<&'a T>,
    /// The number of tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block. `None` while the stream is whole.
    pub positions: Option<&'a T::Indices>,
    /// The run's seed.
    pub seed: u64,
}

impl<'a, T: Tensor> ScoreInput<'a, T> {
    /// The graph. The scorer must name it in its needs.
    ///
    /// # Errors
    /// [`Error::Plugin`] when the model gave none.
    pub fn graph(&self) -> Result<&'a AttentionGraph<T>> {
        self.graph.ok_or_else(|| self.missing("attention graph"))
    }

    /// The values. The scorer must name them in its needs.
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

/// The answer of a scorer.
#[derive(Debug, Clone)]
pub struct Scores<T> {
    /// The importance of every token, `[b, tokens]`. The tokens with the highest values are kept.
    pub tokens: T,
    /// The number of votes cast; 0 for scorers that do not vote.
    pub votes: usize,
}

/// Gives every token an importance. It is object-safe, and a registry finds it by name.
pub trait TokenScorer<T: AttentionOps>: Send + std::fmt::Debug {
    /// The inputs that [`ScoreInput`] must hold.
    fn needs(&self) -> ScoreNeeds {
        ScoreNeeds::default()
    }

    /// A run begins. The scorer must forget what it remembers of the previous run.
    ///
    /// # Errors
    /// Any fault that the scorer finds in the run.
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        Ok(())
    }

    /// The scores `[b, h, tokens]` for the first vote, if they are known before attention runs. The forward pass of
    /// attention may then cast this vote. [`TokenScorer::score`] gets the result as [`ScoreInput::first_vote`].
    /// Only scorers that need the self-attention graph are asked.
    ///
    /// # Errors
    /// Those of the backend's operations.
    fn first_vote_scores(&self, _query: &FirstVoteQuery<'_, T>) -> Result<Option<T>> {
        Ok(None)
    }

    /// Scores the tokens.
    ///
    /// # Errors
    /// Those of the backend's operations. [`Error::Plugin`] when the input lacks what [`TokenScorer::needs`] named.
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>>;
}

/// A request for the scores of the first vote. It gives their place and form.
#[derive(Debug)]
pub struct FirstVoteQuery<'a, T: Tensor> {
    /// The pruning layer. The scorer scores `site.tokens` tokens.
    pub site: &'a Site<'a>,
    /// The number of tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block. `None` while the stream is whole.
    pub positions: Option<&'a T::Indices>,
    /// The shape of the scores, `[b, h, tokens]`.
    pub shape: [usize; 3],
    /// The accumulator dtype of the tokens.
    pub dtype: DType,
    /// The device of the scores.
    pub device: T::Device,
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn TokenScorer<crate::reference::NdTensor>>) {}
}
