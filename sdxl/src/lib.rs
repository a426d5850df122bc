//! Stable Diffusion XL from diffusers checkpoints, generic over the backends of `atedm-core`, faithful to diffusers.
//!
//! # Structure
//! - [`checkpoint`]: a diffusers folder as it is, its configurations ([`config`]) and weights ([`weights`]);
//!   `hub` (a cargo feature) fetches one by its id.
//! - The models: [`tokenizer`], [`text`] (CLIP), [`unet`], [`vae`]. The U-Net asks an
//!   [`atedm_core::plugin::TokenReducer`] at each of its attention blocks.
//! - Sampling: [`schedulers`], [`rng`] (torch's generator, and a portable one).
//! - [`pipeline`]: text to image, step by step.
//! - [`flops`]: what an evaluation costs, by formula.

pub mod checkpoint;
pub mod config;
pub mod flops;
#[cfg(feature = "hub")]
pub mod hub;
mod layers;
pub mod pipeline;
pub mod rng;
pub mod schedulers;
pub mod text;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;
