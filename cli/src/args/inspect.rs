//! Flags of `atedm inspect`.

use clap::Args;

use super::{ModelArgs, PruneArgs, SizeArgs, parse};

/// Flags of `atedm inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm inspect --model sdxl-base --prune at-edm --prune-opt ratio=0.63 --width 1024 --height 1024"
)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Denoising steps of the schedule
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
