//! Flags of `atedm eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::sample::RNG_DTYPE_HELP;
use super::{DTypeKind, EngineArgs, ModelArgs, PruneArgs, RngName, ShardArgs, SizeArgs, TextArgs, parse};

/// Flags of `atedm eval`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub(crate) action: EvalAction,
}

/// Subcommands of `eval`.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalAction {
    /// Make an image for each caption, in folders that pytorch-fid, clean-fid and open_clip read
    Export(Box<ExportArgs>),
}

/// Flags of `atedm eval export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm eval export --captions captions_val2017.json --limit 5000 --model sdxl-base --width 1024 --height 1024 \\\n    \
    --scheduler euler-sgm --prune at-edm --prune-opt ratio=0.63 --output at-edm\n  \
    pytorch_fid reals at-edm/images/at-edm                (docs: Evaluation)"
)]
pub(crate) struct ExportArgs {
    /// Captions: COCO's JSON (each image's first caption by annotation id), .jsonl, .csv or .tsv as in `atedm ablate`,
    /// a set such as parti:FILE, or any other file with one prompt per line
    #[arg(long, value_name = "FILE")]
    pub(crate) captions: PathBuf,
    /// Only the first N images of COCO by image id, or the first N lines
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) limit: Option<usize>,
    /// Folder for all results; must not contain another export
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// An ablation's configuration, for several methods or guidance scales at once; its prompts are ignored
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = [
        "prune", "prune_opt", "prune_config", "steps", "guidance_scale", "guidance_rescale", "scheduler", "negative_prompt", "prompt_syntax", "clip_skip", "seed", "width",
        "height", "rng", "rng_dtype", "vae_tiling",
    ])]
    pub(crate) grid: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    #[command(flatten)]
    pub(crate) sampling: ExportSampling,
    #[command(flatten)]
    pub(crate) shards: ShardArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Show no progress and no lines about finished images
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// The sampling of each image.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct ExportSampling {
    /// Denoising steps
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    /// Classifier-free guidance scale
    #[arg(long, value_name = "SCALE", default_value = "7", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Bring guided predictions to the deviation of the prompt's own, as in `atedm generate`
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse::share, allow_negative_numbers = true)]
    pub(crate) guidance_rescale: f64,
    /// Sampler, as in `atedm generate` [default: what the checkpoint's scheduler_config.json says]
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,
    /// Negative prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// The run's seed; each caption's seed depends only on it and on the caption's id
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// Generator of the noise
    #[arg(long, value_name = "NAME", default_value = "torch")]
    pub(crate) rng: RngName,
    #[arg(long, value_name = "TYPE", help = RNG_DTYPE_HELP)]
    pub(crate) rng_dtype: Option<DTypeKind>,
    /// Decode in overlapping tiles of this many pixels [512 if no number is given]
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "512", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) vae_tiling: Option<usize>,
}
