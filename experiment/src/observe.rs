//! Observes a run: remaining tokens, pruning decisions, and the variance of the attention maps.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Branch, MaskKey, MaskRecorder, MaskSet, PruneObserver, PruneRecord, Row, Site, Sublayer,
};
use atedm_core::{AttentionGraph, AttentionOps, Result};

use crate::record::LevelTokens;
use crate::tally::Tally;

/// The data to collect during a run, besides its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watch {
    /// The number of tokens after reductions, by resolution level.
    pub tokens: bool,
    /// Every pruning decision. They are read back from the device.
    pub masks: bool,
    /// The variance of self-attention's maps. This takes an additional pass over each map.
    pub variance: bool,
}

impl Watch {
    /// The data that a record holds.
    pub const TOKENS: Self = Self { tokens: true, masks: false, variance: false };

    /// Whether there is nothing to observe.
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// The data that were collected during a run.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The pruning decisions, if requested.
    pub masks: Option<MaskSet>,
    /// The variance of the maps, if requested.
    pub variance: Option<Variance>,
    rows: Vec<Row>,
}

impl Watched {
    /// The batch row of an image's prompt (not its unconditional row). `None` if nothing was reduced.
    pub fn row_of(&self, image: u64) -> Option<usize> {
        self.rows.iter().position(|row| row.image == image && row.branch != Branch::Uncond)
    }
}

/// Collects the data that [`Watch`] asks for.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    watch: Watch,
    tally: Tally,
    recorder: MaskRecorder,
    rows: Vec<Row>,
    variance: Variance,
}

impl Watcher {
    pub(crate) fn new(watch: Watch) -> Self {
        Self { watch, ..Self::default() }
    }

    /// The remaining tokens by level.
    pub(crate) fn levels(&self) -> Vec<LevelTokens> {
        self.tally.levels()
    }

    /// Takes the other collected data.
    pub(crate) fn take(&mut self) -> Watched {
        Watched {
            masks: self.watch.masks.then(|| self.recorder.take()),
            variance: self.watch.variance.then(|| std::mem::take(&mut self.variance)),
            rows: std::mem::take(&mut self.rows),
        }
    }
}

impl<T: AttentionOps> PruneObserver<T> for Watcher {
    fn pruned(&mut self, site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()> {
        if self.rows.is_empty() {
            self.rows = site.rows.to_vec();
        }
        if self.watch.tokens {
            self.tally.count(site, record);
        }
        if self.watch.masks {
            self.recorder.pruned(site, record)?;
        }
        Ok(())
    }

    fn wants_graph(&self, site: &Site<'_>, sub: Sublayer) -> bool {
        self.watch.variance && sub == Sublayer::SelfAttention && site.layer == 0
    }

    fn graph(&mut self, site: &Site<'_>, sub: Sublayer, graph: &AttentionGraph<T>) -> Result<()> {
        // A method may report graphs that it requested for itself.
        let wanted = <Self as PruneObserver<T>>::wants_graph(self, site, sub);
        if !wanted {
            return Ok(());
        }
        let [.., keys] = graph.dims()?;
        let moments = graph.second_moment()?.to_f32()?;
        let mean = moments.iter().map(|&moment| f64::from(moment)).sum::<f64>() / moments.len().max(1) as f64;
        self.variance.add(site.block.level, MaskKey::of(site).step, entry_variance(mean, keys));
        Ok(())
    }
}

/// The variance of a map's entries. Rows sum to one, so the mean entry is 1/N. `Var = (Σ_j A_ij²)/N − 1/N²`, averaged
/// over rows `i`.
fn entry_variance(second_moment: f64, keys: usize) -> f64 {
    let n = keys.max(1) as f64;
    (second_moment / n - 1.0 / (n * n)).max(0.0)
}

/// The mean variance of self-attention's maps, by resolution level and step. Only each block's first layer counts. It
/// always has all tokens, and a map's variance depends on their number.
#[derive(Debug, Clone, Default)]
pub struct Variance {
    sums: BTreeMap<(usize, usize), (f64, usize)>,
}

impl Variance {
    fn add(&mut self, level: usize, step: usize, variance: f64) {
        let (sum, count) = self.sums.entry((level, step)).or_default();
        *sum += variance;
        *count += 1;
    }

    /// The points `(step, variance)` of each level.
    pub fn by_level(&self) -> BTreeMap<usize, Vec<(f64, f64)>> {
        let mut levels: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
        for (&(level, step), &(sum, count)) in &self.sums {
            levels.entry(level).or_default().push((step as f64, sum / count as f64));
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variance_of_known_maps() {
        // Uniform rows have no variance. One-hot rows of 4 have mean 1/4 and mean square 1/4.
        assert_eq!(entry_variance(0.25, 4), 0.0);
        assert!((entry_variance(1.0, 4) - (0.25 - 1.0 / 16.0)).abs() < 1e-12);
        let mut variance = Variance::default();
        variance.add(1, 0, 2.0);
        variance.add(1, 0, 4.0);
        variance.add(2, 3, 1.0);
        assert_eq!(variance.by_level()[&1], [(0.0, 3.0)]);
        assert_eq!(variance.by_level()[&2], [(3.0, 1.0)]);
    }
}
