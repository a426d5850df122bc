//! The tasks of the search for the strongest rows.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Cpu;
use crate::element::Element;
use crate::pack::PANEL;
use crate::threads::parallel;
use crate::typed::{TypedPass, shift};

/// At most 64 columns of one batch entry.
pub(crate) struct Task<'a> {
    pub(crate) batch: usize,
    /// Its first column is the one of `part` tasks before it.
    pub(crate) part: usize,
    /// The log-sum-exp, `[h, kept]`.
    pub(crate) lse: &'a [f32],
    pub(crate) best: &'a mut [i64],
}

/// Runs `work` on each task, with memory that `new` makes for a thread. `false` if it was `false` for a task.
pub(crate) fn each<'a, E: Element, M>(
    cpu: Cpu<'_>,
    pass: &TypedPass<'a, E>,
    lse: &'a [f32],
    into: &'a mut [i64],
    new: impl Fn() -> M + Sync,
    work: impl Fn(&mut M, Task<'a>) -> bool + Sync,
) -> bool {
    let [batch, heads, kept, pruned] = pass.sizes();
    assert!(lse.len() == batch * heads * kept && into.len() == batch * pruned, "room for the rows");
    let tasks = into.chunks_mut(pruned).zip(lse.chunks(heads * kept)).enumerate();
    let tasks = tasks.flat_map(|(batch, (best, lse))| {
        let parts = best.chunks_mut(PANEL).enumerate();
        parts.map(move |(part, best)| Task { batch, part, lse, best })
    });
    let ordered = AtomicBool::new(true);
    parallel(cpu.threads, tasks, new, |memory, task| {
        if !work(memory, task) {
            ordered.store(false, Ordering::Relaxed);
        }
    });
    ordered.into_inner()
}

/// The exponents' shifts of at most `N` rows. Rows beyond the last have none.
pub(crate) fn shifts<const N: usize>(lse: &[f32]) -> [f32; N] {
    let mut shifts = [0.0; N];
    for (to, &lse) in shifts.iter_mut().zip(lse) {
        *to = shift(lse);
    }
    shifts
}
