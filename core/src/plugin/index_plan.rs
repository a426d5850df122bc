//! The plan that copies tokens: kept ones stay where they are, each removed one takes the value of a kept one.

use super::reducer::{Reduction, expect_tokens};
use crate::backend::Partition;
use crate::{Error, Indices, Result, Tensor};

/// A reduction made of indices: `shrink` is one gather, `restore` another.
#[derive(Debug, Clone)]
pub struct IndexPlan<T: Tensor> {
    /// Kept positions, `[b, kept]`.
    kept: T::Indices,
    /// For every token before shrinking the reduced token whose value it takes back, `[b, tokens]`.
    source: T::Indices,
}

impl<T: Tensor> IndexPlan<T> {
    /// The plan of a partition in which pruned token `b` takes the value of kept token `donors[b]`:
    /// `donors [batch, pruned]` are positions within `partition.kept`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `donors` is not one per pruned token.
    pub fn new(partition: &Partition<T>, donors: &T::Indices) -> Result<Self> {
        let (batch, kept) = partition.kept.dims();
        let (donor_rows, donor_count) = donors.dims();
        if (donor_rows, donor_count) != partition.pruned.dims() {
            let expected = format!("one donor per pruned token, {:?}", partition.pruned.dims());
            return Err(Error::shape("index plan", expected, [donor_rows, donor_count]));
        }
        let own = T::Indices::from_host(&vec![(0..kept as u32).collect(); batch], &partition.kept.device())?;
        // In the order (kept, pruned) the sources are simply (own, donors); `place` brings them into stream order.
        let place = stream_order(partition)?;
        let source = T::Indices::concat(&[&own, donors])?.gather(&place)?;
        Ok(Self { kept: partition.kept.clone(), source })
    }

    /// This plan followed by `inner` on what it kept: one plan for two pruning layers.
    ///
    /// # Errors
    /// [`Error::Shape`] when `inner` does not start from what this plan kept.
    pub fn then(&self, inner: &Self) -> Result<Self> {
        if inner.source.dims().1 != self.kept() {
            let (batch, tokens) = inner.source.dims();
            return Err(Error::shape(
                "composed index plan",
                format!("[batch, {}]", self.kept()),
                [batch, tokens],
            ));
        }
        Ok(Self { kept: self.kept.gather(&inner.kept)?, source: inner.source.gather(&self.source)? })
    }

    /// For every token before shrinking the reduced token whose value it takes back, `[b, tokens]`.
    pub fn source(&self) -> &T::Indices {
        &self.source
    }
}

/// Where each token of the stream stands in the concatenation (kept, pruned): `[b, tokens]`.
///
/// # Errors
/// As the backend's index operations.
pub fn stream_order<T: Tensor>(partition: &Partition<T>) -> Result<T::Indices> {
    T::Indices::concat(&[&partition.kept, &partition.pruned])?.inverse()
}

impl<T: Tensor> Reduction<T> for IndexPlan<T> {
    fn kept(&self) -> usize {
        self.kept.dims().1
    }

    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.source.dims().1, "index plan: shrink")?;
        full.gather(1, &self.kept)
    }

    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept(), "index plan: restore")?;
        reduced.gather(1, &self.source)
    }

    fn name(&self) -> &str {
        "index plan"
    }

    fn positions(&self) -> Option<Result<T::Indices>> {
        Some(Ok(self.kept.clone()))
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
