//! Flags of `atedm report`.

use std::path::PathBuf;

use clap::Args;

use super::parse;

/// Flags of `atedm report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  atedm report fig10                      writes fig10/report.html\n  \
    atedm report fig10 --output page.html --prompts-shown 12 --pixels 512")]
pub(crate) struct ReportArgs {
    /// Folder of an ablation, finished or not; its shards are included
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The page [default: DIR/report.html]
    #[arg(long, short, value_name = "FILE.html")]
    pub(crate) output: Option<PathBuf>,
    /// Show the images of this many prompts (the first with images); tables and curves always include all prompts
    #[arg(long, value_name = "N", default_value = "6", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) prompts_shown: usize,
    /// Show the images of the prompt with this id instead (repeatable)
    #[arg(long, value_name = "ID", conflicts_with = "prompts_shown")]
    pub(crate) prompt: Vec<String>,
    /// Longer side of the images in the page, in pixels; larger images are shrunk
    #[arg(long, value_name = "PIXELS", default_value = "320", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) pixels: usize,
    /// Print no message about the written page
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
