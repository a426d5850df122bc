//! `atedm eval`.

use std::path::PathBuf;

use atedm_sdxl::schedulers::SamplerChoice;
use clap::{Args, Subcommand};

use super::{DTypeKind, EngineArgs, MODEL_HELP, PruneArgs, RNG_DTYPE_HELP, RngName, ShardArgs, parse};

/// `atedm eval`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub(crate) action: EvalAction,
}

/// What `eval` does.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalAction {
    /// Make an image for each caption, in folders as pytorch-fid, clean-fid and open_clip read them
    Export(Box<ExportArgs>),
}

/// `atedm eval export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm eval export --captions captions_val2017.json --limit 5000 --model sdxl-base --width 1024 --height 1024 \\\n    \
    --scheduler euler-sgm --prune at-edm --prune-opt ratio=0.63 --output at-edm\n  \
    pytorch_fid reals at-edm/images/at-edm                (docs: Evaluation)"
)]
pub(crate) struct ExportArgs {
    /// Captions: COCO's JSON (of each image the first caption by annotation id), .jsonl, .csv or .tsv as `atedm ablate` reads
    /// them, or any other file with a prompt on each line
    #[arg(long, value_name = "FILE")]
    pub(crate) captions: PathBuf,
    /// Only the first N images of COCO by image id, or the first N lines
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) limit: Option<usize>,
    /// Folder for everything; must not hold another export
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    #[arg(long, value_name = "MODEL", help = MODEL_HELP)]
    pub(crate) model: Option<String>,
    /// An ablation's configuration for several methods or guidance scales at once; its prompts are not used
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = [
        "prune", "prune_opt", "prune_config", "steps", "guidance_scale", "scheduler", "negative_prompt", "seed", "width",
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
    /// No progress and no lines about finished images
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How each image is sampled.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct ExportSampling {
    /// Denoising steps
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    /// Classifier-free guidance
    #[arg(long, value_name = "SCALE", default_value = "7", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Sampler, as in `atedm generate` [default: what the checkpoint's scheduler_config.json says]
    #[arg(long, value_name = "NAME", value_parser = parse::scheduler)]
    pub(crate) scheduler: Option<SamplerChoice>,
    /// What to steer away from
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    /// The run's seed; each caption's own is made of it and of the caption's id, whatever else is in the run
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Pixels across [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,
    /// Pixels down [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,
    /// Generator of the noise
    #[arg(long, value_name = "NAME", default_value = "torch")]
    pub(crate) rng: RngName,
    #[arg(long, value_name = "TYPE", help = RNG_DTYPE_HELP)]
    pub(crate) rng_dtype: Option<DTypeKind>,
    /// Decode in overlapping tiles of this many pixels [512 if not given]
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "512", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) vae_tiling: Option<usize>,
}
