//! Devices by name, the number of threads on the CPU, and the CUDA part of libtorch.
//!
//! # CUDA
//! A linker drops `libtorch_cuda.so`, because no program names a symbol of it. libtorch then finds no GPU. [`parse`]
//! loads it for a CUDA device. This must happen before the first tensor is made, because libtorch looks for its CUDA
//! part once. Use this library and its CUDA libraries from the `torch` package on PyPI and its dependencies.
//!
//! # Threads
//! libtorch has its own pool (OpenMP; `OMP_NUM_THREADS` threads, or else one for each core). The attention kernels
//! of this crate use it, too. [`set_threads`] sets its size.

use atedm_core::{Error, Result};
pub use atedm_cpu_kernels::keep_freed_memory;
use tch::{Cuda, Device};

use crate::error::NAME;

/// The device called `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`Error::Config`] for another name. [`Error::Unsupported`] if libtorch's CUDA part cannot be loaded, or if this
/// GPU does not exist.
pub fn parse(name: &str) -> Result<Device> {
    let unknown = || Error::config("device", format!("expected cpu, cuda or cuda:N, got {name:?}"));
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number: u32 = match name.strip_prefix("cuda").ok_or_else(unknown)? {
        "" => 0,
        rest => rest.strip_prefix(':').and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?,
    };
    let unsupported =
        |reason: String| Error::Unsupported { backend: NAME, op: format!("device {name} here: {reason}") };
    cuda::load().map_err(unsupported)?;
    let found = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    if i64::from(number) >= found {
        return Err(unsupported(match found {
            0 => "libtorch finds no NVIDIA GPU (is there one, and a driver for CUDA 13?)".to_string(),
            1 => "there is one GPU, cuda:0".to_string(),
            more => format!("there are {more} GPUs, cuda:0 to cuda:{}", more - 1),
        }));
    }
    Cuda::cudnn_set_benchmark(true);
    Ok(Device::Cuda(number as usize))
}

/// Sets the number of threads of libtorch and of the kernels of this crate.
///
/// # Errors
/// [`Error::Config`] for 0 threads, or for more threads than libtorch can count.
pub fn set_threads(threads: usize) -> Result<()> {
    let count = i32::try_from(threads).ok().filter(|&count| count > 0);
    let count = count.ok_or_else(|| {
        Error::config("threads", format!("expected at least 1 and below 2^31, got {threads}"))
    })?;
    tch::set_num_threads(count);
    Ok(())
}

#[cfg(all(unix, not(feature = "doc-only")))]
mod cuda {
    //! Loads `libtorch_cuda`.

    use std::ffi::CStr;

    use crate::error::without_back_trace;

    const LIBRARY: &CStr =
        if cfg!(target_os = "macos") { c"libtorch_cuda.dylib" } else { c"libtorch_cuda.so" };

    /// Loads libtorch's CUDA part for the rest of the process. Does nothing if it is already loaded.
    pub(super) fn load() -> Result<(), String> {
        // SAFETY: both calls take or return nul-terminated strings, and the string of `dlerror` is copied at once.
        // The library's initialisers register libtorch's CUDA operations, which is the purpose of loading it. It is
        // never unloaded.
        #[allow(unsafe_code)]
        let failure = unsafe {
            if libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL).is_null() {
                let message = libc::dlerror();
                let known = !message.is_null();
                Some(if known {
                    CStr::from_ptr(message).to_string_lossy().into_owned()
                } else {
                    String::new()
                })
            } else {
                None
            }
        };
        failure.map_or(Ok(()), |reason| {
            let library = LIBRARY.to_string_lossy();
            Err(format!(
                "{library} cannot be loaded: {} (it needs the CUDA libraries of PyPI's torch)",
                without_back_trace(&reason)
            ))
        })
    }
}

#[cfg(not(all(unix, not(feature = "doc-only"))))]
mod cuda {
    /// Does nothing: on other systems the user's own program links it.
    pub(super) fn load() -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        assert!(matches!(parse("cpu"), Ok(Device::Cpu)));
        for bad in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cuda0", "metal"] {
            assert!(matches!(parse(bad), Err(Error::Config { .. })), "{bad}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_one_clear_line() {
        let message = parse("cuda:4000").unwrap_err().to_string();
        assert!(message.starts_with("tch does not support device cuda:4000 here: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn no_threads_is_an_error() {
        assert!(matches!(set_threads(0), Err(Error::Config { .. })));
    }
}
