//! The models' own configurations, as diffusers and transformers write them (`config.json`).
//!
//! Unknown keys are ignored. If the value of a known key asks for something that is not implemented, it is an error
//! that names the file and the field. So no checkpoint silently runs as a different model.

mod control;
mod fields;
mod layout;
mod limits;
mod parameters;
mod text;
mod unet;
mod unet_json;
mod vae;

pub(crate) use fields::Fields;
pub(crate) use layout::Nesting;
pub use layout::{BlockInfo, NestInfo};
pub use text::{TextActivation, TextEncoderConfig};
pub use unet::{ControlNetConfig, DownStage, MidStage, UNetConfig, UpStage};
pub use vae::{KlConfig, TinyVaeConfig, VaeConfig};

/// The type of a stage without the prefix of old checkpoints. diffusers removes it too.
fn block_type(name: &str) -> &str {
    name.strip_prefix("UNetRes").unwrap_or(name)
}

#[cfg(test)]
mod tests;
