//! Soft copy: a pruned token takes a weighted mean of the kept tokens that attend to it most. It is not in the paper.
//!
//! ```text
//! a_ib  = mean_h A[h, i, b]                            how much kept token i attends to pruned token b
//! D(b)  = the k kept tokens with the highest a_ib      among equals the lowest index
//! w_ib  = a_ib^(1/τ) / Σ_{j in D(b)} a_jb^(1/τ)
//! x_b   ← Σ_{i in D(b)} w_ib x_i                       at the block's exit
//! ```
//!
//! With k = 1 it equals similarity copy, bit by bit. With τ = 1 the weights are proportional to the attention. A
//! lower τ moves the result towards the strongest donor, a higher τ towards the plain mean.

use serde::{Deserialize, Serialize};

use super::{RecoveryInput, SimilarityCopy, TokenRecovery, missing_graph};
use crate::backend::{AttentionOps, Donors, dims};
use crate::plugin::{Reduction, expect_tokens, stream_order};
use crate::{Error, Indices, Result, Tensor};

/// Each pruned token takes the mean of several kept tokens, weighted by how much they attend to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftCopy {
    /// The number of donors of a pruned token. If fewer tokens are kept, all of them are donors. Default 4.
    pub k: usize,
    /// τ, above 0. Default 1.
    pub temperature: f64,
}

impl Default for SoftCopy {
    fn default() -> Self {
        Self { k: 4, temperature: 1.0 }
    }
}

impl SoftCopy {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] names the option.
    pub fn validate(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::config("recovery_options.k", "expected at least 1, got 0"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let reason = format!("expected a number above 0, got {}", self.temperature);
            return Err(Error::config("recovery_options.temperature", reason));
        }
        Ok(())
    }
}

impl<T: AttentionOps> TokenRecovery<T> for SoftCopy {
    fn needs_graph(&self) -> bool {
        true
    }

    /// Donors and their weights serve a kept set as long as the set is reused.
    fn reusable(&self) -> bool {
        true
    }

    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        self.validate()?;
        let k = self.k.min(input.partition.kept.dims().1);
        if k == 1 {
            return SimilarityCopy.plan(input);
        }
        let Donors { kept: donors, attention } =
            input.graph.ok_or_else(missing_graph)?.top_k(&input.partition, k)?;
        // Attention that underflowed to 0 gets a finite logarithm.
        let logits = attention.clamp_min(f64::from(f32::MIN_POSITIVE))?.ln()?;
        Ok(Box::new(SoftPlan {
            place: stream_order(&input.partition)?,
            kept: input.partition.kept,
            donors,
            weights: logits.affine(1.0 / self.temperature, 0.0)?.softmax()?,
        }))
    }
}

/// Shrinks by one gather. Restores by two: the first takes all donors, the second brings tokens into stream order.
#[derive(Debug, Clone)]
struct SoftPlan<T: Tensor> {
    /// Kept positions, `[b, kept]`.
    kept: T::Indices,
    /// The position of each token of the stream in (kept, pruned), `[b, tokens]`.
    place: T::Indices,
    /// Positions among the kept tokens, `[b, pruned * k]`.
    donors: T::Indices,
    /// The donors' weights, `[b, pruned, k]`. Those of one token sum to one.
    weights: T,
}

impl<T: Tensor> Reduction<T> for SoftPlan<T> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }

    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.place.dims().1, "soft copy: shrink")?;
        full.gather(1, &self.kept)
    }

    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept(), "soft copy: restore")?;
        let [batch, _, channels] = dims(reduced, "soft copy")?;
        let [_, pruned, k] = dims(&self.weights, "soft copy")?;
        let wide = reduced.dtype().accumulator();
        let donors = reduced.gather(1, &self.donors)?.cast(wide)?;
        let donors = donors.reshape(&[batch * pruned, k, channels])?;
        let weights = self.weights.cast(wide)?.reshape(&[batch * pruned, k, 1])?;
        let soft = donors.mul(&weights)?.sum(1)?.reshape(&[batch, pruned, channels])?;
        T::concat(&[reduced, &soft.cast(reduced.dtype())?], 1)?.gather(1, &self.place)
    }

    fn name(&self) -> &str {
        "soft copy"
    }

    fn positions(&self) -> Option<Result<T::Indices>> {
        Some(Ok(self.kept.clone()))
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
