//! A block in registers: 6 x 64 logits at a time.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::call::{Block, Call, Row};
use super::share::{At, shift_of, vanished};
use crate::ballot::{Ballot, cast};
use crate::element::Element;
use crate::lanes::{Lanes, NO_LANES, Words, exp2};
use crate::pack::{Grain, pack_rows, square};
use crate::packed::Head;
use crate::tile::{ROWS, Sums, Tile, product, zeros};

/// The number of tiles in a block. All data that a panel reads and writes stays in the first cache.
const TILES: usize = 8;

/// The working memory of one thread. Values fill at most `D` registers.
pub(super) struct Registers<E: Element, const D: usize> {
    q: [Tile<E>; TILES],
    /// `P` of a group of panels, or of all panels if a vote is cast.
    weights: Vec<[Tile<E>; TILES]>,
    /// `−r_i`, and the lanes of `l_i`.
    shift: [[f32; ROWS]; TILES],
    sums: [[Lanes; ROWS]; TILES],
    out: [Sums<D>; TILES],
}

#[allow(unsafe_code)]
impl<E: Element, const D: usize> Block<E> for Registers<E, D> {
    const ROWS: usize = TILES * ROWS;
    const GRAIN: Grain = Grain::REGISTERS;

    unsafe fn new(call: &Call<'_, E>) -> Self {
        let panels = call.panels.len();
        let panels = if call.tallies.is_empty() { panels.min(E::GROUP) } else { panels };
        Self {
            q: [Tile::ZERO; TILES],
            weights: vec![[Tile::ZERO; TILES]; panels],
            shift: [[0.0; ROWS]; TILES],
            sums: [[NO_LANES; ROWS]; TILES],
            out: [[[NO_LANES; D]; ROWS]; TILES],
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn attend(&mut self, call: &Call<'_, E>, head: At, start: usize, len: usize) {
        let tiles = len.div_ceil(ROWS);
        let rows = self.q[..tiles].iter_mut().flat_map(|tile| &mut tile.0);
        pack_rows(rows, &call.pass.q, head, start, len);
        let packed = call.packed.head(head);
        let longest = packed.longest() * call.pass.factor().abs();
        for (tile, shift) in self.q.iter().zip(&mut self.shift).take(tiles) {
            for (row, shift) in tile.0.iter().zip(shift) {
                *shift = shift_of(square::<E>(row), longest);
            }
        }
        self.outputs(call, packed, tiles);
        let raised = self.shift.as_flattened().iter().zip(self.sums.as_flattened()).take(len);
        if raised.into_iter().any(|(&shift, &sum)| vanished(shift, _mm512_reduce_add_ps(sum))) {
            self.maxima(call, packed, tiles);
            self.outputs(call, packed, tiles);
        }
    }

    fn row(&self, at: usize) -> Row<'_> {
        let (tile, row) = (at / ROWS, at % ROWS);
        Row { shift: self.shift[tile][row], sum: self.sums[tile][row], out: &self.out[tile][row] }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn cast(&self, len: usize, shares: &[f32], ballots: &mut [Ballot]) {
        for (ballot, weights) in ballots.iter_mut().zip(&self.weights) {
            let rows = weights.iter().flat_map(|tile| &tile.0).take(len);
            // SAFETY: the features are those of this function.
            cast(ballot, rows.map(|row| unsafe { E::lanes(row) }), shares);
        }
    }
}

impl<E: Element, const D: usize> Registers<E, D> {
    /// Computes `P`, its sums and `O` over all panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn outputs(&mut self, call: &Call<'_, E>, head: &Head, tiles: usize) {
        let factor = call.pass.factor();
        let Self { q, weights, shift, sums, out } = self;
        *sums = [[_mm512_setzero_ps(); ROWS]; TILES];
        *out = [zeros::<D>(); TILES];
        let many = weights.len() > E::GROUP;
        for (at, group) in call.panels.chunks(E::GROUP).enumerate() {
            let weights = &mut weights[if many { at * E::GROUP } else { 0 }..][..group.len()];
            for (&panel, weights) in group.iter().zip(&mut *weights) {
                let (keys, last) = (head.keys(panel), panel.last());
                let weights = &mut weights[..tiles];
                match panel.width {
                    1 => exponentials::<E, 1>(q, keys, last, factor, shift, sums, weights),
                    2 => exponentials::<E, 2>(q, keys, last, factor, shift, sums, weights),
                    3 => exponentials::<E, 3>(q, keys, last, factor, shift, sums, weights),
                    _ => exponentials::<E, 4>(q, keys, last, factor, shift, sums, weights),
                }
            }
            for (tile, out) in out.iter_mut().enumerate().take(tiles) {
                for (&panel, weights) in group.iter().zip(&*weights) {
                    let values = head.values(panel).as_chunks::<D>().0;
                    *out = product(&weights[tile], values, *out);
                }
            }
        }
    }

    /// Sets the references to the rows' maxima.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[cold]
    fn maxima(&mut self, call: &Call<'_, E>, head: &Head, tiles: usize) {
        let factor = call.pass.factor();
        let mut maxima = [[_mm512_set1_ps(f32::NEG_INFINITY); ROWS]; TILES];
        for &panel in &call.panels {
            let (keys, last, q) = (head.keys(panel), panel.last(), &self.q[..tiles]);
            match panel.width {
                1 => raise::<E, 1>(q, keys, last, factor, &mut maxima),
                2 => raise::<E, 2>(q, keys, last, factor, &mut maxima),
                3 => raise::<E, 3>(q, keys, last, factor, &mut maxima),
                _ => raise::<E, 4>(q, keys, last, factor, &mut maxima),
            }
        }
        for (shift, &max) in self.shift.as_flattened_mut().iter_mut().zip(maxima.as_flattened()) {
            *shift = -_mm512_reduce_max_ps(max);
        }
    }
}

/// The maxima of the lanes, updated with one panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn raise<E: Element, const C: usize>(
    q: &[Tile<E>],
    keys: &[Words],
    last: u16,
    factor: f32,
    maxima: &mut [[Lanes; ROWS]],
) {
    let keys = keys.as_chunks::<C>().0;
    let factor = _mm512_set1_ps(factor);
    for (q, maxima) in q.iter().zip(maxima) {
        for (logits, max) in product(q, keys, zeros::<C>()).iter().zip(maxima) {
            for (at, &logits) in logits.iter().enumerate() {
                let mask = if at + 1 == C { last } else { u16::MAX };
                *max = _mm512_mask_max_ps(*max, mask, *max, _mm512_mul_ps(logits, factor));
            }
        }
    }
}

