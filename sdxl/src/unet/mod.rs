//! SD-XL's U-Net, as diffusers' `UNet2DConditionModel` computes it.
//!
//! ```text
//! emb   = time(t) + added(pooled text, sizes)
//! x     = conv_in(latents)
//! down  : (resnet, attention)* and a strided convolution a stage; every output is kept as a skip connection
//! mid   : resnet, attention, resnet
//! up    : (resnet on [x, skip], attention)* and a resize to the next skip's size, then a convolution
//! out   = conv_out(silu(norm(x)))
//! ```
//!
//! Skip connections enclose each other, and the code is the recursion that they are (`nests.rs`): what lies between
//! pushing skip connection d and popping it is nest d + 1 ([`nest`](atedm_core::plugin::nest())), the whole evaluation nest 0.
//! Attention blocks run through [`BlockPass`](atedm_core::plugin::BlockPass), where methods like AT-EDM take hold.

mod beside;
mod context;
mod control;
mod embedding;
mod input;
mod model;
mod nests;
#[cfg(test)]
mod parity;
mod stages;
mod transformer;

pub use control::{ControlNet, Controlled};
pub use input::UNetInput;
pub use model::UNet;

pub use crate::config::{BlockInfo, UNetConfig};
