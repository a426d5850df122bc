//! Models with EDM's preconditioning (Karras et al. 2022, table 1): diffusers' `EDMEulerScheduler`, and what its
//! `EDMDPMSolverMultistepScheduler` shares with it.
//!
//! ```text
//! the U-Net sees      x / √(σ² + s²)   at timestep   ¼ ln σ        (s = sigma_data)
//! the clean sample    x₀ = s² / (σ² + s²) · x ± σ s / √(σ² + s²) · output   (+ epsilon, − v_prediction)
//! ```

use atedm_core::{Result, Tensor};

use super::Sampler;
use super::config::{FinalSigma, Prediction, SchedulerClass, SchedulerConfig};
use super::euler::SigmaSchedule;
use super::fields::one_of;
use super::ops::{add_scaled, at, divide, scale, widen};
use super::spacing::{linspace, linspace_f32};
use crate::config::Fields;
use crate::rng::NoiseSource;

/// What the configs of EDM's classes say beside `sigma_min`, `sigma_max` and the fields of all classes.
#[derive(Debug, Clone, PartialEq)]
pub struct EdmConfig {
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// ρ of Karras' levels.
    pub rho: f64,
    /// How noise levels lie between the bounds.
    pub schedule: EdmSchedule,
}

/// How noise levels lie between `sigma_max` and `sigma_min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdmSchedule {
    /// Evenly in `σ^(1/ρ)` (Karras et al. 2022, equation 5).
    Karras,
    /// Evenly in `ln σ`.
    Exponential,
}

impl EdmConfig {
    pub(super) fn from_fields(fields: &Fields) -> Result<Self> {
        let schedules = [("karras", EdmSchedule::Karras), ("exponential", EdmSchedule::Exponential)];
        Ok(Self {
            sigma_data: fields.positive("sigma_data", 0.5)?,
            rho: fields.positive("rho", 7.0)?,
            schedule: one_of(fields, "sigma_schedule", &schedules)?.unwrap_or(EdmSchedule::Karras),
        })
    }
}

/// The preconditioning of one checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preconditioning {
    data: f32,
    /// 1, or −1 for v-prediction.
    sign: f32,
}

impl Preconditioning {
    /// The clean sample from a U-Net output at noise level `sigma`.
    pub(super) fn denoised<T: Tensor>(&self, output: &T, sample: &T, sigma: f32) -> Result<T> {
        let (data, variance) = (self.data * self.data, sigma * sigma + self.data * self.data);
        let kept = scale(sample, data / variance)?;
        add_scaled(&kept, output, self.sign * sigma * self.data / variance.sqrt())
    }
}

/// The preconditioning and the noise levels of a run of `steps` steps.
pub(super) fn schedule(config: &SchedulerConfig, steps: usize) -> Result<(Preconditioning, SigmaSchedule)> {
    let Some(edm) = &config.edm else {
        return Err(config.error("_class_name", "expected one of EDM's classes"));
    };
    let sign = match config.prediction {
        Prediction::Epsilon => 1.0,
        Prediction::VPrediction => -1.0,
        Prediction::Sample => {
            let reason = "expected epsilon or v_prediction for EDM's classes, got sample";
            return Err(config.error("prediction_type", reason));
        }
    };
    let (low, high) = (config.sigma_bounds.0.unwrap_or(0.002), config.sigma_bounds.1.unwrap_or(80.0));
    let multistep = config.class == Some(SchedulerClass::EdmDpmMultistep);
    let levels = match edm.schedule {
        EdmSchedule::Karras => karras(edm.rho, (low, high), steps, multistep),
        EdmSchedule::Exponential => {
            let logarithms = linspace_f32(low.ln() as f32, high.ln() as f32, steps);
            logarithms.into_iter().rev().map(f32::exp).collect()
        }
    };
    let last = match (config.final_sigma, multistep) {
        (FinalSigma::Zero, _) => 0.0,
        (FinalSigma::SigmaMin, true) => low as f32,
        (FinalSigma::SigmaMin, false) => at(&levels, steps - 1)?,
    };
    let timesteps = levels.iter().map(|sigma| f64::from(0.25 * sigma.ln())).collect();
    let sigmas: Vec<f32> = levels.into_iter().chain([last]).collect();
    let data = edm.sigma_data as f32;
    let schedule = SigmaSchedule {
        timesteps,
        wide: widen(&sigmas),
        sigmas,
        initial: (high * high + 1.0).sqrt(),
        data_variance: data * data,
    };
    Ok((Preconditioning { data, sign }, schedule))
}

/// Karras' levels from the highest to the lowest; `single`: computed in f32, as the multistep class does.
fn karras(rho: f64, (low, high): (f64, f64), steps: usize, single: bool) -> Vec<f32> {
    let (from, to) = (high.powf(1.0 / rho), low.powf(1.0 / rho));
    if single {
        let (start, stride) = (from as f32, (to - from) as f32);
        let level = |ramp: f32| f64::from(start + ramp * stride).powf(rho) as f32;
        return linspace_f32(0.0, 1.0, steps).into_iter().map(level).collect();
    }
    let level = |ramp: f64| (from + ramp * (to - from)).powf(rho) as f32;
    linspace(0.0, 1.0, steps, true).into_iter().map(level).collect()
}

/// Euler steps over EDM's preconditioning, without churn.
#[derive(Debug, Clone)]
pub(super) struct EdmEuler {
    preconditioning: Preconditioning,
    schedule: SigmaSchedule,
}

impl EdmEuler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let (preconditioning, schedule) = schedule(config, steps)?;
        Ok(Self { preconditioning, schedule })
    }
}

impl<T: Tensor> Sampler<T> for EdmEuler {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.schedule.wide
    }

    fn init_noise_sigma(&self) -> f64 {
        self.schedule.initial
    }

    fn scale_input(&self, sample: &T, step: usize) -> Result<T> {
        self.schedule.scale_input(sample, step)
    }

    fn step(&mut self, output: &T, step: usize, sample: &T, _noise: &mut dyn NoiseSource) -> Result<T> {
        let sigma = at(&self.schedule.sigmas, step)?;
        let next = at(&self.schedule.sigmas, step + 1)?;
        let clean = self.preconditioning.denoised(output, sample, sigma)?;
        let derivative = divide(&sample.sub(&clean)?, sigma)?;
        add_scaled(sample, &derivative, next - sigma)
    }

    fn add_noise(&self, clean: &T, noise: &T, step: usize) -> Result<T> {
        add_scaled(clean, noise, at(&self.schedule.sigmas, step)?)
    }
}
