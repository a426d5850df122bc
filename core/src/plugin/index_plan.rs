//! A plan that copies tokens. Kept tokens stay in place. Each removed token takes the value of a kept one.

use super::reducer::{Reduction, expect_tokens};
use crate::backend::Partition;
use crate::{Error, Indices, Result, Tensor};

/// A reduction made of indices. `shrink` is one gather, and `restore` is another.
#[derive(Debug, Clone)]
pub struct IndexPlan<T: Tensor> {
    /// Kept positions, `[b, kept]`.
    kept: T::Indices,
    /// For every token before shrinking: the index of the reduced token whose value it takes, `[b, tokens]`.
    source: T::Indices,
}

impl<T: Tensor> IndexPlan<T> {
    /// Makes the plan of a partition. Pruned token `b` takes the value of kept token `donors[b]`. The values of
    /// `donors [batch, pruned]` are positions within `partition.kept`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `donors` does not hold one donor for each pruned token.
    pub fn new(partition: &Partition<T>, donors: &T::Indices) -> Result<Self> {
        let (batch, kept) = partition.kept.dims();
        let (donor_rows, donor_count) = donors.dims();
        if (donor_rows, donor_count) != partition.pruned.dims() {
            let expected = format!("one donor per pruned token, {:?}", partition.pruned.dims());
            return Err(Error::shape("index plan", expected, [donor_rows, donor_count]));
        }
        let own = T::Indices::from_host(&vec![(0..kept as u32).collect(); batch], &partition.kept.device())?;
        // In the order (kept, pruned) the sources are simply (own, donors). `place` brings them into stream order.
        let place = stream_order(partition)?;
        let source = T::Indices::concat(&[&own, donors])?.gather(&place)?;
        Ok(Self { kept: partition.kept.clone(), source })
    }

    /// This plan, followed by `inner` on the tokens that it kept. The result is one plan for two pruning layers.
    ///
    /// # Errors
    /// [`Error::Shape`] when `inner` does not start from the tokens that this plan kept.
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

    /// For every token before shrinking: the index of the reduced token whose value it takes, `[b, tokens]`.
    pub fn source(&self) -> &T::Indices {
        &self.source
    }
}

/// The position of each token of the stream in the concatenation (kept, pruned): `[b, tokens]`.
///
/// # Errors
/// Those of the backend's index operations.
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
