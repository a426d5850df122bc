//! The noise levels of a model's training.

use super::config::SchedulerConfig;
use super::kinds::BetaSchedule;
use super::spacing::{linspace, linspace_f32};

/// Training noise levels, in f32 as torch computes them.
///
/// ```text
/// ᾱ_t = Π_{s ≤ t} (1 − β_s),   σ_t = √((1 − ᾱ_t) / ᾱ_t)
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrainingNoise {
    /// ᾱ by timestep. Torch accumulates the product in f64 and stores it as f32. With zero terminal SNR the last ᾱ is 0.
    pub alphas_cumprod: Vec<f32>,
    /// σ by timestep, ascending. For ᾱ = 0 it is the σ of ᾱ = 2⁻²⁴, as in diffusers.
    pub sigmas: Vec<f32>,
}

impl TrainingNoise {
    /// The levels of a config.
    pub fn new(config: &SchedulerConfig) -> Self {
        let (start, end, count) = (config.beta_start, config.beta_end, config.num_train_timesteps);
        let betas = match &config.trained_betas {
            Some(betas) => betas.clone(),
            None => match config.beta_schedule {
                BetaSchedule::Linear => linspace_f32(start as f32, end as f32, count),
                BetaSchedule::ScaledLinear => {
                    let roots = linspace_f32(start.sqrt() as f32, end.sqrt() as f32, count);
                    roots.into_iter().map(|root| root * root).collect()
                }
            },
        };
        let alphas_cumprod = match config.rescale_betas_zero_snr {
            true => cumulative(&rescaled(&betas)),
            false => cumulative(&betas),
        };
        let sigmas = alphas_cumprod.iter().map(|&alpha| sigma_of(alpha)).collect();
        Self { alphas_cumprod, sigmas }
    }

    /// The timestep whose noise level is `sigma`; it need not be a whole number. The interpolation is linear in `ln σ`.
    ///
    /// Levels and their logarithms are f32. The interpolation is in f64 (diffusers' `_sigma_to_t`).
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let wanted = sigma.max(1e-10).ln();
        let above = self.sigmas.partition_point(|&level| wanted >= f64::from(level.ln()));
        let low = above.saturating_sub(1).min(self.sigmas.len().saturating_sub(2));
        let logarithm = |i: usize| self.sigmas.get(i).map_or(0.0, |level| level.ln());
        let (from, to) = (logarithm(low), logarithm(low + 1));
        let weight = (f64::from(from) - wanted) / f64::from(from - to);
        let weight = weight.clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }
}

/// The σ of `x₀ + σ ε` with the signal-to-noise ratio of `√ᾱ x₀ + √(1 − ᾱ) ε`. ᾱ counts as 2⁻²⁴ at least, so σ is finite.
pub(super) fn sigma_of(alpha: f32) -> f32 {
    const LEAST: f32 = 1.0 / (1 << 24) as f32;
    let alpha = alpha.max(LEAST);
    ((1.0 - alpha) / alpha).sqrt()
}

/// ᾱ of these β.
fn cumulative(betas: &[f32]) -> Vec<f32> {
    let product = |product: &mut f64, beta: &f32| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    };
    betas.iter().scan(1.0, product).collect()
}

/// β of zero terminal SNR: √ᾱ is shifted so that the last is 0, and scaled so that the first stays (Lin et al. 2023,
/// "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1).
fn rescaled(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots.first().copied().unwrap_or(1.0), roots.last().copied().unwrap_or(0.0));
    let factor = first / (first - last);
    let alphas = roots.into_iter().map(|root| {
        let root = (root - last) * factor;
        root * root
    });
    let step = |before: &mut f32, alpha: f32| Some(1.0 - alpha / std::mem::replace(before, alpha));
    alphas.scan(1.0, step).collect()
}

/// Training noise levels, computed in f64 and stored as f32. The original SD-XL code (`sgm`) computes them so in numpy.
pub(super) fn sigmas_f64(config: &SchedulerConfig) -> Vec<f32> {
    let (start, end, count) = (config.beta_start, config.beta_end, config.num_train_timesteps);
    let betas: Vec<f64> = match &config.trained_betas {
        Some(betas) => betas.iter().map(|&beta| f64::from(beta)).collect(),
        None => match config.beta_schedule {
            BetaSchedule::Linear => linspace(start, end, count, true),
            BetaSchedule::ScaledLinear => {
                linspace(start.sqrt(), end.sqrt(), count, true).into_iter().map(|root| root * root).collect()
            }
        },
    };
    let level = |alpha: &mut f64, beta: f64| {
        *alpha *= 1.0 - beta;
        Some((((1.0 - *alpha) / *alpha) as f32).sqrt())
    };
    betas.into_iter().scan(1.0, level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known values of SD-XL's schedule.
    #[test]
    fn sdxl_levels() {
        let config = SchedulerConfig::sdxl();
        for sigmas in [TrainingNoise::new(&config).sigmas, sigmas_f64(&config)] {
            for (t, sigma) in [(0, 0.02917), (19, 0.13445), (981, 13.12041), (999, 14.61464)] {
                assert!((sigmas[t] - sigma).abs() < 1e-5 * sigma.max(1.0), "σ{t} = {}", sigmas[t]);
            }
        }
    }

    #[test]
    fn timestep_inverts_sigma() {
        let noise = TrainingNoise::new(&SchedulerConfig::sdxl());
        for t in [0usize, 1, 500, 998, 999] {
            assert!((noise.timestep_of(f64::from(noise.sigmas[t])) - t as f64).abs() < 1e-3);
        }
        assert_eq!(noise.timestep_of(1e9), 999.0);
        assert_eq!(noise.timestep_of(0.0), 0.0);
    }

    /// Values that diffusers 0.42 computes.
    #[test]
    fn zero_terminal_snr() {
        let config = SchedulerConfig { rescale_betas_zero_snr: true, ..SchedulerConfig::sdxl() };
        let noise = TrainingNoise::new(&config);
        let plain = TrainingNoise::new(&SchedulerConfig::sdxl());
        assert!((noise.alphas_cumprod[0] / plain.alphas_cumprod[0] - 1.0).abs() < 1e-6);
        assert_eq!(noise.alphas_cumprod[999], 0.0);
        for (t, sigma) in [(0, 0.029_167_533), (500, 1.774_558_7), (998, 2_254.195), (999, 4_095.999_8)] {
            assert!((noise.sigmas[t] / sigma - 1.0).abs() < 1e-5, "σ{t} = {}", noise.sigmas[t]);
        }
    }
}
