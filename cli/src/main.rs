//! The program `atedm` with only the built-in plugins. A program with its own plugins calls [`atedm::main_with`] in the
//! same way.

use std::process::ExitCode;

fn main() -> ExitCode {
    atedm::main_with(())
}
