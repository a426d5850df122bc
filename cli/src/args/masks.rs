//! Flags of `atedm masks`.

use std::path::PathBuf;

use clap::Args;

use super::{EngineArgs, PruneArgs, SampleArgs, parse};

/// Flags of `atedm masks`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm masks --model sdxl-base --prompt \"a red fox in the snow\" --prune at-edm \\\n    \
    --steps-shown 0,15,30,49 --variance --output-dir fox-masks"
)]
pub(crate) struct MasksArgs {
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    /// Take the kept sets from a file of --masks-out, without scoring
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Pruning")]
    pub(crate) masks_in: Option<PathBuf>,
    /// Folder for the pictures: one per block and step, and contact-sheet.png
    #[arg(long, short, value_name = "DIR", help_heading = "Output")]
    pub(crate) output_dir: PathBuf,
    /// Steps to draw, counted from 0 [default: five, spread over the run]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = parse::step, help_heading = "Output")]
    pub(crate) steps_shown: Vec<usize>,
    /// Also draw variance.svg: the variance of the attention maps at every step (takes another pass over each map)
    #[arg(long, help_heading = "Output")]
    pub(crate) variance: bool,
    /// Show no progress bar and no summary
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
}
