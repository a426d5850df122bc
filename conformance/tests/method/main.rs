//! Tests the checks of the method suite: each of many broken methods must fail the check that is meant for it.

// helpers outside `#[test]` functions are tests too
#![allow(clippy::unwrap_used)]

mod faults;
mod picked;
mod reusing;
mod stacked;
mod toy;

use atedm_conformance::method::{Subject, checks, run_suite};
use atedm_conformance::report::{Outcome, Status};
use atedm_core::DType;
use atedm_core::plugin::{NestId, Unpruned};
use atedm_core::reference::{NdDevice, Reference64};
use faults::{FAULTS, Fault, REUSE_FAULTS};
use reusing::Reusing;
use toy::{Toy, counts};

fn subject(fault: Option<Fault>) -> Subject<Reference64> {
    Subject::new("toy", (NdDevice, DType::F64), move || Ok(Box::new(Toy::new(false, fault))))
        .with_idle(move || Ok(Box::new(Toy::new(true, fault))))
        .with_counts(move |block, _| Some(counts(block, fault)))
}

fn reusing(fault: Option<Fault>) -> Subject<Reference64> {
    Subject::new("reusing", (NdDevice, DType::F64), move || Ok(Box::new(Reusing::new(fault))))
        .with_idle(|| Ok(Box::new(Unpruned)))
        .with_counts(|block, step| Some(reusing::counts(block, step.index)))
        .with_replaced(reusing::replaced)
        .with_guidance(reusing::guided)
}

#[test]
fn without_a_fault_everything_passes() {
    for subject in [subject(None).with_replaced(|_| None).with_guidance(|_| true), reusing(None)] {
        let report = run_suite(&subject, &[]);
        assert!(report.is_conforming(), "{report}");
        assert!(report.outcomes.iter().all(|outcome| outcome.status == Status::Passed), "{report}");
    }
}

/// The faults that pass the check meant for them.
fn missed(faults: &[(Fault, &str)], subject: impl Fn(Option<Fault>) -> Subject<Reference64>) -> Vec<String> {
    let all = checks::<Reference64>();
    let mut missed = Vec::new();
    for &(fault, meant) in faults {
        let &(name, check) = all.iter().find(|(name, _)| *name == meant).unwrap();
        let subject = subject(Some(fault));
        let outcome = Outcome::of(("method", name), DType::F64, &[], || check(&subject));
        if outcome.status != Status::Failed {
            missed.push(format!("{fault:?} passes {name}"));
        }
    }
    missed
}

#[test]
fn every_fault_fails_the_check_meant_for_it() {
    let missed = [missed(FAULTS, subject), missed(REUSE_FAULTS, reusing)].concat();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_nest_that_was_not_planned_is_found() {
    let subject = reusing(None).with_replaced(|step| (step.index == 1).then_some(NestId(2)));
    let report = run_suite(&subject, &[]);
    let failed: Vec<&str> =
        report.outcomes.iter().filter(|o| o.status == Status::Failed).map(|o| o.check.as_str()).collect();
    assert_eq!(failed, ["nests_are_those_planned"], "{report}");
}

/// Checks of things that a subject does not describe are skipped, and the report says so.
#[test]
fn a_method_without_counts_is_not_held_to_any() {
    let bare = Subject::<Reference64>::new("whole", (NdDevice, DType::F64), || Ok(Box::new(Unpruned)));
    let report = run_suite(&bare, &[]);
    let spared: Vec<&str> = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.status == Status::NotApplicable)
        .map(|outcome| outcome.check.as_str())
        .collect();
    let bound = [
        "asked_for_nothing_it_does_nothing",
        "counts_are_those_planned",
        "nests_are_those_planned",
        "guidance_ends_as_planned",
    ];
    assert_eq!(spared, bound);
    assert!(report.is_conforming(), "{report}");
}
