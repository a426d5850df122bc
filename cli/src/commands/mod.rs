//! One file a command.

mod ablate;
mod bench;
mod compare;
mod eval;
mod flops;
mod generate;
mod init_tiny;
mod inspect;
mod masks;
mod report;
mod scenes;
#[cfg(feature = "train")]
mod train;

use std::io::Write;

use crate::Extension;
use crate::args::Command;
use crate::failure::{Failure, Outcome};
use crate::{tell, threads};

/// Runs a command.
pub(crate) fn run(mut command: Command, extension: &impl Extension) -> Outcome {
    if let Some(engine) = command.engine() {
        threads::settle(engine);
    }
    match command {
        Command::Generate(args) => generate::run(&args, extension),
        Command::Inspect(args) => inspect::run(&args, extension),
        Command::Bench(args) => bench::run(&args, extension),
        Command::Flops(args) => flops::run(&args, extension),
        Command::Masks(args) => masks::run(&args, extension),
        Command::Compare(args) => compare::run(&args, extension),
        Command::Ablate(args) => ablate::run(&args, extension),
        Command::Eval(args) => eval::run(&args, extension),
        Command::Report(args) => report::run(&args),
        Command::Scenes(args) => scenes::run(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(&args),
        Command::InitTiny(args) => init_tiny::run(&args),
    }
}

/// A command's answer, on the standard output stream, harmless to a terminal.
fn print(text: &str) -> Outcome {
    match writeln!(std::io::stdout(), "{}", tell::harmless(text)) {
        // Nobody reads on (a pager was closed): not a failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::run(format!("standard output: {error}"))),
    }
}
