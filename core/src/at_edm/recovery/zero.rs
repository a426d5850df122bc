//! Padding with zeros (paper, section 3.2, baseline I).

use super::scatter::{Background, ScatterPlan};
use super::{RecoveryInput, TokenRecovery};
use crate::backend::{AttentionOps, dims};
use crate::plugin::Reduction;
use crate::{Result, Tensor};

/// Pruned tokens return as zeros.
#[derive(Debug, Clone, Copy, Default)]
pub struct ZeroPadding;

impl<T: Tensor> Background<T> for ZeroPadding {
    const NAME: &'static str = "zero padding";

    fn behind(&self, reduced: &T, tokens: usize) -> Result<T> {
        let [batch, _, channels] = dims(reduced, <Self as Background<T>>::NAME)?;
        T::full(0.0, &[batch, tokens, channels], reduced.dtype(), &reduced.device())
    }
}

impl<T: AttentionOps> TokenRecovery<T> for ZeroPadding {
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        Ok(Box::new(ScatterPlan::new(input.partition, *self)))
    }
}
