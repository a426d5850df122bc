//! The program `atedm` with one more method.

use std::process::ExitCode;

use example_own_method::Mine;

fn main() -> ExitCode {
    atedm::main_with(Mine)
}
