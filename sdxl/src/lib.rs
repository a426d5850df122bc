//! sdxl.

pub mod checkpoint;
pub mod config;
pub mod flops;
mod layers;
pub mod pipeline;
pub mod text;
pub mod vae;
pub mod unet;
pub mod weights;
pub mod rng;
pub mod schedulers;
pub mod tokenizer;
#[cfg(feature = "hub")]
pub mod hub;
