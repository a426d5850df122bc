//! What attention shares between all instructions: its cut into tasks, the references of rows, and the sum of first votes.

use std::sync::Mutex;

use crate::element::Element;
use crate::pack::PANEL;
use crate::typed::{Typed, TypedPass};

/// The maximum number of blocks in a task.
const BLOCKS: usize = 8;

/// The largest exponent (of 2) that a row's terms may reach. Beyond it the row's reference is raised.
const ROOM: f32 = 80.0;
/// A row with a raised reference is computed again if its sum is below this.
const VANISHED: f32 = 1.0 / (1u64 << 60) as f32;

/// The place of a head: batch entry and head.
pub(crate) type At = (usize, usize);

/// One task: rows of one head.
pub(crate) struct Part<'a> {
    pub(crate) head: At,
    pub(crate) start: usize,
    pub(crate) lse: &'a mut [f32],
}

/// Panics if values and results do not fit the pass. Only a bug in the caller can cause this.
pub(crate) fn check<E: Element>(pass: &TypedPass<'_, E>, v: &Typed<'_, E>, output: &[E], lse: &[f32]) {
    let ([batch, heads, m, n], [_, _, values, dim]) = (pass.sizes(), v.dims());
    assert!(v.dims()[..2] == [batch, heads] && values == n, "values for every key");
    assert!(
        output.len() == batch * m * heads * dim && lse.len() == batch * heads * m,
        "room for the results"
    );
}

/// The number of rows in a task, for `m` queries in blocks of so many rows.
pub(crate) fn rows_of_task(m: usize, block: usize) -> usize {
    block * (m / (8 * block)).clamp(1, BLOCKS)
}

/// The tasks of a call with so many heads, for its log-sum-exp `[b, h, m]`.
pub(crate) fn parts(lse: &mut [f32], heads: usize, m: usize, rows: usize) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (at, lse) in lse.chunks_mut(m).enumerate() {
        for (group, lse) in lse.chunks_mut(rows).enumerate() {
            parts.push(Part { head: (at / heads, at % heads), start: group * rows, lse });
        }
    }
    // one task of each head comes first, so that no thread waits for another to pack it
    parts.sort_by_key(|part| part.start);
    parts
}

/// `−r_i` of a row by its bound, which is the product of its length and this of the longest key.
pub(crate) fn shift_of(square: f32, longest: f32) -> f32 {
    let bound = square.sqrt() * longest;
    // a NaN takes the second branch and stays NaN
    if bound <= ROOM { 0.0 } else { ROOM - bound }
}

/// Whether a row's reference is too far above its logits, by the sum of its terms.
pub(crate) fn vanished(shift: f32, sum: f32) -> bool {
    shift < 0.0 && sum < VANISHED
}

/// The votes of a panel.
pub(crate) type Cast = [f32; PANEL];

/// The votes of one head while its tasks cast theirs.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    /// The votes, `[n]`.
    votes: &'a mut [f32],
    /// The number of tasks.
    tasks: usize,
    /// For each finished task: its first row, and the votes of each panel.
    cast: Vec<(usize, Vec<Cast>)>,
}

impl<'a> Tally<'a> {
    /// One for each head if the pass has scores, for tasks of this many rows.
    pub(crate) fn of_heads<E: Element>(
        pass: &TypedPass<'_, E>,
        first_vote: Option<&'a mut [f32]>,
        rows: usize,
    ) -> Vec<Mutex<Self>> {
        let [batch, heads, m, n] = pass.sizes();
        let (Some(votes), Some(_)) = (first_vote, pass.scores) else {
            return Vec::new();
        };
        assert!(votes.len() == batch * heads * n, "room for the votes");
        let tasks = m.div_ceil(rows);
        votes.chunks_mut(n).map(|votes| Mutex::new(Self { votes, tasks, cast: Vec::new() })).collect()
    }

    /// Stores the votes of a task. The last task adds all of them in the order of the rows.
    pub(crate) fn add(&mut self, start: usize, cast: Vec<Cast>) {
        self.cast.push((start, cast));
        if self.cast.len() < self.tasks {
            return;
        }
        self.cast.sort_by_key(|(start, _)| *start);
        for (at, votes) in self.votes.chunks_mut(PANEL).enumerate() {
            let mut total = [0f64; PANEL];
            for (_, cast) in &self.cast {
                total.iter_mut().zip(cast[at]).for_each(|(total, vote)| *total += f64::from(vote));
            }
            votes.iter_mut().zip(total).for_each(|(vote, total)| *vote = total as f32);
        }
    }
}
