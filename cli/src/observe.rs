//! Watching a run for `atedm masks`: every pruning decision, and the variance of the attention maps.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Branch, MaskKey, MaskRecorder, MaskSet, PruneObserver, PruneRecord, Row, Site, Sublayer,
};
use atedm_core::{AttentionGraph, AttentionOps, Result};

/// What a run showed.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    recorder: MaskRecorder,
    rows: Vec<Row>,
    variance: Option<Variance>,
}

impl Watcher {
    /// Records decisions, and the maps' variance if asked for.
    pub(crate) fn new(variance: bool) -> Self {
        Self { variance: variance.then(Variance::default), ..Self::default() }
    }

    /// Takes the masks.
    pub(crate) fn take_masks(&mut self) -> MaskSet {
        self.recorder.take()
    }

    /// The variance by level and step.
    pub(crate) fn variance(&self) -> Option<&Variance> {
        self.variance.as_ref()
    }

    /// The batch row that stands for an image: its prompt's.
    pub(crate) fn row_of(&self, image: u64) -> Option<usize> {
        self.rows.iter().position(|row| row.image == image && row.branch != Branch::Uncond)
    }
}

impl<T: AttentionOps> PruneObserver<T> for Watcher {
    fn pruned(&mut self, site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()> {
        if self.rows.is_empty() {
            self.rows = site.rows.to_vec();
        }
        self.recorder.pruned(site, record)
    }

    fn wants_graph(&self, site: &Site<'_>, sub: Sublayer) -> bool {
        self.variance.is_some() && sub == Sublayer::SelfAttention && site.layer == 0
    }

    fn graph(&mut self, site: &Site<'_>, sub: Sublayer, graph: &AttentionGraph<T>) -> Result<()> {
        // A method may show graphs that it asked for on its own account.
        let wanted = <Self as PruneObserver<T>>::wants_graph(self, site, sub);
        let Some(variance) = self.variance.as_mut().filter(|_| wanted) else { return Ok(()) };
        let [.., keys] = graph.dims()?;
        let moments = graph.second_moment()?.to_f32()?;
        let mean = moments.iter().map(|&moment| f64::from(moment)).sum::<f64>() / moments.len().max(1) as f64;
        variance.add(site.block.level, MaskKey::of(site).step, entry_variance(mean, keys));
        Ok(())
    }
}

/// The variance of a map's entries. Rows sum to one, so that the mean entry is 1/N, and
/// `Var = (Σ_j A_ij²)/N − 1/N²`, averaged over rows `i`.
fn entry_variance(second_moment: f64, keys: usize) -> f64 {
    let n = keys.max(1) as f64;
    (second_moment / n - 1.0 / (n * n)).max(0.0)
}

/// The mean variance of self-attention's maps, by resolution level and step. Only each block's first layer counts: it
/// always has all tokens, and a map's variance depends on their number.
#[derive(Debug, Default)]
pub(crate) struct Variance {
    sums: BTreeMap<(usize, usize), (f64, usize)>,
}

impl Variance {
    fn add(&mut self, level: usize, step: usize, variance: f64) {
        let (sum, count) = self.sums.entry((level, step)).or_default();
        *sum += variance;
        *count += 1;
    }

    /// For each level its points `(step, variance)`.
    pub(crate) fn by_level(&self) -> BTreeMap<usize, Vec<(f64, f64)>> {
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
        // Uniform rows have none; one-hot rows of 4 have mean 1/4 and mean square 1/4.
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
