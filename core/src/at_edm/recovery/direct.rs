//! Direct copy (paper, section 3.2, baseline III): a pruned token returns unchanged.

use super::scatter::{Background, ScatterPlan};
use super::{RecoveryInput, TokenRecovery, ZeroPadding};
use crate::backend::AttentionOps;
use crate::plugin::Reduction;
use crate::{Result, Tensor};

/// Each pruned token takes the value that it had when it was pruned. Later layers never see it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectCopy;

/// The stream at the moment of pruning.
#[derive(Debug, Clone)]
struct WhenPruned<T>(T);

impl<T: Tensor> Background<T> for WhenPruned<T> {
    const NAME: &'static str = "direct copy";

    fn behind(&self, _reduced: &T, _tokens: usize) -> Result<T> {
        Ok(self.0.clone())
    }

    /// A token that is gone takes part in nothing, so nothing is added to it.
    fn behind_added(&self, added: &T, tokens: usize) -> Result<T> {
        ZeroPadding.behind(added, tokens)
    }
}

impl<T: AttentionOps> TokenRecovery<T> for DirectCopy {
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        Ok(Box::new(ScatterPlan::new(input.partition, WhenPruned(input.hidden.clone()))))
    }
}
