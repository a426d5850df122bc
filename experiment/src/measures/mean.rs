//! Means and medians over prompts, with bootstrap intervals.
//!
//! The interval is that of the Bayesian bootstrap (Rubin, The Bayesian bootstrap, 1981). A replicate gives every prompt a weight
//! drawn from Exp(1). The interval is the middle 95 % of the replicates' values. The draws are seeded, so the same results
//! always give the same interval. It equals that of the Python package `atedm_evaluation`.

use super::draws::Draws;

/// The number of replicates.
pub const REPLICATES: usize = 1000;

/// A mean or a median.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Mean {
    /// The value itself.
    pub value: f64,
    /// The 2.5 % and 97.5 % quantiles of the replicates. `None` for fewer than two values.
    pub interval: Option<(f64, f64)>,
    /// The number of values.
    pub count: usize,
}

impl Mean {
    /// The mean of the finite values. `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = finite(values);
        Self::by(&values, |weights| weighted_mean(&values, weights))
    }

    /// The median of the finite values. `None` if there are none.
    #[must_use]
    pub fn median_of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = finite(values);
        // each value keeps its weight, whatever its place among the others
        let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        Self::by(&values, |weights| weighted_median(&order, weights))
    }

    /// A statistic of values, as a function of their weights.
    fn by(values: &[f64], statistic: impl Fn(&[f64]) -> f64) -> Option<Self> {
        let (count, first) = (values.len(), *values.first()?);
        let mut weights = vec![1.0; count];
        let value = statistic(&weights);
        if count < 2 {
            return Some(Self { value, interval: None, count });
        }
        if values.iter().all(|&value| value == first) {
            return Some(Self { value: first, interval: Some((first, first)), count });
        }
        let mut draws = Draws::new();
        let mut replicate = || {
            weights.iter_mut().for_each(|weight| *weight = draws.exponential());
            statistic(&weights)
        };
        let mut replicates: Vec<f64> = (0..REPLICATES).map(|_| replicate()).collect();
        replicates.sort_by(f64::total_cmp);
        let interval = (quantile(&replicates, 0.025), quantile(&replicates, 0.975));
        Some(Self { value, interval: Some(interval), count })
    }
}

fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    let sum: f64 = values.iter().zip(weights).map(|(value, weight)| value * weight).sum();
    sum / weights.iter().sum::<f64>()
}

/// The value below which half of the weight lies. The values are sorted, each with its place among the weights. If a boundary
/// between two values halves the weight exactly, their mean.
fn weighted_median(sorted: &[(usize, f64)], weights: &[f64]) -> f64 {
    let half = weights.iter().sum::<f64>() / 2.0;
    let mut below = 0.0;
    for (index, (place, value)) in sorted.iter().enumerate() {
        below += weights.get(*place).copied().unwrap_or(0.0);
        if below > half {
            return *value;
        }
        if below == half {
            return sorted.get(index + 1).map_or(*value, |(_, next)| f64::midpoint(*value, *next));
        }
    }
    sorted.last().map_or(f64::NAN, |(_, value)| *value)
}

fn finite(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    values.into_iter().filter(|value| value.is_finite()).collect()
}

/// A quantile of sorted values, with linear interpolation as in `numpy.quantile`.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len().saturating_sub(1)) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_more_values() {
        assert_eq!(Mean::of([]), None);
        assert_eq!(Mean::of([3.0]), Some(Mean { value: 3.0, interval: None, count: 1 }));
        assert_eq!(Mean::of([2.0, 2.0]), Some(Mean { value: 2.0, interval: Some((2.0, 2.0)), count: 2 }));
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

    #[test]
    fn medians_ignore_outliers() {
        let median = |values: &[f64]| Mean::median_of(values.iter().copied()).unwrap();
        assert_eq!(median(&[9.0, 1.0, 2.0]).value, 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 900.0]).value, 3.0);
        let many = median(&[&[1000.0][..], &[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]].concat());
        let (low, high) = many.interval.unwrap();
        assert!((many.value - 1.45).abs() < 1e-12 && (1.0..1.45).contains(&low) && 1.45 < high && high < 2.0);
    }
}
