//! Finds for each pruned column the kept row that attends to it most, without a map.
//!
//! A task is a panel of 64 columns. It walks the kept rows in ascending blocks and sums
//! `e^(q_i·k_j · scale − lse_i)` over the heads in order. It keeps each column's largest sum so far. Only a
//! strictly larger sum replaces it, so the lowest row wins ties.

use std::arch::x86_64::{
    __m512i, _CMP_GT_OQ, _CMP_UNORD_Q, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps,
    _mm512_mask_mov_epi32, _mm512_mask_mov_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512,
};
use std::f64::consts::LOG2_E;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_WORDS, Words, exp2, numbers};
use crate::pack::{Grain, PANEL, Panel, WIDTH, depth, pack_keys, pack_rows};
use crate::threads::parallel;
use crate::tile::{ROWS, Sums, Tile, product, zeros};
use crate::typed::TypedPass;
use crate::{Cpu, Numbers, Pass};

/// The number of tiles in a block. Their sums stay in the first cache.
const TILES: usize = 8;
const BLOCK: usize = TILES * ROWS;

/// Writes to `[b, pruned]` the strongest rows among the kept ones. The pass holds gathered queries `[b, h, kept, dim]`
/// and pruned keys `[b, h, pruned, dim]`. `lse` is the queries' log-sum-exp `[b, h, kept]`. `false` if a value is NaN.
///
/// # Panics
/// If the operands do not fit each other, or do not all have one type.
#[must_use]
pub fn strongest(cpu: Cpu<'_>, pass: Pass<'_>, lse: &[f32], into: &mut [i64]) -> bool {
    match pass.q.parts().0 {
        Numbers::Bf16(_) => typed::<u16>(cpu, TypedPass::new(pass), lse, into),
        Numbers::F32(_) => typed::<f32>(cpu, TypedPass::new(pass), lse, into),
    }
}

fn typed<E: Element>(cpu: Cpu<'_>, pass: TypedPass<'_, E>, lse: &[f32], into: &mut [i64]) -> bool {
    let [batch, heads, kept, pruned] = pass.sizes();
    assert!(lse.len() == batch * heads * kept && into.len() == batch * pruned, "room for the rows");
    let tasks = into.chunks_mut(pruned).zip(lse.chunks(heads * kept)).enumerate();
    let tasks = tasks.flat_map(|(batch, (best, lse))| {
        let panels = best.chunks_mut(PANEL).enumerate();
        panels.map(move |(at, best)| Task {
            batch,
            panel: Panel::new(at, best.len(), Grain::REGISTERS),
            lse,
            best,
        })
    });
    let ordered = AtomicBool::new(true);
    let depth = depth::<E>(pass.k.dims()[3]);
    parallel(
        cpu.threads,
        tasks,
        || vec![NO_WORDS; heads * depth * WIDTH],
        |keys, task| {
            let keys = &mut keys[..heads * depth * task.panel.width];
            // SAFETY: `Cpu` proves that the machine has the instructions.
            #[allow(unsafe_code)]
            let fine = unsafe {
                match task.panel.width {
                    1 => columns::<E, 1>(&pass, keys, task),
                    2 => columns::<E, 2>(&pass, keys, task),
                    3 => columns::<E, 3>(&pass, keys, task),
                    _ => columns::<E, 4>(&pass, keys, task),
                }
            };
            if !fine {
                ordered.store(false, Ordering::Relaxed);
            }
        },
    );
    ordered.into_inner()
}

/// One panel of columns of one batch entry.
struct Task<'a> {
    batch: usize,
    panel: Panel,
    /// The log-sum-exp, `[h, kept]`.
    lse: &'a [f32],
    best: &'a mut [i64],
}

/// Runs the task. `false` if a value is NaN.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn columns<E: Element, const C: usize>(pass: &TypedPass<'_, E>, keys: &mut [Words], task: Task<'_>) -> bool {
    let Task { batch, panel, lse, best } = task;
    let [_, heads, kept, _] = pass.sizes();
    let by_head = keys.len() / heads;
    for (head, keys) in keys.chunks_mut(by_head).enumerate() {
        pack_keys(keys, &pass.k, (batch, head), panel);
    }
    let factor = (f64::from(pass.scale) * LOG2_E) as f32;
    let mut found =
        Best { highest: [_mm512_set1_ps(f32::NEG_INFINITY); C], row: [_mm512_setzero_si512(); C], nan: 0 };
    let mut q = [Tile::<E>::ZERO; TILES];
    let mut sums = [zeros::<C>(); TILES];
    for start in (0..kept).step_by(BLOCK) {
        let len = BLOCK.min(kept - start);
        let tiles = len.div_ceil(ROWS);
        sums.fill(zeros::<C>());
        for (head, (keys, lse)) in keys.chunks(by_head).zip(lse.chunks(kept)).enumerate() {
            pack_rows(q[..tiles].iter_mut().flat_map(|tile| &mut tile.0), &pass.q, (batch, head), start, len);
            let mut shift = [[0f32; ROWS]; TILES];
            for (shift, &lse) in shift.as_flattened_mut().iter_mut().zip(&lse[start..start + len]) {
                *shift = (-f64::from(lse) * LOG2_E) as f32;
            }
            add(&q[..tiles], keys, factor, &shift, &mut sums);
        }
        for (i, row) in sums.as_flattened().iter().enumerate().take(len) {
            found.compare(row, start + i);
        }
    }
    for (to, mut rows) in best.chunks_mut(LANES).zip(found.row) {
        let rows = numbers(std::slice::from_mut(&mut rows));
        to.iter_mut().zip(rows).for_each(|(to, row)| *to = i64::from(*row));
    }
    found.nan == 0
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
            let shift = _mm512_set1_ps(shift);
            for (&logits, sum) in logits.iter().zip(sums) {
                *sum = _mm512_add_ps(*sum, exp2(_mm512_fmadd_ps(logits, factor, shift)));
            }
        }
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
