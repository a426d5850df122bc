//! What stands for pruned tokens when a block ends and a convolution needs the whole grid (paper, section 3.2).

mod bicubic;
mod direct;
mod scatter;
mod similarity;
mod soft;
mod zero;

pub use bicubic::BicubicInterpolation;
pub use direct::DirectCopy;
pub use similarity::SimilarityCopy;
pub use soft::SoftCopy;
pub use zero::ZeroPadding;

use crate::backend::{AttentionGraph, AttentionOps, Partition};
use crate::plugin::{Grid, Reduction};
use crate::{Error, Result, Tensor};

/// What a recovery sees, at the moment of pruning.
#[derive(Debug)]
pub struct RecoveryInput<'a, T: Tensor> {
    /// Which tokens of the stream stay and which go.
    pub partition: Partition<T>,
    /// The pruning layer's self-attention graph, if [`TokenRecovery::needs_graph`].
    pub graph: Option<&'a AttentionGraph<T>>,
    /// The residual stream `[b, tokens, channels]` at that moment.
    pub hidden: &'a T,
    /// The block's full token grid.
    pub grid: Grid,
    /// Tokens in the stream when the block began.
    pub entry_tokens: usize,
    /// Positions `[b, tokens]` of the stream's tokens in the stream that entered the block; `None` while it is whole.
    pub positions: Option<&'a T::Indices>,
}

/// Turns a partition into a plan that shrinks the stream and later restores it. Object-safe, found by name in a registry.
pub trait TokenRecovery<T: AttentionOps>: Send + std::fmt::Debug {
    /// Whether the self-attention graph of the pruning layer is needed.
    fn needs_graph(&self) -> bool {
        false
    }

    /// Whether a plan made with the graph may serve the same kept set at a later evaluation (`rescore_every`), with
    /// other values of the tokens. If not, the graph is asked for at every evaluation. A recovery that needs no graph
    /// makes a new plan each time, and is not asked.
    fn reusable(&self) -> bool {
        false
    }

    /// The plan. Restoring must give kept tokens back bit by bit.
    ///
    /// # Errors
    /// As the backend's operations.
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>>;
}

/// An error for a graph that was asked for and not given.
fn missing_graph() -> Error {
    Error::Plugin { name: "at-edm".into(), reason: "the model gave no self-attention graph".into() }
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn TokenRecovery<crate::reference::NdTensor>>) {}
}
