//! The first vote. Attention casts it from its own `P` in bf16: `u_j += Σ_i P_ij s_i / l_i`.
//!
//! Half of a bf16 pair, shifted or masked, is the f32 itself. A register of pairs therefore gives one register of
//! even columns and one of odd columns. The votes stay in this order until all are added.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32,
};

use crate::pack::PANEL;
use crate::tile::{LANES, Lanes, Pairs, ROWS, Tile, floats};

/// The votes of a panel: of keys `0, 2, .. 30`, of keys `1, 3, .. 31`, and the same from key 32 on.
pub(crate) type Ballot = [Lanes; 4];

/// `ballot_j += Σ_i shares_i P_ij` for one panel of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn cast(ballot: &mut Ballot, weights: &[Tile], shares: &[f32]) {
    let odd = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let mut sums = [_mm512_setzero_ps(); 4];
    for (tile, shares) in weights.iter().zip(shares.as_chunks::<ROWS>().0) {
        for (row, &share) in tile.0.iter().zip(shares) {
            let share = _mm512_set1_ps(share);
            for (line, sums) in row.as_chunks::<LANES>().0.iter().zip(sums.as_chunks_mut::<2>().0) {
                // SAFETY: both are 64 bytes, and every bit pattern is valid.
                #[allow(unsafe_code)]
                let pairs: Pairs = unsafe { std::mem::transmute(*line) };
                let values = [_mm512_slli_epi32::<16>(pairs), _mm512_and_si512(pairs, odd)];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = _mm512_fmadd_ps(share, _mm512_castsi512_ps(value), *sum);
                }
            }
        }
    }
    for (total, sum) in ballot.iter_mut().zip(sums) {
        *total = _mm512_add_ps(*total, sum);
    }
}

/// The votes of one head while its tasks cast theirs.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    /// The votes, `[n]`.
    pub(crate) votes: &'a mut [f32],
    /// The number of tasks.
    pub(crate) tasks: usize,
    /// For each finished task: its first row, and one ballot for each panel.
    pub(crate) cast: Vec<(usize, Vec<Ballot>)>,
}

impl Tally<'_> {
    /// Stores the ballots of a task. The last task adds all of them in the order of the rows.
    pub(crate) fn add(&mut self, start: usize, ballots: Vec<Ballot>) {
        self.cast.push((start, ballots));
        if self.cast.len() < self.tasks {
            return;
        }
        self.cast.sort_by_key(|(start, _)| *start);
        for (at, votes) in self.votes.chunks_mut(PANEL).enumerate() {
            let mut total = [0f64; PANEL];
            for (_, ballots) in &self.cast {
                let lanes = ballots[at].iter().flat_map(|&lanes| floats(lanes));
                total.iter_mut().zip(lanes).for_each(|(total, vote)| *total += f64::from(vote));
            }
            for (j, vote) in votes.iter_mut().enumerate() {
                *vote = total[j / 32 * 32 + j % 2 * LANES + j % 32 / 2] as f32;
            }
        }
    }
}
