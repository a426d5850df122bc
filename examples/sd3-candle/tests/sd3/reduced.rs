//! What the added lines are worth: how many they are, that they change nothing when nothing is reduced, and that AT-EDM and
//! ToMe do what a reference in float64 does.

use crate::cases::{Cases, STEP, TOLERANCE, added, assert_same, build};
use crate::fixture::{Fixture, folder};
use atedm_candle::CandleTensor;
use atedm_core::plugin::{TokenReducer, Unpruned};
use candle_core::{Result, Tensor};
use example_sd3_candle::{plain, reduced};
use serde_json::json;

fn run(fixture: &Fixture, method: &mut dyn TokenReducer<CandleTensor>) -> Result<Tensor> {
    reduced::forward(&fixture.model, &fixture.inputs, method, &STEP)
}

#[test]
fn at_most_twenty_five_lines_are_added() {
    let lines = added(include_str!("../../src/plain.rs"), include_str!("../../src/reduced.rs"));
    println!("{lines} lines added to the forward pass");
    assert!((1..=25).contains(&lines), "{lines} lines");
}

#[test]
fn without_reduction_nothing_changes() -> Result<()> {
    let fixture = Fixture::read()?;
    let before = plain::forward(&fixture.model, &fixture.inputs)?;
    assert_same(&run(&fixture, &mut Unpruned)?, &before, "none")?;
    for name in ["at-edm", "tome"] {
        let mut method = build(name, &json!({"ratio": 0.0}), 2, None);
        assert_same(&run(&fixture, &mut *method)?, &before, name)?;
    }
    Ok(())
}

#[test]
fn every_case_keeps_and_computes_what_the_reference_does() -> Result<()> {
    let (fixture, cases) = (Fixture::read()?, Cases::read(&folder())?);
    for case in &cases.all {
        let distance = cases.run(case, |method| run(&fixture, &mut **method))?;
        println!("{}: relative L2 distance from the reference {distance:.1e}", case.name);
        assert!(distance <= TOLERANCE, "{}: {distance:e}", case.name);
    }
    assert!(cases.all.iter().any(|case| case.method == "at-edm"));
    assert!(cases.all.iter().any(|case| case.method == "tome"));
    Ok(())
}
