//! The generic bodies, with the graph's own products booked to the method.

use atedm_core::backend::{AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::{AttentionGraph, AttentionOps, Partition, Result, Tensor};

use super::{ShapeIndices, ShapeTensor};

impl AttentionOps for ShapeTensor {
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<(Self, Option<AttentionGraph<Self>>)> {
        let AttentionOptions { scale, bias, graph } = options;
        let GraphRequest::Voted(scores) = graph else { return generic::attention(q, k, v, options) };
        let lazy = AttentionOptions { scale, bias, graph: GraphRequest::Lazy };
        let (output, mut graph) = generic::attention(q, k, v, lazy)?;
        if let Some(AttentionGraph::Streamed(streamed)) = &mut graph {
            streamed.voted = Some(Self::votes(streamed, scores)?);
        }
        Ok((output, graph))
    }

    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        scores.device().scoring(|| generic::votes(graph, scores))
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<ShapeIndices> {
        graph.q.device().scoring(|| generic::strongest(graph, partition))
    }
}
