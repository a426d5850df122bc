//! The parts of a checkpoint that have weights.

/// A part of a checkpoint that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The first text encoder (CLIP ViT-L).
    TextEncoder,
    /// The second text encoder (OpenCLIP ViT-bigG), with the pooled projection.
    TextEncoder2,
    /// The U-Net.
    UNet,
    /// The autoencoder.
    Vae,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 4] = [Self::TextEncoder, Self::TextEncoder2, Self::UNet, Self::Vae];

    /// The part's folder in the checkpoint.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::UNet => "unet",
            Self::Vae => "vae",
        }
    }

    /// The name of the weight file up to the variant.
    pub fn stem(self) -> &'static str {
        match self {
            Self::TextEncoder | Self::TextEncoder2 => "model",
            Self::UNet | Self::Vae => "diffusion_pytorch_model",
        }
    }
}
