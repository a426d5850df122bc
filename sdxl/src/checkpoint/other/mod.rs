//! Parts that replace a checkpoint's own: an autoencoder or a U-Net in a folder or a file of its own. Also a ControlNet beside it.

mod control;
mod open;
mod part;
mod unet;
mod vae;

pub(super) use control::control_net;
pub use open::open_vae;
pub(super) use part::{Origin, Replaced};
pub(super) use unet::take_unet;
pub(super) use vae::vae;
