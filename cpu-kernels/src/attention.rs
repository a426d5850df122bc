//! Attention in blocks of query rows, each against all keys.
//!
//! For a block of rows `i` of one head, panel after panel of 64 keys `j`:
//!
//! ```text
//! S_ij  = q_i·k_j                          6 x 64 at a time, in registers
//! P_ij  = 2^(S_ij · scale · log2 e − r_i)  stored as bf16 or f32;  l_i = Σ_j P_ij before rounding
//! O_i  += Σ_j P_ij v_j
//! ```
//!
//! At the end the results are `O_i / l_i` and `lse_i = r_i ln 2 + ln l_i`. If a vote is requested, there is also
//! `u_j += Σ_i P_ij s_i / l_i` over the block's own `P`, which is stored for it.
//!
//! `r_i` need not be the row's maximum. It must only keep sums from overflow and the largest terms from underflow.
//! `|q_i| max_j |k_j|` bounds the logits, so `r_i = max(0, bound − 80)` is enough, and no pass looks for maxima. If a
//! bound is so far above the true maximum that a row's sum nearly vanishes, the block is computed again with its maxima.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::f64::consts::{LN_2, LOG2_E};
use std::sync::Mutex;

use crate::ballot::{Ballot, Tally, cast};
use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES, Words, exp2};
use crate::output::Output;
use crate::pack::{Panel, pack_rows, squares};
use crate::packed::{Head, Packed};
use crate::threads::parallel;
use crate::tile::{ROWS, Sums, Tile, product, zeros};
use crate::typed::{Typed, TypedPass};
use crate::{Attended, Cpu, Heads, NumbersMut, Pass};

/// The number of tiles in a block. All data that a panel reads and writes stays in the first cache.
const TILES: usize = 8;
/// The number of rows in a block.
pub(crate) const BLOCK: usize = TILES * ROWS;
/// The maximum number of blocks in a task.
const BLOCKS: usize = 8;

/// The largest exponent (of 2) that a row's terms may reach. Beyond it the row's reference is raised.
const ROOM: f32 = 80.0;
/// A row with a raised reference is computed again if its sum is below this.
const VANISHED: f32 = 1.0 / (1u64 << 60) as f32;

/// One task: rows of one head.
struct Part<'a> {
    head: (usize, usize),
    start: usize,
    lse: &'a mut [f32],
}

/// `softmax(q kᵀ scale) v` with the log-sum-exp of every row. With scores it also gives the first vote.
///
/// # Panics
/// If the operands do not fit each other, or do not all have one type.
pub fn attention(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    match into.output {
        NumbersMut::Bf16(_) => typed::<u16>(cpu, pass, v, into),
        NumbersMut::F32(_) => typed::<f32>(cpu, pass, v, into),
    }
}

/// It is one parallel region. The first task of a head packs it, and the last task adds its votes.
fn typed<E: Element>(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    let (pass, v) = (TypedPass::<E>::new(pass), Typed::<E>::new(v));
    let [batch, heads, m, n] = pass.sizes();
    let [_, _, values, dim] = v.dims();
    let Attended { output, lse, first_vote } = into;
    let output = E::slice_mut(output);
    assert!(v.dims()[..2] == [batch, heads] && values == n, "values for every key");
    assert!(
        output.len() == batch * m * heads * dim && lse.len() == batch * heads * m,
        "room for the results"
    );
    let rows = BLOCK * (m / (8 * BLOCK)).clamp(1, BLOCKS);
    let mut parts = Vec::new();
    for (at, lse) in lse.chunks_mut(m).enumerate() {
        for (group, lse) in lse.chunks_mut(rows).enumerate() {
            parts.push(Part { head: (at / heads, at % heads), start: group * rows, lse });
        }
    }
    // one task of each head comes first, so that no thread waits for another to pack it
    parts.sort_by_key(|part| part.start);
    let mut tallies = Vec::new();
    if let (Some(first_vote), Some(_)) = (first_vote, pass.scores) {
        assert!(first_vote.len() == batch * heads * n, "room for the votes");
        let tasks = m.div_ceil(rows);
        let of_head = |votes| Mutex::new(Tally { votes, tasks, cast: Vec::new() });
        tallies.extend(first_vote.chunks_mut(n).map(of_head));
    }
    let call = Call {
        pass,
        packed: Packed::new(cpu, pass.k, v),
        output: Output::new(output),
        dim,
        panels: Panel::all(n).collect(),
        tallies,
    };
    // SAFETY: `Cpu` proves that the machine has the instructions.
    #[allow(unsafe_code)]
    parallel(
        cpu.threads,
        parts,
        || Scratch::new(&call),
        |scratch, part| unsafe {
            match dim.div_ceil(LANES) {
                1 => call.part::<1>(scratch, part),
                2 => call.part::<2>(scratch, part),
                3 => call.part::<3>(scratch, part),
                _ => call.part::<4>(scratch, part),
            }
        },
    );
}

