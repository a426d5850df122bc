//! Flags of `atedm compare`.

use std::path::PathBuf;

use clap::Args;

use super::{EngineArgs, SampleArgs, parse};

/// Flags of `atedm compare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm compare --model sdxl-base --prompt \"a red fox\" --prompt \"a lighthouse\" \\\n    \
    --methods at-edm,at-edm:recovery=zero,tome-c --output sheet.png"
)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    /// Make each prompt with each of these seeds; replaces --seed
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = parse::seed, conflicts_with_all = ["seed", "latents"], help_heading = "Image")]
    pub(crate) seeds: Vec<u64>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Methods, each with options if you like: at-edm,at-edm:ratio=0.5,tau=15,tome-c. The unpruned model is always the
    /// first column
    #[arg(long, value_name = "NAME[:KEY=VALUE,…],…", required = true, help_heading = "Pruning")]
    pub(crate) methods: Vec<String>,
    /// The contact sheet: one row per prompt, one column per method
    #[arg(long, short, value_name = "OUT.png", help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Longer side of each picture on the sheet, in pixels
    #[arg(long, value_name = "PIXELS", default_value = "384", value_parser = parse::positive, allow_negative_numbers = true, help_heading = "Output")]
    pub(crate) cell: usize,
    /// Print the table as JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Show no progress bar
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
}
