//! Padding with zeros (paper, section 3.2, baseline I).

use super::{RecoveryInput, TokenRecovery};
use crate::backend::{AttentionOps, dims};
use crate::plugin::{Reduction, expect_tokens};
use crate::{Indices, Result, Tensor};

/// Pruned tokens come back as zeros.
#[derive(Debug, Clone, Copy, Default)]
pub struct ZeroPadding;

impl<T: AttentionOps> TokenRecovery<T> for ZeroPadding {
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        let tokens = input.partition.tokens();
        Ok(Box::new(ZeroPlan::<T> { kept: input.partition.kept, tokens }))
    }
}

#[derive(Debug, Clone)]
struct ZeroPlan<T: Tensor> {
    kept: T::Indices,
    tokens: usize,
}

impl<T: Tensor> Reduction<T> for ZeroPlan<T> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }
    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.tokens, "zero padding: shrink")?;
        full.gather(1, &self.kept)
    }
    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, Reduction::<T>::kept(self), "zero padding: restore")?;
        let [batch, _, channels] = dims(reduced, "zero padding: restore")?;
        let zeros = T::full(0.0, &[batch, self.tokens, channels], reduced.dtype(), &reduced.device())?;
        reduced.scatter_into(&zeros, &self.kept)
    }
    fn positions(&self) -> Option<Result<Vec<Vec<u32>>>> {
        Some(self.kept.to_host())
    }
    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
