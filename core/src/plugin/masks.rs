//! Kept sets of a whole run, on the host. [`MaskRecorder`](super::MaskRecorder) records them, and a method can replay them.

use std::collections::BTreeMap;

use super::site::Site;
use crate::backend::Partition;
use crate::{Error, Result, Tensor};

/// Where and when a method chose a kept set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskKey {
    /// 0-based step in the full schedule.
    pub step: usize,
    /// 0-based U-Net evaluation.
    pub evaluation: usize,
    /// The block's name, such as `down.1.0`.
    pub block: String,
    /// 0-based layer within the block.
    pub layer: usize,
}

impl MaskKey {
    /// The key of a site.
    pub fn of(site: &Site<'_>) -> Self {
        Self {
            step: site.step.index,
            evaluation: site.step.evaluation,
            block: site.block.name(),
            layer: site.layer,
        }
    }
}

impl std::fmt::Display for MaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, evaluation, block, layer } = self;
        write!(f, "step {step} (evaluation {evaluation}), block {block}, layer {layer}")
    }
}

/// One kept set, with the data behind the decision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MaskEntry {
    /// Tokens in the stream before the decision.
    pub tokens: usize,
    /// For each batch row: the kept tokens, as ascending positions in that stream.
    pub kept: Vec<Vec<u32>>,
    /// For each batch row: the score of every token in the stream. Empty when no scores were recorded.
    pub scores: Vec<Vec<f32>>,
    /// For each batch row: the grid position of every token in the stream. Empty when the stream was whole.
    pub positions: Vec<Vec<u32>>,
    /// The number of votes cast.
    pub votes: usize,
    /// Height and width of the block's full token grid. The frames of a video stand one below the other.
    pub grid: (usize, usize),
}

impl MaskEntry {
    /// For each batch row: the kept tokens as positions in the block's full grid.
    pub fn kept_on_grid(&self) -> Vec<Vec<u32>> {
        if self.positions.is_empty() {
            return self.kept.clone();
        }
        let on_grid = |(kept, positions): (&Vec<u32>, &Vec<u32>)| {
            kept.iter().filter_map(|&i| positions.get(i as usize).copied()).collect()
        };
        self.kept.iter().zip(&self.positions).map(on_grid).collect()
    }
}

/// The kept sets of a run, ordered by step, block and layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MaskSet {
    entries: BTreeMap<MaskKey, MaskEntry>,
}

impl MaskSet {
    /// Adds an entry. It replaces an earlier entry with the same key.
    pub fn insert(&mut self, key: MaskKey, entry: MaskEntry) {
        self.entries.insert(key, entry);
    }

    /// The entry under `key`.
    pub fn get(&self, key: &MaskKey) -> Option<&MaskEntry> {
        self.entries.get(key)
    }

    /// All entries, ordered by step, evaluation, block and layer.
    pub fn iter(&self) -> impl Iterator<Item = (&MaskKey, &MaskEntry)> {
        self.entries.iter()
    }

    /// The entries of the first evaluation of a step. A sampler may evaluate the model several times in a step.
    pub fn of_step(&self, step: usize) -> impl Iterator<Item = (&MaskKey, &MaskEntry)> {
        let first = self.entries.keys().find(|key| key.step == step).map(|key| key.evaluation);
        self.iter().filter(move |(key, _)| key.step == step && Some(key.evaluation) == first)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The recorded partition for `site`, for `batch` rows that keep `kept` tokens each.
    ///
    /// # Errors
    /// [`Error::Config`] with field `masks` when the site is missing or was recorded with other counts.
    pub fn partition<T: Tensor>(
        &self,
        site: &Site<'_>,
        batch: usize,
        kept: usize,
        device: &T::Device,
    ) -> Result<Partition<T>> {
        let key = MaskKey::of(site);
        let wrong = |what: &str, expected: usize, got: usize| {
            Error::config("masks", format!("expected {expected} {what} at {key}, got {got}"))
        };
        let entry = self.get(&key).ok_or_else(|| {
            Error::config("masks", format!("no kept set for {key}, which these options prune"))
        })?;
        if entry.tokens != site.tokens {
            return Err(wrong("tokens", site.tokens, entry.tokens));
        }
        if entry.kept.len() != batch {
            return Err(wrong("batch rows", batch, entry.kept.len()));
        }
        if let Some(row) = entry.kept.iter().find(|row| row.len() != kept) {
            return Err(wrong("kept tokens", kept, row.len()));
        }
        Partition::from_kept(&entry.kept, entry.tokens, device).map_err(|error| match error {
            Error::Config { reason, .. } => Error::config("masks", format!("{reason} at {key}")),
            other => other,
        })
    }
}

impl FromIterator<(MaskKey, MaskEntry)> for MaskSet {
    fn from_iter<I: IntoIterator<Item = (MaskKey, MaskEntry)>>(entries: I) -> Self {
        Self { entries: entries.into_iter().collect() }
    }
}
