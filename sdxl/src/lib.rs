//! sdxl.

pub mod config;
pub mod flops;
mod layers;
pub mod unet;
pub mod weights;
pub mod rng;
pub mod tokenizer;
