#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// The end of `unet/diffusion_pytorch_model.safetensors`; its beginning is in the crate `atedm-shapes`.
pub static SECOND_PART: &[u8] = include_bytes!("../diffusion_pytorch_model.safetensors.part-2");
