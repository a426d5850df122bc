//! Level 3 on libtorch: fused attention with its log-sum-exp, and votes and argmax in blocks of the map.
//!
//! On a processor with bf16 products, our own kernels ([`kernels`]) handle bf16 and f32. Libtorch's operations handle
//! everything else.

use atedm_core::backend::{Attended, AttentionGraph, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result, Tensor};
use tch::Tensor as Raw;

use crate::error::OrBackend;
use crate::map::{Fused, Map, fused, fused_takes};
use crate::value::to_kind;
use crate::{TchIndices, TchTensor, kernels};

impl AttentionOps for TchTensor {
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<Attended<Self>> {
        let AttentionOptions { scale, bias, graph } = options;
        let scores = match graph {
            GraphRequest::FirstVote(scores) => Some(scores),
            GraphRequest::None | GraphRequest::Lazy | GraphRequest::Stored => None,
        };
        let fits = bias.is_none()
            && !matches!(graph, GraphRequest::Stored)
            && fitting(q, k)
            && v.0.f_kind().ok() == q.0.f_kind().ok()
            && v.shape() == k.shape()
            && scores.is_none_or(|scores| per_query(scores, q));
        if !fits {
            return generic::attention(q, k, v, options);
        }
        let (queries, keys, values) = (&q.0, &k.0, &v.0);
        let asked = !matches!(graph, GraphRequest::None);
        let attended = if let Some(cpu) = kernels::kernels(&[queries, keys, values]) {
            kernels::attention(cpu, queries, keys, values, scale, scores.map(|scores| &scores.0))
        } else if !asked {
            let nothing: Option<&Raw> = None;
            let output =
                Raw::f_scaled_dot_product_attention(queries, keys, values, nothing, 0.0, false, scale, false);
            let hidden = Self(output.or_backend("attention")?);
            return Ok(Attended { hidden, graph: None, first_vote: None });
        } else if fused_takes(&[queries, keys, values]) {
            fused(queries, keys, values, scale)
        } else {
            return generic::attention(q, k, v, options);
        };
        let Fused { output, lse, first_vote } = attended.or_backend("attention")?;
        let hidden = Self(output);
        if !asked {
            return Ok(Attended { hidden, graph: None, first_vote: None });
        }
        let streamed = Streamed { q: q.clone(), k: k.clone(), lse: Self(lse), scale };
        let first_vote = match (first_vote, scores) {
            (None, Some(scores)) => Some(Self::votes(&streamed, scores)?),
            (cast, _) => cast.map(Self),
        };
        Ok(Attended { hidden, graph: Some(AttentionGraph::Streamed(streamed)), first_vote })
    }

    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        let Streamed { q, k, lse, scale } = graph;
        if !fitting(q, k) || !per_query(lse, q) || !per_query(scores, q) {
            return generic::votes(graph, scores);
        }
        let map = Map { q: &q.0, k: &k.0, lse: &lse.0, scale: *scale };
        if let Some(cpu) = kernels::kernels(&[&q.0, &k.0]) {
            return kernels::votes(cpu, &map, &scores.0).map(Self).or_backend("votes");
        }
        let cast = match map.swaps(&scores.0).or_backend("votes")? {
            true => map.votes_by_swapped_roles(&scores.0),
            false => map.votes_by_blocks(&scores.0),
        };
        cast.map(Self).or_backend("votes")
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<TchIndices> {
        let Streamed { q, k, lse, scale } = graph;
        let (batch, kept) = partition.kept.dims();
        let (_, pruned) = partition.pruned.dims();
        if !fitting(q, k) || !per_query(lse, q) || kept == 0 || pruned == 0 {
            return generic::strongest(graph, partition);
        }
        let (q, lse) = (q.gather(2, &partition.kept)?, lse.gather(2, &partition.kept)?);
        let k = k.gather(2, &partition.pruned)?;
        let map = Map { q: &q.0, k: &k.0, lse: &lse.0, scale: *scale };
        let at = match kernels::kernels(&[&q.0, &k.0]) {
            Some(cpu) => kernels::strongest(cpu, &map),
            None => map.strongest_rows(),
        };
        let nan = || Error::NotFinite { what: "a value of the attention map".to_string() };
        let at = at.or_backend("strongest")?.ok_or_else(nan)?;
        Ok(TchIndices::with_bound(at, (batch, pruned), kept))
    }
}

/// Whether these are queries `[b, h, m, dim]` and keys `[b, h, n, dim]` of one dtype. Neither may be empty.
fn fitting(q: &TchTensor, k: &TchTensor) -> bool {
    let (left, right) = (q.shape(), k.shape());
    q.float("attention").is_ok()
        && q.0.f_kind().ok() == k.0.f_kind().ok()
        && left.len() == 4
        && right.len() == 4
        && left[..2] == right[..2]
        && left[3] == right[3]
        && q.0.numel() > 0
        && k.0.numel() > 0
}

/// Whether these are numbers `[b, h, m]` for the queries, in their accumulator dtype.
fn per_query(x: &TchTensor, q: &TchTensor) -> bool {
    x.0.f_kind().ok() == Some(to_kind(q.dtype().accumulator())) && x.shape() == q.shape()[..3]
}
