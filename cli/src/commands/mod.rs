//! The commands, one file each.

mod ablate;
mod bench;
mod compare;
mod convert;
mod eval;
mod flops;
mod generate;
mod init_tiny;
mod inspect;
mod masks;
mod print;
mod report;
mod scenes;
#[cfg(feature = "train")]
mod train;

use crate::Extension;
use crate::args::Command;
use crate::failure::Outcome;
use crate::threads;

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
        Command::Convert(args) => convert::run(&args),
        Command::InitTiny(args) => init_tiny::run(&args),
    }
}
