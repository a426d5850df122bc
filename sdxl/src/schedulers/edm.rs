//! Models with EDM's preconditioning (Karras et al. 2022, table 1): diffusers' `EDMEulerScheduler`, and the parts that
//! `EDMDPMSolverMultistepScheduler` shares with it.
//!
//! ```text
//! the U-Net sees      x / √(σ² + s²)   at timestep   ¼ ln σ        (s = sigma_data)
//! the clean sample    x₀ = s² / (σ² + s²) · x ± σ s / √(σ² + s²) · output   (+ epsilon, − v_prediction)
//! ```

use atedm_core::Result;

use super::config::{EdmSchedule, SchedulerConfig};
use super::denoise::Preconditioning;
use super::kinds::{FinalSigma, Prediction};
use super::ops::{at, widen};
use super::sigmas::SigmaSchedule;
use super::spacing::{check_steps, linspace, linspace_f32};

/// The two classes, which differ in small ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// `EDMEulerScheduler`.
    Euler,
    /// `EDMDPMSolverMultistepScheduler`.
    Multistep,
}

/// The preconditioning and the noise levels for a run of `steps` steps.
pub(super) fn schedule(
    config: &SchedulerConfig,
    steps: usize,
    family: Family,
) -> Result<(Preconditioning, SigmaSchedule)> {
    check_steps(steps, config.num_train_timesteps)?;
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
    let (low, high) = (config.sigma_bounds.min.unwrap_or(0.002), config.sigma_bounds.max.unwrap_or(80.0));
    let levels = match edm.schedule {
        EdmSchedule::Karras => karras(edm.rho, Range { low, high }, steps, family),
        EdmSchedule::Exponential => {
            let logarithms = linspace_f32(low.ln() as f32, high.ln() as f32, steps);
            logarithms.into_iter().rev().map(f32::exp).collect()
        }
    };
    let last = match (config.final_sigma, family) {
        (FinalSigma::Zero, _) => 0.0,
        (FinalSigma::SigmaMin, Family::Multistep) => low as f32,
        (FinalSigma::SigmaMin, Family::Euler) => at(&levels, steps - 1)?,
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
    Ok((Preconditioning::new(data, sign), schedule))
}

/// The first and last level of a schedule.
struct Range {
    low: f64,
    high: f64,
}

/// Karras' levels, from the highest to the lowest. The multistep class computes them in f32, the Euler class in f64.
fn karras(rho: f64, range: Range, steps: usize, family: Family) -> Vec<f32> {
    let (from, to) = (range.high.powf(1.0 / rho), range.low.powf(1.0 / rho));
    if family == Family::Multistep {
        let (start, stride) = (from as f32, (to - from) as f32);
        let level = |ramp: f32| f64::from(start + ramp * stride).powf(rho) as f32;
        return linspace_f32(0.0, 1.0, steps).into_iter().map(level).collect();
    }
    let level = |ramp: f64| (from + ramp * (to - from)).powf(rho) as f32;
    linspace(0.0, 1.0, steps, true).into_iter().map(level).collect()
}
