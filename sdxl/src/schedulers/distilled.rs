//! Timesteps of samplers for models that were distilled on few steps (LCM, TCD).

use atedm_core::{Error, Result};

use super::alphas::expect_signal;
use super::config::SchedulerConfig;
use super::ops::at;
use super::spacing::{check_steps, linspace};
use super::training::TrainingNoise;

/// Some of the steps of a distillation, spread evenly over them.
pub(super) struct DistilledSchedule {
    pub(super) timesteps: Vec<f64>,
    /// ᾱ of each timestep.
    pub(super) alphas: Vec<f32>,
    /// ᾱ of all training timesteps.
    pub(super) trained: Vec<f32>,
}

impl DistilledSchedule {
    /// # Errors
    /// [`Error::Config`]: with `steps` for a number of steps that the distillation does not have; with the config's field
    /// for a distillation of more steps than the training; as in [`expect_signal`].
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        check_steps(steps, config.num_train_timesteps)?;
        let original = config.original_inference_steps;
        if !(1..=config.num_train_timesteps).contains(&original) {
            let most = config.num_train_timesteps;
            let reason =
                format!("expected 1 to the {most} of num_train_timesteps for LCM and TCD, got {original}");
            return Err(config.error("original_inference_steps", reason));
        }
        if steps > original {
            let reason = format!("expected at most the {original} steps of the distillation, got {steps}");
            return Err(Error::config("steps", reason));
        }
        let stride = config.num_train_timesteps / original;
        let visited: Vec<usize> =
            linspace(0.0, original as f64, steps, false).into_iter().map(|i| i as usize).collect();
        let timesteps: Vec<usize> = visited.into_iter().map(|i| (original - i) * stride - 1).collect();
        let trained = TrainingNoise::new(config).alphas_cumprod;
        let alphas = timesteps.iter().map(|&t| at(&trained, t)).collect::<Result<Vec<f32>>>()?;
        expect_signal(config, &alphas)?;
        Ok(Self { timesteps: timesteps.into_iter().map(|t| t as f64).collect(), alphas, trained })
    }
}
