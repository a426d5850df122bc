//! Noise levels between two ends that do not follow the training ones.

use super::config::SchedulerConfig;
use super::kinds::Levels;
use super::spacing::linspace;

/// The levels of a run of `steps` steps from the first to the last of `visited`, unless the config has bounds of its own;
/// `None` where it asks for the training levels.
pub(super) fn spread(visited: &[f64], config: &SchedulerConfig, steps: usize) -> Option<Vec<f64>> {
    let high = config.sigma_bounds.max.or(visited.first().copied()).unwrap_or(1.0);
    let low = config.sigma_bounds.min.or(visited.last().copied()).unwrap_or(1.0);
    match config.levels {
        Levels::Training => None,
        Levels::Karras => Some(karras(high, low, steps)),
        Levels::Exponential => {
            let logarithms = linspace(high.ln(), low.ln(), steps, true);
            Some(logarithms.into_iter().map(f64::exp).collect())
        }
        Levels::Beta => {
            let level = |ramp: f64| low + beta_quantile(1.0 - ramp) * (high - low);
            Some(linspace(0.0, 1.0, steps, true).into_iter().map(level).collect())
        }
    }
}

/// Karras et al. 2022, equation 5, with ρ = 7.
fn karras(high: f64, low: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (high, low) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps, true).into_iter().map(|ramp| (high + ramp * (low - high)).powf(RHO)).collect()
}

/// Both parameters of the beta distribution (Lee et al. 2024, "Beta Sampling is All You Need").
const SHAPE: f64 = 0.6;

/// The quantile of the beta distribution: the `x` below which the share `p` of it lies, to 2⁻⁶⁰.
fn beta_quantile(p: f64) -> f64 {
    // Equal parameters make the distribution symmetric: the lower half tells the upper one.
    if p > 0.5 {
        return 1.0 - beta_quantile(1.0 - p);
    }
    let wanted = p * 2.0 * incomplete_beta(0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..59 {
        let middle = 0.5 * (low + high);
        match incomplete_beta(middle) < wanted {
            true => low = middle,
            false => high = middle,
        }
    }
    if p >= 0.5 { 0.5 } else { low }
}

/// The incomplete beta function `B(x; a, a)` for `x` up to ½, by its power series.
///
/// ```text
/// B(x; a, a) = xᵃ Σₙ (1 − a)(2 − a) … (n − a) / n! · xⁿ / (a + n)
/// ```
fn incomplete_beta(x: f64) -> f64 {
    // Terms shrink at least by half each.
    let term = |power: &mut f64, n: i32| {
        let n = f64::from(n);
        let now = *power / (SHAPE + n);
        *power *= (n + 1.0 - SHAPE) / (n + 1.0) * x;
        Some(now)
    };
    x.powf(SHAPE) * (0..60).scan(1.0, term).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(levels: Levels) -> Vec<f64> {
        let config = SchedulerConfig { levels, ..SchedulerConfig::sdxl() };
        spread(&[14.0, 3.0, 0.5], &config, 4).unwrap()
    }

    #[test]
    fn ends_are_kept() {
        for kind in [Levels::Karras, Levels::Exponential, Levels::Beta] {
            let levels = levels(kind);
            assert!((levels[0] - 14.0).abs() < 1e-12 && (levels[3] - 0.5).abs() < 1e-12, "{levels:?}");
            assert!(levels.windows(2).all(|pair| pair[0] > pair[1]), "{levels:?}");
        }
    }

    /// `scipy.stats.beta.ppf(p, 0.6, 0.6)` of scipy 1.17.
    #[test]
    fn quantiles_are_scipys() {
        for (p, expected) in [
            (0.0, 0.0),
            (1e-4, 3.998377158137721e-7),
            (0.04, 0.00866376938478334),
            (0.3, 0.23401700387523572),
            (0.5, 0.5),
            (0.77, 0.8461624142323502),
            (0.96, 0.9913362306152167),
            (1.0, 1.0),
        ] {
            assert!((beta_quantile(p) - expected).abs() < 1e-14, "{p}: {}", beta_quantile(p));
        }
    }
}
