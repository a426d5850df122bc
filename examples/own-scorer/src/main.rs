//! The program `atedm` with one more scorer.

use std::process::ExitCode;

use example_own_scorer::Mine;

fn main() -> ExitCode {
    atedm::main_with(Mine)
}
