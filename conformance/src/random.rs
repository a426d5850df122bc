//! Random inputs for properties. Cases are drawn from a fixed seed. `PROPTEST_CASES` sets their number.

use atedm_core::{Error, Result};
use proptest::prelude::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Number of cases for a property of operations.
pub(crate) const OPERATIONS: u32 = 24;
/// Number of cases for a property of whole runs.
pub(crate) const RUNS: u32 = 12;

/// Runs `check` on `cases` values of `strategy`. A failure is reduced to a small input, which is reported.
///
/// # Panics
/// If a check fails.
pub(crate) fn forall<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value) -> Result<()>) {
    let default = Config { failure_persistence: None, ..Config::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    // enough to reduce a failing input, and at most seconds
    let mut runner = TestRunner::new_with_rng(Config { cases, max_shrink_iters: 128, ..default }, rng);
    let outcome = runner
        .run(&strategy, |value| check(value).map_err(|error: Error| TestCaseError::fail(error.to_string())));
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
