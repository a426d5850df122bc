//! The pruning method, and files of its masks.

use std::path::PathBuf;

use clap::Args;

/// The pruning method.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pruning")]
pub(crate) struct PruneArgs {
    /// Method: none, at-edm, at-edm-dagger, at-edm-fast, at-edm-dagger-fast, at-edm-best, at-edm-a … at-edm-d, tome-c and other
    /// merging, a plugin's name, or several joined by +, outer first [default: none; at-edm for masks]
    #[arg(long, value_name = "NAME")]
    pub(crate) prune: Option<String>,
    /// The method's options: ratio=0.63,tau=30%,prune_point=before_ff,levels=1+2 (repeatable; a.b=1 sets a table's entry)
    #[arg(long, value_name = "KEY=VALUE,…", action = clap::ArgAction::Append, long_help = PRUNE_OPT_HELP)]
    pub(crate) prune_opt: Vec<String>,
    /// Method and options from a TOML file: `method = "at-edm"` and one line per option; --prune-opt wins. `method =
    /// ["a", "b"]` is `a+b`, with the options of each in a table of its name
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) prune_config: Option<PathBuf>,
}

/// Mask files to read and to write.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Pruning")]
pub(crate) struct ReplayArgs {
    /// Write scores, kept sets and votes of every site and step
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) masks_out: Option<PathBuf>,
    /// Take the kept sets from a file of --masks-out, without scoring
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) masks_in: Option<PathBuf>,
}

/// Every option of AT-EDM. The first value is the default.
pub(super) const PRUNE_OPT_HELP: &str = "\
The method's options, as key=value,key=value,… (repeatable; a.b=1 sets entry b of table a, 1+2 is a list).
Of methods joined by + each takes its own: --prune todo-sdxl+at-edm --prune-opt at-edm.levels=2,at-edm.ratio=0.5.
AT-EDM takes, its default first:
  ratio=0.63            share of tokens removed; or budget_tflops=4.1 a U-Net evaluation, or 80% of the whole model's
  schedule=prune-less   | prune-more | constant | table (with schedule_file=FILE)
  tau=30%               early steps, as a share or a number (15)
  prune_point=after_ff  | before_ff
  prune_layers=0        | 0+4 …: the layers that prune
  protect=none          | mask: prune no token that --mask-image paints again
  levels=all            | deepest | 1+2 …: the resolution levels that are pruned
  score=self            | cross: whose attention votes
  scorer=page-rank      | column-mean | value-norm | token-norm | random
  max_iterations=5, epsilon=1e-4, damping=0, norm=l1 | l2
  cross_vote=entropy    | plain | hard: Eq. 1 and its variants, with score=cross
  heads=rms             | mean | max
  selector=top-k        | sample: draws tokens by their scores (selector.temperature=1)
  recovery=similarity   | soft (recovery.k=4, recovery.temperature=1) | update (recovery.changes=soft | bicubic)
                        | direct | bicubic | zero
  guidance=per_row      | cond | mean: whose scores decide in the two halves of guidance
  keep_multiple=1       kept counts are rounded up to a multiple of this";