/// Computes `P` of one panel for all tiles of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn exponentials<E: Element, const C: usize>(
    q: &[Tile<E>],
    keys: &[Words],
    last: u16,
    factor: f32,
    shift: &[[f32; ROWS]],
    sums: &mut [[Lanes; ROWS]],
    weights: &mut [Tile<E>],
) {
    let keys = keys.as_chunks::<C>().0;
    let factor = _mm512_set1_ps(factor);
    for (((q, shift), sums), weights) in q.iter().zip(shift).zip(sums).zip(weights) {
        let logits = product(q, keys, zeros::<C>());
        for (((logits, &shift), sum), weights) in logits.iter().zip(shift).zip(sums).zip(&mut weights.0) {
            let shift = _mm512_set1_ps(shift);
            let mut p = [_mm512_setzero_ps(); 4];
            for (p, &logits) in p.iter_mut().zip(logits) {
                *p = exp2(_mm512_fmadd_ps(logits, factor, shift));
            }
            p[C - 1] = _mm512_maskz_mov_ps(last, p[C - 1]);
            let [a, b, c, d] = p;
            *sum = _mm512_add_ps(*sum, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
            // SAFETY: the features are those of this function.
            #[allow(unsafe_code)]
            unsafe {
                E::store(p, weights);
            }
        }
    }
}
