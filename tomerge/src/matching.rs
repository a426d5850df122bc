//! Bipartite soft matching finds the most similar destination for each source (ToMe, arXiv 2303.17604).
//!
//! ```text
//! c_ij  = s_i·d_j / (|s_i| |d_j|)          source i, destination j
//! d(i)  = argmax_j c_ij                    the lowest on ties
//! m_i   = c_i,d(i)                         by which sources are chosen
//! ```
//!
//! Division by `|s_i|` changes no argmax, so only the maxima are divided. Sources come in blocks. The matrix of all
//! sources and destinations is therefore never stored.

use atedm_core::backend::dims;
use atedm_core::plugin::{GuidanceMasks, Row};
use atedm_core::{AttentionOps, DType, Indices, Partition, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::grid::Split;

/// A token shorter than this counts as zero. Its similarity to every token is 0 instead of NaN.
pub(crate) const SHORTEST: f64 = 1e-12;

/// The maximum number of entries in one block of similarities, for each batch row.
const BLOCK: usize = 1 << 20;

/// The row whose number of similar tokens counts under a threshold. All rows of a batch merge equally many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ThresholdCount {
    /// The row with the most (CA-ToMe). The other rows then merge tokens below the threshold, too.
    #[default]
    Most,
    /// The row with the fewest. No row then merges tokens below the threshold.
    Fewest,
}

/// The best destination of every source.
#[derive(Debug, Clone)]
pub struct Matching<T: Tensor> {
    /// The cosine similarity to the destination, `[b, sources]`, in the accumulator dtype.
    pub similarity: T,
    /// The destination's number among the destinations, `[b, sources]`.
    pub destination: T::Indices,
}

/// `|x|` over the channels of `[b, n, c]`, at least [`SHORTEST`], in the accumulator dtype: `[b, n, 1]`.
///
/// # Errors
/// Those of the backend's operations.
pub(crate) fn lengths<T: Tensor>(x: &T) -> Result<T> {
    let wide = x.cast(x.dtype().accumulator())?;
    wide.mul(&wide)?.sum(2)?.sqrt()?.clamp_min(SHORTEST)
}

/// `x / |x|` in its own dtype.
pub(crate) fn normalised<T: Tensor>(x: &T) -> Result<T> {
    x.cast(x.dtype().accumulator())?.div(&lengths(x)?)?.cast(x.dtype())
}

/// The tokens of both sides, `[b, sources]` and `[b, destinations]`, as positions in the stream.
#[derive(Debug, Clone)]
pub struct Sides<T: Tensor> {
    /// The tokens that need a destination.
    pub sources: T::Indices,
    /// The tokens that can be chosen.
    pub destinations: T::Indices,
}

impl<T: Tensor> Sides<T> {
    /// The same split for every row of a batch.
    ///
    /// # Errors
    /// Those of the backend's index operations.
    pub fn of_split(split: &Split, batch: usize, device: &T::Device) -> Result<Self> {
        let at = |places: &[u32]| T::Indices::from_host(&vec![places.to_vec(); batch], device);
        Ok(Self { sources: at(&split.sources)?, destinations: at(&split.destinations)? })
    }
}

/// Matches sources to destinations by the cosine similarity of their rows of `metric` `[b, n, c]`. `guidance` says
/// whether the halves of an image share their similarities.
///
/// # Errors
/// [`atedm_core::Error::NotFinite`] when a token holds a NaN. [`atedm_core::Error::Shape`] when a side is empty.
pub(crate) fn match_tokens<T: AttentionOps>(
    metric: &T,
    sides: &Sides<T>,
    guidance: GuidanceMasks,
    rows: &[Row],
) -> Result<Matching<T>> {
    let [batch, _, _] = dims(metric, "token matching")?;
    let destinations = normalised(&metric.gather(1, &sides.destinations)?)?;
    let mut sources = metric.gather(1, &sides.sources)?;
    let shared = guidance.is_shared(rows);
    let source_lengths = lengths(&sources)?;
    if shared {
        sources = normalised(&sources)?;
    }
    let (count, columns) = (sides.sources.dims().1, sides.destinations.dims().1);
    let length = (BLOCK / columns.max(1)).clamp(1, count.max(1));
    let (mut best, mut chosen) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(length) {
        let length = length.min(count - start);
        let block = sources.narrow(1, start, length)?.permute(&[0, 2, 1])?;
        // Each source is a column, because every backend has the argmax over rows.
        let mut similarity = destinations.matmul(&block)?;
        if shared {
            let flat = similarity.reshape(&[batch, columns * length])?;
            similarity = guidance.share(flat, rows)?.reshape(&[batch, columns, length])?;
        }
        best.push(similarity.max(1)?.reshape(&[batch, length])?.cast(metric.dtype().accumulator())?);
        chosen.push(similarity.argmax_rows()?);
    }
    let mut similarity = T::concat(&best.iter().collect::<Vec<_>>(), 1)?;
    if !shared {
        similarity = similarity.div(&source_lengths.reshape(&[batch, count])?)?;
    }
    Ok(Matching { similarity, destination: T::Indices::concat(&chosen.iter().collect::<Vec<_>>())? })
}

impl<T: Tensor> Matching<T> {
    /// The `merged` sources that are most similar to their destinations, and the rest. Both ascend. On ties the
    /// lower index is merged.
    ///
    /// # Errors
    /// [`atedm_core::Error::Shape`] when `merged` is 0 or above the number of sources.
    pub fn choose(&self, merged: usize) -> Result<Partition<T>> {
        self.similarity.split_top_k(merged)
    }

    /// The number of sources that every row merges under `threshold`. The row that `count` names decides: its
    /// sources of at least this similarity are counted. A threshold of 1 merges nothing, not even equal tokens.
    ///
    /// # Errors
    /// Those of the backend's operations.
    pub(crate) fn at_least(&self, threshold: f64, count: ThresholdCount) -> Result<usize> {
        if threshold >= 1.0 {
            return Ok(0);
        }
        let (_, sources) = self.destination.dims();
        let values = self.similarity.cast(DType::F32)?.to_f32()?;
        let similar = |row: &[f32]| row.iter().filter(|&&similarity| similarity >= threshold as f32).count();
        let rows = values.chunks(sources.max(1)).map(similar);
        let found = match count {
            ThresholdCount::Most => rows.max(),
            ThresholdCount::Fewest => rows.min(),
        };
        Ok(found.unwrap_or(0))
    }
}
