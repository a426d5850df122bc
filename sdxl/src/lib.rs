#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`checkpoint`]: a diffusers folder without conversion, with its configurations ([`config`]) and weights
//!   ([`weights`]). `hub` (a cargo feature) fetches one by its id.
//! - [`architecture`]: a small SD-XL described by a few numbers: its configurations, parameters and tokenizers.
//! - The models: [`tokenizer`], [`text`] (CLIP), [`unet`], [`vae`]. The U-Net calls an
//!   [`atedm_core::plugin::TokenReducer`] at each of its attention blocks.
//! - Sampling: [`schedulers`], [`rng`] (torch's generator, and a portable one).
//! - [`prompt`]: how prompts are read: weights, and prompts of any length.
//! - [`pipeline`]: text to image, step by step.
//! - [`flops`]: the cost of an evaluation by formula. [`memory`]: the memory that a run needs, in bytes.
//! - [`output`]: writes files completely or not at all.

// A library must not write to the standard streams. Events are logged or returned.
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
pub mod prompt;
pub mod rng;
pub mod schedulers;
pub mod text;
pub mod text_file;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;
