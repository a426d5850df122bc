//! Attention in blocks of query rows, each against all keys, by the recurrence of [`crate::attention()`].
//!
//! `P` of a panel of 64 keys stays in the first cache between the two products. If a vote is cast, `P` of all panels stays.

use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_set1_ps};
use std::f64::consts::LN_2;
use std::sync::{Mutex, OnceLock};

use super::lanes::{LANES, Lanes, ZERO, add_all, exp2, first, floats, lanes, sum};
use super::pack::{pack_keys, pack_rows, pack_values, square};
use super::tile::{COLUMNS, Line, ROWS, Sums, Tile, ZEROS, product};
use crate::attention::share::{At, Cast, Part, Tally, check, parts, rows_of_task, shift_of, vanished};
use crate::output::Output;
use crate::pack::PANEL;
use crate::threads::parallel;
use crate::typed::{Typed, TypedPass};
use crate::{Attended, Cpu, Heads, NumbersMut, Pass};

/// The number of tiles in a block.
const TILES: usize = 8;
const BLOCK: usize = TILES * ROWS;
/// The largest number of lines in a value.
const ACROSS: usize = 64 / COLUMNS;

/// Attention in f32, with the log-sum-exp of every row. With scores it also gives the first vote.
pub(crate) fn attention(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    let (pass, v) = (TypedPass::<f32>::new(pass), Typed::<f32>::new(v));
    let [batch, heads, m, _] = pass.sizes();
    let Attended { output: NumbersMut::F32(output), lse, first_vote } = into else {
        return;
    };
    check(&pass, &v, output, lse);
    let rows = rows_of_task(m, BLOCK);
    let tallies = Tally::of_heads(&pass, first_vote, rows);
    let call = Call {
        pass,
        v,
        heads: (0..batch * heads).map(|_| OnceLock::new()).collect(),
        output: Output::new(output),
        tallies,
    };
    parallel(
        cpu.threads,
        parts(lse, heads, m, rows),
        || Block::new(&call),
        // SAFETY: `Cpu` proves that the machine has the instructions.
        #[allow(unsafe_code)]
        |block, part| unsafe { call.part(block, part) },
    );
}

/// The keys and values of one head.
struct Head {
    /// `[panels, 4, dim]`: panels of four lines of 16 keys.
    keys: Vec<Line>,
    /// `[panels, across, 64]`.
    values: Vec<Line>,
    /// The length of the longest key.
    longest: f32,
}

impl Head {
    #[target_feature(enable = "avx2,fma")]
    fn new(k: &Typed<'_, f32>, v: &Typed<'_, f32>, at: At) -> Self {
        let [_, _, n, dim] = k.dims();
        let across = v.dims()[3].div_ceil(COLUMNS);
        let mut keys = vec![Line::ZERO; n.div_ceil(COLUMNS) * dim];
        let mut values = vec![Line::ZERO; n.div_ceil(PANEL) * across * PANEL];
        let mut longest = 0f32;
        for (line, keys) in keys.chunks_mut(dim).enumerate() {
            let start = line * COLUMNS;
            longest = longest.max(pack_keys(keys, k, at, start, COLUMNS.min(n - start)));
        }
        for (panel, values) in values.chunks_mut(across * PANEL).enumerate() {
            let start = panel * PANEL;
            pack_values(values, v, at, start, PANEL.min(n - start));
        }
        Self { keys, values, longest: longest.sqrt() }
    }
}

/// The data that all tasks share.
struct Call<'a> {
    pass: TypedPass<'a, f32>,
    v: Typed<'a, f32>,
    /// The first task that needs a head packs it.
    heads: Vec<OnceLock<Head>>,
    output: Output<'a, f32>,
    /// One for each head. Empty if there is no vote.
    tallies: Vec<Mutex<Tally<'a>>>,
}

