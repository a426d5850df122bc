//! A vote on keys without the map, as in [`crate::votes()`]. A task is 256 keys of one head.

use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};

use super::lanes::{LANES, Lanes, ZERO, add_all, exp2, floats};
use super::pack::{pack_keys, pack_rows};
use super::tile::{COLUMNS, Line, ROWS, Tile, ZEROS, product};
use crate::threads::parallel;
use crate::typed::TypedPass;
use crate::votes::task::{KEYS, Task};
use crate::{Cpu, Pass};

/// The number of lines of 16 keys in a task.
const LINES: usize = KEYS / COLUMNS;
/// The number of tiles in a block. Its queries stay in the first cache.
const TILES: usize = 16;
const BLOCK: usize = TILES * ROWS;

/// Writes `Aᵀ s` to `[b, h, n]`.
pub(crate) fn votes(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [f32]) {
    let pass = TypedPass::<f32>::new(pass);
    let dim = pass.k.dims()[3];
    parallel(
        cpu.threads,
        Task::all(&pass, lse, into),
        || Work { keys: vec![Line::ZERO; LINES * dim], q: [Tile::ZERO; TILES] },
        // SAFETY: `Cpu` proves that the machine has the instructions.
        #[allow(unsafe_code)]
        |work, task| unsafe { work.columns(&pass, task) },
    );
}

/// The working memory of one thread.
struct Work {
    keys: Vec<Line>,
    q: [Tile; TILES],
}

impl Work {
    #[target_feature(enable = "avx2,fma")]
    fn columns(&mut self, pass: &TypedPass<'_, f32>, task: Task<'_>) {
        let (head, m) = (task.head, task.lse.len());
        let dim = pass.k.dims()[3];
        let keys = &mut self.keys[..task.votes.len().div_ceil(COLUMNS) * dim];
        for (at, keys) in keys.chunks_mut(dim).enumerate() {
            let len = COLUMNS.min(task.votes.len() - at * COLUMNS);
            pack_keys(keys, &pass.k, head, task.part * KEYS + at * COLUMNS, len);
        }
        let factor = _mm256_set1_ps(pass.factor());
        let mut sums = [[ZERO; 2]; LINES];
        for start in (0..m).step_by(BLOCK) {
            let len = BLOCK.min(m - start);
            let q = &mut self.q[..len.div_ceil(ROWS)];
            pack_rows(q, &pass.q, head, start, len);
            let rows = task.rows::<BLOCK>(start);
            for (keys, sums) in keys.chunks(dim).zip(&mut sums) {
                add_all(sums, &cast(q, keys, factor, rows.as_chunks().0));
            }
        }
        for (votes, sums) in task.votes.chunks_mut(LANES).zip(sums.as_flattened()) {
            votes.copy_from_slice(&floats(*sums)[..votes.len()]);
        }
    }
}

/// The votes of a block of rows on one line of keys. Columns beyond the last key hold values that nobody reads.
#[target_feature(enable = "avx2,fma")]
fn cast(q: &[Tile], keys: &[Line], factor: Lanes, rows: &[[(f32, f32); ROWS]]) -> [Lanes; 2] {
    let mut sums = [ZERO; 2];
    for (q, rows) in q.iter().zip(rows) {
        let logits = product(q, keys, ZEROS);
        for (logits, &(shift, score)) in logits.iter().zip(rows) {
            let (shift, score) = (_mm256_set1_ps(shift), _mm256_set1_ps(score));
            for (sum, &logits) in sums.iter_mut().zip(logits) {
                *sum = _mm256_fmadd_ps(score, exp2(_mm256_fmadd_ps(logits, factor, shift)), *sum);
            }
        }
    }
    sums
}
