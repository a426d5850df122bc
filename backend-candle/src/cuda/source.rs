//! The sources of the kernels, and their compilation at run time.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{DType, Result};

/// One source. None of its parts includes another, so NVRTC needs no path to headers.
const SOURCE: &str = concat!(
    include_str!("device.cuh"),
    include_str!("tile.cuh"),
    include_str!("attention.cu"),
    include_str!("votes.cu"),
    include_str!("strongest.cu"),
);

/// The instructions that the sources use exist from this compute capability on.
pub(super) const LEAST_CAPABILITY: i32 = 8;

/// The number of warps in a block.
const WARPS: u32 = 4;
/// The number of threads in a block.
pub(super) const THREADS: u32 = 32 * WARPS;
/// The number of keys in a block of votes.
pub(super) const VOTES_ROWS: usize = 128;
/// The number of pruned keys in a block of the argmax.
pub(super) const STRONGEST_ROWS: usize = 32;

/// The number of queries in a block of attention. Longer heads need the registers of half of them.
pub(super) fn attention_rows(dim: usize) -> usize {
    if dim <= 64 { 128 } else { 64 }
}

/// The kernels for heads of one dtype and size, as PTX. The driver makes machine code of it for its GPU.
pub(super) struct Compiled {
    /// A name under which a device keeps them.
    pub(super) name: String,
    pub(super) ptx: String,
}

/// The kernels for `dtype` (bf16 or f16) and heads of `dim` elements. They are compiled once in a process.
pub(super) fn compiled(dtype: DType, dim: usize) -> Result<Arc<Compiled>> {
    static KNOWN: Mutex<Vec<Arc<Compiled>>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("atedm-{}-{dim}", dtype.as_str());
    if let Some(compiled) = known.iter().find(|compiled| compiled.name == name) {
        return Ok(compiled.clone());
    }
    let mut options = vec![
        format!("--gpu-architecture=compute_{LEAST_CAPABILITY}0"),
        "--std=c++17".to_string(),
        format!("-DDIM={dim}"),
        format!("-DWARPS={WARPS}"),
        format!("-DATTENTION_ROWS={}", attention_rows(dim)),
        format!("-DVOTES_ROWS={VOTES_ROWS}"),
        format!("-DSTRONGEST_ROWS={STRONGEST_ROWS}"),
    ];
    if dtype == DType::BF16 {
        options.push("-DBF16".to_string());
    }
    let options = CompileOptions { options, name: Some(format!("{name}.cu")), ..CompileOptions::default() };
    let ptx = compile_ptx_with_opts(SOURCE, options).w()?.to_src();
    let compiled = Arc::new(Compiled { name, ptx });
    known.push(compiled.clone());
    Ok(compiled)
}
