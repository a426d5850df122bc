//! Attention, votes and the argmax of similarity copy on NVIDIA GPUs, in f16 and bf16.
//!
//! The kernels are CUDA C++ (`attention.cu`, `votes.cu`, `strongest.cu`). NVRTC compiles them when a dtype and a head size
//! are first used. The tests compile the same sources for the host and compare them with the generic bodies. Nothing here
//! has run on a GPU yet. `ATEDM_CUDA=generic` turns the kernels off; the generic bodies then do their work.

mod operand;
mod source;

use std::f64::consts::LOG2_E;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor as Raw};
use half::{bf16, f16};

use crate::cpu::view::untracked;
use crate::outcome::Outcome;
use operand::{Operand, WORDS, count, readable, strides, tensor};
use source::{Compiled, LEAST_CAPABILITY, STRONGEST_ROWS, THREADS, VOTES_ROWS, attention_rows, compiled};

/// The environment variable that turns the kernels off.
const SWITCH: &str = "ATEDM_CUDA";
/// The largest head. Its keys and values fit the shared memory that every GPU gives a block.
const MAX_DIM: usize = 128;

/// The kernels for tensors of one dtype and head size on one device.
pub(crate) struct Kernels {
    device: CudaDevice,
    compiled: Arc<Compiled>,
    dtype: DType,
}

/// The kernels, if they support these tensors `[b, h, rows, dim]`. An error if they do not compile.
pub(crate) fn kernels(operands: &[&Raw]) -> Result<Option<Kernels>> {
    let Some(&first) = operands.first() else { return Ok(None) };
    let (dtype, Some(&dim)) = (first.dtype(), first.dims().last()) else { return Ok(None) };
    let Device::Cuda(device) = first.device() else { return Ok(None) };
    let alike = |x: &&Raw| {
        x.rank() == 4
            && x.dtype() == dtype
            && x.dims().last() == Some(&dim)
            && x.device().same_device(first.device())
            && untracked(x)
    };
    let supported = matches!(dtype, DType::F16 | DType::BF16)
        && dim.is_multiple_of(WORDS)
        && (WORDS..=MAX_DIM).contains(&dim)
        && operands.iter().all(alike);
    if !supported || !wanted()? || capability(device)? < LEAST_CAPABILITY {
        return Ok(None);
    }
    Ok(Some(Kernels { device: device.clone(), compiled: compiled(dtype, dim)?, dtype }))
}

/// Whether the user has left the kernels on.
fn wanted() -> Result<bool> {
    match std::env::var_os(SWITCH) {
        None => Ok(true),
        Some(value) if value == "generic" => Ok(false),
        Some(value) => candle_core::bail!("{SWITCH}: expected `generic`, got {value:?}"),
    }
}

fn capability(device: &CudaDevice) -> Result<i32> {
    device.cuda_stream().context().compute_capability().map(|(major, _)| major).w()
}

impl Kernels {
    /// `softmax(q kᵀ scale) v` with its log-sum-exp, and with scores f32 `[b, h, m]` the first vote.
    pub(crate) fn attend(&self, operands: [&Raw; 3], scale: f64, scores: Option<&Raw>) -> Result<Outcome> {
        let (output, lse) = match self.dtype {
            DType::BF16 => self.attend_as::<bf16>(operands, scale),
            _ => self.attend_as::<f16>(operands, scale),
        }?;
        let first_vote =
            scores.map(|scores| self.vote([operands[0], operands[1]], &lse, scale, scores)).transpose()?;
        Ok(Outcome { output, lse, first_vote })
    }

    /// `Aᵀ s` for f32 scores and log-sum-exps `[b, h, m]` → `[b, h, n]`.
    pub(crate) fn vote(&self, operands: [&Raw; 2], lse: &Raw, scale: f64, scores: &Raw) -> Result<Raw> {
        match self.dtype {
            DType::BF16 => self.vote_as::<bf16>(operands, lse, scale, scores),
            _ => self.vote_as::<f16>(operands, lse, scale, scores),
        }
    }

    /// For each key of the second list the position in the first list of the query with the largest head mean. The lists
    /// are u32 `[b, kept]` and `[b, pruned]`, within the rows of q and k. `None` for a NaN.
    pub(crate) fn search(
        &self,
        operands: [&Raw; 2],
        lse: &Raw,
        scale: f64,
        lists: [&Raw; 2],
    ) -> Result<Option<Raw>> {
        match self.dtype {
            DType::BF16 => self.search_as::<bf16>(operands, lse, scale, lists),
            _ => self.search_as::<f16>(operands, lse, scale, lists),
        }
    }

    fn attend_as<T: CudaDType + DeviceRepr>(&self, [q, k, v]: [&Raw; 3], scale: f64) -> Result<(Raw, Raw)> {
        let ((b, h, m, dim), n) = (q.dims4()?, k.dim(2)?);
        let (q, k, v) = (readable(q)?, readable(k)?, readable(v)?);
        let (q_by, k_by, v_by) = (strides(&q)?, strides(&k)?, strides(&v)?);
        let (q, k, v) = (Operand::new(&q), Operand::new(&k), Operand::new(&v));
        let (q, k, v) = (q.view::<T>()?, k.view::<T>()?, v.view::<T>()?);
        // SAFETY: the kernel writes all elements of both.
        #[allow(unsafe_code)]
        let (mut output, mut lse) =
            unsafe { (self.device.alloc::<T>(b * m * h * dim)?, self.device.alloc::<f32>(b * h * m)?) };
        let (heads, rows, keys, factor) = (count(h)?, count(m)?, count(n)?, factor(scale));
        let function =
            self.device.get_or_load_custom_func("attention", &self.compiled.name, &self.compiled.ptx)?;
        let mut launch = function.builder();
        launch.arg(&q).arg(&q_by).arg(&k).arg(&k_by).arg(&v).arg(&v_by).arg(&mut output).arg(&mut lse);
        launch.arg(&heads).arg(&rows).arg(&keys).arg(&factor);
        // SAFETY: these are the kernel's parameters, in their order. The views hold the rows of their strides.
        #[allow(unsafe_code)]
        unsafe { launch.launch(grid(b * h, m, attention_rows(dim))?) }.w()?;
        let output = tensor(output, (b, m, h, dim), &self.device).permute((0, 2, 1, 3))?;
        Ok((output, tensor(lse, (b, h, m), &self.device)))
    }

