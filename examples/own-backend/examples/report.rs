//! The report of the suite on this backend: `cargo run -p example-own-backend --example report -- --format json`

use std::process::ExitCode;

use atedm_conformance::{backend, runner};
use atedm_core::DType;
use example_own_backend::{Host, Loops};

fn main() -> ExitCode {
    runner::main_with(|| vec![backend::run_suite::<Loops>(&Host, &[DType::F32], &[])])
}
