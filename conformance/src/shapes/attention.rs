//! The generic bodies. The graph's own products count for the method.

use atedm_core::backend::{Attended, AttentionOptions, Donors, GraphRequest, Streamed, generic};
use atedm_core::{AttentionGraph, AttentionOps, Partition, Result, Tensor};

use super::{ShapeIndices, ShapeTensor};

impl AttentionOps for ShapeTensor {
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<Attended<Self>> {
        let AttentionOptions { scale, bias, graph } = options;
        let GraphRequest::FirstVote(scores) = graph else { return generic::attention(q, k, v, options) };
        let lazy = AttentionOptions { scale, bias, graph: &GraphRequest::Lazy };
        let attended = generic::attention(q, k, v, lazy)?;
        let first_vote = match &attended.graph {
            Some(AttentionGraph::Streamed(streamed)) => Some(Self::votes(streamed, scores)?),
            _ => None,
        };
        Ok(Attended { first_vote, ..attended })
    }

    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        scores.device().scoring(|| generic::votes(graph, scores))
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<ShapeIndices> {
        graph.q.device().scoring(|| generic::strongest(graph, partition))
    }

    fn block(graph: &Streamed<Self>, rows: &ShapeIndices, columns: &ShapeIndices) -> Result<Self> {
        graph.q.device().scoring(|| generic::block(graph, rows, columns))
    }

    fn top_k(graph: &Streamed<Self>, partition: &Partition<Self>, k: usize) -> Result<Donors<Self>> {
        graph.q.device().scoring(|| generic::top_k(graph, partition, k))
    }
}
