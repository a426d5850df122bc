//! Tasks on the threads that the caller lends.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The threads of a host program. A backend lends the pool of its tensor library, because threads of a second pool
/// would share the cores with that library's.
pub trait Threads: Debug + Sync {
    /// The number of threads that may work at once.
    fn count(&self) -> usize;

    /// Calls `work` on at most `threads` threads, this one included. Returns when every call has ended.
    fn run(&self, threads: usize, work: &(dyn Fn() + Sync));
}

/// New threads for every call, this many.
#[derive(Debug, Clone, Copy)]
pub struct OwnThreads(pub usize);

impl Threads for OwnThreads {
    fn count(&self) -> usize {
        self.0
    }

    fn run(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
}

/// Runs `task(scratch, item)` for every item on the given threads. Items start in their order. Each thread makes its
/// own scratch.
pub fn parallel<I: Send, S>(
    threads: &dyn Threads,
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
    match threads.count().min(items.len()) {
        0 | 1 => work(),
        some => threads.run(some, &work),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mutex, OwnThreads, parallel};

    #[test]
    fn every_item_once() {
        for threads in [1, 2, 5].map(OwnThreads) {
            let done = Mutex::new(Vec::new());
            let mut numbers = [0; 40];
            parallel(
                &threads,
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
            assert!(done.into_iter().eq(0..40));
            assert!(numbers.into_iter().eq(0..40));
        }
        parallel(&OwnThreads(2), [(); 0], || (), |(), ()| panic!("nothing to do"));
    }
}
