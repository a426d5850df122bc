//! The first vote. Attention casts it from its own `P`: `u_j += Σ_i P_ij s_i / l_i`.
//!
//! The votes stay in the order of [`Element::lanes`] until a task ends.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use crate::attention::share::Cast;
use crate::element::Element;
use crate::lanes::{LANES, Lanes, floats};

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

/// The votes of a panel in the order of its keys.
pub(crate) fn in_order<E: Element>(ballot: &Ballot) -> Cast {
    let lanes: [[f32; LANES]; 4] = ballot.map(floats);
    std::array::from_fn(|j| lanes.as_flattened()[E::place(j)])
}
