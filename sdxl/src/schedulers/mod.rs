//! The samplers of diffusers 0.42, and the paper's sampler, sgm's EulerEDM.
//!
//! A [`SchedulerConfig`] is a checkpoint's `scheduler_config.json`. A [`SamplerChoice`] is the user's choice.
//! [`SchedulerConfig::build`] turns both and a number of steps into a [`Sampler`].
//!
//! | file | what |
//! |---|---|
//! | `kinds`, `config`, `fields`, `choice` | the config, and the user's choice |
//! | `build`, `sampler` | building a sampler, and the trait of samplers |
//! | `euler`, `ancestral`, `ddim`, `dpm`, `lcm` | the samplers |
//! | `sigmas`, `training`, `spacing`, `edm` | noise levels and timesteps |
//! | `denoise`, `ops` | reading a U-Net's output, and small arithmetic |
//!
//! Precision is as in diffusers:
//! - Training noise levels are f32; their cumulative product is accumulated in f64 (torch).
//! - Inference noise levels are interpolated in f64 and stored as f32 (numpy).
//! - Scalars of a step are f32. Tensors keep the dtype of the sample; the pipeline holds it in f32.

mod ancestral;
mod build;
mod choice;
mod config;
mod ddim;
mod denoise;
mod dpm;
mod edm;
mod euler;
mod fields;
mod kinds;
mod lcm;
mod ops;
mod sampler;
mod sigmas;
mod spacing;
mod training;

pub use choice::SamplerChoice;
pub use config::{EdmConfig, EdmSchedule, SchedulerConfig};
pub use kinds::{BetaSchedule, FinalSigma, Prediction, SchedulerClass, SigmaBounds, Spacing};
pub use sampler::Sampler;
pub use training::TrainingNoise;
