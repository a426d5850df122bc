//! Attention, votes and the argmax of similarity copy in bf16 and f32, by the kernels of [`atedm_cpu_kernels`].

use atedm_cpu_kernels::{self as kernels, Cpu, Heads, Pass, fits};
use candle_core::{DType, Device, Result, Tensor as Raw};
use half::bf16;

use crate::cpu::number::Number;
use crate::cpu::pool::attention;
use crate::cpu::view::View;
use crate::outcome::Outcome;

/// The kernels, if this machine has them and they support heads of these tensors.
pub(crate) fn kernels(operands: &[&Raw]) -> Option<Cpu<'static>> {
    let dtype = operands.first()?.dtype();
    let takes = |x: &&Raw| x.dtype() == dtype && x.dims().last().is_some_and(|&dim| fits(dim));
    attention(dtype).filter(|_| operands.iter().all(takes))
}

/// `softmax(q kᵀ scale) v` with its log-sum-exp. `scores` are f32 `[b, h, m]`.
pub(crate) fn attend(cpu: Cpu<'_>, operands: [&Raw; 3], scale: f32, scores: Option<&Raw>) -> Result<Outcome> {
    match operands[0].dtype() {
        DType::BF16 => attend_as::<bf16>(cpu, operands, scale, scores),
        _ => attend_as::<f32>(cpu, operands, scale, scores),
    }
}

fn attend_as<N: Number>(
    cpu: Cpu<'_>,
    [q, k, v]: [&Raw; 3],
    scale: f32,
    scores: Option<&Raw>,
) -> Result<Outcome> {
    let (b, h, m, _) = q.dims4()?;
    let (n, dim) = (k.dim(2)?, v.dim(3)?);
    let (q, k, v) = (rows(q)?, rows(k)?, rows(v)?);
    let (queries, keys, values) = (View::new(&q)?, View::new(&k)?, View::new(&v)?);
    let scores = scores.map(Raw::contiguous).transpose()?;
    let scores = scores.as_ref().map(View::new).transpose()?;
    let scores = scores.as_ref().map(View::slice::<f32>).transpose()?;
    let (mut output, mut lse) = (N::zeros(b * m * h * dim), vec![0.0; b * h * m]);
    let mut first_vote = scores.map(|_| vec![0.0; b * h * n]);
    let pass = Pass { q: heads(&q, &queries)?, k: heads(&k, &keys)?, scale, scores };
    let into = kernels::Attended {
        output: N::numbers_mut(&mut output),
        lse: &mut lse,
        first_vote: first_vote.as_deref_mut(),
    };
    kernels::attention(cpu, pass, heads(&v, &values)?, into);
    let output = Raw::from_vec(output, (b, m, h, dim), &Device::Cpu)?;
    Ok(Outcome {
        output: output.permute((0, 2, 1, 3))?,
        lse: Raw::from_vec(lse, (b, h, m), &Device::Cpu)?,
        first_vote: first_vote.map(|vote| Raw::from_vec(vote, (b, h, n), &Device::Cpu)).transpose()?,
    })
}

/// `Aᵀ s` for f32 scores `[b, h, m]` → `[b, h, n]`.
pub(crate) fn vote(cpu: Cpu<'_>, [q, k]: [&Raw; 2], lse: &Raw, scale: f32, scores: &Raw) -> Result<Raw> {
    let shape = (q.dim(0)?, q.dim(1)?, k.dim(2)?);
    let (q, k, lse, scores) = (rows(q)?, rows(k)?, lse.contiguous()?, scores.contiguous()?);
    let (queries, keys) = (View::new(&q)?, View::new(&k)?);
    let (lse, scores) = (View::new(&lse)?, View::new(&scores)?);
    let mut votes = vec![0.0; shape.0 * shape.1 * shape.2];
    let pass = Pass { q: heads(&q, &queries)?, k: heads(&k, &keys)?, scale, scores: Some(scores.slice()?) };
    kernels::votes(cpu, pass, lse.slice()?, &mut votes);
    Raw::from_vec(votes, shape, &Device::Cpu)
}

/// For each key the query with the largest head mean: `[b, n]`. `None` for a NaN.
pub(crate) fn search(cpu: Cpu<'_>, [q, k]: [&Raw; 2], lse: &Raw, scale: f32) -> Result<Option<Raw>> {
    let shape = (q.dim(0)?, k.dim(2)?);
    let (q, k, lse) = (rows(q)?, rows(k)?, lse.contiguous()?);
    let (queries, keys, lse) = (View::new(&q)?, View::new(&k)?, View::new(&lse)?);
    let pass = Pass { q: heads(&q, &queries)?, k: heads(&k, &keys)?, scale, scores: None };
    let mut best = vec![0; shape.0 * shape.1];
    if !kernels::strongest(cpu, pass, lse.slice()?, &mut best) {
        return Ok(None);
    }
    let best: Vec<u32> = best.into_iter().map(|row| row as u32).collect();
    Raw::from_vec(best, shape, &Device::Cpu).map(Some)
}

/// The tensor with contiguous rows.
fn rows(x: &Raw) -> Result<Raw> {
    if x.stride().last() == Some(&1) { Ok(x.clone()) } else { x.contiguous() }
}

/// The view as `[b, h, rows, dim]`. Its elements stay where they are.
fn heads<'a>(x: &Raw, view: &'a View<'_>) -> Result<Heads<'a>> {
    let (b, h, rows, dim) = x.dims4()?;
    let strides = <[usize; 4]>::try_from(view.strides()).ok();
    let numbers = match x.dtype() {
        DType::BF16 => bf16::numbers(view.data()),
        _ => f32::numbers(view.data()),
    };
    let found = strides.and_then(|strides| Heads::new(numbers, [b, h, rows, dim], strides));
    found.ok_or_else(|| candle_core::Error::Msg(format!("heads {:?} with strides {strides:?}", x.dims())))
}
