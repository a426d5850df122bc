//! The program with one scorer more.

use std::process::ExitCode;

use example_own_scorer::Mine;

fn main() -> ExitCode {
    atedm::main_with(Mine)
}
