//! A vote on keys without the map: `u_j = Σ_i s_i A_ij` with `A_ij = e^(q_i·k_j · scale − lse_i)`.
//!
//! A task is some panels of 64 keys of one head, and all queries pass over them. Each vote is therefore summed in
//! one place, block of rows by block of rows.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
use std::f64::consts::LOG2_E;

use crate::cpu::Level;
use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, exp2, floats};
use crate::pack::{Grain, PANEL, Panel, WIDTH, depth, pack_keys, pack_rows};
use crate::threads::parallel;
use crate::tile::{ROWS, Tile, product, zeros};
use crate::typed::TypedPass;
use crate::units::{self, Units};
use crate::{Cpu, Numbers, Pass, avx2};

/// The number of panels in a task.
const PANELS: usize = 4;
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

/// The number of keys in a task.
pub(crate) const KEYS: usize = PANELS * PANEL;

/// Some keys of one head, and all of its queries.
pub(crate) struct Task<'a> {
    pub(crate) head: (usize, usize),
    /// Its first keys are those of `part` tasks before it.
    pub(crate) part: usize,
    pub(crate) lse: &'a [f32],
    scores: &'a [f32],
    pub(crate) votes: &'a mut [f32],
}

impl<'a> Task<'a> {
    /// The tasks of a vote. None without scores.
    pub(crate) fn all<E: Element>(
        pass: &TypedPass<'a, E>,
        lse: &'a [f32],
        into: &'a mut [f32],
    ) -> impl Iterator<Item = Self> + use<'a, E> {
        let ([batch, heads, m, n], scores) = (pass.sizes(), pass.scores.unwrap_or_default());
        assert!(
            scores.is_empty() || (lse.len() == scores.len() && into.len() == batch * heads * n),
            "room for the votes"
        );
        let tasks = into.chunks_mut(n).zip(lse.chunks(m).zip(scores.chunks(m))).enumerate();
        tasks.flat_map(move |(at, (votes, (lse, scores)))| {
            let parts = votes.chunks_mut(KEYS).enumerate();
            parts.map(move |(part, votes)| Self { head: (at / heads, at % heads), part, lse, scores, votes })
        })
    }

    /// The panels of its keys.
    fn panels(&self, grain: Grain) -> impl Iterator<Item = Panel> + use<> {
        let first = self.part * PANELS;
        Panel::all(self.votes.len(), grain).map(move |panel| Panel { at: first + panel.at, ..panel })
    }

    /// The exponents' shifts, and the scores, of at most `N` rows from `start` on. Rows beyond the last are zero.
    pub(crate) fn rows<const N: usize>(&self, start: usize) -> [(f32, f32); N] {
        let mut rows = [(0.0, 0.0); N];
        let known = self.lse[start..].iter().zip(&self.scores[start..]);
        for (row, (&lse, &score)) in rows.iter_mut().zip(known) {
            *row = ((-f64::from(lse) * LOG2_E) as f32, score);
        }
        rows
    }

    /// Writes the votes.
    fn write(self, sums: &[[Lanes; WIDTH]; PANELS]) {
        for (votes, sums) in self.votes.chunks_mut(LANES).zip(sums.as_flattened()) {
            votes.copy_from_slice(&floats(*sums)[..votes.len()]);
        }
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
        for (panel, keys) in task.panels(Grain::REGISTERS).zip(keys.chunks_mut(by_panel)) {
            pack_keys(&mut keys[..*depth * panel.width], &pass.k, head, panel);
        }
        let factor = (f64::from(pass.scale) * LOG2_E) as f32;
        let mut sums = [[NO_LANES; WIDTH]; PANELS];
        for start in (0..m).step_by(BLOCK) {
            let len = BLOCK.min(m - start);
            let tiles = &mut q[..len.div_ceil(ROWS)];
            pack_rows(tiles.iter_mut().flat_map(|tile| &mut tile.0), &pass.q, head, start, len);
            let rows = task.rows::<BLOCK>(start);
            let rows = rows.as_chunks().0;
            for ((panel, keys), sums) in
                task.panels(Grain::REGISTERS).zip(keys.chunks(by_panel)).zip(&mut sums)
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
        task.write(&sums);
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
        let panels: Vec<_> = task.panels(Grain::TILES).collect();
        for (&panel, keys) in panels.iter().zip(keys.chunks_mut(by_panel)) {
            pack_keys(&mut keys[..*depth * panel.width], &pass.k, head, panel);
        }
        let factor = _mm512_set1_ps((f64::from(pass.scale) * LOG2_E) as f32);
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
        task.write(&sums);
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
