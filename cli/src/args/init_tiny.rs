//! Flags of `atedm init-tiny`.

use std::path::PathBuf;

use clap::Args;

use super::parse;

/// Flags of `atedm init-tiny`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm init-tiny tiny && atedm generate --model tiny --prompt \"a red fox\" --output fox.png"
)]
pub(crate) struct InitTinyArgs {
    /// Folder to write; must be new or empty
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Seed of the weights; the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}
