//! Samplers, as diffusers 0.42 computes them, and sgm's EulerEDM, the paper's.
//!
//! A [`SchedulerConfig`] is a checkpoint's `scheduler_config.json`; a [`SamplerChoice`] is what a user asked for;
//! [`SchedulerConfig::build`] turns both and a number of steps into a [`Sampler`].
//!
//! | file | what |
//! |---|---|
//! | `kinds`, `config`, `fields`, `choice` | what a config says, what a user asks for |
//! | `build`, `sampler` | which sampler that is, and what a sampler is |
//! | `euler`, `ancestral`, `ddim`, `dpm`, `lcm` | the samplers |
//! | `sigmas`, `training`, `spacing`, `edm` | noise levels and timesteps |
//! | `denoise`, `ops` | how a U-Net's output is read, and small arithmetic |
//!
//! Precision: training noise levels are f32 with the cumulative product accumulated in f64 (torch's), inference
//! noise levels are interpolated in f64 and stored as f32 (numpy's part of diffusers), scalars of a step are f32,
//! and tensors keep the dtype of the sample, which the pipeline holds in f32.

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
