//! Comparisons of points: differences prompt by prompt, and the Pareto front.

use super::mean::Mean;
use super::metric::Better;

/// A point against a baseline, over the prompts that both have.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The mean of the point's value minus the baseline's. Prompts with an infinite value are left out. `None` if none is left.
    pub mean: Option<Mean>,
    /// The share of prompts at which the point is better. A tie counts half.
    pub win_rate: Mean,
    /// The number of prompts at which the point is better.
    pub wins: usize,
    /// The number of prompts with equal values.
    pub ties: usize,
    /// The number of prompts at which the baseline is better.
    pub losses: usize,
}

impl Difference {
    /// Compares pairs of a point's value and the baseline's. `None` if there are none. A value may be infinite, as the PSNR of
    /// equal pictures is. Pairs with a NaN are left out.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>, better: Better) -> Option<Self> {
        let pairs: Vec<(f64, f64)> =
            pairs.into_iter().filter(|(own, other)| !own.is_nan() && !other.is_nan()).collect();
        let count = |wanted: fn(Better, f64, f64) -> bool| {
            pairs.iter().filter(|&&(own, other)| wanted(better, own, other)).count()
        };
        let score = |&(own, other): &(f64, f64)| match (better.prefers(own, other), own == other) {
            (true, _) => 1.0,
            (false, true) => 0.5,
            (false, false) => 0.0,
        };
        Some(Self {
            mean: Mean::of(pairs.iter().map(|(own, other)| own - other)),
            win_rate: Mean::of(pairs.iter().map(score))?,
            wins: count(|better, own, other| better.prefers(own, other)),
            ties: count(|_, own, other| own == other),
            losses: count(|better, own, other| better.prefers(other, own)),
        })
    }
}

/// Which points lie on the Pareto front: no other point costs at most as much and is at least as good, with one of both strictly.
/// A point is its cost and its value. A point with a value that is not finite is not on the front.
#[must_use]
pub fn front(points: &[(f64, f64)], better: Better) -> Vec<bool> {
    let finite = |&(cost, value): &(f64, f64)| cost.is_finite() && value.is_finite();
    let beats = |&(cost, value): &(f64, f64), &(other_cost, other): &(f64, f64)| {
        let no_worse = cost <= other_cost && !better.prefers(other, value);
        no_worse && (cost < other_cost || better.prefers(value, other))
    };
    let on = |point: &(f64, f64)| {
        finite(point) && !points.iter().filter(|other| finite(other)).any(|other| beats(other, point))
    };
    points.iter().map(on).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_hold_what_nothing_beats() {
        // the second costs more and is worse than the first; the last two are equal
        let points =
            [(1.0, 5.0), (2.0, 4.0), (3.0, 9.0), (2.0, f64::NAN), (4.0, 9.0), (0.5, 1.0), (0.5, 1.0)];
        assert_eq!(front(&points, Better::Higher), [true, false, true, false, false, true, true]);
        assert_eq!(front(&points, Better::Lower), [false, false, false, false, false, true, true]);
        assert!(front(&[], Better::Lower).is_empty());
    }

    #[test]
    fn wins_count_infinite_values_and_differences_do_not() {
        let infinite = f64::INFINITY;
        let pairs =
            [(3.0, 1.0), (infinite, 4.0), (2.0, 2.0), (1.0, 4.0), (infinite, infinite), (f64::NAN, 1.0)];
        let found = Difference::of(pairs, Better::Higher).unwrap();
        assert_eq!((found.wins, found.ties, found.losses), (2, 2, 1));
        assert_eq!((found.win_rate.value, found.win_rate.count), (0.6, 5));
        let mean = found.mean.unwrap();
        assert!((mean.value + 1.0 / 3.0).abs() < 1e-12 && mean.count == 3);
        let lower = Difference::of(pairs, Better::Lower).unwrap();
        assert_eq!((lower.wins, lower.ties, lower.losses), (1, 2, 2));
        assert_eq!(Difference::of([], Better::Lower), None);
    }
}
