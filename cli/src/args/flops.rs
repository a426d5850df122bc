//! Flags of `atedm flops`.

use std::path::PathBuf;

use atedm_experiment::Budget;
use clap::Args;

use super::prune::PRUNE_OPT_HELP;
use super::{ModelArgs, SizeArgs, parse};

/// Help of `--model`.
const MODEL_HELP: &str = "\
    Checkpoint: a diffusers folder (only its configurations are read), a single file or a hub id; atedm-shapes is the \
    built-in model [default: SD-XL base 1.0's configuration]";

/// Flags of `atedm flops`.
#[derive(Debug, Args)]
#[command(mut_arg("model", |arg| arg.help(MODEL_HELP)), after_help = "Examples:\n  \
    atedm flops                                                    SD-XL base at 1024 px, the paper's AT-EDM and AT-EDM†\n  \
    atedm flops --prune at-edm-a,at-edm-b,at-edm-c,at-edm-d        the paper's Table 1\n  \
    atedm flops --prune at-edm --prune-opt prune_point=before_ff --budget 4.1\n  \
    atedm flops --model my-sdxl --width 768 --height 1024 --json")]
pub(crate) struct FlopsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Denoising steps of the schedule for the mean
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// Methods, one row each [default: at-edm and at-edm-dagger, each with both prune points]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', help_heading = "Pruning")]
    pub(crate) prune: Vec<String>,
    /// Options of every method: ratio=0.63,tau=30%,prune_point=before_ff (repeatable)
    #[arg(long, value_name = "KEY=VALUE,…", action = clap::ArgAction::Append, long_help = PRUNE_OPT_HELP)]
    #[arg(help_heading = "Pruning")]
    pub(crate) prune_opt: Vec<String>,
    /// Method and options from a TOML file (repeatable, one row each); --prune-opt wins
    #[arg(long, value_name = "FILE.toml", help_heading = "Pruning")]
    pub(crate) prune_config: Vec<PathBuf>,
    /// Solve every method's ratio for this mean, in TFLOP per U-Net evaluation, or as a share of the whole model's such as 80%
    #[arg(long, value_name = "TFLOP", value_parser = parse::budget, allow_negative_numbers = true)]
    #[arg(help_heading = "Pruning")]
    pub(crate) budget: Option<Budget>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
