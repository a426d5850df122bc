//! Scorers for comparison with G-WPR. They need no attention map.

use super::{ScoreInput, ScoreNeeds, Scores, TokenScorer, heads};
use crate::at_edm::options::Heads;
use crate::backend::{AttentionOps, dims};
use crate::{Result, Tensor};

/// The L2 norm over the last axis, in the accumulator dtype. That axis gets length 1.
fn norm<T: Tensor>(tensor: &T) -> Result<T> {
    let wide = tensor.cast(tensor.dtype().accumulator())?;
    wide.mul(&wide)?.sum(tensor.shape().len().saturating_sub(1))?.sqrt()
}

/// The L2 norm of each token's value vector in self-attention, combined over heads. It replaces attention without a map.
#[derive(Debug, Clone, Copy, Default)]
pub struct ValueNorm {
    /// How to combine heads.
    pub heads: Heads,
}

impl<T: AttentionOps> TokenScorer<T> for ValueNorm {
    fn needs(&self) -> ScoreNeeds {
        ScoreNeeds { graph: None, values: true }
    }

    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let values = input.values()?;
        let [batch, head_count, tokens, _] = dims(values, "value norm")?;
        let norms = norm(values)?.reshape(&[batch, head_count, tokens])?;
        Ok(Scores { tokens: heads::combine(&norms, self.heads)?, votes: 0 })
    }
}

/// The L2 norm of each token in the residual stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenNorm;

impl<T: AttentionOps> TokenScorer<T> for TokenNorm {
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let [batch, tokens, _] = dims(input.hidden, "token norm")?;
        Ok(Scores { tokens: norm(input.hidden)?.reshape(&[batch, tokens])?, votes: 0 })
    }
}
