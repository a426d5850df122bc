//! Tests the checks of the backend suite: each of many broken backends must fail the check that is meant for it. A
//! broken backend is the reference with one wrong operation. The device carries the fault.

// helpers outside `#[test]` functions are tests too
#![allow(clippy::unwrap_used)]

mod faults;
mod nn;
mod tensor;

use atedm_conformance::backend::{checks, run_suite};
use atedm_conformance::report::{Outcome, Status};
use atedm_core::{Backend, DType};
use faults::FAULTS;
use tensor::{On, Wrapped};

/// The reference, optionally with a fault.
#[derive(Debug)]
struct Broken;

impl Backend for Broken {
    const NAME: &'static str = "broken";
    type Tensor = Wrapped;
}

#[test]
fn without_a_fault_everything_passes() {
    let report = run_suite::<Broken>(&On(None), &[DType::F32, DType::F64], &[]);
    assert!(report.is_conforming(), "{report}");
}

#[test]
fn every_fault_fails_the_checks_meant_for_it() {
    let all = checks::<Broken>();
    let mut missed = Vec::new();
    for &(fault, meant, dtype) in FAULTS {
        for &name in meant {
            let &(group, name, check) = all.iter().find(|(_, other, _)| *other == name).unwrap();
            let outcome = Outcome::of((group, name), dtype, &[], || check(&On(Some(fault)), dtype));
            if outcome.status != Status::Failed {
                missed.push(format!("{fault:?} passes {name}"));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
