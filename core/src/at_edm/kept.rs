//! Kept sets that serve several evaluations (`rescore_every`).
//!
//! A site that scored at evaluation `e` keeps the same tokens until evaluation `e + n − 1`, and asks for no graph, no
//! values and no vote on the way: what similarity copy found in the graph at `e` serves as long as the set does. It
//! scores anew, whatever `n` says, where another number of tokens is to stay or is protected, where an earlier layer of
//! the block has scored anew in this pass (positions in its stream then mean other tokens), and where the rows of the
//! batch or their order have changed.

use super::memory::RowMemory;
use crate::backend::Partition;
use crate::plugin::{Reduction, Site};
use crate::{Indices, Tensor};

/// The sets of a run, by site.
#[derive(Debug)]
pub(super) struct KeptSets<T: Tensor> {
    /// n: how many evaluations a set serves.
    every: usize,
    memory: RowMemory<KeptSet<T>>,
}

/// One set in use.
#[derive(Debug)]
pub(super) struct KeptSet<T: Tensor> {
    pub(super) partition: Partition<T>,
    /// The recovery's plan, where it was made with the graph and can be used again.
    pub(super) plan: Option<Box<dyn Reduction<T>>>,
    protected: (usize, usize),
    /// The evaluation that scored.
    scored_at: usize,
    /// Evaluations that it served.
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
    /// Sets that serve `every` evaluations; with 1 nothing is remembered.
    pub(super) fn new(every: usize) -> Self {
        Self { every, memory: RowMemory::default() }
    }

    pub(super) fn clear(&mut self) {
        self.memory.clear();
    }

    /// The set that `site` can use again, where `kept` tokens are to stay.
    pub(super) fn find(&self, site: &Site<'_>, kept: usize) -> Option<KeptSet<T>> {
        if self.every <= 1 {
            return None;
        }
        let fits_here = |set: &&KeptSet<T>| {
            // A run that starts over without saying so counts backwards.
            let age = site.step.evaluation.checked_sub(set.scored_at);
            let fits = set.partition.tokens() == site.tokens && set.partition.kept.dims().1 == kept;
            fits && set.protected == site.protected
                && set.uses < self.every
                && age.is_some_and(|age| age < self.every)
        };
        self.memory.batch(site).filter(fits_here).cloned()
    }

    /// Stores what `site` has found by scoring.
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

    /// Counts that `site` has used `set` once more.
    pub(super) fn count_use(&mut self, site: &Site<'_>, set: KeptSet<T>) {
        self.memory.remember(site, KeptSet { uses: set.uses + 1, ..set });
    }
}
