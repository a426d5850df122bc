//! What methods did to the tokens of a point's images.

use crate::record::Record;

/// The remaining tokens of a level, over images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kept {
    pub(super) level: usize,
    pub(super) tokens: f64,
    pub(super) kept: f64,
}

/// Remaining tokens by level, finest first. Each image is weighted by its number of decisions.
pub(super) fn kept(records: &[&Record]) -> Vec<Kept> {
    let tokens = || records.iter().flat_map(|record| &record.tokens);
    let mut levels: Vec<usize> = tokens().map(|tokens| tokens.level).collect();
    levels.sort_unstable();
    levels.dedup();
    let of_level = |level: usize| {
        let (mut decisions, mut before, mut after) = (0.0, 0.0, 0.0);
        for tokens in tokens().filter(|tokens| tokens.level == level) {
            let weight = tokens.decisions as f64;
            decisions += weight;
            before += weight * tokens.tokens;
            after += weight * tokens.kept;
        }
        Kept { level, tokens: before / f64::max(decisions, 1.0), kept: after / f64::max(decisions, 1.0) }
    };
    levels.into_iter().map(of_level).collect()
}

/// Votes per decision; `None` if no votes were cast.
pub(super) fn votes(records: &[&Record]) -> Option<f64> {
    let tokens = || records.iter().flat_map(|record| &record.tokens);
    let decisions: u64 = tokens().map(|tokens| tokens.decisions).sum();
    let votes: f64 = tokens().map(|tokens| tokens.decisions as f64 * tokens.votes).sum();
    (votes > 0.0).then(|| votes / decisions as f64)
}
