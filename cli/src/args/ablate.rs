//! `atedm ablate`.

use std::path::PathBuf;

use atedm_experiment::shard::Shard;
use clap::{Args, Subcommand};

use super::{EngineArgs, parse};

/// `atedm ablate`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    atedm ablate fig10.toml --plan                        the points, their ratios and TFLOPs; no checkpoint needed\n  \
    atedm ablate fig10.toml --model sdxl-base --output fig10 --resume\n  \
    atedm ablate fig10.toml --model sdxl-base --output fig10 --shard 0/4\n  \
    atedm ablate merge fig10 --output fig10-all           all shards in one folder"
)]
pub(crate) struct AblateArgs {
    #[command(subcommand)]
    pub(crate) action: Option<AblateAction>,
    /// What to run: prompts, sampling, and a grid of methods and options (docs: Ablations)
    #[arg(value_name = "FILE.toml", required = true)]
    pub(crate) file: Option<PathBuf>,
    /// Folder for images and results; must not exist, or be empty, unless --resume is given
    #[arg(long, short, value_name = "DIR", required_unless_present = "plan")]
    pub(crate) output: Option<PathBuf>,
    /// Checkpoint, instead of the configuration's; where neither names one, the built-in model makes the images
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    /// Prompts, instead of the configuration's: .jsonl, a .csv or .tsv with a column caption or prompt, or lines of an id, a tab
    /// and a prompt
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shards: ShardArgs,
    /// Only show the points, with their ratios and TFLOPs (SD-XL base's where no model is named; `--model atedm-shapes`
    /// names the built-in one)
    #[arg(long)]
    pub(crate) plan: bool,
    /// With --plan: as JSON
    #[arg(long, requires = "plan")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// No progress and no lines about finished images
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What of a run is made: what is missing, by one machine of several. The flags of `ablate` and `eval export`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShardArgs {
    /// Go on with what is in the folder (or start, if it is not there): finished images are not made again
    #[arg(long)]
    pub(crate) resume: bool,
    /// Only share m of n of the prompts or captions, m from 0; into shard-m-of-n. Else taken from SLURM_ARRAY_TASK_ID
    /// and _COUNT, RANK and WORLD_SIZE, or JOB_COMPLETION_INDEX and --shards; 0/1 is everything
    #[arg(long, value_name = "m/n")]
    pub(crate) shard: Option<Shard>,
    /// How many shards there are, where the scheduler tells the index alone (a Kubernetes Job's completions)
    #[arg(long, value_name = "N", value_parser = parse::positive, conflicts_with = "shard", allow_negative_numbers = true)]
    pub(crate) shards: Option<usize>,
}

/// What else `ablate` does.
#[derive(Debug, Subcommand)]
pub(crate) enum AblateAction {
    /// Make one folder of many, after checking that every image is there, and only once
    Merge(MergeArgs),
}

/// `atedm ablate merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Folders of one run; a folder with shards in it stands for these
    #[arg(value_name = "DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// The new folder; images are linked where the file system can, else copied
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Also write results.parquet (needs the cargo feature parquet)
    #[arg(long)]
    pub(crate) parquet: bool,
}
