//! Random inputs for properties. Cases are drawn from a fixed seed; `PROPTEST_CASES` sets how many.

use atedm_core::{Error, Result};
use proptest::prelude::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Runs `check` on values of `strategy`; a failure is shrunk to a small one and reported with its input.
///
/// # Panics
/// When a check fails.
pub(crate) fn forall<S: Strategy>(strategy: S, check: impl Fn(S::Value) -> Result<()>) {
    let default = Config { failure_persistence: None, ..Config::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 24 };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    // enough to make a failing input small, and no more than seconds
    let mut runner = TestRunner::new_with_rng(Config { cases, max_shrink_iters: 128, ..default }, rng);
    let outcome = runner
        .run(&strategy, |value| check(value).map_err(|error: Error| TestCaseError::fail(error.to_string())));
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