/// The data that all tasks share.
struct Call<'a, E> {
    pass: TypedPass<'a, E>,
    packed: Packed<'a, E>,
    output: Output<'a, E>,
    /// The number of elements in a value.
    dim: usize,
    panels: Vec<Panel>,
    /// One for each head. Empty if there is no vote.
    tallies: Vec<Mutex<Tally<'a>>>,
}

/// The working memory of one thread.
struct Scratch<E: Element> {
    q: [Tile<E>; TILES],
    /// `P` of a group of panels, or of all panels if a vote is cast.
    weights: Vec<[Tile<E>; TILES]>,
    /// `−r_i`, and the lanes of `l_i`.
    shift: [[f32; ROWS]; TILES],
    sums: [[Lanes; ROWS]; TILES],
}

impl<E: Element> Scratch<E> {
    fn new(call: &Call<'_, E>) -> Self {
        let panels = call.panels.len();
        let panels = if call.tallies.is_empty() { panels.min(E::GROUP) } else { panels };
        Self {
            q: [Tile::ZERO; TILES],
            weights: vec![[Tile::ZERO; TILES]; panels],
            shift: [[0.0; ROWS]; TILES],
            sums: [[NO_LANES; ROWS]; TILES],
        }
    }
}

impl<E: Element> Call<'_, E> {
    /// Computes all blocks of one task. Values fill at most `D` registers.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn part<const D: usize>(&self, scratch: &mut Scratch<E>, part: Part<'_>) {
        let Part { head, start, lse } = part;
        let tally = self.tallies.get(head.0 * self.pass.q.dims()[1] + head.1);
        let mut ballots = vec![[NO_LANES; 4]; if tally.is_some() { self.panels.len() } else { 0 }];
        for (at, lse) in lse.chunks_mut(BLOCK).enumerate() {
            self.block::<D>(scratch, head, start + at * BLOCK, lse, &mut ballots);
        }
        if let Some(mut tally) = tally.and_then(|tally| tally.lock().ok()) {
            tally.add::<E>(start, ballots);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn block<const D: usize>(
        &self,
        scratch: &mut Scratch<E>,
        head: (usize, usize),
        start: usize,
        lse: &mut [f32],
        ballots: &mut [Ballot],
    ) {
        let Self { pass, output, dim, .. } = self;
        let [_, heads, m, _] = pass.sizes();
        let tiles = lse.len().div_ceil(ROWS);
        let factor = (f64::from(pass.scale) * LOG2_E) as f32;
        pack_rows(&mut scratch.q[..tiles], &pass.q, head, start, lse.len());
        let packed = self.packed.head(head);
        let longest = packed.longest() * factor.abs();
        for (tile, shift) in scratch.q.iter().zip(&mut scratch.shift).take(tiles) {
            // a NaN takes the second branch and stays NaN
            *shift = squares(tile)
                .map(|square| square.sqrt() * longest)
                .map(|bound| if bound <= ROOM { 0.0 } else { ROOM - bound });
        }
        let mut out = [zeros::<D>(); TILES];
        self.outputs(scratch, packed, &mut out[..tiles]);
        let raised = scratch.shift.as_flattened().iter().zip(scratch.sums.as_flattened());
        if raised.take(lse.len()).any(|(&shift, &sum)| shift < 0.0 && _mm512_reduce_add_ps(sum) < VANISHED) {
            self.maxima(scratch, packed, tiles);
            out = [zeros::<D>(); TILES];
            self.outputs(scratch, packed, &mut out[..tiles]);
        }
        let mut shares = [0f32; BLOCK];
        for (i, (lse, share)) in lse.iter_mut().zip(&mut shares).enumerate() {
            let (tile, row) = (i / ROWS, i % ROWS);
            let sum = _mm512_reduce_add_ps(scratch.sums[tile][row]);
            let inverse = 1.0 / sum;
            *lse = (f64::from(sum.ln()) - f64::from(scratch.shift[tile][row]) * LN_2) as f32;
            *share = pass.scores.map_or(0.0, |s| s[(head.0 * heads + head.1) * m + start + i] * inverse);
            let at = ((head.0 * m + start + i) * heads + head.1) * dim;
            // SAFETY: only this task uses this row of this head.
            #[allow(unsafe_code)]
            let to = unsafe { output.row(at, *dim) };
            for (to, &lanes) in to.chunks_mut(LANES).zip(&out[tile][row]) {
                // SAFETY: the features are those of this function.
                #[allow(unsafe_code)]
                let rounded = unsafe { E::round(_mm512_mul_ps(lanes, _mm512_set1_ps(inverse))) };
                to.copy_from_slice(&rounded[..to.len()]);
            }
        }
        for (ballot, weights) in ballots.iter_mut().zip(&scratch.weights) {
            cast(ballot, &weights[..tiles], &shares);
        }
    }

    /// Computes `P`, its sums and `O` over all panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn outputs<const D: usize>(&self, scratch: &mut Scratch<E>, head: &Head, out: &mut [Sums<D>]) {
        let factor = (f64::from(self.pass.scale) * LOG2_E) as f32;
        let Scratch { q, weights, shift, sums } = scratch;
        *sums = [[_mm512_setzero_ps(); ROWS]; TILES];
        let many = weights.len() > E::GROUP;
        for (at, group) in self.panels.chunks(E::GROUP).enumerate() {
            let weights = &mut weights[if many { at * E::GROUP } else { 0 }..][..group.len()];
            for (&panel, weights) in group.iter().zip(&mut *weights) {
                let (keys, last) = (head.keys(panel), panel.last());
                let weights = &mut weights[..out.len()];
                match panel.width() {
                    1 => exponentials::<E, 1>(q, keys, last, factor, shift, sums, weights),
                    2 => exponentials::<E, 2>(q, keys, last, factor, shift, sums, weights),
                    3 => exponentials::<E, 3>(q, keys, last, factor, shift, sums, weights),
                    _ => exponentials::<E, 4>(q, keys, last, factor, shift, sums, weights),
                }
            }
            for (tile, out) in out.iter_mut().enumerate() {
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
    fn maxima(&self, scratch: &mut Scratch<E>, head: &Head, tiles: usize) {
        let factor = (f64::from(self.pass.scale) * LOG2_E) as f32;
        let mut maxima = [[_mm512_set1_ps(f32::NEG_INFINITY); ROWS]; TILES];
        for &panel in &self.panels {
            let (keys, last, q) = (head.keys(panel), panel.last(), &scratch.q[..tiles]);
            match panel.width() {
                1 => raise::<E, 1>(q, keys, last, factor, &mut maxima),
                2 => raise::<E, 2>(q, keys, last, factor, &mut maxima),
                3 => raise::<E, 3>(q, keys, last, factor, &mut maxima),
                _ => raise::<E, 4>(q, keys, last, factor, &mut maxima),
            }
        }
        for (shift, &max) in scratch.shift.as_flattened_mut().iter_mut().zip(maxima.as_flattened()) {
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
