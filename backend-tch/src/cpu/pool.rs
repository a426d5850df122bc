//! Tasks on several threads. They are libtorch's threads, if it has some.
//!
//! libtorch's workers (OpenMP) spin for some milliseconds after each operation, waiting for the next one. A second
//! pool would share the cores with them. Tasks that run as the next parallel region of the same pool find the
//! workers awake. The entry is looked up by name, because libtorch brings its own copy of the library.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// `GOMP_parallel(region, data, threads, flags)`. Both GNU's and LLVM's OpenMP have it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// Runs `task(scratch, item)` for every item on at most `threads` threads, including this one. Items start in their
/// order. Each thread makes its own scratch.
pub(super) fn parallel<I: Send, S>(
    threads: usize,
    items: impl IntoIterator<Item = I>,
    scratch: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, I) + Sync,
) {
    parallel_in(openmp(), threads, items, scratch, task);
}

/// Like [`parallel`], in a region of this OpenMP library, or else on new threads.
fn parallel_in<I: Send, S>(
    openmp: Option<Parallel>,
    threads: usize,
    items: impl IntoIterator<Item = I>,
    scratch: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, I) + Sync,
) {
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = None;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let item = item.lock().ok().and_then(|mut item| item.take());
            if let Some(item) = item {
                task(own.get_or_insert_with(&scratch), item);
            }
        }
    };
    match (threads.min(items.len()), openmp) {
        (0 | 1, _) => work(),
        (threads, Some(openmp)) => region(openmp, threads, &work),
        (threads, None) => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        }),
    }
}

/// Runs `work` on every thread of an OpenMP region, and returns when all have finished.
#[allow(unsafe_code)]
fn region<F: Fn() + Sync>(openmp: Parallel, threads: usize, work: &F) {
    extern "C" fn enter<F: Fn() + Sync>(work: *mut c_void) {
        // SAFETY: `region` passes a reference to an `F` that threads may share, and that outlives the region.
        let work = unsafe { &*work.cast::<F>() };
        work();
    }
    let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
    // SAFETY: `openmp` is the function of this type (see `openmp`). It calls `enter` with the given pointer on at
    // most as many threads, and returns when every thread has left it.
    unsafe { openmp(enter::<F>, std::ptr::from_ref(work).cast_mut().cast(), threads, 0) }
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
    use super::{Mutex, openmp, parallel_in};

    #[test]
    fn every_item_once() {
        for (entry, name) in [(None, "own threads"), (openmp(), "OpenMP")] {
            if name == "OpenMP" && entry.is_none() {
                println!("skipped: this process has no OpenMP");
                continue;
            }
            for threads in [1, 2, 5] {
                let done = Mutex::new(Vec::new());
                let mut numbers = [0; 40];
                parallel_in(
                    entry,
                    threads,
                    numbers.iter_mut().enumerate(),
                    || 0,
                    |count, (at, number)| {
                        *number += at;
                        *count += 1;
                        done.lock().expect("nobody panics").push(at);
                    },
                );
                let mut done = done.into_inner().expect("nobody panics");
                done.sort_unstable();
                assert!(done.into_iter().eq(0..40), "{name}");
                assert!(numbers.into_iter().eq(0..40), "{name}");
            }
            parallel_in(entry, 2, [(); 0], || (), |(), ()| panic!("nothing to do"));
        }
    }
}
