//! Level 3: attention, and the attention graph as an operator that is never stored.
//!
//! The paper's `A` (one map per head) is a weighted directed graph. Every method here needs only products with it:
//!
//! ```text
//! votes(s_Q)              Aᵀ s_Q                             one G-WPR step                [b, h, n]
//! read(s_K)               A s_K                              numerator of Eq. 1            [b, h, m]
//! row_entropy()           −Σ_j A_ij ln A_ij                  denominator of Eq. 1          [b, h, m]
//! second_moment()         Σ_j A_ij²                          variance of Fig. 5            [b, h, m]
//! strongest(partition)    argmax_{i kept} mean_h A[i, b]     similarity copy               [b, pruned]
//! top_k(partition, k)     the k highest of the same          soft copy                     [b, pruned, k]
//! block(rows, columns)    mean_h A[i, b]                     a part of the map             [b, columns, rows]
//! ```
//!
//! [`AttentionGraph`] offers them in two forms. `Dense` is a stored map. `Streamed` recomputes
//! `A_ij = exp(q_i·k_j·scale + bias_j − lse_i)` in tiles. Algorithms never see which form they get.

use super::{NnOps, Partition, Tensor};
use crate::Result;
use crate::backend::generic;

/// What the caller needs from the attention map. A backend computes no more than this.
#[derive(Debug, Clone)]
pub enum GraphRequest<T> {
    /// Nothing.
    None,
    /// The graph. Votes are cast on request.
    Lazy,
    /// The graph, with known starting scores `[b, h, m]`. The forward pass may cast the first vote itself.
    FirstVote(T),
    /// The stored map in the tokens' dtype, and the output made from it. This is attention without a fused kernel
    /// (the paper's "w/o FO").
    Stored,
}

/// Options of [`AttentionOps::attention`].
#[derive(Debug)]
pub struct AttentionOptions<'a, T> {
    /// The factor on `q·k`, usually `1/√dim`.
    pub scale: f64,
    /// Added to every query's logits: `[b or 1, h or 1, m or 1, n]` in the accumulator dtype. A causal mask is an example.
    pub bias: Option<&'a T>,
    /// What to return of the map.
    pub graph: &'a GraphRequest<T>,
}

// Written by hand: a derive would require `T: Copy`, but these hold only references.
impl<T> Clone for AttentionOptions<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for AttentionOptions<'_, T> {}

impl<T: AttentionOps> GraphRequest<T> {
    /// The graph of these queries and keys, if one is requested. Models whose own kernel returns no graph use it.
    pub fn from_qk(&self, q: &T, k: &T, scale: f64) -> Result<Option<AttentionGraph<T>>> {
        match self {
            Self::None => Ok(None),
            Self::Lazy | Self::FirstVote(_) => AttentionGraph::from_qk(q, k, scale).map(Some),
            Self::Stored => Ok(Some(AttentionGraph::Dense(
                AttentionGraph::from_qk(q, k, scale)?.to_dense()?.cast(q.dtype())?,
            ))),
        }
    }
}

impl<T> AttentionOptions<'_, T> {
    /// Scale `1/√dim`, no bias, no graph.
    pub fn for_dim(dim: usize) -> Self {
        Self { scale: 1.0 / (dim as f64).sqrt(), bias: None, graph: &GraphRequest::None }
    }
}

/// The result of [`AttentionOps::attention`].
#[derive(Debug, Clone)]
pub struct Attended<T> {
    /// The output, `[b, h, m, d]`.
    pub hidden: T,
    /// The graph, if it was requested.
    pub graph: Option<AttentionGraph<T>>,
    /// The vote `[b, h, n]` that the forward pass cast with the scores of [`GraphRequest::FirstVote`]. `None` if it
    /// cast none.
    pub first_vote: Option<T>,
}

/// A map that is recomputed in tiles from queries, keys and the log-sum-exp of each row.
#[derive(Debug, Clone)]
pub struct Streamed<T> {
    /// Queries `[b, h, m, dim]`.
    pub q: T,
    /// Keys `[b, h, n, dim]`.
    pub k: T,
    /// `ln Σ_j exp(q_i·k_j·scale)` per row, `[b, h, m]`, in the accumulator dtype.
    pub lse: T,
    /// The factor on `q·k`.
    pub scale: f64,
}

/// The map of one attention layer, `[b, h, m, n]`, as an operator. It holds handles and never outlives its layer.
#[derive(Debug, Clone)]
pub enum AttentionGraph<T> {
    /// The stored map, in the accumulator dtype or, for [`GraphRequest::Stored`], in the tokens' dtype.
    Dense(T),
    /// The map that is recomputed.
    Streamed(Streamed<T>),
}

/// For every pruned token: the kept tokens that attend to it most, in the mean over heads.
#[derive(Debug, Clone)]
pub struct Donors<T: Tensor> {
    /// Positions within `partition.kept`, `[b, pruned * k]`: for each pruned token in turn its `k` donors, ascending.
    pub kept: T::Indices,
    /// How much each donor attends to its pruned token, `[b, pruned, k]`, in the dtype of scores.
    pub attention: T,
}

