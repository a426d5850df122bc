//! Direct copy (paper, section 3.2, baseline III): a pruned token comes back as it left.

use super::{RecoveryInput, TokenRecovery};
use crate::backend::AttentionOps;
use crate::plugin::{Reduction, expect_tokens};
use crate::{Indices, Result, Tensor};

/// Each pruned token takes the value it had when it was pruned; later layers never see it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectCopy;

impl<T: AttentionOps> TokenRecovery<T> for DirectCopy {
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        Ok(Box::new(DirectPlan {
            tokens: input.partition.tokens(),
            kept: input.partition.kept,
            when_pruned: input.hidden.clone(),
        }))
    }
}

#[derive(Debug, Clone)]
struct DirectPlan<T: Tensor> {
    tokens: usize,
    kept: T::Indices,
    when_pruned: T,
}

impl<T: Tensor> Reduction<T> for DirectPlan<T> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }
    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.tokens, "direct copy: shrink")?;
        full.gather(1, &self.kept)
    }
    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, Reduction::<T>::kept(self), "direct copy: restore")?;
        reduced.scatter_into(&self.when_pruned, &self.kept)
    }
    fn positions(&self) -> Option<Result<Vec<Vec<u32>>>> {
        Some(self.kept.to_host())
    }
    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
