//! One file a command.

mod init_tiny;

use crate::Extension;
use crate::args::Command;
use crate::failure::Outcome;

/// Runs a command.
pub(crate) fn run(command: Command, extension: &impl Extension) -> Outcome {
    match command {
        Command::InitTiny(args) => init_tiny::run(&args),
        _ => Ok(()),
    }
}
