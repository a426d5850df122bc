//! Values for pruned tokens when a block ends and a convolution needs the whole grid (paper, section 3.2).

mod bicubic;
mod direct;
mod scatter;
mod similarity;
mod soft;
mod update;
mod zero;

pub use bicubic::BicubicInterpolation;
pub use direct::DirectCopy;
pub use similarity::SimilarityCopy;
pub use soft::SoftCopy;
pub use update::UpdateCopy;
pub use zero::ZeroPadding;

use crate::backend::{AttentionGraph, AttentionOps, Partition};
use crate::plugin::{Grid, Reduction};
use crate::{Error, Result, Tensor};

/// The input of a recovery, at the moment of pruning.
#[derive(Debug)]
pub struct RecoveryInput<'a, T: Tensor> {
    /// The split of the stream into kept and pruned tokens.
    pub partition: Partition<T>,
    /// The self-attention graph of the pruning layer, if [`TokenRecovery::needs_graph`].
    pub graph: Option<&'a AttentionGraph<T>>,
    /// The residual stream `[b, tokens, channels]` at this moment.
    pub hidden: &'a T,
    /// The block's full token grid.
    pub grid: Grid,
    /// The number of tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// The range of tokens at the block's entry that are never pruned and have no place on the grid, such as text.
    pub protected: (usize, usize),
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block. `None` while the stream is whole.
    pub positions: Option<&'a T::Indices>,
}

/// Turns a partition into a plan that shrinks the stream and later restores it. It is object-safe, and a registry
/// finds it by name.
pub trait TokenRecovery<T: AttentionOps>: Send + std::fmt::Debug {
    /// Whether it needs the self-attention graph of the pruning layer.
    fn needs_graph(&self) -> bool {
        false
    }

    /// Whether a plan made with the graph may serve the same kept set at a later evaluation (`rescore_every`), when
    /// the tokens have other values. If not, every evaluation requests the graph. A recovery that needs no graph
    /// makes a new plan each time, so this answer does not matter.
    fn reusable(&self) -> bool {
        false
    }

    /// Makes the plan. Restoring must return kept tokens bit by bit.
    ///
    /// # Errors
    /// Those of the backend's operations.
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>>;
}

/// The error for a graph that was requested but not given.
fn missing_graph() -> Error {
    Error::Plugin { name: "at-edm".into(), reason: "the model gave no self-attention graph".into() }
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn TokenRecovery<crate::reference::NdTensor>>) {}
}
