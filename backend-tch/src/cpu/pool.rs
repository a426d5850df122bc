//! Tasks on several threads, those of libtorch where it has some.
//!
//! libtorch's workers (OpenMP) spin for some milliseconds after each of its operations, waiting for the next one. A
//! second pool would have to share the cores with them; as the next parallel region of the same pool, the tasks find
//! them awake. The entry is looked up by name, as libtorch brings its own copy of the library.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// `GOMP_parallel(region, data, threads, flags)`: GNU's and LLVM's OpenMP both have it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// Runs `task(scratch, item)` for every item, started in their order, on at most `threads` threads, this one included;
/// each makes its own scratch.
pub(super) fn parallel<I: Send, S>(
    threads: usize,
    items: impl IntoIterator<Item = I>,
    scratch: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, I) + Sync,
) {
    parallel_in(openmp(), threads, items, scratch, task);
}

/// As [`parallel`], in a region of this OpenMP library, or else on threads of its own.
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

/// Every thread of an OpenMP region runs `work`; returns when all have.
#[allow(unsafe_code)]
fn region<F: Fn() + Sync>(openmp: Parallel, threads: usize, work: &F) {
    extern "C" fn enter<F: Fn() + Sync>(work: *mut c_void) {
        // SAFETY: `region` passes a reference to an `F` that may be shared between threads, and outlives the region.
        let work = unsafe { &*work.cast::<F>() };
        work();
    }
    let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
    // SAFETY: `openmp` is the function of this type (see `openmp`); it calls `enter` with the pointer given, on at most
    // as many threads, and returns when every one has left it.
    unsafe { openmp(enter::<F>, std::ptr::from_ref(work).cast_mut().cast(), threads, 0) }
}

/// The entry of the OpenMP library that this process has loaded, if it has.
fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    #[allow(unsafe_code)]
    *FOUND.get_or_init(|| {
        // SAFETY: a look-up of a name that ends in zero, among the libraries already loaded.
        let entry = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: the name belongs to this one function, whose signature is part of GCC's stable binary interface;
        // a null pointer becomes `None`.
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
