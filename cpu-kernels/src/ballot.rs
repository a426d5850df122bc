//! The first vote. Attention casts it from its own `P`: `u_j += Σ_i P_ij s_i / l_i`.
//!
//! The votes stay in the order of [`Element::lanes`] until all are added.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use crate::element::Element;
use crate::lanes::{Lanes, floats};
use crate::pack::PANEL;

/// The votes of a panel.
pub(crate) type Ballot = [Lanes; 4];

/// `ballot_j += Σ_i shares_i P_ij` for one panel of a block, with the rows of `P`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn cast(ballot: &mut Ballot, weights: impl Iterator<Item = [Lanes; 4]>, shares: &[f32]) {
    let mut sums = [_mm512_setzero_ps(); 4];
    for (row, &share) in weights.zip(shares) {
        let share = _mm512_set1_ps(share);
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = _mm512_fmadd_ps(share, value, *sum);
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
    pub(crate) fn add<E: Element>(&mut self, start: usize, ballots: Vec<Ballot>) {
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
                *vote = total[E::place(j)] as f32;
            }
        }
    }
}
