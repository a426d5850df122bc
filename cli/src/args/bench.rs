//! Flags of `atedm bench`.

use std::path::PathBuf;

use clap::Args;

use super::prune::PRUNE_OPT_HELP;
use super::{EngineArgs, ModelArgs, parse};

/// Help of `--model`.
const MODEL_HELP: &str = "\
    Checkpoint: a diffusers folder, a single file or a hub id; atedm-shapes is the built-in model \
    [default: SD-XL base's U-Net with generated weights]";

/// Flags of `atedm bench`.
#[derive(Debug, Args)]
#[command(mut_arg("model", |arg| arg.help(MODEL_HELP)), after_help = "Examples:\n  \
    atedm bench --backend tch --dtype bf16                         SD-XL's U-Net at 1024 px, whole and pruned\n  \
    atedm bench --backend tch --dtype bf16 --methods at-edm --unfused --json unfused.json\n  \
    atedm bench --model my-sdxl --size 512 --methods at-edm-fast,none --repeats 5\n\n\
    Without --model the U-Net is SD-XL base's with generated weights. Their attention maps are so even that votes would\n\
    converge early: then methods that stop at an epsilon cast all of their votes (epsilon=0).")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Use only --model's configuration, with generated weights (the weight files may be missing)
    #[arg(long, requires = "model")]
    pub(crate) generated: bool,
    /// Width and height in pixels [default: the model's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) size: Option<usize>,
    /// Rows of one U-Net evaluation; an even number stands for guided images of two rows each
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) batch: usize,
    /// Methods to time, in addition to the full model, each with options if you like: at-edm:ratio=0.5,tau=15,tome-c
    #[arg(long, value_name = "NAME[:KEY=VALUE,…],…", default_value = "at-edm-fast,at-edm-dagger-fast")]
    pub(crate) methods: Vec<String>,
    /// Options of every method (repeatable); those in --methods override them
    #[arg(long, value_name = "KEY=VALUE,…", action = clap::ArgAction::Append, long_help = PRUNE_OPT_HELP)]
    pub(crate) prune_opt: Vec<String>,
    /// Number of rounds; each runs the full model and every method once, and medians are shown
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) repeats: usize,
    /// Denoising steps of the schedule for the mean
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    /// Store every attention map, also in the full model (the paper's "w/o FO"): no fused attention
    #[arg(long)]
    pub(crate) unfused: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Before each round, wait for a line on the standard input, to take turns with another program
    #[arg(long)]
    pub(crate) paced: bool,
    /// Show no progress on the error stream
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
