//! Level 3 on Candle. The CPU and NVIDIA GPUs have streamed attention, votes and argmax. What their kernels do not support
//! runs through the generic bodies.

use atedm_core::backend::{Attended, AttentionGraph, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result, Tensor};
use candle_core::{DType, Tensor as Raw};

use crate::cpu::attention::{self, Heads, Pass, votes};
use crate::cpu::cast::tensor;
use crate::cpu::layout::dense_f32;
use crate::cpu::strongest::strongest;
use crate::cpu::view::{View, takes, untracked};
use crate::error::OrBackend;
use crate::outcome::Outcome;
use crate::{CandleIndices, CandleTensor, cuda, kernels};

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
            && v.0.rank() == 4
            && v.0.dims()[..3] == k.0.dims()[..3]
            && v.0.elem_count() > 0
            && scores.is_none_or(|scores| per_query(scores, q));
        let operands = [&q.0, &k.0, &v.0];
        let scores = scores.map(|scores| &scores.0);
        let attended = match place(fits, &operands).or_backend("attention")? {
            Some(Place::Cpu) => attend(&q.0, &k.0, &v.0, scale as f32, scores),
            Some(Place::Cuda(kernels)) => kernels.attend(operands, scale, scores),
            None => return generic::attention(q, k, v, options),
        };
        let Outcome { output, lse, first_vote } = attended.or_backend("attention")?;
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
        let fits = fitting(q, k) && per_query(lse, q) && per_query(scores, q);
        let votes = match place(fits, &[&q.0, &k.0]).or_backend("votes")? {
            Some(Place::Cpu) => vote(&q.0, &k.0, &lse.0, *scale as f32, &scores.0),
            Some(Place::Cuda(kernels)) => kernels.vote([&q.0, &k.0], &lse.0, *scale, &scores.0),
            None => return generic::votes(graph, scores),
        };
        votes.map(Self).or_backend("votes")
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<CandleIndices> {
        let Streamed { q, k, lse, scale } = graph;
        let Partition { kept, pruned } = partition;
        let batch = q.0.dims().first().copied();
        let listed = |list: &CandleIndices| list.tensor().elem_count() > 0 && Some(list.dims().0) == batch;
        let fits = fitting(q, k) && per_query(lse, q) && listed(kept) && listed(pruned);
        let best = match place(fits, &[&q.0, &k.0]).or_backend("strongest")? {
            Some(Place::Cpu) => {
                let (queries, keys, lse) = (q.gather(2, kept)?, k.gather(2, pruned)?, lse.gather(2, kept)?);
                search(&queries.0, &lse.0, &keys.0, *scale as f32)
            }
            Some(Place::Cuda(kernels)) => {
                kept.check_below(q.0.dims()[2], "strongest")?;
                pruned.check_below(k.0.dims()[2], "strongest")?;
                kernels.search([&q.0, &k.0], &lse.0, *scale, [kept.tensor(), pruned.tensor()])
            }
            None => return generic::strongest(graph, partition),
        };
        let best = best
            .or_backend("strongest")?
            .ok_or_else(|| Error::NotFinite { what: "a value of the attention map".to_string() })?;
        Ok(CandleIndices::with_bound(best, kept.dims().1))
    }
}

/// Where kernels are for tensors that fit them.
enum Place {
    Cpu,
    Cuda(cuda::Kernels),
}

/// The kernels that support these tensors, if they `fit` at all. An error if a GPU's kernels do not compile.
fn place(fit: bool, operands: &[&Raw]) -> candle_core::Result<Option<Place>> {
    if !fit {
        return Ok(None);
    }
    if takes(operands) {
        return Ok(Some(Place::Cpu));
    }
    Ok(cuda::kernels(operands)?.map(Place::Cuda))
}

/// Whether these are queries `[b, h, m, dim]` and keys `[b, h, n, dim]`.
fn fitting(q: &CandleTensor, k: &CandleTensor) -> bool {
    let (left, right) = (q.0.dims(), k.0.dims());
    q.0.dtype() == k.0.dtype()
        && left.len() == 4
        && right.len() == 4
        && left[..2] == right[..2]
        && left[3] == right[3]
        && q.0.elem_count() > 0
        && k.0.elem_count() > 0
}

/// Whether these are f32 numbers `[b, h, m]` for the queries, beside them and without a gradient.
fn per_query(x: &CandleTensor, q: &CandleTensor) -> bool {
    x.0.dtype() == DType::F32
        && untracked(&x.0)
        && x.0.device().same_device(q.0.device())
        && x.0.dims() == &q.0.dims()[..3]
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
