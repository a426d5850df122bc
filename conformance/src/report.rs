//! The results of a suite as data. A test asserts them, people read them, and programs read them as JSON.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atedm_core::{CONTRACT_VERSION, DType, Result};
use serde::{Deserialize, Serialize};

/// A check that is known to fail. It is data, so that it stays visible and is removed when its cause is.
#[derive(Debug, Clone, Copy)]
pub struct KnownFailure {
    /// The check's name.
    pub check: &'static str,
    /// The dtypes it fails for.
    pub dtypes: &'static [DType],
    /// The reason, and where it is tracked.
    pub reason: &'static str,
}

/// The status of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It failed, and is listed among the known failures.
    KnownFailure,
    /// It passed, but is listed among the known failures.
    UnexpectedPass,
    /// The check does not apply to the subject.
    NotApplicable,
}

/// The outcome of one check in one dtype.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The check's group.
    pub group: String,
    /// The check's name.
    pub check: String,
    /// The dtype of the tensors.
    pub dtype: DType,
    /// The status.
    pub status: Status,
    /// The failure, in one line, or the reason of a known failure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl Outcome {
    /// Runs one check. An error or a panic fails it. A check that is listed in `known` is expected to fail.
    pub fn of(
        (group, check): (&str, &str),
        dtype: DType,
        known: &[KnownFailure],
        run: impl FnOnce() -> Result<()>,
    ) -> Self {
        let failure = failure(run);
        let listed = known.iter().find(|entry| entry.check == check && entry.dtypes.contains(&dtype));
        let (status, message) = match (failure, listed) {
            (None, None) => (Status::Passed, None),
            (Some(failure), None) => (Status::Failed, Some(failure)),
            (Some(failure), Some(entry)) => {
                (Status::KnownFailure, Some(format!("{} ({failure})", entry.reason)))
            }
            (None, Some(entry)) => {
                (Status::UnexpectedPass, Some(format!("take it off the list: {}", entry.reason)))
            }
        };
        Self { group: group.to_string(), check: check.to_string(), dtype, status, message }
    }

    /// A check that does not apply to the subject.
    pub(crate) fn not_applicable((group, check): (&str, &str), dtype: DType) -> Self {
        let (group, check) = (group.to_string(), check.to_string());
        Self { group, check, dtype, status: Status::NotApplicable, message: None }
    }

    /// Whether the outcome is the expected one.
    pub fn is_expected(&self) -> bool {
        !matches!(self.status, Status::Failed | Status::UnexpectedPass)
    }

    /// Prints a known failure. Panics unless the outcome is the expected one.
    ///
    /// # Panics
    /// If the outcome is not the expected one.
    pub fn assert(&self, subject: &str) {
        let Self { check, dtype, status, message, .. } = self;
        let message = message.as_deref().unwrap_or_default();
        match status {
            Status::Passed | Status::NotApplicable => {}
            Status::KnownFailure => println!("known failure of {subject} in {dtype}, {check}: {message}"),
            Status::Failed => panic!("{subject} fails {check} in {dtype}: {message}"),
            Status::UnexpectedPass => panic!("{subject} passes {check} in {dtype}: {message}"),
        }
    }
}

/// All results of a suite for one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[must_use = "a report that nobody reads hides what failed"]
pub struct Report {
    /// The version of the contract that was checked ([`CONTRACT_VERSION`]).
    pub contract: u32,
    /// `backend` or `method`.
    pub suite: String,
    /// The name of the backend or the method.
    pub subject: String,
    /// All outcomes, in the suite's order.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(suite: &str, subject: &str, outcomes: Vec<Outcome>) -> Self {
        Self { contract: CONTRACT_VERSION, suite: suite.into(), subject: subject.into(), outcomes }
    }

    /// Whether every outcome is the expected one.
    pub fn is_conforming(&self) -> bool {
        self.outcomes.iter().all(Outcome::is_expected)
    }

    /// The unexpected outcomes.
    pub fn faults(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| !outcome.is_expected())
    }
}

/// One line per fault, and a last line with the numbers.
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Outcome { group, check, dtype, message, .. } in self.faults() {
            writeln!(f, "{group}::{check} in {dtype}: {}", message.as_deref().unwrap_or_default())?;
        }
        let of = |status: Status| self.outcomes.iter().filter(|outcome| outcome.status == status).count();
        let (suite, subject, contract) = (&self.suite, &self.subject, self.contract);
        let (passed, known) = (of(Status::Passed), of(Status::KnownFailure));
        write!(
            f,
            "{suite} {subject}, contract {contract}: {passed} passed, {} failed, {known} known failures, {} not \
             applicable",
            self.faults().count(),
            of(Status::NotApplicable),
        )
    }
}

/// The failure of a check, if it fails.
fn failure(run: impl FnOnce() -> Result<()>) -> Option<String> {
    let text = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic),
    };
    Some(text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(check: &str, passes: bool) -> Outcome {
        let known = [KnownFailure { check: "listed", dtypes: &[DType::F32], reason: "an example" }];
        Outcome::of(("group", check), DType::F32, &known, || {
            assert!(passes, "as known");
            Ok(())
        })
    }

    #[test]
    fn known_failures_must_fail() {
        assert_eq!(outcome("other", true).status, Status::Passed);
        assert_eq!(outcome("other", false).status, Status::Failed);
        assert_eq!(outcome("listed", false).status, Status::KnownFailure);
        assert_eq!(outcome("listed", true).status, Status::UnexpectedPass);
    }

    #[test]
    fn a_report_is_read_back_and_counts() {
        let outcomes = vec![outcome("other", true), outcome("other", false), outcome("listed", false)];
        let report = Report::new("backend", "example", outcomes);
        assert!(!report.is_conforming());
        assert_eq!(report.faults().count(), 1);
        let json = serde_json::to_string(&report).unwrap();
        let head = format!(
            r#"{{"contract":{CONTRACT_VERSION},"suite":"backend","subject":"example","outcomes":[{{"group":"#
        );
        assert!(json.starts_with(&head), "{json}");
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back, report);
        let text = report.to_string();
        let last = format!(
            "backend example, contract {CONTRACT_VERSION}: 1 passed, 1 failed, 1 known failures, 0 not applicable"
        );
        assert_eq!(text.lines().last(), Some(last.as_str()), "{text}");
    }
}
