//! The program `atedm` with nothing but what comes with it. A program with plugins of its own calls
//! [`atedm::main_with`] in the same way.

use std::process::ExitCode;

fn main() -> ExitCode {
    atedm::main_with(())
}