impl Call<'_> {
    /// The number of panels.
    fn panels(&self) -> usize {
        self.pass.sizes()[3].div_ceil(PANEL)
    }

    /// Computes all blocks of one task.
    #[target_feature(enable = "avx2,fma")]
    fn part(&self, block: &mut Block, part: Part<'_>) {
        let Part { head, start, lse } = part;
        let [_, heads, m, n] = self.pass.sizes();
        let at = head.0 * heads + head.1;
        let packed = self.heads[at].get_or_init(|| Head::new(&self.pass.k, &self.v, head));
        let tally = self.tallies.get(at);
        let mut cast = vec![[0.0; PANEL]; if tally.is_some() { self.panels() } else { 0 }];
        for (group, lse) in lse.chunks_mut(BLOCK).enumerate() {
            let start = start + group * BLOCK;
            pack_rows(&mut block.q, &self.pass.q, head, start, lse.len());
            block.attend(packed, n, self.pass.factor(), lse.len());
            let scores = self.pass.scores.map(|scores| &scores[at * m + start..]);
            let shares = block.finish(self, head, start, lse, scores);
            for (cast, weights) in cast.iter_mut().zip(&block.weights) {
                add_votes(cast, weights, &shares[..lse.len()]);
            }
        }
        if let Some(mut tally) = tally.and_then(|tally| tally.lock().ok()) {
            tally.add(start, cast);
        }
    }
}

/// The working memory of one thread.
struct Block {
    q: [Tile; TILES],
    /// `P` of one panel, or of all panels if a vote is cast.
    weights: Vec<[Tile; TILES]>,
    /// `−r_i`, and the lanes of `l_i`.
    shift: [[f32; ROWS]; TILES],
    sums: [[Lanes; ROWS]; TILES],
    /// `O`: tile after tile, and 16 elements after 16.
    out: [[Sums; ACROSS]; TILES],
}

impl Block {
    /// With room for the call's panels.
    fn new(call: &Call<'_>) -> Self {
        let panels = if call.tallies.is_empty() { 1 } else { call.panels() };
        Self {
            q: [Tile::ZERO; TILES],
            weights: vec![[Tile::ZERO; TILES]; panels],
            shift: [[0.0; ROWS]; TILES],
            sums: [[ZERO; ROWS]; TILES],
            out: [[ZEROS; ACROSS]; TILES],
        }
    }

    /// Computes the results of the first `len` rows.
    #[target_feature(enable = "avx2,fma")]
    fn attend(&mut self, head: &Head, n: usize, factor: f32, len: usize) {
        let tiles = len.div_ceil(ROWS);
        let longest = head.longest * factor.abs();
        for (row, shift) in self.q.iter().flat_map(|tile| &tile.0).zip(self.shift.as_flattened_mut()) {
            *shift = shift_of(square(row), longest);
        }
        self.outputs(head, n, factor, tiles);
        let mut rows = self.shift.as_flattened().iter().zip(self.sums.as_flattened()).take(len);
        if rows.any(|(&shift, &lanes)| vanished(shift, sum(lanes))) {
            self.maxima(head, n, factor, tiles);
            self.outputs(head, n, factor, tiles);
        }
    }

    /// Computes `P`, its sums and `O` over all panels.
    #[target_feature(enable = "avx2,fma")]
    fn outputs(&mut self, head: &Head, n: usize, factor: f32, tiles: usize) {
        let Self { q, weights, shift, sums, out } = self;
        let dim = head.keys.len() / n.div_ceil(COLUMNS);
        *sums = [[ZERO; ROWS]; TILES];
        *out = [[ZEROS; ACROSS]; TILES];
        let by_panel = head.values.len() / n.div_ceil(PANEL);
        let panels = head.keys.chunks(PANEL / COLUMNS * dim).zip(head.values.chunks(by_panel));
        for (at, (keys, values)) in panels.enumerate() {
            let len = PANEL.min(n - at * PANEL);
            let place = if at < weights.len() { at } else { 0 };
            let weights = &mut weights[place];
            let rows = q.iter().zip(&*shift).zip(sums.iter_mut().zip(&mut *weights));
            for ((q, shift), (sums, weights)) in rows.take(tiles) {
                for (line, keys) in keys.chunks(dim).enumerate() {
                    let logits = product(q, keys, ZEROS);
                    exponentials(&logits, factor, shift, sums, (weights, line * COLUMNS, len));
                }
            }
            for (out, weights) in out.iter_mut().zip(&*weights).take(tiles) {
                for (out, values) in out.iter_mut().zip(values.chunks(PANEL)) {
                    *out = product(weights, &values[..len], *out);
                }
            }
        }
    }

