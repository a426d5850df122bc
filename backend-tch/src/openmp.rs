//! libtorch's threads, for the kernels.
//!
//! libtorch's workers (OpenMP) spin for some milliseconds after each operation, waiting for the next one. A second
//! pool would share the cores with them. Tasks that run as the next parallel region of the same pool find the
//! workers awake. The entry is looked up by name, because libtorch brings its own copy of the library.

use std::ffi::{c_uint, c_void};
use std::sync::OnceLock;

use atedm_cpu_kernels::{OwnThreads, Threads};

/// `GOMP_parallel(region, data, threads, flags)`. Both GNU's and LLVM's OpenMP have it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// libtorch's OpenMP threads, or new threads in a process without OpenMP.
#[derive(Debug)]
pub(crate) struct OpenMp;

impl Threads for OpenMp {
    fn count(&self) -> usize {
        usize::try_from(tch::get_num_threads()).unwrap_or(1)
    }

    fn run(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        match openmp() {
            Some(openmp) => region(openmp, threads, work),
            None => OwnThreads(threads).run(threads, work),
        }
    }
}

/// Runs `work` on every thread of an OpenMP region, and returns when all have finished.
#[allow(unsafe_code)]
fn region(openmp: Parallel, threads: usize, work: &(dyn Fn() + Sync)) {
    extern "C" fn enter(work: *mut c_void) {
        // SAFETY: `region` passes a pointer to a reference that threads may share, and that outlives the region.
        let work = unsafe { *work.cast::<&(dyn Fn() + Sync)>() };
        work();
    }
    let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
    // SAFETY: `openmp` is the function of this type (see `openmp`). It calls `enter` with the given pointer on at
    // most as many threads, and returns when every thread has left it.
    unsafe { openmp(enter, std::ptr::from_ref(&work).cast_mut().cast(), threads, 0) }
}

/// The entry of the OpenMP library that this process has loaded, if any.
fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    #[allow(unsafe_code)]
    *FOUND.get_or_init(|| {
        // SAFETY: this looks up a name that ends in zero, among the loaded libraries.
        let entry = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: the name belongs to this one function, whose signature is part of GCC's stable binary interface.
        // A null pointer becomes `None`.
        unsafe { std::mem::transmute::<*mut c_void, Option<Parallel>>(entry) }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{openmp, region};

    #[test]
    fn every_thread_of_a_region_works_once() {
        let Some(openmp) = openmp() else {
            println!("skipped: this process has no OpenMP");
            return;
        };
        for threads in [1, 2, 5] {
            let calls = AtomicUsize::new(0);
            region(openmp, threads, &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert!((1..=threads).contains(&calls.into_inner()), "{threads}");
        }
    }
}
