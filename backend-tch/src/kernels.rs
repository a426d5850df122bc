//! Runs the kernels of [`atedm_cpu_kernels`] on tensors in f32 and bf16, where the processor has their instructions.

use atedm_cpu_kernels::{self as cpu, Cpu, Heads, Numbers, NumbersMut, Pass};
use tch::{Device, Kind, Tensor as Raw};

use crate::error::TorchResult;
use crate::map::{Fused, Map};
use crate::openmp::OpenMp;

/// The kernels, if they support heads of these tensors: bf16 or f32 on the CPU, without gradients.
pub(crate) fn kernels(operands: &[&Raw]) -> Option<Cpu<'static>> {
    let kind = operands.first()?.f_kind().ok()?;
    let takes = |x: &&Raw| {
        x.device() == Device::Cpu
            && x.f_kind().ok() == Some(kind)
            && !x.requires_grad()
            && x.size().last().is_some_and(|&dim| cpu::fits(dim as usize))
    };
    match kind {
        Kind::Float => Cpu::of_f32(&OpenMp),
        Kind::BFloat16 => Cpu::of_bf16(&OpenMp),
        _ => None,
    }
    .filter(|_| operands.iter().all(takes))
}

/// `softmax(q kᵀ scale) v`. `scores` are f32 `[b, h, m]`.
pub(crate) fn attention(
    cpu: Cpu<'_>,
    q: &Raw,
    k: &Raw,
    v: &Raw,
    scale: f64,
    scores: Option<&Raw>,
) -> TorchResult<Fused> {
    let (b, h, m, dim) = q.size4()?;
    let n = k.size4()?.2;
    let (q, k, v) = (rows(q)?, rows(k)?, rows(v)?);
    let scores = scores.map(Raw::f_contiguous).transpose()?;
    let mut output = Raw::f_zeros([b, m, h, dim], (q.f_kind()?, Device::Cpu))?;
    let mut lse = Raw::f_zeros([b, h, m], (Kind::Float, Device::Cpu))?;
    let mut first_vote =
        scores.as_ref().map(|_| Raw::f_zeros([b, h, n], (Kind::Float, Device::Cpu))).transpose()?;
    let pass =
        Pass { q: heads(&q)?, k: heads(&k)?, scale: scale as f32, scores: scores.as_ref().map(numbers) };
    let into = cpu::Attended {
        output: match output.f_kind()? {
            Kind::BFloat16 => NumbersMut::Bf16(bits_mut(&mut output)),
            _ => NumbersMut::F32(numbers_mut(&mut output)),
        },
        lse: numbers_mut(&mut lse),
        first_vote: first_vote.as_mut().map(numbers_mut),
    };
    cpu::attention(cpu, pass, heads(&v)?, into);
    Ok(Fused { output: output.f_permute([0, 2, 1, 3])?, lse, first_vote })
}

/// `Aᵀ s` for f32 scores `[b, h, m]` → `[b, h, n]`.
pub(crate) fn votes(cpu: Cpu<'_>, map: &Map<'_>, scores: &Raw) -> TorchResult<Raw> {
    let [b, h, _, n] = map.dims()?;
    let (q, k, lse, scores) = (rows(map.q)?, rows(map.k)?, map.lse.f_contiguous()?, scores.f_contiguous()?);
    let mut votes = Raw::f_zeros([b, h, n], (Kind::Float, Device::Cpu))?;
    let pass = Pass { q: heads(&q)?, k: heads(&k)?, scale: map.scale as f32, scores: Some(numbers(&scores)) };
    cpu::votes(cpu, pass, numbers(&lse), numbers_mut(&mut votes));
    Ok(votes)
}

/// For each key the query with the largest head mean: `[b, n]`. `None` for a NaN.
pub(crate) fn strongest(cpu: Cpu<'_>, map: &Map<'_>) -> TorchResult<Option<Raw>> {
    let [b, _, _, n] = map.dims()?;
    let (q, k, lse) = (rows(map.q)?, rows(map.k)?, map.lse.f_contiguous()?);
    let pass = Pass { q: heads(&q)?, k: heads(&k)?, scale: map.scale as f32, scores: None };
    let mut at = vec![0; (b * n) as usize];
    let ordered = cpu::strongest(cpu, pass, numbers(&lse), &mut at);
    if ordered { Raw::f_from_slice(&at)?.f_reshape([b, n]).map(Some) } else { Ok(None) }
}

/// The tensor with contiguous rows.
fn rows(x: &Raw) -> TorchResult<Raw> {
    if x.stride().last() == Some(&1) { Ok(x.shallow_clone()) } else { x.f_contiguous() }
}

/// The tensor as `[b, h, rows, dim]`, with rows at any place in memory.
fn heads(x: &Raw) -> TorchResult<Heads<'_>> {
    let (size, stride) = (x.size(), x.stride());
    let four =
        |list: &[i64]| <[usize; 4]>::try_from(list.iter().map(|&len| len as usize).collect::<Vec<_>>()).ok();
    let found = || {
        let (size, stride) = (four(&size)?, four(&stride)?);
        let last: usize =
            size.iter().zip(&stride).map(|(&len, &stride)| len.saturating_sub(1) * stride).sum();
        Heads::new(elements(x, last + 1), size, stride)
    };
    found().ok_or_else(|| tch::TchError::Shape(format!("heads {size:?} with strides {stride:?}")))
}

/// The `len` elements of a bf16 or f32 tensor from the first on.
#[allow(unsafe_code)]
fn elements(x: &Raw, len: usize) -> Numbers<'_> {
    let data = x.data_ptr();
    // SAFETY: this is a bf16 or f32 tensor on the CPU (`kernels`). These are the elements of its storage from its first to
    // its last (`heads`). `x` keeps them alive, and nothing here writes to them.
    unsafe {
        match x.f_kind() {
            Ok(Kind::BFloat16) => Numbers::Bf16(std::slice::from_raw_parts(data.cast::<u16>(), len)),
            _ => Numbers::F32(std::slice::from_raw_parts(data.cast::<f32>(), len)),
        }
    }
}

/// The elements of a new bf16 tensor.
#[allow(unsafe_code)]
fn bits_mut(x: &mut Raw) -> &mut [u16] {
    // SAFETY: the tensor was made here as contiguous zeros, and no other handle on it exists.
    unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast::<u16>(), x.numel()) }
}

/// The elements of a contiguous f32 tensor on the CPU.
#[allow(unsafe_code)]
fn numbers(x: &Raw) -> &[f32] {
    // SAFETY: the caller's `f_contiguous` made it contiguous. Its dtype is f32, the accumulator of both types. `x` keeps it alive.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast::<f32>(), x.numel()) }
}

/// The elements of a new f32 tensor.
#[allow(unsafe_code)]
fn numbers_mut(x: &mut Raw) -> &mut [f32] {
    // SAFETY: as in `bits_mut`, for f32.
    unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast::<f32>(), x.numel()) }
}
