//! The plan that merges tokens. Some tokens stay alone. The others form groups, and each group becomes one token.

use atedm_core::plugin::{Reduction, expect_tokens};
use atedm_core::{Error, Indices, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::grid::Split;
use crate::matching::lengths;

/// How several tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MergeKernel {
    /// Their mean (tomesd).
    #[default]
    Mean,
    /// Their mean, scaled to the length of the longest (MLERP; ToFu, arXiv 2312.01026). A mean of tokens in
    /// different directions is shorter than any of them, and later layers do not expect this.
    Mlerp,
    /// The destination only. The other tokens are pruned.
    Prune,
}

/// For every row, the tokens that are merged, and their destinations.
///
/// Reduced tokens have the order (alone, groups). Shrinking gathers the members of the groups, sorted by group, and takes
/// their means. Restoring is one gather. There is no scatter and no atomic operation, so the result is always the same.
#[derive(Debug, Clone)]
pub struct MergePlan<T: Tensor> {
    kernel: MergeKernel,
    /// The tokens that stay alone, `[b, alone]`. `None` where all are in groups.
    alone: Option<T::Indices>,
    /// The members of all groups, `[b, members]`, sorted by group. Each destination comes first in its group.
    members: T::Indices,
    /// The group of every member, `[b, members]`, ascending.
    groups: T::Indices,
    /// The destinations, `[b, groups]`.
    destinations: T::Indices,
    /// The start of each group among the members, row by row.
    begins: Vec<Vec<u32>>,
    /// For every token: the reduced token whose value it takes when restored, `[b, tokens]`.
    source: T::Indices,
    /// The number of protected and grid tokens together.
    tokens: usize,
}

/// The sources of a [`Split`] and their destinations, for every row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merges {
    /// The numbers of the merged sources, ascending. Every row has equally many.
    pub merged: Vec<Vec<u32>>,
    /// For every source, merged or not, the number of its destination.
    pub destination: Vec<Vec<u32>>,
}

impl<T: Tensor> MergePlan<T> {
    /// The plan that applies `merges` to the tokens of `split` in a stream of `tokens`. Tokens on neither side of
    /// the split stay alone.
    ///
    /// # Errors
    /// [`Error::Shape`] when a number is out of range or rows merge different counts.
    pub fn new(
        split: &Split,
        merges: &Merges,
        tokens: usize,
        kernel: MergeKernel,
        device: &T::Device,
    ) -> Result<Self> {
        Self::of_rows(&vec![split.clone(); merges.merged.len()], merges, tokens, kernel, device)
    }

    /// [`MergePlan::new`] with one split for each row of the batch. All splits must have equally many destinations.
    ///
    /// # Errors
    /// As [`MergePlan::new`].
    pub fn of_rows(
        splits: &[Split],
        merges: &Merges,
        tokens: usize,
        kernel: MergeKernel,
        device: &T::Device,
    ) -> Result<Self> {
        let mut rows = Rows::default();
        for ((merged, destination), split) in merges.merged.iter().zip(&merges.destination).zip(splits) {
            rows.add(split, merged, destination, tokens)?;
        }
        let upload = |rows: &[Vec<u32>]| T::Indices::from_host(rows, device);
        let destinations: Vec<Vec<u32>> = splits.iter().map(|split| split.destinations.clone()).collect();
        let none_alone = rows.alone.iter().all(Vec::is_empty);
        if destinations.iter().any(Vec::is_empty) {
            return Err(Error::shape("merge plan", "at least one destination", [tokens, 0]));
        }
        Ok(Self {
            kernel,
            alone: if none_alone { None } else { Some(upload(&rows.alone)?) },
            members: upload(&rows.members)?,
            groups: upload(&rows.groups)?,
            destinations: upload(&destinations)?,
            begins: rows.begins,
            source: upload(&rows.source)?,
            tokens,
        })
    }

    /// For each row, ascending: the tokens that keep their own position, namely the tokens alone and the destinations.
    ///
    /// # Errors
    /// Those of the backend's index operations.
    pub fn standing(&self) -> Result<Vec<Vec<u32>>> {
        let mut rows = self.order()?.to_host()?;
        rows.iter_mut().for_each(|row| row.sort_unstable());
        Ok(rows)
    }

