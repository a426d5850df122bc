//! Combines one score per head into one score per token.

use crate::at_edm::options::Heads;
use crate::backend::dims;
use crate::{Result, Tensor};

/// Combines `[b, h, tokens]` over heads to `[b, tokens]`.
pub(super) fn combine<T: Tensor>(scores: &T, heads: Heads) -> Result<T> {
    let [batch, _, tokens] = dims(scores, "combining heads")?;
    let combined = match heads {
        Heads::Rms => scores.mul(scores)?.mean(1)?.sqrt()?,
        Heads::Mean => scores.mean(1)?,
        Heads::Max => scores.max(1)?,
    };
    combined.reshape(&[batch, tokens])
}
