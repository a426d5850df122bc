//! LoRA: small files that change the weights of a checkpoint.
//!
//! A file is matched with the checkpoint when the checkpoint is opened. Weights are changed one by one when they are loaded:
//! `W + Σ scale · change`, computed in f32.

mod factor;
mod file;
mod form;
mod kind;
mod leaves;
mod merged;
mod places;
mod request;
mod settings;

pub use file::LoraFile;
pub(super) use kind::adapter;
pub(super) use merged::Merged;
pub(super) use places::Places;
pub use request::Lora;
