//! Means over prompts, with bootstrap intervals.
//!
//! The interval is the percentile bootstrap (Efron 1979). The prompts are drawn repeatedly with replacement, and each
//! draw gives a mean. The interval is the middle 95 % of these means. The draws are seeded, so the same results always
//! give the same page.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::record::{Distances, Record};

/// Number of bootstrap draws.
pub(super) const DRAWS: usize = 1000;

/// A mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub(super) value: f64,
    /// The middle 95 % of bootstrap means; `None` for fewer than two values.
    pub(super) interval: Option<(f64, f64)>,
    /// Number of values.
    pub(super) count: usize,
}

impl Mean {
    /// The mean of the finite values; `None` if there are none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let count = values.len();
        let mean = |sum: f64| sum / count as f64;
        if count == 0 {
            return None;
        }
        let value = mean(values.iter().sum());
        if count < 2 {
            return Some(Self { value, interval: None, count });
        }
        let mut random = ChaCha8Rng::seed_from_u64(0);
        // a number below `count`: the upper half of a product, with a bias below count / 2^32
        let mut draw = || ((u64::from(random.next_u32()) * count as u64) >> 32) as usize;
        let mut means: Vec<f64> =
            (0..DRAWS).map(|_| mean((0..count).filter_map(|_| values.get(draw())).sum())).collect();
        means.sort_by(f64::total_cmp);
        let at = |share: f64| means.get((share * (DRAWS - 1) as f64).round() as usize).copied();
        Some(Self { value, interval: at(0.025).zip(at(0.975)), count })
    }
}

/// A distance to the unpruned image.
#[derive(Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    /// Its name with the unit, for axes.
    pub(super) axis: &'static str,
    /// Digits after the decimal point.
    pub(super) digits: usize,
    /// Which direction is better.
    pub(super) better: &'static str,
    /// The value; `None` if it is infinite.
    of: fn(&Distances) -> Option<f64>,
}

/// The distances of a record, in the order of the tables.
pub(super) const METRICS: [Metric; 4] = [
    Metric { name: "PSNR", axis: "PSNR [dB]", digits: 2, better: "higher: closer", of: |d| d.psnr },
    Metric { name: "SSIM", axis: "SSIM", digits: 3, better: "higher: closer", of: |d| Some(d.ssim) },
    Metric {
        name: "latent L2",
        axis: "latent L2",
        digits: 2,
        better: "lower: closer",
        of: |d| Some(d.latent_l2),
    },
    Metric {
        name: "relative L2",
        axis: "relative latent L2",
        digits: 3,
        better: "lower: closer",
        of: |d| Some(d.latent_l2_relative),
    },
];

impl Metric {
    /// The value for an image. `None` without distances, and if it is infinite.
    pub(super) fn value(&self, record: &Record) -> Option<f64> {
        record.distances.as_ref().and_then(self.of)
    }
}

/// The remaining tokens of a level, over images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kept {
    pub(super) level: usize,
    pub(super) tokens: f64,
    pub(super) kept: f64,
}

/// All figures of a point.
pub(super) struct PointFigures {
    pub(super) done: usize,
    pub(super) tflop: Option<Mean>,
    pub(super) seconds_per_step: Option<Mean>,
    pub(super) kept: Vec<Kept>,
    /// Votes per decision; `None` if no votes were cast.
    pub(super) votes: Option<f64>,
    /// In the order of [`METRICS`].
    pub(super) distances: [Option<Mean>; METRICS.len()],
    /// Number of images equal to the unpruned ones. Their PSNR is infinite, so the mean leaves it out.
    pub(super) equal: usize,
}

impl PointFigures {
    /// The figures over finished images.
    pub(super) fn of(records: &[&Record]) -> Self {
        let mean = |of: fn(&Record) -> f64| Mean::of(records.iter().map(|record| of(record)));
        let equal = |record: &&&Record| record.distances.as_ref().is_some_and(|d| d.psnr.is_none());
        Self {
            done: records.len(),
            tflop: mean(|record| record.flops.mean_tflop),
            seconds_per_step: mean(|record| record.times.seconds_per_step),
            kept: kept(records),
            votes: votes(records),
            distances: METRICS
                .map(|metric| Mean::of(records.iter().filter_map(|record| metric.value(record)))),
            equal: records.iter().filter(equal).count(),
        }
    }
}

/// Remaining tokens by level, finest first. Each image is weighted by its number of decisions.
fn kept(records: &[&Record]) -> Vec<Kept> {
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

fn votes(records: &[&Record]) -> Option<f64> {
    let tokens = || records.iter().flat_map(|record| &record.tokens);
    let decisions: u64 = tokens().map(|tokens| tokens.decisions).sum();
    let votes: f64 = tokens().map(|tokens| tokens.decisions as f64 * tokens.votes).sum();
    (votes > 0.0).then(|| votes / decisions as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_more_values() {
        assert_eq!(Mean::of(std::iter::empty()), None);
        assert_eq!(Mean::of([3.0].into_iter()), Some(Mean { value: 3.0, interval: None, count: 1 }));
        let width = |count: usize| {
            let mean = Mean::of((0..count).map(|i| (i % 10) as f64).chain([f64::NAN])).unwrap();
            let (low, high) = mean.interval.unwrap();
            assert!(mean.count == count && low < 4.5 && 4.5 < high && (mean.value - 4.5).abs() < 1e-12);
            high - low
        };
        let (few, many) = (width(20), width(2000));
        // 2 × 1.96 standard errors of the mean; the values' standard deviation is 2.872
        let expected = 2.0 * 1.96 * 2.872 / 20f64.sqrt();
        assert!((few / expected - 1.0).abs() < 0.2, "{few} {expected}");
        assert!((many / few * 10.0 - 1.0).abs() < 0.2, "{many} {few}");
    }
}
