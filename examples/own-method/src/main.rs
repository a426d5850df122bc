//! The program with one method more.

use std::process::ExitCode;

use example_own_method::Mine;

fn main() -> ExitCode {
    atedm::main_with(Mine)
}
