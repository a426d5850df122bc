//! The tasks of a vote.

use crate::element::Element;
use crate::pack::PANEL;
use crate::typed::{TypedPass, shift};

/// The number of panels of 64 keys in a task.
pub(crate) const PANELS: usize = 4;
/// The number of keys in a task.
pub(crate) const KEYS: usize = PANELS * PANEL;

/// Some keys of one head, and all of its queries.
pub(crate) struct Task<'a> {
    pub(crate) head: (usize, usize),
    /// Its first keys are those of `part` tasks before it.
    pub(crate) part: usize,
    pub(crate) lse: &'a [f32],
    scores: &'a [f32],
    pub(crate) votes: &'a mut [f32],
}

impl<'a> Task<'a> {
    /// The tasks of a vote. None without scores.
    pub(crate) fn all<E: Element>(
        pass: &TypedPass<'a, E>,
        lse: &'a [f32],
        into: &'a mut [f32],
    ) -> impl Iterator<Item = Self> + use<'a, E> {
        let ([batch, heads, m, n], scores) = (pass.sizes(), pass.scores.unwrap_or_default());
        assert!(
            scores.is_empty() || (lse.len() == scores.len() && into.len() == batch * heads * n),
            "room for the votes"
        );
        let tasks = into.chunks_mut(n).zip(lse.chunks(m).zip(scores.chunks(m))).enumerate();
        tasks.flat_map(move |(at, (votes, (lse, scores)))| {
            let parts = votes.chunks_mut(KEYS).enumerate();
            parts.map(move |(part, votes)| Self { head: (at / heads, at % heads), part, lse, scores, votes })
        })
    }

    /// The exponents' shifts, and the scores, of at most `N` rows from `start` on. Rows beyond the last are zero.
    pub(crate) fn rows<const N: usize>(&self, start: usize) -> [(f32, f32); N] {
        let mut rows = [(0.0, 0.0); N];
        let known = self.lse[start..].iter().zip(&self.scores[start..]);
        for (row, (&lse, &score)) in rows.iter_mut().zip(known) {
            *row = (shift(lse), score);
        }
        rows
    }
}
