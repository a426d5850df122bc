//! The samplers of diffusers 0.42, and the paper's sampler, sgm's EulerEDM.
//!
//! A [`SchedulerConfig`] is a checkpoint's `scheduler_config.json`. A [`SamplerRegistry`] turns it and a number of steps into
//! a [`Sampler`]: the checkpoint's own, or the one that a user names. Samplers of other crates join the same registry.
//!
//! | file | what |
//! |---|---|
//! | `kinds`, `config`, `fields` | what a config says |
//! | `registry`, `builtin`, `sampler` | samplers by name, ours, and what a sampler is |
//! | `euler`, `ancestral`, `lms`, `heun`; `leveled` | samplers over `x = x₀ + σ ε`; what the first three share |
//! | `dpm`, `singlestep`, `unipc`; `solver` | solvers in the logarithm of the signal-to-noise ratio; what they share |
//! | `ddim`, `ddpm`, `lcm`, `tcd`; `alphas`, `distilled` | samplers over `x = √ᾱ x₀ + √(1 − ᾱ) ε`; what they share |
//! | `sigmas`, `levels`, `training`, `spacing`, `edm` | noise levels and timesteps |
//! | `denoise`, `ops` | how a U-Net's output is read, and small arithmetic |
//!
//! Precision: training noise levels are f32 with the cumulative product accumulated in f64 (torch's), inference
//! noise levels are interpolated in f64 and stored as f32 (numpy's part of diffusers), scalars of a step are f32,
//! and tensors keep the dtype of the sample, which the pipeline holds in f32.
//!
//! One departure from diffusers: every sampler here rescales the training levels where `rescale_betas_zero_snr` asks for it.
//! Some of diffusers' classes have no such field (Heun, LMS, DPM++ singlestep) and drop it, and then read a U-Net that was
//! trained on rescaled levels wrongly.

mod alphas;
mod ancestral;
mod builtin;
mod config;
mod ddim;
mod ddpm;
mod denoise;
mod distilled;
mod dpm;
mod edm;
mod euler;
mod fields;
mod heun;
mod kinds;
mod lcm;
mod leveled;
mod levels;
mod lms;
mod ops;
mod registry;
mod sampler;
mod sigmas;
mod singlestep;
mod solver;
mod spacing;
mod tcd;
mod training;
mod unipc;

pub use config::{EdmConfig, EdmSchedule, SchedulerConfig};
pub use kinds::{
    BetaSchedule, DdpmVariance, DpmAlgorithm, FinalSigma, Levels, Prediction, SigmaBounds, Spacing,
    UniPcFactor,
};
pub use registry::SamplerRegistry;
pub use sampler::Sampler;
pub use training::TrainingNoise;