    /// Sets the references to the rows' maxima.
    #[target_feature(enable = "avx2,fma")]
    #[cold]
    fn maxima(&mut self, head: &Head, n: usize, factor: f32, tiles: usize) {
        let dim = head.keys.len() / n.div_ceil(COLUMNS);
        let by = _mm256_set1_ps(factor);
        for (q, shift) in self.q.iter().zip(&mut self.shift).take(tiles) {
            let mut maxima = [f32::NEG_INFINITY; ROWS];
            for (line, keys) in head.keys.chunks(dim).enumerate() {
                let len = n - line * COLUMNS;
                for (logits, max) in product(q, keys, ZEROS).iter().zip(&mut maxima) {
                    let [low, high] = logits.map(|logits| floats(_mm256_mul_ps(logits, by)));
                    *max = low.iter().chain(&high).take(len).fold(*max, |max, &x| max.max(x));
                }
            }
            *shift = maxima.map(|max| -max);
        }
    }

    /// Writes the results of a block: rows of one head from `start` on. Returns `s_i / l_i`.
    #[target_feature(enable = "avx2,fma")]
    fn finish(
        &self,
        call: &Call<'_>,
        head: At,
        start: usize,
        lse: &mut [f32],
        scores: Option<&[f32]>,
    ) -> [f32; BLOCK] {
        let ([_, heads, m, _], dim) = (call.pass.sizes(), call.v.dims()[3]);
        let mut shares = [0.0; BLOCK];
        for (i, lse) in lse.iter_mut().enumerate() {
            let (tile, row) = (i / ROWS, i % ROWS);
            let l = sum(self.sums[tile][row]);
            *lse = (f64::from(l.ln()) - f64::from(self.shift[tile][row]) * LN_2) as f32;
            shares[i] = scores.map_or(0.0, |scores| scores[i]) / l;
            let at = ((head.0 * m + start + i) * heads + head.1) * dim;
            // SAFETY: only this task uses this row of this head.
            #[allow(unsafe_code)]
            let to = unsafe { call.output.row(at, dim) };
            let by = _mm256_set1_ps(1.0 / l);
            let lanes = self.out[tile].iter().flat_map(|sums| sums[row]);
            for (to, lanes) in to.chunks_mut(LANES).zip(lanes) {
                to.copy_from_slice(&floats(_mm256_mul_ps(lanes, by))[..to.len()]);
            }
        }
        shares
    }
}

/// Computes `P` of 16 keys from their logits, as columns `first_key ..` of a panel with `len` keys.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exponentials(
    logits: &Sums,
    factor: f32,
    shift: &[f32; ROWS],
    sums: &mut [Lanes; ROWS],
    (weights, first_key, len): (&mut Tile, usize, usize),
) {
    let factor = _mm256_set1_ps(factor);
    let whole = first_key + COLUMNS <= len;
    for (((logits, &shift), sum), weights) in logits.iter().zip(shift).zip(sums).zip(&mut weights.0) {
        let shift = _mm256_set1_ps(shift);
        let mut p = [ZERO; 2];
        for (at, (p, &logits)) in p.iter_mut().zip(logits).enumerate() {
            *p = exp2(_mm256_fmadd_ps(logits, factor, shift));
            if !whole {
                *p = first(*p, len.saturating_sub(first_key + at * LANES));
            }
        }
        *sum = _mm256_add_ps(*sum, _mm256_add_ps(p[0], p[1]));
        for (to, p) in weights[first_key..first_key + COLUMNS].chunks_mut(LANES).zip(p) {
            to.copy_from_slice(&floats(p));
        }
    }
}

/// `votes_j += Σ_i shares_i P_ij` for one panel.
#[target_feature(enable = "avx2,fma")]
fn add_votes(votes: &mut Cast, weights: &[Tile; TILES], shares: &[f32]) {
    let mut sums = [ZERO; PANEL / LANES];
    for (row, &share) in weights.iter().flat_map(|tile| &tile.0).zip(shares) {
        let share = _mm256_set1_ps(share);
        for (sum, p) in sums.iter_mut().zip(row.as_chunks().0) {
            *sum = _mm256_fmadd_ps(share, lanes(p), *sum);
        }
    }
    let (registers, _) = votes.as_chunks_mut::<LANES>();
    let mut totals = [ZERO; PANEL / LANES];
    totals.iter_mut().zip(&*registers).for_each(|(total, votes)| *total = lanes(votes));
    add_all(&mut totals, &sums);
    registers.iter_mut().zip(totals).for_each(|(votes, total)| *votes = floats(total));
}
