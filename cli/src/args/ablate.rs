//! Flags of `atedm ablate`.

use std::path::PathBuf;

use atedm_experiment::shard::Shard;
use clap::{Args, Subcommand};

use super::{EngineArgs, ModelArgs, parse};

/// Flags of `atedm ablate`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    mut_arg("model", |arg| arg.help("Checkpoint that replaces the configuration's; without either, the built-in model makes the images")),
    after_help = "Examples:\n  \
    atedm ablate fig10.toml --plan                        the points, their ratios and TFLOPs; no checkpoint needed\n  \
    atedm ablate fig10.toml --model sdxl-base --output fig10 --resume\n  \
    atedm ablate fig10.toml --model sdxl-base --output fig10 --shard 0/4\n  \
    atedm ablate merge fig10 --output fig10-all           all shards in one folder"
)]
pub(crate) struct AblateArgs {
    #[command(subcommand)]
    pub(crate) action: Option<AblateAction>,
    /// The configuration: prompts, sampling, and a grid of methods and options (docs: Ablations)
    #[arg(value_name = "FILE.toml", required = true)]
    pub(crate) file: Option<PathBuf>,
    /// Folder for images and results; must be new or empty unless --resume is given
    #[arg(long, short, value_name = "DIR", required_unless_present = "plan")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompts that replace the configuration's: .jsonl, a .csv or .tsv with a column caption or prompt, or lines of an
    /// id, a tab and a prompt; or a published set: drawbench:FILE, parti:FILE, mlperf-coco:FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shards: ShardArgs,
    /// Folder of another run: its images are copied instead of made where model, settings, prompt and seed are equal
    /// (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(crate) take_from: Vec<PathBuf>,
    /// Only show the points, with their ratios and TFLOPs. Without a model these are for SD-XL base; `--model
    /// atedm-shapes` names the built-in one
    #[arg(long)]
    pub(crate) plan: bool,
    /// With --plan: print JSON
    #[arg(long, requires = "plan")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Show no progress and no lines about finished images
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Which part of a run this process makes. These flags belong to `ablate` and `eval export`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShardArgs {
    /// Continue in a folder with results, or start a new one; finished images are not made again
    #[arg(long)]
    pub(crate) resume: bool,
    /// Make only share m of n of the prompts or captions, with m from 0, in the folder shard-m-of-n; 0/1 is everything.
    /// Default: from SLURM_ARRAY_TASK_ID and _COUNT, RANK and WORLD_SIZE, or JOB_COMPLETION_INDEX and --shards
    #[arg(long, value_name = "m/n")]
    pub(crate) shard: Option<Shard>,
    /// Number of shards, for a scheduler that sets only the index (a Kubernetes Job's completions)
    #[arg(long, value_name = "N", value_parser = parse::positive, conflicts_with = "shard", allow_negative_numbers = true)]
    pub(crate) shards: Option<usize>,
}

/// Subcommands of `ablate`.
#[derive(Debug, Subcommand)]
pub(crate) enum AblateAction {
    /// Make one folder of many, after checking that every image exists exactly once
    Merge(MergeArgs),
}

/// Flags of `atedm ablate merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Folders of one run; a folder with shards means its shards
    #[arg(value_name = "DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// The new folder; images are linked if the file system can, else copied
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Also write results.parquet (needs the cargo feature parquet)
    #[arg(long)]
    pub(crate) parquet: bool,
}
