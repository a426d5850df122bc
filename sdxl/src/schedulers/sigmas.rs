//! Noise levels of a run, for samplers whose samples are `x = x₀ + σ ε`.

use atedm_core::{Result, Tensor};

use super::config::SchedulerConfig;
use super::kinds::{FinalSigma, Spacing};
use super::levels::spread;
use super::ops::{at, divide, widen};
use super::spacing::{Visits, check_steps, interpolate, linspace};
use super::training::{TrainingNoise, sigmas_f64};

/// A schedule of noise levels for samples `x = x₀ + σ ε`. Several samplers share it.
#[derive(Debug, Clone)]
pub(super) struct SigmaSchedule {
    /// The timesteps that the U-Net gets.
    pub(super) timesteps: Vec<f64>,
    /// The levels in f32: one more than the timesteps.
    pub(super) sigmas: Vec<f32>,
    /// The same levels in f64, for callers.
    pub(super) wide: Vec<f64>,
    /// The factor on the initial noise.
    pub(super) initial: f64,
    /// The variance of clean samples that the U-Net's input assumes.
    pub(super) data_variance: f32,
}

impl SigmaSchedule {
    /// diffusers' levels: training levels interpolated at the spacing's timesteps, or other levels between their ends.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] for 0 steps, and for more steps than training has.
    pub(super) fn discrete(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let noise = TrainingNoise::new(config);
        let spacing = config.spacing.unwrap_or(Spacing::Linspace);
        let mut timesteps = Visits::new(config, steps).timesteps(spacing)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(t, &noise.sigmas)).collect();
        if let Some(spread) = spread(&sigmas, config, steps) {
            sigmas = spread;
            timesteps = sigmas.iter().map(|&sigma| f64::from(noise.timestep_of(sigma) as f32)).collect();
        }
        let last = match config.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => noise.sigmas.first().copied().unwrap_or(0.0),
        };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([last]).collect();
        let highest = sigmas.iter().copied().fold(0.0, f32::max);
        let initial = match spacing {
            Spacing::Linspace | Spacing::Trailing => highest,
            Spacing::Leading => (highest * highest + 1.0).sqrt(),
        };
        Ok(Self { timesteps, wide: widen(&sigmas), sigmas, initial: f64::from(initial), data_variance: 1.0 })
    }

    /// Like [`SigmaSchedule::discrete`], for samplers whose last level is always 0.
    ///
    /// # Errors
    /// As [`SigmaSchedule::discrete`].
    pub(super) fn to_zero(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        Self::discrete(&SchedulerConfig { final_sigma: FinalSigma::Zero, ..config.clone() }, steps)
    }

    /// sgm's `LegacyDDPMDiscretization`: the levels of timesteps `⌊linspace(last, 0)⌋` without the end, then 0. Each
    /// level is a training level, so quantizing it gives the timestep back.
    ///
    /// # Errors
    /// As [`SigmaSchedule::discrete`].
    pub(super) fn legacy(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        check_steps(steps, config.num_train_timesteps)?;
        // sgm knows no rescaled levels: they are diffusers'.
        let levels = match config.rescale_betas_zero_snr {
            true => TrainingNoise::new(config).sigmas,
            false => sigmas_f64(config),
        };
        let last = config.num_train_timesteps as f64 - 1.0;
        let timesteps: Vec<f64> = match steps == config.num_train_timesteps {
            true => (0..steps).rev().map(|t| t as f64).collect(),
            false => linspace(last, 0.0, steps, false).into_iter().map(f64::trunc).collect(),
        };
        let level = |&t: &f64| levels.get(t as usize).copied().unwrap_or(0.0);
        let sigmas: Vec<f32> = timesteps.iter().map(level).chain([0.0]).collect();
        let timesteps = sigmas.iter().take(steps).map(|&sigma| nearest(&levels, sigma) as f64).collect();
        let highest = sigmas.first().copied().unwrap_or(0.0);
        let initial = f64::from((1.0 + highest * highest).sqrt());
        Ok(Self { timesteps, wide: widen(&sigmas), sigmas, initial, data_variance: 1.0 })
    }

    /// `sample / √(σ² + variance of the data)`.
    pub(super) fn scale_input<T: Tensor>(&self, sample: &T, step: usize) -> Result<T> {
        let sigma = at(&self.sigmas, step)?;
        divide(sample, (sigma * sigma + self.data_variance).sqrt())
    }
}

/// The index of the level nearest to `sigma`. On ties, the lower index (sgm's `DiscreteDenoiser`).
fn nearest(levels: &[f32], sigma: f32) -> usize {
    let distance = |i: &usize| levels.get(*i).map_or(f32::INFINITY, |level| (sigma - level).abs());
    (0..levels.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}
