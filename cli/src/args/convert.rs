//! `atedm convert`.

use std::path::PathBuf;

use clap::Args;

/// `atedm convert`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm convert sd_xl_base_1.0.safetensors sdxl-base && atedm generate --model sdxl-base --prompt \"a red fox\" --output fox.png"
)]
pub(crate) struct ConvertArgs {
    /// The checkpoint: one safetensors file with the original names
    #[arg(value_name = "FILE.safetensors")]
    pub(crate) file: PathBuf,
    /// Folder to write; must not exist, or be empty
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Take configurations and tokenizers from this diffusers folder [default: configurations found from the file, and
    /// SD-XL's tokenizers]
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
}
