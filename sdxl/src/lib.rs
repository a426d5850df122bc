//! Stable Diffusion XL from diffusers checkpoints, generic over the backends of `atedm-core`, faithful to diffusers.
//!
//! # Structure
//! - [`checkpoint`]: a diffusers folder as it is, its configurations ([`config`]) and weights ([`weights`]);
//!   `hub` (a cargo feature) fetches one by its id.
//! - [`architecture`]: a small SD-XL described by a few numbers: its configurations, parameters and tokenizers.
//! - The models: [`tokenizer`], [`text`] (CLIP), [`unet`], [`vae`]. The U-Net asks an
//!   [`atedm_core::plugin::TokenReducer`] at each of its attention blocks.
//! - Sampling: [`schedulers`], [`rng`] (torch's generator, and a portable one).
//! - [`pipeline`]: text to image, step by step.
//! - [`flops`]: what an evaluation costs, by formula; [`memory`]: how many bytes a run needs.
//! - [`output`]: files written whole or not at all.
//! - `train` (a cargo feature): a small SD-XL trained from nothing, on libtorch.
//!
//! # Example
//! The first image of a prompt, on the plain reference backend and without pruning:
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use atedm_core::DType;
//! use atedm_core::plugin::Unpruned;
//! use atedm_core::reference::{NdDevice, Reference32};
//! use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
//! use atedm_sdxl::pipeline::{Pipeline, Request};
//!
//! # fn main() -> atedm_core::Result<()> {
//! let checkpoint = Checkpoint::open("stable-diffusion-xl-base-1.0", OpenOptions::default())?;
//! let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice)?;
//! let request = Request::new(["a red circle on a blue background"]);
//! let output = pipeline.generate(&request, &mut Unpruned, &mut |_| ControlFlow::Continue(()))?;
//! # drop(output);
//! # Ok(())
//! # }
//! ```

// A library has nothing to tell on streams: what happens is logged or returned.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod architecture;
pub mod checkpoint;
pub mod config;
pub mod flops;
#[cfg(feature = "hub")]
pub mod hub;
mod layers;
pub mod memory;
pub mod output;
pub mod pipeline;
pub mod rng;
pub mod schedulers;
pub mod text;
pub mod text_file;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;
