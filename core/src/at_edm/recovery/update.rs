//! Update copy: a pruned token keeps its own value and takes a change that follows from those of the kept tokens. It is not in the
//! paper.
//!
//! ```text
//! y                            the stream when the tokens were pruned
//! R                            a recovery: soft copy, or bicubic interpolation over the grid
//! x_b ← y_b + R(x − y)_b       at the block's exit
//! ```
//!
//! Similarity and soft copy replace a pruned token by other tokens, so what was its own is lost. Direct copy keeps it and gives it
//! nothing of the block. Token Merging has both in every sublayer: a token keeps its residual and takes the update of the token that
//! it was merged into. This recovery does so once, at the block's exit.

use super::{RecoveryInput, TokenRecovery};
use crate::backend::AttentionOps;
use crate::plugin::{Reduction, expect_tokens};
use crate::{Indices, Result, Tensor};

/// Each pruned token keeps its value and takes the change that `changes` restores for it from the changes of the kept tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateCopy<R> {
    /// The recovery that restores changes.
    pub changes: R,
}

impl<T: AttentionOps, R: TokenRecovery<T>> TokenRecovery<T> for UpdateCopy<R> {
    fn needs_graph(&self) -> bool {
        self.changes.needs_graph()
    }

    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        let (kept, when_pruned) = (input.partition.kept.clone(), input.hidden.clone());
        Ok(Box::new(UpdatePlan { kept, when_pruned, changes: self.changes.plan(input)? }))
    }
}

/// Restores changes by their own plan, and adds them to the tokens as they were.
#[derive(Debug)]
struct UpdatePlan<T: Tensor> {
    /// Kept positions, `[b, kept]`.
    kept: T::Indices,
    /// The stream at the moment of pruning, `[b, tokens, channels]`.
    when_pruned: T,
    changes: Box<dyn Reduction<T>>,
}

impl<T: Tensor> Reduction<T> for UpdatePlan<T> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }

    fn shrink(&self, full: &T) -> Result<T> {
        self.changes.shrink(full)
    }

    /// Changes are computed in the accumulator's dtype, because they are small beside the tokens.
    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept(), "update copy: restore")?;
        let wide = reduced.dtype().accumulator();
        let before = self.when_pruned.cast(wide)?;
        let change = reduced.cast(wide)?.sub(&before.gather(1, &self.kept)?)?;
        let updated = before.add(&self.changes.restore_added(&change)?)?.cast(reduced.dtype())?;
        reduced.scatter_into(&updated, &self.kept)
    }

    /// What a sublayer adds is part of the change.
    fn restore_added(&self, added: &T) -> Result<T> {
        self.changes.restore_added(added)
    }

    fn name(&self) -> &str {
        "update copy"
    }

    fn positions(&self) -> Option<Result<T::Indices>> {
        Some(Ok(self.kept.clone()))
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(Self {
            kept: self.kept.clone(),
            when_pruned: self.when_pruned.clone(),
            changes: self.changes.clone_box(),
        })
    }
}
