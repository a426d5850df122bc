//! What a method must do over its runs.

use atedm_core::plugin::{TokenReducer, Unpruned};
use atedm_core::{Backend, Result};
use proptest::prelude::Strategy;

use super::Subject;
use super::commands::{Command, Picture, cut_lives, lives, pictures};
use super::machine::{Evaluation, Played};
use super::reductions::evaluations;
use crate::host::Array;
use crate::random::forall;
use crate::tolerance::{assert_chain_arrays, relative_l2};

/// Evaluations of the run that is looked at.
const LOOKED_AT: usize = 3;

fn finished(played: Played) -> Result<Played> {
    match played.failure {
        Some(failure) => Err(failure),
        None => Ok(played),
    }
}

/// Panics unless the same evaluations gave the same, bit by bit.
fn assert_same(got: &[Evaluation], expected: &[Evaluation], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: evaluations");
    for (got, expected) in got.iter().zip(expected) {
        let step = expected.step.index;
        for ((got, expected), (block, ..)) in got.outputs.iter().zip(&expected.outputs).zip(&expected.blocks)
        {
            assert_eq!(got.shape, expected.shape, "{what}: {block} at step {step}");
            let off = relative_l2(&got.data, &expected.data);
            assert!(got == expected, "{what}: {block} at step {step} differs by {off:.1e}");
        }
    }
}

/// Two methods built alike give the same for the same run, bit by bit.
pub fn equal_runs_are_equal<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(lives(), |life| {
        let [once, again] = [subject.play(&machine, &life)?, subject.play(&machine, &life)?];
        let (once, again) = (finished(once)?, finished(again)?);
        assert_same(&again.evaluations, &once.evaluations, "again");
        Ok(())
    });
    Ok(())
}

/// An image is made alike alone and beside another.
pub fn images_do_not_depend_on_their_batch<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let pairs = pictures().prop_map(|picture| Picture { images: vec![0, 1], ..picture });
    forall(pairs, |picture| {
        let together = finished(subject.play(&machine, &evaluations(&picture, LOOKED_AT))?)?;
        for (place, &image) in picture.images.iter().enumerate() {
            let single = Picture { images: vec![image], ..picture.clone() };
            let alone = finished(subject.play(&machine, &evaluations(&single, LOOKED_AT))?)?;
            for (alone, together) in alone.evaluations.iter().zip(&together.evaluations) {
                for (i, (alone, together)) in alone.outputs.iter().zip(&together.outputs).enumerate() {
                    let rows: Vec<usize> = (0..alone.shape[0]).map(|half| 2 * half + place).collect();
                    let mine = Array::from_fn(&alone.shape, |at| together.at(&[rows[at[0]], at[1], at[2]]));
                    let what = format!("image {image} beside another, block {i}");
                    assert_chain_arrays(&mine, alone, subject.dtype, &what);
                }
            }
        }
        Ok(())
    });
    Ok(())
}

/// A method that is asked to remove nothing gives the whole blocks, bit by bit.
pub fn asked_for_nothing_it_does_nothing<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let Some(idle) = &subject.idle else { return Ok(()) };
    forall(lives(), |life| {
        let got = finished(machine.play(idle()?.as_mut(), &life))?;
        let whole: &mut dyn TokenReducer<_> = &mut Unpruned;
        let expected = finished(machine.play(whole, &life))?;
        assert_same(&got.evaluations, &expected.evaluations, "asked for nothing");
        Ok(())
    });
    Ok(())
}

/// The last run of a life is as if it were the first.
fn assert_last_run_is_alone<B: Backend>(
    subject: &Subject<B>,
    before: impl Strategy<Value = Vec<Command>>,
    what: &str,
) -> Result<()> {
    let machine = subject.machine()?;
    forall((before, pictures()), |(before, picture)| {
        let run = evaluations(&picture, LOOKED_AT);
        let after = finished(subject.play(&machine, &[before, run.clone()].concat())?)?;
        let alone = finished(subject.play(&machine, &run)?)?;
        assert_same(after.last_run(), alone.last_run(), what);
        Ok(())
    });
    Ok(())
}

/// A run gives the same, bit by bit, whatever the method did before.
pub fn a_run_forgets_the_runs_before<B: Backend>(subject: &Subject<B>) -> Result<()> {
    assert_last_run_is_alone(subject, lives(), "after other runs")
}

/// A run gives the same, bit by bit, after one that failed in the middle of a block.
pub fn a_cancelled_run_leaves_nothing<B: Backend>(subject: &Subject<B>) -> Result<()> {
    assert_last_run_is_alone(subject, cut_lives(), "after a cancelled run")
}

/// Every sublayer runs on as many tokens as were planned.
pub fn counts_are_those_planned<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let Some(counts) = &subject.counts else { return Ok(()) };
    forall(lives(), |life| {
        let played = finished(subject.play(&machine, &life)?)?;
        for evaluation in &played.evaluations {
            let (step, total) = (evaluation.step.index, evaluation.step.total);
            for &(block, depth, grid) in &evaluation.blocks {
                let Some(planned) = counts(block, depth, grid, step, total) else { continue };
                let what = format!("{block} on {grid:?} at step {step} of {total}");
                assert_eq!(evaluation.trace[&block], planned, "{what}: what runs, and what was planned");
            }
        }
        Ok(())
    });
    Ok(())
}
