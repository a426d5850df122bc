//! Devices by name, and the number of threads on the CPU.
//!
//! # Threads
//! The CPU kernels run on rayon's global pool. Candle's matrix products and convolutions run there too. The variable
//! `RAYON_NUM_THREADS` (or else the number of physical cores) sets into how many tasks Candle cuts a product. Candle also
//! has its own small pool for element-wise work (`CANDLE_NUM_THREADS`, or else the same number). [`set_threads`] sets the
//! global pool. For the same number in Candle's own part, a program sets `RAYON_NUM_THREADS` before its first thread
//! starts. A call of a kernel works on the calling thread, too. If a program makes all tensors on one thread, that thread should
//! be one of the pool's (`rayon::ThreadPoolBuilder::use_current_thread`, before the first tensor). Otherwise there is one thread
//! more than cores: with two, a small picture took a quarter more time.
//! No kernel of this crate cuts its sums by the number of threads, so results are the same for any number.

use atedm_core::{Error, Result, one_line};
pub use atedm_cpu_kernels::keep_freed_memory;
use candle_core::Device;

use crate::error::NAME;

/// The device called `cpu`, `cuda`, `cuda:N`, `metal` or `metal:N`.
///
/// # Errors
/// [`Error::Config`] for another name. [`Error::Unsupported`] if this build lacks the cargo feature (`cuda`, `metal`).
/// [`Error::Backend`] if the device cannot be opened.
pub fn parse(name: &str) -> Result<Device> {
    let (kind, ordinal) = match name.split_once(':') {
        Some((kind, ordinal)) => (kind, Some(ordinal)),
        None => (name, None),
    };
    let unknown =
        || Error::config("device", format!("expected cpu, cuda, cuda:N, metal or metal:N, got {name:?}"));
    let number = match ordinal {
        None => 0,
        Some(digits) if kind != "cpu" => digits.parse().map_err(|_| unknown())?,
        Some(_) => return Err(unknown()),
    };
    match kind {
        "cpu" => Ok(Device::Cpu),
        "cuda" => open(name, "cuda", cfg!(feature = "cuda"), || Device::new_cuda(number)),
        "metal" => open(name, "metal", cfg!(feature = "metal"), || Device::new_metal(number)),
        _ => Err(unknown()),
    }
}

fn open(
    name: &str,
    feature: &str,
    built: bool,
    open: impl FnOnce() -> candle_core::Result<Device>,
) -> Result<Device> {
    if !built {
        let op = format!("device {name} in this build: it lacks the cargo feature `{feature}`");
        return Err(Error::Unsupported { backend: NAME, op });
    }
    open().map_err(|error| Error::Unsupported {
        backend: NAME,
        op: format!("device {name} here: {}", one_line(crate::error::bare(error))),
    })
}

/// Sets the number of threads of rayon's global pool. Call it once, before any tensor work.
///
/// # Errors
/// [`Error::Config`] for 0 threads, or if the pool already runs with another number.
pub fn set_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(Error::config("threads", "expected at least 1, got 0"));
    }
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let running = rayon::current_num_threads();
    if built.is_err() && running != threads {
        return Err(Error::config(
            "threads",
            format!("the pool runs already with {running}, asked for {threads}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        assert!(matches!(parse("cpu"), Ok(Device::Cpu)));
        for bad in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "metal:1:2"] {
            assert!(matches!(parse(bad), Err(Error::Config { .. })), "{bad}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_missing_feature_is_named() {
        let message = parse("cuda:0").map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("cargo feature `cuda`"), "{message}");
    }

    #[cfg(not(feature = "metal"))]
    #[test]
    fn metal_needs_its_feature() {
        let message = parse("metal").map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("cargo feature `metal`"), "{message}");
    }

    #[test]
    fn no_threads_is_an_error() {
        assert!(matches!(set_threads(0), Err(Error::Config { .. })));
    }
}
