//! `atedm convert`: a single-file checkpoint as a diffusers folder.

use atedm_experiment::files::OutputDir;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};

use crate::args::ConvertArgs;
use crate::failure::{Failure, Outcome};
use crate::{describe, tell};

/// Writes the folder.
pub(crate) fn run(args: &ConvertArgs) -> Outcome {
    let dir = OutputDir::prepare(&args.dir)?.require_empty()?;
    let options = OpenOptions { config: args.config.clone(), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(&args.file, options).map_err(Failure::run)?;
    if !checkpoint.is_single_file() {
        return Err(Failure::file(&args.file, "expected a single safetensors file, got a folder"));
    }
    let parts = describe::parts(&checkpoint)?;
    checkpoint.write_folder(dir.path()).map_err(Failure::run)?;
    tell::line(format_args!("wrote {}", dir.path().display()));
    parts.iter().for_each(|(part, words)| tell::line(format_args!("  {part:<15} {words}")));
    Ok(())
}