    /// The same tokens in the order of the reduced tokens, `[b, kept]`.
    fn order(&self) -> Result<T::Indices> {
        match &self.alone {
            Some(alone) => T::Indices::concat(&[alone, &self.destinations]),
            None => Ok(self.destinations.clone()),
        }
    }

    /// One token for each group, `[b, groups, channels]`.
    fn merged(&self, full: &T) -> Result<T> {
        if self.kernel == MergeKernel::Prune {
            return full.gather(1, &self.destinations);
        }
        let (batch, groups) = self.destinations.dims();
        let members = full.gather(1, &self.members)?;
        let mean = members.segment_mean(&self.groups, groups)?;
        if self.kernel == MergeKernel::Mean {
            return Ok(mean);
        }
        let (dtype, wide) = (mean.dtype(), mean.dtype().accumulator());
        let each = lengths(&members)?.to_f32()?;
        let count = self.members.dims().1;
        let mut longest = Vec::with_capacity(batch * groups);
        for (row, begins) in each.chunks(count.max(1)).zip(&self.begins) {
            let ends = begins.iter().skip(1).map(|&end| end as usize).chain([count]);
            for (&begin, end) in begins.iter().zip(ends) {
                longest.push(row[begin as usize..end].iter().copied().fold(0.0f32, f32::max));
            }
        }
        let longest = T::from_f32(&longest, &[batch, groups, 1], wide, &full.device())?;
        mean.cast(wide)?.mul(&longest.div(&lengths(&mean)?)?)?.cast(dtype)
    }
}

/// The lists that are built row by row.
#[derive(Default)]
struct Rows {
    alone: Vec<Vec<u32>>,
    members: Vec<Vec<u32>>,
    groups: Vec<Vec<u32>>,
    begins: Vec<Vec<u32>>,
    source: Vec<Vec<u32>>,
}

impl Rows {
    fn add(&mut self, split: &Split, merged: &[u32], destination: &[u32], tokens: usize) -> Result<()> {
        let misfit = |what: &str| Error::shape("merge plan", what, [merged.len(), destination.len(), tokens]);
        let mut lists: Vec<Vec<u32>> = split.destinations.iter().map(|&place| vec![place]).collect();
        for &number in merged {
            let place =
                split.sources.get(number as usize).ok_or_else(|| misfit("merged sources of the split"))?;
            let goal = destination.get(number as usize).and_then(|&goal| lists.get_mut(goal as usize));
            goal.ok_or_else(|| misfit("a destination for every merged source"))?.push(*place);
        }
        let mut source = vec![u32::MAX; tokens];
        let in_groups: usize = lists.iter().map(Vec::len).sum();
        let alone_count =
            tokens.checked_sub(in_groups).ok_or_else(|| misfit("no more members than tokens"))?;
        let (mut members, mut groups, mut begins) = (Vec::new(), Vec::new(), Vec::new());
        for (group, list) in lists.into_iter().enumerate() {
            begins.push(members.len() as u32);
            for place in list {
                let slot = source.get_mut(place as usize).filter(|slot| **slot == u32::MAX);
                *slot.ok_or_else(|| misfit("every token at most once"))? = (alone_count + group) as u32;
                members.push(place);
                groups.push(group as u32);
            }
        }
        let mut alone = Vec::with_capacity(alone_count);
        for (place, slot) in source.iter_mut().enumerate().filter(|(_, slot)| **slot == u32::MAX) {
            *slot = alone.len() as u32;
            alone.push(place as u32);
        }
        self.alone.push(alone);
        self.members.push(members);
        self.groups.push(groups);
        self.begins.push(begins);
        self.source.push(source);
        Ok(())
    }
}

impl<T: Tensor> Reduction<T> for MergePlan<T> {
    fn kept(&self) -> usize {
        self.alone.as_ref().map_or(0, |alone| alone.dims().1) + self.destinations.dims().1
    }

    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.tokens, "merge plan: shrink")?;
        let merged = self.merged(full)?;
        match &self.alone {
            Some(alone) => T::concat(&[&full.gather(1, alone)?, &merged], 1),
            None => Ok(merged),
        }
    }

    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept(), "merge plan: restore")?;
        reduced.gather(1, &self.source)
    }

    fn name(&self) -> &str {
        "merge plan"
    }

    /// A group has the position of its destination.
    fn positions(&self) -> Option<Result<T::Indices>> {
        Some(self.order())
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
