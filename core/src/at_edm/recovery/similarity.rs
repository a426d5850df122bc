//! Similarity-based copy (paper, section 3.2 and Fig. 4).
//!
//! ```text
//! η(b) = argmax_{i kept} mean_h A[h, i, b]        the kept token that attends most to pruned token b
//! x_b ← x_η(b)                                     at the block's exit
//! ```
//!
//! The paper leaves three points open. Here A is the map of the pruning layer, heads count by their mean, and on
//! ties the lowest index wins.

use super::{RecoveryInput, TokenRecovery, missing_graph};
use crate::Result;
use crate::backend::AttentionOps;
use crate::plugin::{IndexPlan, Reduction};

/// Each pruned token takes the value of the kept token that attends to it most.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimilarityCopy;

impl<T: AttentionOps> TokenRecovery<T> for SimilarityCopy {
    fn needs_graph(&self) -> bool {
        true
    }

    /// The plan holds donors as indices, so it serves a kept set as long as the set is reused.
    fn reusable(&self) -> bool {
        true
    }

    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        let donors = input.graph.ok_or_else(missing_graph)?.strongest(&input.partition)?;
        Ok(Box::new(IndexPlan::new(&input.partition, &donors)?))
    }
}