/// Attention, with the graph as a by-product. Only here does a backend override a step of the graph.
pub trait AttentionOps: NnOps {
    /// `softmax(q kᵀ scale + bias) v` for `q [b, h, m, d]` and `k, v [b, h, n, d]` → `[b, h, m, d]`. It also
    /// returns the graph and the first vote, if they are requested.
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<Attended<Self>> {
        generic::attention(q, k, v, options)
    }

    /// `Aᵀ s` for scores `[b, h, m]` → `[b, h, n]`.
    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        generic::votes(graph, scores)
    }

    /// For each pruned column: the position within `partition.kept` of the kept row that attends to it most,
    /// `[b, pruned]`. The mean over heads decides; on ties the lowest row wins.
    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<Self::Indices> {
        generic::strongest(graph, partition)
    }

    /// The map between the queries `rows` and the keys `columns`, in the mean over heads: `[b, columns, rows]`, in
    /// the dtype of scores.
    fn block(graph: &Streamed<Self>, rows: &Self::Indices, columns: &Self::Indices) -> Result<Self> {
        generic::block(graph, rows, columns)
    }

    /// For each pruned column: the `k` kept rows that attend to it most. The mean over heads decides; on ties the
    /// lowest wins.
    fn top_k(graph: &Streamed<Self>, partition: &Partition<Self>, k: usize) -> Result<Donors<Self>> {
        generic::top_k(graph, partition, k)
    }
}

impl<T: AttentionOps> AttentionGraph<T> {
    /// The graph of queries `[b, h, m, d]` and keys `[b, h, n, d]`. Models whose own kernel gives no log-sum-exp use it.
    pub fn from_qk(q: &T, k: &T, scale: f64) -> Result<Self> {
        Ok(Self::Streamed(generic::streamed_from_qk(q, k, scale)?))
    }

    /// `[b, h, m, n]`: batch, heads, queries, keys.
    pub fn dims(&self) -> Result<[usize; 4]> {
        match self {
            Self::Dense(map) => super::dims(map, "attention graph"),
            Self::Streamed(s) => {
                let [b, h, m, _] = super::dims(&s.q, "attention graph")?;
                let [_, _, n, _] = super::dims(&s.k, "attention graph")?;
                Ok([b, h, m, n])
            }
        }
    }

    /// The device of its tensors.
    pub fn device(&self) -> T::Device {
        match self {
            Self::Dense(map) => map.device(),
            Self::Streamed(s) => s.q.device(),
        }
    }

    /// The dtype of scores: the accumulator of the tokens' dtype.
    pub fn score_dtype(&self) -> crate::DType {
        match self {
            Self::Dense(map) => map.dtype().accumulator(),
            Self::Streamed(s) => s.lse.dtype(),
        }
    }

    /// `Aᵀ s_Q` for `[b, h, m]` → `[b, h, n]`: one step of G-WPR.
    pub fn votes(&self, scores: &T) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_votes(map, scores),
            Self::Streamed(s) => T::votes(s, scores),
        }
    }

    /// `A s_K` for `[b, h, n]` → `[b, h, m]`: the numerator of Eq. 1.
    pub fn read(&self, scores: &T) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_read(map, scores),
            Self::Streamed(s) => generic::read(s, scores),
        }
    }

    /// `−Σ_j A_ij ln A_ij` → `[b, h, m]`, with `0·ln 0 = 0`: the denominator of Eq. 1.
    pub fn row_entropy(&self) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_row_entropy(map),
            Self::Streamed(s) => generic::row_entropy(s),
        }
    }

    /// `Σ_j A_ij²` → `[b, h, m]`. The variance of Fig. 5 needs it.
    pub fn second_moment(&self) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_second_moment(map),
            Self::Streamed(s) => generic::second_moment(s),
        }
    }

    /// For each pruned column: the position within `partition.kept` of the kept row that attends to it most → `[b, pruned]`.
    pub fn strongest(&self, partition: &Partition<T>) -> Result<T::Indices> {
        match self {
            Self::Dense(map) => generic::dense_strongest(map, partition),
            Self::Streamed(s) => T::strongest(s, partition),
        }
    }

    /// For each pruned column: the `k` kept rows that attend to it most. The mean over heads decides; on ties the
    /// lowest wins.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when `k` is 0 or above the number of kept tokens, or when no token is
    /// pruned. [`Error::NotFinite`](crate::Error::NotFinite) when the map holds a NaN.
    pub fn top_k(&self, partition: &Partition<T>, k: usize) -> Result<Donors<T>> {
        match self {
            Self::Dense(map) => generic::dense_top_k(map, partition, k),
            Self::Streamed(s) => T::top_k(s, partition, k),
        }
    }

    /// The map between the queries `rows` (`[b, rows]`) and the keys `columns` (`[b, columns]`), in the mean over
    /// heads. The result is `[b, columns, rows]`, so all that one key receives is contiguous. Nothing larger is stored.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when one of the sets is empty or does not fit the map.
    pub fn block(&self, rows: &T::Indices, columns: &T::Indices) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_block(map, rows, columns),
            Self::Streamed(s) => T::block(s, rows, columns),
        }
    }

    /// The same graph with a stored map, `[b, h, m, n]`. It serves small maps, tests, and methods that need single entries.
    pub fn to_dense(&self) -> Result<T> {
        match self {
            Self::Dense(map) => map.cast(map.dtype().accumulator()),
            Self::Streamed(s) => generic::dense_map(s),
        }
    }
}