    fn vote_as<T: CudaDType + DeviceRepr>(
        &self,
        [q, k]: [&Raw; 2],
        lse: &Raw,
        scale: f64,
        scores: &Raw,
    ) -> Result<Raw> {
        let ((b, h, m, _), n) = (q.dims4()?, k.dim(2)?);
        let (q, k, lse, scores) = (readable(q)?, readable(k)?, lse.contiguous()?, scores.contiguous()?);
        let (q_by, k_by) = (strides(&q)?, strides(&k)?);
        let (q, k, lse, scores) =
            (Operand::new(&q), Operand::new(&k), Operand::new(&lse), Operand::new(&scores));
        let (q, k, lse, scores) = (q.view::<T>()?, k.view::<T>()?, lse.view::<f32>()?, scores.view::<f32>()?);
        // SAFETY: the kernel writes all elements.
        #[allow(unsafe_code)]
        let mut votes = unsafe { self.device.alloc::<f32>(b * h * n)? };
        let (heads, rows, keys, factor) = (count(h)?, count(m)?, count(n)?, factor(scale));
        let function =
            self.device.get_or_load_custom_func("votes", &self.compiled.name, &self.compiled.ptx)?;
        let mut launch = function.builder();
        launch.arg(&q).arg(&q_by).arg(&k).arg(&k_by).arg(&lse).arg(&scores).arg(&mut votes);
        launch.arg(&heads).arg(&rows).arg(&keys).arg(&factor);
        // SAFETY: these are the kernel's parameters, in their order. The views hold the rows of their strides.
        #[allow(unsafe_code)]
        unsafe { launch.launch(grid(b * h, n, VOTES_ROWS)?) }.w()?;
        Ok(tensor(votes, (b, h, n), &self.device))
    }

    fn search_as<T: CudaDType + DeviceRepr>(
        &self,
        [q, k]: [&Raw; 2],
        lse: &Raw,
        scale: f64,
        [kept, pruned]: [&Raw; 2],
    ) -> Result<Option<Raw>> {
        let ((b, h, m, _), kept_count, pruned_count) = (q.dims4()?, kept.dim(1)?, pruned.dim(1)?);
        let (q, k, lse) = (readable(q)?, readable(k)?, lse.contiguous()?);
        let (kept, pruned) = (kept.contiguous()?, pruned.contiguous()?);
        let (q_by, k_by) = (strides(&q)?, strides(&k)?);
        let (q, k, lse) = (Operand::new(&q), Operand::new(&k), Operand::new(&lse));
        let (kept, pruned) = (Operand::new(&kept), Operand::new(&pruned));
        let (q, k, lse) = (q.view::<T>()?, k.view::<T>()?, lse.view::<f32>()?);
        let (kept, pruned) = (kept.view::<u32>()?, pruned.view::<u32>()?);
        // SAFETY: the kernel writes all elements.
        #[allow(unsafe_code)]
        let mut best = unsafe { self.device.alloc::<u32>(b * pruned_count)? };
        let mut unordered = self.device.alloc_zeros::<u32>(1)?;
        let (heads, rows, factor) = (count(h)?, count(m)?, factor(scale));
        let (kept_rows, pruned_rows) = (count(kept_count)?, count(pruned_count)?);
        let function =
            self.device.get_or_load_custom_func("strongest", &self.compiled.name, &self.compiled.ptx)?;
        let mut launch = function.builder();
        launch.arg(&q).arg(&q_by).arg(&k).arg(&k_by).arg(&lse).arg(&kept).arg(&pruned);
        launch.arg(&mut best).arg(&mut unordered);
        launch.arg(&heads).arg(&rows).arg(&kept_rows).arg(&pruned_rows).arg(&factor);
        // SAFETY: these are the kernel's parameters, in their order. The views hold the rows of their strides, and the
        // caller has checked the lists.
        #[allow(unsafe_code)]
        unsafe { launch.launch(grid(b, pruned_count, STRONGEST_ROWS)?) }.w()?;
        let nan = self.device.clone_dtoh(&unordered)?.iter().any(|&flag| flag != 0);
        Ok((!nan).then(|| tensor(best, (b, pruned_count), &self.device)))
    }
}

/// Logits in powers of two: `scale · log2 e`.
fn factor(scale: f64) -> f32 {
    (scale * LOG2_E) as f32
}

/// One block for every `rows` of the `count` rows of each head.
fn grid(heads: usize, count: usize, rows: usize) -> Result<LaunchConfig> {
    let blocks = operand::count(heads * count.div_ceil(rows))?;
    Ok(LaunchConfig {
        grid_dim: (blocks.unsigned_abs(), 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    })
}
