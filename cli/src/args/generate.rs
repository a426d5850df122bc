//! Flags of `atedm generate`.

use std::path::PathBuf;

use clap::Args;

use super::{EngineArgs, PruneArgs, ReplayArgs, SampleArgs, parse};

/// Flags of `atedm generate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm generate --model sdxl-base --prompt \"a red fox in the snow\" \\\n    \
    --prune at-edm --prune-opt ratio=0.63,tau=15 --output fox.png"
)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    #[command(flatten)]
    pub(crate) replay: ReplayArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The output files of `generate`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// The picture
    #[arg(long, short, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Also write the final latents, before the VAE's scaling: one f32 tensor `latents [B,4,h,w]`
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) save_latents: Option<PathBuf>,
    /// Every N steps, write what the picture becomes beside it: OUT.preview-0010.png after ten steps, and so on
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) preview: Option<usize>,
    /// With --preview: decode previews with this autoencoder, such as TAESDXL, as --vae takes it [default: a linear
    /// projection, one pixel for each latent]
    #[arg(long, value_name = "DIR|FILE", requires = "preview")]
    pub(crate) preview_vae: Option<PathBuf>,
    /// Leave the prompt and the settings out of the picture's metadata
    #[arg(long)]
    pub(crate) no_metadata: bool,
    /// Show no progress bar and no summary
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
