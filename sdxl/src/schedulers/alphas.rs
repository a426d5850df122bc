//! Timesteps and ᾱ of a run, for samplers whose samples are `x = √ᾱ x₀ + √(1 − ᾱ) ε`.

use atedm_core::{Error, Result};

use super::config::SchedulerConfig;
use super::kinds::{Prediction, Spacing};
use super::spacing::Visits;
use super::training::{TrainingNoise, sigma_of};

/// The timesteps of a run with their ᾱ.
pub(super) struct AlphaSchedule {
    /// Timesteps told to the U-Net.
    pub(super) timesteps: Vec<f64>,
    /// ᾱ of each.
    pub(super) visited: Vec<f32>,
    /// ᾱ of every training timestep.
    pub(super) trained: Vec<f32>,
}

impl AlphaSchedule {
    /// As DDIM and DDPM visit them.
    ///
    /// # Errors
    /// [`Error::Config`] for steps that training has not, and as [`expect_signal`].
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let visits = Visits { whole: true, ..Visits::new(config, steps) };
        let timesteps = visits.timesteps(config.spacing.unwrap_or(Spacing::Leading))?;
        let trained = TrainingNoise::new(config).alphas_cumprod;
        let alpha = |&t: &f64| {
            trained.get(t.max(0.0) as usize).copied().ok_or_else(|| {
                let (offset, train) = (config.steps_offset, config.num_train_timesteps);
                let reason = format!("{steps} steps with steps_offset {offset} pass timestep {train}");
                Error::config("steps", reason)
            })
        };
        let visited = timesteps.iter().map(alpha).collect::<Result<Vec<f32>>>()?;
        expect_signal(config, &visited)?;
        Ok(Self { timesteps, visited, trained })
    }
}

/// Checks that the U-Net tells a clean sample at each of these ᾱ: where ᾱ is 0 the sample is noise alone, and a predicted
/// noise tells nothing.
///
/// # Errors
/// [`Error::Config`] naming `prediction_type`.
pub(super) fn expect_signal(config: &SchedulerConfig, alphas: &[f32]) -> Result<()> {
    if config.prediction == Prediction::Epsilon && alphas.contains(&0.0) {
        let reason = "expected v_prediction or sample with rescale_betas_zero_snr, got epsilon";
        return Err(config.error("prediction_type", reason));
    }
    Ok(())
}

/// σ of each of these ᾱ.
pub(super) fn sigmas_of(alphas: impl Iterator<Item = f32>) -> Vec<f64> {
    alphas.map(|alpha| f64::from(sigma_of(alpha))).collect()
}
