//! Finds for each pruned column the kept row that attends to it most, without a map.
//!
//! A task is a panel of 64 columns. It walks the kept rows in ascending blocks and sums
//! `e^(q_i·k_j · scale − lse_i)` over the heads in order. It keeps each column's largest sum so far. Only a
//! strictly larger sum replaces it, so the lowest row wins ties.

pub(crate) mod task;

use std::arch::x86_64::{
    __m512i, _CMP_GT_OQ, _CMP_UNORD_Q, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps,
    _mm512_mask_mov_epi32, _mm512_mask_mov_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512,
};

use self::task::{Task, shifts};
use crate::cpu::Level;
use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, exp2, numbers};
use crate::pack::{Grain, Panel, WIDTH, depth, pack_keys, pack_rows};
use crate::tile::{ROWS, Sums, Tile, product, zeros};
use crate::typed::TypedPass;
use crate::units::{self, Units};
use crate::{Cpu, Numbers, Pass, avx2};

/// The number of tiles in a block. Their sums stay in the first cache.
const TILES: usize = 8;
const BLOCK: usize = TILES * ROWS;

/// Writes to `[b, pruned]` the strongest rows among the kept ones. The pass holds gathered queries `[b, h, kept, dim]`
/// and pruned keys `[b, h, pruned, dim]`. `lse` is the queries' log-sum-exp `[b, h, kept]`. `false` if a value is NaN.
///
/// # Panics
/// If the operands do not fit each other, do not all have one type, or are bf16 where [`Cpu::of_bf16`] is `None`.
#[must_use]
pub fn strongest(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [i64]) -> bool {
    match pass.q.parts().0 {
        Numbers::F32(_) if cpu.level < Level::Avx512Bf16 => avx2::strongest(cpu, pass, lse, into),
        Numbers::F32(_) => run::<f32, Registers>(cpu, pass, lse, into),
        Numbers::Bf16(_) if cpu.level >= Level::Amx => run::<u16, Tiled>(cpu, pass, lse, into),
        Numbers::Bf16(_) => run::<u16, Registers>(cpu.for_bf16(), pass, lse, into),
    }
}

fn run<E: Element, W: Work<E>>(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [i64]) -> bool {
    let pass = TypedPass::<E>::new(pass);
    let (heads, depth) = (pass.sizes()[1], depth::<E>(pass.k.dims()[3]).next_multiple_of(W::GRAIN.words));
    task::each(
        cpu,
        &pass,
        lse,
        into,
        // SAFETY: `Cpu` proves that the machine has the instructions.
        #[allow(unsafe_code)]
        || (vec![NO_WORDS; heads * depth * WIDTH], unsafe { W::new() }),
        |(keys, work), task| {
            let panel = Panel::new(task.part, task.best.len(), W::GRAIN);
            let keys = &mut keys[..heads * depth * panel.width];
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                work.columns(&pass, keys, panel, task)
            }
        },
    )
}

/// What computes the sums of a thread's tasks.
///
/// # Safety of its functions
/// They need a processor with AVX512-BF16, and those of [`Tiled`] need AMX.
#[allow(unsafe_code)]
trait Work<E: Element>: Sized {
    /// How it reads keys.
    const GRAIN: Grain;

    unsafe fn new() -> Self;
    /// Runs a task, with memory for its keys. `false` if a value is NaN.
    unsafe fn columns(
        &mut self,
        pass: &TypedPass<'_, E>,
        keys: &mut [Words],
        panel: Panel,
        task: Task<'_>,
    ) -> bool;
}

/// In registers: 6 x 64 logits at a time.
struct Registers;

#[allow(unsafe_code)]
impl<E: Element> Work<E> for Registers {
    const GRAIN: Grain = Grain::REGISTERS;

    unsafe fn new() -> Self {
        Self
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(
        &mut self,
        pass: &TypedPass<'_, E>,
        keys: &mut [Words],
        panel: Panel,
        task: Task<'_>,
    ) -> bool {
        match panel.width {
            1 => columns::<E, 1>(pass, keys, panel, task),
            2 => columns::<E, 2>(pass, keys, panel, task),
            3 => columns::<E, 3>(pass, keys, panel, task),
            _ => columns::<E, 4>(pass, keys, panel, task),
        }
    }
}

/// In AMX's tiles.
struct Tiled {
    units: Units,
    sums: [[Lanes; WIDTH]; units::BLOCK],
}

#[allow(unsafe_code)]
impl Work<u16> for Tiled {
    const GRAIN: Grain = Grain::TILES;

    unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        Self { units: unsafe { Units::new() }, sums: [[NO_LANES; WIDTH]; units::BLOCK] }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn columns(
        &mut self,
        pass: &TypedPass<'_, u16>,
        keys: &mut [Words],
        panel: Panel,
        task: Task<'_>,
    ) -> bool {
        let Self { units, sums } = self;
        let [_, heads, kept, _] = pass.sizes();
        let by_head = keys.len() / heads;
        pack(pass, keys, panel, task.batch);
        let factor = _mm512_set1_ps(pass.factor());
        let mut found = Best::<WIDTH>::new();
        for start in (0..kept).step_by(units::BLOCK) {
            let len = units::BLOCK.min(kept - start);
            sums.fill([NO_LANES; WIDTH]);
            for (head, (keys, lse)) in keys.chunks(by_head).zip(task.lse.chunks(kept)).enumerate() {
                units.pack(&pass.q, (task.batch, head), start, len);
                let shift = shifts::<{ units::BLOCK }>(&lse[start..start + len]);
                units.each(
                    &[panel],
                    len,
                    |_| keys,
                    |unit, logits| {
                        let rows = logits.iter().zip(&shift[unit.row..]).zip(&mut sums[unit.row..]);
                        for ((logits, &shift), sums) in rows {
                            add_row(logits, factor, shift, &mut sums[unit.register..]);
                        }
                    },
                );
            }
            for (i, row) in sums.iter().enumerate().take(len) {
                found.compare(row, start + i);
            }
        }
        found.write(task.best)
    }
}

/// Packs the keys of all heads of a task.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack<E: Element>(pass: &TypedPass<'_, E>, keys: &mut [Words], panel: Panel, batch: usize) {
    let by_head = keys.len() / pass.sizes()[1];
    for (head, keys) in keys.chunks_mut(by_head).enumerate() {
        pack_keys(keys, &pass.k, (batch, head), panel);
    }
}

/// Runs a task in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn columns<E: Element, const C: usize>(
    pass: &TypedPass<'_, E>,
    keys: &mut [Words],
    panel: Panel,
    task: Task<'_>,
) -> bool {
    pack(pass, keys, panel, task.batch);
    let Task { batch, lse, best, .. } = task;
    let [_, heads, kept, _] = pass.sizes();
    let by_head = keys.len() / heads;
    let factor = pass.factor();
    let mut found = Best::<C>::new();
    let mut q = [Tile::<E>::ZERO; TILES];
    let mut sums = [zeros::<C>(); TILES];
    for start in (0..kept).step_by(BLOCK) {
        let len = BLOCK.min(kept - start);
        let tiles = len.div_ceil(ROWS);
        sums.fill(zeros::<C>());
        for (head, (keys, lse)) in keys.chunks(by_head).zip(lse.chunks(kept)).enumerate() {
            pack_rows(q[..tiles].iter_mut().flat_map(|tile| &mut tile.0), &pass.q, (batch, head), start, len);
            let shift = shifts::<BLOCK>(&lse[start..start + len]);
            add(&q[..tiles], keys, factor, shift.as_chunks().0, &mut sums);
        }
        for (i, row) in sums.as_flattened().iter().enumerate().take(len) {
            found.compare(row, start + i);
        }
    }
    found.write(best)
}

/// `sums[i, j] += e^(q_i·k_j · scale − lse_i)` for one head.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn add<E: Element, const C: usize>(
    q: &[Tile<E>],
    keys: &[Words],
    factor: f32,
    shift: &[[f32; ROWS]],
    sums: &mut [Sums<C>],
) {
    let keys = keys.as_chunks::<C>().0;
    let factor = _mm512_set1_ps(factor);
    for ((q, shift), sums) in q.iter().zip(shift).zip(sums) {
        let logits = product(q, keys, zeros::<C>());
        for ((logits, &shift), sums) in logits.iter().zip(shift).zip(sums) {
            add_row(logits, factor, shift, sums);
        }
    }
}

/// [`add`] for one row.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_row(logits: &[Lanes], factor: Lanes, shift: f32, sums: &mut [Lanes]) {
    let shift = _mm512_set1_ps(shift);
    for (&logits, sum) in logits.iter().zip(sums) {
        *sum = _mm512_add_ps(*sum, exp2(_mm512_fmadd_ps(logits, factor, shift)));
    }
}

/// The largest sum of each column, and its row.
struct Best<const C: usize> {
    highest: [Lanes; C],
    row: [__m512i; C],
    /// The columns, of any register, that were NaN.
    nan: u16,
}

impl<const C: usize> Best<C> {
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        Self { highest: [_mm512_set1_ps(f32::NEG_INFINITY); C], row: [_mm512_setzero_si512(); C], nan: 0 }
    }

    /// Writes the rows. `false` if a value was NaN.
    fn write(self, best: &mut [i64]) -> bool {
        for (to, mut rows) in best.chunks_mut(LANES).zip(self.row) {
            let rows = numbers(std::slice::from_mut(&mut rows));
            to.iter_mut().zip(rows).for_each(|(to, row)| *to = i64::from(*row));
        }
        self.nan == 0
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn compare(&mut self, sums: &[Lanes; C], at: usize) {
        let at = _mm512_set1_epi32(at as i32);
        for ((&sum, highest), row) in sums.iter().zip(&mut self.highest).zip(&mut self.row) {
            let higher = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sum, *highest);
            *highest = _mm512_mask_mov_ps(*highest, higher, sum);
            *row = _mm512_mask_mov_epi32(*row, higher, at);
            self.nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sum, sum);
        }
    }
}
