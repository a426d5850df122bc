//! Parts that replace a checkpoint's own: an autoencoder or a U-Net in a folder or a file of its own.

mod open;
mod part;
mod unet;
mod vae;

pub use open::open_vae;
pub(super) use part::Replaced;
pub(super) use unet::take_unet;
pub(super) use vae::vae;
