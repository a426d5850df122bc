//! A vote on keys without the map: `u_j = Σ_i s_i A_ij` with `A_ij = e^(q_i·k_j · scale − lse_i)`.
//!
//! A task is some panels of 64 keys of one head, and all queries pass over them. Each vote is therefore summed in
//! one place, block of rows by block of rows.

pub(crate) mod task;

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use self::task::{PANELS, Task};
use crate::cpu::Level;
use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, exp2, floats};
use crate::pack::{Grain, Panel, WIDTH, depth, pack_keys, pack_rows};
use crate::threads::parallel;
use crate::tile::{ROWS, Tile, product, zeros};
use crate::typed::TypedPass;
use crate::units::{self, Units};
use crate::{Cpu, Numbers, Pass, avx2};

/// The number of tiles in a block.
const TILES: usize = 16;
const BLOCK: usize = TILES * ROWS;

/// Writes `Aᵀ s` to `[b, h, n]`, for the pass's scores and the rows' log-sum-exp `[b, h, m]`. Without scores it
/// writes nothing.
///
/// # Panics
/// If the operands do not fit each other, do not all have one type, or are bf16 where [`Cpu::of_bf16`] is `None`.
pub fn votes(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [f32]) {
    match pass.q.parts().0 {
        Numbers::F32(_) if cpu.level < Level::Avx512Bf16 => avx2::votes(cpu, pass, lse, into),
        Numbers::F32(_) => run::<f32, Registers<f32>>(cpu, pass, lse, into),
        Numbers::Bf16(_) if cpu.level >= Level::Amx => run::<u16, Tiled>(cpu, pass, lse, into),
        Numbers::Bf16(_) => run::<u16, Registers<u16>>(cpu.for_bf16(), pass, lse, into),
    }
}

fn run<E: Element, W: Work<E>>(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [f32]) {
    let pass = TypedPass::<E>::new(pass);
    // SAFETY: `Cpu` proves that the machine has the instructions.
    #[allow(unsafe_code)]
    parallel(
        cpu.threads,
        Task::all(&pass, lse, into),
        || unsafe { W::new(depth::<E>(pass.k.dims()[3])) },
        |work, task| unsafe { work.columns(&pass, task) },
    );
}

/// The panels of a task's keys.
fn panels(task: &Task<'_>, grain: Grain) -> impl Iterator<Item = Panel> + use<> {
    let first = task.part * PANELS;
    Panel::all(task.votes.len(), grain).map(move |panel| Panel { at: first + panel.at, ..panel })
}

/// Writes the votes of a task.
fn write(task: Task<'_>, sums: &[[Lanes; WIDTH]; PANELS]) {
    for (votes, sums) in task.votes.chunks_mut(LANES).zip(sums.as_flattened()) {
        votes.copy_from_slice(&floats(*sums)[..votes.len()]);
    }
}

/// The working memory of one thread.
///
/// # Safety of its functions
/// They need a processor with AVX512-BF16, and those of [`Tiled`] need AMX.
#[allow(unsafe_code)]
trait Work<E: Element>: Sized {
    /// For keys of this many words.
    unsafe fn new(depth: usize) -> Self;
    /// Runs a task.
    unsafe fn columns(&mut self, pass: &TypedPass<'_, E>, task: Task<'_>);
}

/// A block in registers: 6 x 64 logits at a time.
struct Registers<E: Element> {
    keys: Vec<Words>,
    q: [Tile<E>; TILES],
    depth: usize,
}

#[allow(unsafe_code)]
impl<E: Element> Work<E> for Registers<E> {
    unsafe fn new(depth: usize) -> Self {
        Self { keys: vec![NO_WORDS; PANELS * WIDTH * depth], q: [Tile::ZERO; TILES], depth }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(&mut self, pass: &TypedPass<'_, E>, task: Task<'_>) {
        let Self { keys, q, depth } = self;
        let (head, m, by_panel) = (task.head, task.lse.len(), *depth * WIDTH);
        for (panel, keys) in panels(&task, Grain::REGISTERS).zip(keys.chunks_mut(by_panel)) {
            pack_keys(&mut keys[..*depth * panel.width], &pass.k, head, panel);
        }
        let factor = pass.factor();
        let mut sums = [[NO_LANES; WIDTH]; PANELS];
        for start in (0..m).step_by(BLOCK) {
            let len = BLOCK.min(m - start);
            let tiles = &mut q[..len.div_ceil(ROWS)];
            pack_rows(tiles.iter_mut().flat_map(|tile| &mut tile.0), &pass.q, head, start, len);
            let rows = task.rows::<BLOCK>(start);
            let rows = rows.as_chunks().0;
            for ((panel, keys), sums) in
                panels(&task, Grain::REGISTERS).zip(keys.chunks(by_panel)).zip(&mut sums)
            {
                let keys = &keys[..*depth * panel.width];
                match panel.width {
                    1 => cast::<E, 1>(tiles, keys, factor, rows, sums),
                    2 => cast::<E, 2>(tiles, keys, factor, rows, sums),
                    3 => cast::<E, 3>(tiles, keys, factor, rows, sums),
                    _ => cast::<E, 4>(tiles, keys, factor, rows, sums),
                }
            }
        }
        write(task, &sums);
    }
}

/// A block of bf16 in AMX's tiles.
struct Tiled {
    units: Units,
    keys: Vec<Words>,
    depth: usize,
}

#[allow(unsafe_code)]
impl Work<u16> for Tiled {
    unsafe fn new(depth: usize) -> Self {
        let depth = depth.next_multiple_of(Grain::TILES.words);
        // SAFETY: the caller's promise.
        Self { units: unsafe { Units::new() }, keys: vec![NO_WORDS; PANELS * WIDTH * depth], depth }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(&mut self, pass: &TypedPass<'_, u16>, task: Task<'_>) {
        let Self { units, keys, depth } = self;
        let (head, m, by_panel) = (task.head, task.lse.len(), *depth * WIDTH);
        let panels: Vec<_> = panels(&task, Grain::TILES).collect();
        for (&panel, keys) in panels.iter().zip(keys.chunks_mut(by_panel)) {
            pack_keys(&mut keys[..*depth * panel.width], &pass.k, head, panel);
        }
        let factor = _mm512_set1_ps(pass.factor());
        let mut sums = [[NO_LANES; WIDTH]; PANELS];
        for start in (0..m).step_by(units::BLOCK) {
            let len = units::BLOCK.min(m - start);
            units.pack(&pass.q, head, start, len);
            let rows = task.rows::<{ units::BLOCK }>(start);
            let keys = |panel: Panel| &keys[panel.at % PANELS * by_panel..][..*depth * panel.width];
            units.each(&panels, len, keys, |unit, logits| {
                let mut block = [_mm512_setzero_ps(); units::PAIR];
                for (logits, &(shift, score)) in logits.iter().zip(&rows[unit.row..]) {
                    let (shift, score) = (_mm512_set1_ps(shift), _mm512_set1_ps(score));
                    for (sum, &logits) in block.iter_mut().zip(logits) {
                        *sum = _mm512_fmadd_ps(score, exp2(_mm512_fmadd_ps(logits, factor, shift)), *sum);
                    }
                }
                let sums = &mut sums[unit.panel.at % PANELS][unit.register..];
                for (sum, block) in sums.iter_mut().zip(block) {
                    *sum = _mm512_add_ps(*sum, block);
                }
            });
        }
        write(task, &sums);
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
