//! A block of bf16 in AMX's tiles: 32 x 32 logits at a time.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::call::{Block, Call, Row};
use super::share::{At, shift_of, vanished};
use crate::amx::{Left, ROWS, Right};
use crate::ballot::{Ballot, cast};
use crate::element::{from_pairs, to_pairs};
use crate::lanes::{LANES, Lanes, NO_LANES, exp2, load};
use crate::pack::{Grain, WIDTH, square};
use crate::packed::Head;
use crate::units::{BLOCK, Logits, PAIR, Unit, Units};

/// After this many panels the sums of `O` leave the tiles. Their `P` stay in the first cache.
const GROUP: usize = 4;

/// `P` of a row and 32 keys.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LANES]);

/// The working memory of one thread.
pub(super) struct Tiled {
    units: Units,
    /// `P` of a group of panels, or of all panels if a vote is cast: 32 keys of all rows, then the next 32 keys.
    weights: Vec<[Line; BLOCK]>,
    /// `−r_i`, and the lanes of `l_i`.
    shift: [f32; BLOCK],
    sums: [Lanes; BLOCK],
    out: [[Lanes; WIDTH]; BLOCK],
}

#[allow(unsafe_code)]
impl Block<u16> for Tiled {
    const ROWS: usize = BLOCK;
    const GRAIN: Grain = Grain::TILES;

    unsafe fn new(call: &Call<'_, u16>) -> Self {
        let panels = if call.tallies.is_empty() { GROUP } else { usize::MAX };
        let lines = call.panels.iter().take(panels).map(|panel| panel.width / PAIR).sum();
        Self {
            // SAFETY: the caller's promise.
            units: unsafe { Units::new() },
            weights: vec![[Line([0; LANES]); BLOCK]; lines],
            shift: [0.0; BLOCK],
            sums: [NO_LANES; BLOCK],
            out: [[NO_LANES; WIDTH]; BLOCK],
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn attend(&mut self, call: &Call<'_, u16>, head: At, start: usize, len: usize) {
        self.units.pack(&call.pass.q, head, start, len);
        let packed = call.packed.head(head);
        let longest = packed.longest() * call.pass.factor().abs();
        for (row, shift) in self.units.queries().iter().zip(&mut self.shift) {
            *shift = shift_of(square::<u16>(row), longest);
        }
        self.outputs(call, packed, len);
        let mut rows = self.shift.iter().zip(&self.sums).take(len);
        if rows.any(|(&shift, &sum)| vanished(shift, _mm512_reduce_add_ps(sum))) {
            self.maxima(call, packed, len);
            self.outputs(call, packed, len);
        }
    }

    fn row(&self, at: usize) -> Row<'_> {
        Row { shift: self.shift[at], sum: self.sums[at], out: &self.out[at] }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn cast(&self, len: usize, shares: &[f32], ballots: &mut [Ballot]) {
        for (ballot, weights) in ballots.iter_mut().zip(self.weights.chunks(WIDTH / PAIR)) {
            // the last panel may have the first half alone
            let (first, second) = (&weights[0], weights.get(1));
            let row = |at: usize| {
                let [a, b] = from_pairs(load(&first[at].0, 0));
                let [c, d] = second.map_or([NO_LANES; 2], |second| from_pairs(load(&second[at].0, 0)));
                [a, b, c, d]
            };
            cast(ballot, (0..len).map(row), shares);
        }
    }
}

impl Tiled {
    /// Computes `P`, its sums and `O` over all panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn outputs(&mut self, call: &Call<'_, u16>, head: &Head, rows: usize) {
        let factor = call.pass.factor();
        let Self { units, weights, shift, sums, out } = self;
        let across = call.dim.div_ceil(LANES).next_multiple_of(PAIR);
        *sums = [_mm512_setzero_ps(); BLOCK];
        let many = weights.len() > GROUP * WIDTH / PAIR;
        for (at, group) in call.panels.chunks(GROUP).enumerate() {
            let lines = group.iter().map(|panel| panel.width / PAIR).sum();
            let weights = &mut weights[if many { at * GROUP * WIDTH / PAIR } else { 0 }..][..lines];
            units.each(
                group,
                rows,
                |panel| head.keys(panel),
                |unit, logits| {
                    let part = unit.row..unit.row + ROWS;
                    let (shift, sums) = (&shift[part.clone()], &mut sums[part.clone()]);
                    let weights = &mut weights[unit.at][part];
                    match unit.masks() {
                        [u16::MAX, u16::MAX] => {
                            exponentials::<true>(logits, unit, factor, shift, sums, weights);
                        }
                        _ => exponentials::<false>(logits, unit, factor, shift, sums, weights),
                    }
                },
            );
            let values = head.values_from(group[0]);
            for row in (0..rows).step_by(ROWS) {
                let left =
                    Left::new(&weights.as_flattened()[row..], size_of::<Line>(), size_of_val(&weights[0]));
                for column in (0..across).step_by(PAIR) {
                    let right = Right::new(values, across, column);
                    let out = &mut out[row..].as_flattened_mut()[column..];
                    units.tiles.product(left, right, lines, out, WIDTH, at > 0);
                }
            }
        }
    }

    /// Sets the references to the rows' maxima.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[cold]
    fn maxima(&mut self, call: &Call<'_, u16>, head: &Head, rows: usize) {
        let factor = _mm512_set1_ps(call.pass.factor());
        let Self { units, shift, .. } = self;
        let mut maxima = [_mm512_set1_ps(f32::NEG_INFINITY); BLOCK];
        units.each(
            &call.panels,
            rows,
            |panel| head.keys(panel),
            |unit, logits| {
                for (logits, max) in logits.iter().zip(&mut maxima[unit.row..]) {
                    for (&logits, mask) in logits.iter().zip(unit.masks()) {
                        *max = _mm512_mask_max_ps(*max, mask, *max, _mm512_mul_ps(logits, factor));
                    }
                }
            },
        );
        for (shift, &max) in shift.iter_mut().zip(&maxima) {
            *shift = -_mm512_reduce_max_ps(max);
        }
    }
}

/// Computes `P` of a unit. All of its columns are keys if it is `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn exponentials<const WHOLE: bool>(
    logits: &Logits,
    unit: Unit,
    factor: f32,
    shift: &[f32],
    sums: &mut [Lanes],
    weights: &mut [Line],
) {
    let (factor, masks) = (_mm512_set1_ps(factor), unit.masks());
    for (((logits, &shift), sum), weights) in logits.iter().zip(shift).zip(sums).zip(weights) {
        let shift = _mm512_set1_ps(shift);
        let mut p = *logits;
        for (p, mask) in p.iter_mut().zip(masks) {
            *p = exp2(_mm512_fmadd_ps(*p, factor, shift));
            if !WHOLE {
                *p = _mm512_maskz_mov_ps(mask, *p);
            }
        }
        *sum = _mm512_add_ps(*sum, _mm512_add_ps(p[0], p[1]));
        weights.0 = to_pairs(p);
    }
}
