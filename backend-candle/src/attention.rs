//! Level 3 on Candle. The CPU has streamed attention, votes and argmax. Other devices use the generic bodies.

use atedm_core::backend::{Attended, AttentionGraph, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::{AttentionOps, Error, Partition, Result, Tensor};
use candle_core::{DType, Tensor as Raw};

use crate::cpu::attention::{self, Heads, Pass, votes};
use crate::cpu::cast::tensor;
use crate::cpu::layout::dense_f32;
use crate::cpu::strongest::strongest;
use crate::cpu::view::{View, takes};
use crate::error::OrBackend;
use crate::outcome::Outcome;
use crate::{CandleIndices, CandleTensor, kernels};

impl AttentionOps for CandleTensor {
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<Attended<Self>> {
        let AttentionOptions { scale, bias, graph } = options;
        let scores = match graph {
            GraphRequest::FirstVote(scores) => Some(scores),
            GraphRequest::None | GraphRequest::Lazy => None,
            GraphRequest::Stored => return generic::attention(q, k, v, options),
        };
        let fits = bias.is_none()
            && q.0.dtype() == v.0.dtype()
            && fitting(q, k)
            && takes(&[&v.0])
            && v.0.dims()[..3.min(v.0.rank())] == k.0.dims()[..3]
            && v.0.rank() == 4
            && v.0.elem_count() > 0
            && scores.is_none_or(|scores| per_query(scores, q));
        if !fits {
            return generic::attention(q, k, v, options);
        }
        let attended =
            attend(&q.0, &k.0, &v.0, scale as f32, scores.map(|s| &s.0)).or_backend("attention")?;
        let Outcome { output, lse, first_vote } = attended;
        let graph = match graph {
            GraphRequest::None | GraphRequest::Stored => None,
            GraphRequest::Lazy | GraphRequest::FirstVote(_) => Some(AttentionGraph::Streamed(Streamed {
                q: q.clone(),
                k: k.clone(),
                lse: lse.into(),
                scale,
            })),
        };
        Ok(Attended { hidden: output.into(), graph, first_vote: first_vote.map(Self) })
    }

    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        let Streamed { q, k, lse, scale } = graph;
        if !fitting(q, k) || !per_query(lse, q) || !per_query(scores, q) {
            return generic::votes(graph, scores);
        }
        vote(&q.0, &k.0, &lse.0, *scale as f32, &scores.0).map(Self).or_backend("votes")
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<CandleIndices> {
        let Streamed { q, k, lse, scale } = graph;
        if !fitting(q, k) || !per_query(lse, q) {
            return generic::strongest(graph, partition);
        }
        let kept = atedm_core::Indices::dims(&partition.kept).1;
        let queries = q.gather(2, &partition.kept)?;
        let keys = k.gather(2, &partition.pruned)?;
        let lse = lse.gather(2, &partition.kept)?;
        if queries.0.elem_count() == 0 || keys.0.elem_count() == 0 {
            return generic::strongest(graph, partition);
        }
        let best = search(&queries.0, &lse.0, &keys.0, *scale as f32).or_backend("strongest")?;
        let best =
            best.ok_or_else(|| Error::NotFinite { what: "a value of the attention map".to_string() })?;
        Ok(CandleIndices::with_bound(best, kept))
    }
}

/// Whether the kernels support these queries `[b, h, m, dim]` and keys `[b, h, n, dim]`.
fn fitting(q: &CandleTensor, k: &CandleTensor) -> bool {
    let (left, right) = (q.0.dims(), k.0.dims());
    takes(&[&q.0, &k.0])
        && q.0.dtype() == k.0.dtype()
        && left.len() == 4
        && right.len() == 4
        && left[..2] == right[..2]
        && left[3] == right[3]
        && q.0.elem_count() > 0
        && k.0.elem_count() > 0
}

/// Whether these are f32 numbers `[b, h, m]` for the queries.
fn per_query(x: &CandleTensor, q: &CandleTensor) -> bool {
    takes(&[&x.0]) && x.0.dtype() == DType::F32 && x.0.dims() == &q.0.dims()[..3]
}

fn attend(q: &Raw, k: &Raw, v: &Raw, scale: f32, scores: Option<&Raw>) -> candle_core::Result<Outcome> {
    if let Some(cpu) = kernels::kernels(&[q, k, v]) {
        return kernels::attend(cpu, [q, k, v], scale, scores);
    }
    let dtype = q.dtype();
    let (b, h, m, _) = q.dims4()?;
    let n = k.dim(2)?;
    let dim = v.dim(3)?;
    let (q, k, v) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
    let (queries, keys, values) = (View::new(&q)?, View::new(&k)?, View::new(&v)?);
    let scores = scores.map(dense_f32).transpose()?;
    let scores = scores.as_ref().map(View::new).transpose()?;
    let scores = scores.as_ref().map(View::slice).transpose()?;
    let pass = Pass { q: heads(&q, &queries)?, k: heads(&k, &keys)?, scale, scores };
    let attention::Attended { output, lse, first_vote } = attention::attention(pass, heads(&v, &values)?);
    Ok(Outcome {
        output: tensor(output, &[b, m, h, dim], dtype)?.permute((0, 2, 1, 3))?,
        lse: tensor(lse, &[b, h, m], DType::F32)?,
        first_vote: first_vote.map(|vote| tensor(vote, &[b, h, n], DType::F32)).transpose()?,
    })
}

fn vote(q: &Raw, k: &Raw, lse: &Raw, scale: f32, scores: &Raw) -> candle_core::Result<Raw> {
    if let Some(cpu) = kernels::kernels(&[q, k]) {
        return kernels::vote(cpu, [q, k], lse, scale, scores);
    }
    let shape = [q.dim(0)?, q.dim(1)?, k.dim(2)?];
    let (q, k) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?);
    let (lse, scores) = (lse.contiguous()?, scores.contiguous()?);
    let (queries, keys) = (View::new(&q)?, View::new(&k)?);
    let (lse, scores) = (View::new(&lse)?, View::new(&scores)?);
    let pass = Pass { q: heads(&q, &queries)?, k: heads(&k, &keys)?, scale, scores: Some(scores.slice()?) };
    tensor(votes(pass, lse.slice()?), &shape, DType::F32)
}

fn search(q: &Raw, lse: &Raw, k: &Raw, scale: f32) -> candle_core::Result<Option<Raw>> {
    if let Some(cpu) = kernels::kernels(&[q, k]) {
        return kernels::search(cpu, [q, k], lse, scale);
    }
    let shape = (q.dim(0)?, k.dim(2)?);
    let (q, k, lse) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?, lse.contiguous()?);
    let (queries, keys, lse) = (View::new(&q)?, View::new(&k)?, View::new(&lse)?);
    let best = strongest(heads(&q, &queries)?, lse.slice()?, heads(&k, &keys)?, scale);
    best.map(|best| Raw::from_vec(best, shape, q.device())).transpose()
}

/// The view as `[b, h, rows, dim]`. Its elements stay where they are.
fn heads<'a>(x: &Raw, view: &'a View<'_>) -> candle_core::Result<Heads<'a>> {
    let (b, h, rows, dim) = x.dims4()?;
    match view.strides() {
        &[by_batch, by_head, by_row, by_dim] => Ok(Heads {
            data: view.data(),
            dims: [b, h, rows, dim],
            strides: [by_batch, by_head, by_row, by_dim],
        }),
        _ => candle_core::bail!("expected 4 axes"),
    }
}
