//! A vote on keys without the map: `u_j = Σ_i s_i A_ij` with `A_ij = e^(q_i·k_j · scale − lse_i)`.
//!
//! A task is some panels of 64 keys of one head, and all queries pass over them. Each vote is therefore summed in
//! one place, block of rows by block of rows.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
use std::f64::consts::LOG2_E;

use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, exp2, floats};
use crate::pack::{Grain, PANEL, Panel, WIDTH, depth, pack_keys, pack_rows};
use crate::threads::parallel;
use crate::tile::{ROWS, Tile, product, zeros};
use crate::typed::TypedPass;
use crate::{Cpu, Numbers, Pass};

/// The number of panels in a task.
const PANELS: usize = 4;
/// The number of tiles in a block.
const TILES: usize = 16;
const BLOCK: usize = TILES * ROWS;

/// Writes `Aᵀ s` to `[b, h, n]`, for the pass's scores and the rows' log-sum-exp `[b, h, m]`. Without scores it
/// writes nothing.
///
/// # Panics
/// If the operands do not fit each other, or do not all have one type.
pub fn votes(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [f32]) {
    match pass.q.parts().0 {
        Numbers::Bf16(_) => typed::<u16>(cpu, TypedPass::new(pass), lse, into),
        Numbers::F32(_) => typed::<f32>(cpu, TypedPass::new(pass), lse, into),
    }
}

fn typed<E: Element>(cpu: Cpu<'_>, pass: TypedPass<'_, E>, lse: &[f32], into: &mut [f32]) {
    let Some(scores) = pass.scores else {
        return;
    };
    let [batch, heads, m, n] = pass.sizes();
    assert!(lse.len() == scores.len() && into.len() == batch * heads * n, "room for the votes");
    let tasks = into.chunks_mut(n).zip(lse.chunks(m).zip(scores.chunks(m))).enumerate();
    let tasks = tasks.flat_map(|(at, (votes, (lse, scores)))| {
        let parts = votes.chunks_mut(PANELS * PANEL).enumerate();
        parts.map(move |(part, votes)| Task { head: (at / heads, at % heads), part, lse, scores, votes })
    });
    // SAFETY: `Cpu` proves that the machine has the instructions.
    #[allow(unsafe_code)]
    parallel(
        cpu.threads,
        tasks,
        || Scratch::<E>::new(depth::<E>(pass.k.dims()[3])),
        |scratch, task| unsafe {
            columns(&pass, scratch, task);
        },
    );
}

/// Some keys of one head, and all of its queries.
struct Task<'a> {
    head: (usize, usize),
    part: usize,
    lse: &'a [f32],
    scores: &'a [f32],
    votes: &'a mut [f32],
}

/// The working memory of one thread.
struct Scratch<E: Element> {
    keys: Vec<Words>,
    q: [Tile<E>; TILES],
    depth: usize,
}

impl<E: Element> Scratch<E> {
    fn new(depth: usize) -> Self {
        Self { keys: vec![NO_WORDS; PANELS * WIDTH * depth], q: [Tile::ZERO; TILES], depth }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn columns<E: Element>(pass: &TypedPass<'_, E>, scratch: &mut Scratch<E>, task: Task<'_>) {
    let Task { head, part, lse, scores, votes } = task;
    let Scratch { keys, q, depth } = scratch;
    let panel =
        |(at, votes): (usize, &mut [f32])| Panel::new(part * PANELS + at, votes.len(), Grain::REGISTERS);
    let by_panel = *depth * WIDTH;
    for (at, keys) in votes.chunks_mut(PANEL).enumerate().map(panel).zip(keys.chunks_mut(by_panel)) {
        pack_keys(&mut keys[..*depth * at.width], &pass.k, head, at);
    }
    let factor = (f64::from(pass.scale) * LOG2_E) as f32;
    let mut sums = [[NO_LANES; WIDTH]; PANELS];
    for (block, (lse, scores)) in lse.chunks(BLOCK).zip(scores.chunks(BLOCK)).enumerate() {
        let tiles = &mut q[..lse.len().div_ceil(ROWS)];
        pack_rows(tiles.iter_mut().flat_map(|tile| &mut tile.0), &pass.q, head, block * BLOCK, lse.len());
        let mut rows = [[(0.0, 0.0); ROWS]; TILES];
        for ((row, &lse), &score) in rows.as_flattened_mut().iter_mut().zip(lse).zip(scores) {
            *row = ((-f64::from(lse) * LOG2_E) as f32, score);
        }
        let panels = votes.chunks_mut(PANEL).enumerate().map(panel);
        for ((at, keys), sums) in panels.zip(keys.chunks(by_panel)).zip(&mut sums) {
            let keys = &keys[..*depth * at.width];
            match at.width {
                1 => cast::<E, 1>(tiles, keys, factor, &rows, sums),
                2 => cast::<E, 2>(tiles, keys, factor, &rows, sums),
                3 => cast::<E, 3>(tiles, keys, factor, &rows, sums),
                _ => cast::<E, 4>(tiles, keys, factor, &rows, sums),
            }
        }
    }
    for (votes, sums) in votes.chunks_mut(LANES).zip(sums.as_flattened()) {
        votes.copy_from_slice(&floats(*sums)[..votes.len()]);
    }
}

/// The votes of a block of rows on one panel. Columns beyond the last key hold values that nobody reads.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn cast<E: Element, const C: usize>(
    q: &[Tile<E>],
    keys: &[Words],
    factor: f32,
    rows: &[[(f32, f32); ROWS]],
    sums: &mut [Lanes; WIDTH],
) {
    let keys = keys.as_chunks::<C>().0;
    let factor = _mm512_set1_ps(factor);
    let mut block = [_mm512_setzero_ps(); C];
    for (q, rows) in q.iter().zip(rows) {
        let logits = product(q, keys, zeros::<C>());
        for (logits, &(shift, score)) in logits.iter().zip(rows) {
            let (shift, score) = (_mm512_set1_ps(shift), _mm512_set1_ps(score));
            for (sum, &logits) in block.iter_mut().zip(logits) {
                *sum = _mm512_fmadd_ps(score, exp2(_mm512_fmadd_ps(logits, factor, shift)), *sum);
            }
        }
    }
    for (sum, block) in sums.iter_mut().zip(block) {
        *sum = _mm512_add_ps(*sum, block);
    }
}
