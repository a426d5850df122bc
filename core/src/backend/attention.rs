//! Level 3: attention, and the attention graph as an operator that is never stored.
//!
//! The paper's `A` (one map per head) is a weighted directed graph; every method here wants only products with it:
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
//! [`AttentionGraph`] offers them over two forms: `Dense`, a stored map, and `Streamed`, which recomputes
//! `A_ij = exp(q_i·k_j·scale + bias_j − lse_i)` in tiles. Algorithms never see which.

use super::{NnOps, Partition, Tensor};
use crate::Result;
use crate::backend::generic;

/// What the caller wants to know of the attention map, so that nobody pays for what is not used.
#[derive(Debug, Clone)]
pub enum GraphRequest<T> {
    /// Nothing.
    None,
    /// The graph; votes are cast when asked for.
    Lazy,
    /// The graph, and these starting scores `[b, h, m]` are known: the forward pass may cast the first vote itself.
    FirstVote(T),
    /// The map itself, stored in the tokens' dtype, and the output made from it: attention as it is without a fused
    /// kernel (the paper's "w/o FO").
    Stored,
}

/// Options of [`AttentionOps::attention`].
#[derive(Debug)]
pub struct AttentionOptions<'a, T> {
    /// Factor on `q·k`, usually `1/√dim`.
    pub scale: f64,
    /// Added to every query's logits: `[b or 1, h or 1, m or 1, n]` in the accumulator dtype (a causal mask, say).
    pub bias: Option<&'a T>,
    /// What to return of the map.
    pub graph: &'a GraphRequest<T>,
}

// By hand: a derive would ask for `T: Copy`, and these hold only references.
impl<T> Clone for AttentionOptions<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for AttentionOptions<'_, T> {}

impl<T: AttentionOps> GraphRequest<T> {
    /// The graph of these queries and keys if one is asked for: for models whose own kernel returns none.
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

/// What [`AttentionOps::attention`] gives.
#[derive(Debug, Clone)]
pub struct Attended<T> {
    /// `[b, h, m, d]`.
    pub hidden: T,
    /// The graph, if it was asked for.
    pub graph: Option<AttentionGraph<T>>,
    /// The vote `[b, h, n]` that the forward pass cast with the scores of [`GraphRequest::FirstVote`], if it cast one.
    pub first_vote: Option<T>,
}

/// A map that is recomputed in tiles from queries, keys and each row's log-sum-exp.
#[derive(Debug, Clone)]
pub struct Streamed<T> {
    /// Queries `[b, h, m, dim]`.
    pub q: T,
    /// Keys `[b, h, n, dim]`.
    pub k: T,
    /// `ln Σ_j exp(q_i·k_j·scale)` per row, `[b, h, m]`, in the accumulator dtype.
    pub lse: T,
    /// Factor on `q·k`.
    pub scale: f64,
}

/// One attention layer's map, `[b, h, m, n]`, as an operator. It owns handles and outlives no layer.
#[derive(Debug, Clone)]
pub enum AttentionGraph<T> {
    /// The stored map, in the accumulator dtype, or in the tokens' own ([`GraphRequest::Stored`]).
    Dense(T),
    /// The recomputed map.
    Streamed(Streamed<T>),
}

/// For every pruned token the kept tokens that attend to it most, by their mean over heads.
#[derive(Debug, Clone)]
pub struct Donors<T: Tensor> {
    /// `[b, pruned * k]`: for one pruned token after the other its `k` positions within `partition.kept`, ascending.
    pub kept: T::Indices,
    /// How much each of them attends to it, `[b, pruned, k]`, in the dtype of scores.
    pub attention: T,
}

/// Attention with the graph as a by-product. The only place where a backend overrides a graph step.
pub trait AttentionOps: NnOps {
    /// `softmax(q kᵀ scale + bias) v` for `q [b, h, m, d]`, `k, v [b, h, n, d]` → `[b, h, m, d]`; beside it the graph and the
    /// first vote, as far as they are asked for.
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

    /// For each pruned column the position, within `partition.kept`, of the kept row that attends to it most
    /// (mean over heads; ties to the lowest): `[b, pruned]`.
    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<Self::Indices> {
        generic::strongest(graph, partition)
    }

    /// The map between the queries `rows` and the keys `columns`, mean over heads: `[b, columns, rows]` in the dtype of
    /// scores.
    fn block(graph: &Streamed<Self>, rows: &Self::Indices, columns: &Self::Indices) -> Result<Self> {
        generic::block(graph, rows, columns)
    }

    /// For each pruned column the `k` kept rows that attend to it most (mean over heads; among equals the lowest).
    fn top_k(graph: &Streamed<Self>, partition: &Partition<Self>, k: usize) -> Result<Donors<Self>> {
        generic::top_k(graph, partition, k)
    }
}

impl<T: AttentionOps> AttentionGraph<T> {
    /// The graph of queries `[b, h, m, d]` and keys `[b, h, n, d]`, for models whose own kernel gives no log-sum-exp.
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

    /// The device of the tensors behind it.
    pub fn device(&self) -> T::Device {
        match self {
            Self::Dense(map) => map.device(),
            Self::Streamed(s) => s.q.device(),
        }
    }

    /// The dtype of scores: the accumulator of the tokens'.
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

    /// `Σ_j A_ij²` → `[b, h, m]`: for the variance of Fig. 5.
    pub fn second_moment(&self) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_second_moment(map),
            Self::Streamed(s) => generic::second_moment(s),
        }
    }

    /// For each pruned column the position, within `partition.kept`, of the kept row that attends to it most → `[b, pruned]`.
    pub fn strongest(&self, partition: &Partition<T>) -> Result<T::Indices> {
        match self {
            Self::Dense(map) => generic::dense_strongest(map, partition),
            Self::Streamed(s) => T::strongest(s, partition),
        }
    }

    /// For each pruned column the `k` kept rows that attend to it most, by their mean over heads; among equals the lowest.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when `k` is 0 or above the number of kept tokens, or when no token is pruned;
    /// [`Error::NotFinite`](crate::Error::NotFinite) when the map holds a NaN.
    pub fn top_k(&self, partition: &Partition<T>, k: usize) -> Result<Donors<T>> {
        match self {
            Self::Dense(map) => generic::dense_top_k(map, partition, k),
            Self::Streamed(s) => T::top_k(s, partition, k),
        }
    }

    /// The part of the map between the queries `rows` (`[b, rows]`) and the keys `columns` (`[b, columns]`), mean over
    /// heads: `[b, columns, rows]`, so that what one key receives is contiguous. Nothing larger than it is stored.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when one of the sets is empty or does not fit the map.
    pub fn block(&self, rows: &T::Indices, columns: &T::Indices) -> Result<T> {
        match self {
            Self::Dense(map) => generic::dense_block(map, rows, columns),
            Self::Streamed(s) => T::block(s, rows, columns),
        }
    }

    /// The same graph with a stored map: `[b, h, m, n]`. For small maps, tests, and methods that need single entries.
    pub fn to_dense(&self) -> Result<T> {
        match self {
            Self::Dense(map) => map.cast(map.dtype().accumulator()),
            Self::Streamed(s) => generic::dense_map(s),
        }
    }
}
