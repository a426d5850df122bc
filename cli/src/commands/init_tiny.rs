//! `atedm init-tiny`.

use atedm_experiment::files::OutputDir;

use crate::args::InitTinyArgs;
use crate::failure::Outcome;
use crate::tell;
use crate::tiny;

/// Writes the tiny checkpoint.
pub(crate) fn run(args: &InitTinyArgs) -> Outcome {
    let dir = OutputDir::prepare(&args.dir)?.require_empty()?;
    dir.write(&tiny::files(args.seed)?)?;
    tell::line(format_args!("wrote {}: a tiny SD-XL, {}", dir.path().display(), tiny::NOTICE));
    Ok(())
}
