//! What attention gives, as tensors.

use candle_core::Tensor as Raw;

/// The results of a forward pass.
pub(crate) struct Outcome {
    /// `[b, h, m, dim]`, a view of `[b, m, h, dim]`.
    pub(crate) output: Raw,
    /// `[b, h, m]` in f32.
    pub(crate) lse: Raw,
    /// `[b, h, n]` in f32, if there were scores.
    pub(crate) first_vote: Option<Raw>,
}
