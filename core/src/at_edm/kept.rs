//! Kept sets that serve several evaluations (`rescore_every`).
//!
//! A site that scored at evaluation `e` keeps the same tokens until evaluation `e + n − 1`. Until then it needs no
//! graph, no values and no vote. The donors that similarity copy found in the graph at `e` serve as long as the set
//! does. The site scores again, for any `n`, in these cases:
//! - another number of tokens is to be kept, or other tokens are protected;
//! - an earlier layer of the block has scored again in this pass, so positions in the stream mean other tokens;
//! - the rows of the batch or their order have changed.

use super::memory::RowMemory;
use crate::backend::Partition;
use crate::plugin::{Reduction, Site};
use crate::{Indices, Tensor};

/// The kept sets of a run, by site.
#[derive(Debug)]
pub(super) struct KeptSets<T: Tensor> {
    /// n: the number of evaluations that a set serves.
    every: usize,
    memory: RowMemory<KeptSet<T>>,
}

/// One set in use.
#[derive(Debug)]
pub(super) struct KeptSet<T: Tensor> {
    pub(super) partition: Partition<T>,
    /// The recovery's plan, if it was made with the graph and can be reused.
    pub(super) plan: Option<Box<dyn Reduction<T>>>,
    protected: (usize, usize),
    /// The evaluation that computed the scores.
    scored_at: usize,
    /// The number of evaluations that the set has served.
    uses: usize,
}

impl<T: Tensor> Clone for KeptSet<T> {
    fn clone(&self) -> Self {
        Self {
            partition: self.partition.clone(),
            plan: self.plan.as_ref().map(|plan| plan.clone_box()),
            ..*self
        }
    }
}

impl<T: Tensor> KeptSets<T> {
    /// Sets that serve `every` evaluations each. With 1 it remembers nothing.
    pub(super) fn new(every: usize) -> Self {
        Self { every, memory: RowMemory::default() }
    }

    pub(super) fn clear(&mut self) {
        self.memory.clear();
    }

    /// The set that `site` can reuse when it keeps `kept` tokens.
    pub(super) fn find(&self, site: &Site<'_>, kept: usize) -> Option<KeptSet<T>> {
        if self.every <= 1 {
            return None;
        }
        let fits_here = |set: &&KeptSet<T>| {
            // The count falls when a run starts again without a notice.
            let age = site.step.evaluation.checked_sub(set.scored_at);
            let fits = set.partition.tokens() == site.tokens && set.partition.kept.dims().1 == kept;
            fits && set.protected == site.protected
                && set.uses < self.every
                && age.is_some_and(|age| age < self.every)
        };
        self.memory.batch(site).filter(fits_here).cloned()
    }

    /// Stores the set that `site` found by scoring.
    pub(super) fn insert(
        &mut self,
        site: &Site<'_>,
        partition: &Partition<T>,
        plan: Option<Box<dyn Reduction<T>>>,
    ) {
        if self.every > 1 {
            let (protected, scored_at) = (site.protected, site.step.evaluation);
            let set = KeptSet { partition: partition.clone(), plan, protected, scored_at, uses: 1 };
            self.memory.remember(site, set);
        }
    }

    /// Counts one more use of `set` at `site`.
    pub(super) fn count_use(&mut self, site: &Site<'_>, set: KeptSet<T>) {
        self.memory.remember(site, KeptSet { uses: set.uses + 1, ..set });
    }
}
