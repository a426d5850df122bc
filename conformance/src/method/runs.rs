//! What a method must do over its runs.

use atedm_core::plugin::{BlockShape, LayerTokens, NestId, StepOf, TokenReducer, Unpruned};
use atedm_core::{Backend, DType, Result};
use proptest::prelude::Strategy;

use super::Subject;
use super::commands::{Command, Picture, cut_lives, lives, pictures};
use super::machine::{Evaluation, Machine, Played};
use super::reductions::evaluations;
use crate::random::{RUNS, forall};
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
        for ((got, expected), block) in got.outputs.iter().zip(&expected.outputs).zip(&expected.blocks) {
            for (row, expected) in expected {
                let what = format!("{what}: {row:?} in {} at step {step}", block.id);
                let off = relative_l2(&got[row].data, &expected.data);
                assert!(got[row] == *expected, "{what} differs by {off:.1e}");
            }
        }
    }
}

/// Panics unless the rows of `alone` are those of `together`, up to the rounding of a chain of operations.
fn assert_rows(alone: &[Evaluation], together: &[Evaluation], dtype: DType, what: &str) {
    assert_eq!(alone.len(), together.len(), "{what}: evaluations");
    for (alone, together) in alone.iter().zip(together) {
        let step = alone.step.index;
        for ((alone, together), block) in alone.outputs.iter().zip(&together.outputs).zip(&alone.blocks) {
            for (row, alone) in alone {
                let what = format!("{what}: {row:?} in {} at step {step}", block.id);
                assert_chain_arrays(&together[row], alone, dtype, &what);
            }
        }
    }
}

/// Two methods built alike give the same for the same run, bit by bit.
pub fn equal_runs_are_equal<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(RUNS, lives(), |life| {
        let [once, again] = [subject.play(&machine, &life)?, subject.play(&machine, &life)?];
        let (once, again) = (finished(once)?, finished(again)?);
        assert_same(&again.evaluations, &once.evaluations, "again");
        Ok(())
    });
    Ok(())
}

/// Runs of two images.
fn pairs() -> impl Strategy<Value = Picture> {
    pictures().prop_map(|picture| Picture { images: vec![0, 1], ..picture })
}

/// An image is made alike alone and beside another.
pub fn images_do_not_depend_on_their_batch<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(RUNS, pairs(), |picture| {
        let together = finished(subject.play(&machine, &evaluations(&picture, LOOKED_AT))?)?;
        for &image in &picture.images {
            let single = Picture { images: vec![image], ..picture.clone() };
            let alone = finished(subject.play(&machine, &evaluations(&single, LOOKED_AT))?)?;
            let what = format!("image {image} alone and beside another");
            assert_rows(&alone.evaluations, &together.evaluations, subject.dtype, &what);
        }
        Ok(())
    });
    Ok(())
}

/// Images of one run may be evaluated one after the other at every step: what is remembered belongs to an image, not to
/// a place in the batch.
pub fn images_may_take_turns<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(RUNS, pairs(), |picture| {
        let together = finished(subject.play(&machine, &evaluations(&picture, LOOKED_AT))?)?;
        let in_turn = Picture { in_turn: true, ..picture };
        let in_turn = finished(subject.play(&machine, &evaluations(&in_turn, LOOKED_AT))?)?;
        assert_rows(&in_turn.evaluations, &together.evaluations, subject.dtype, "in turn and together");
        Ok(())
    });
    Ok(())
}

/// A method that is asked to remove nothing gives the whole blocks, bit by bit.
pub fn asked_for_nothing_it_does_nothing<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let Some(idle) = &subject.idle else { return Ok(()) };
    forall(RUNS, lives(), |life| {
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
    forall(RUNS, (before, pictures()), |(before, picture)| {
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

/// The plan where a run starts late: a sublayer whose output was to be used again may run if there is none yet, and others
/// may be used again by a method that counts from the run's first step. Where other attentions run than planned, a method of
/// a stack that reduces by their maps may leave whole what was to be reduced, or the other way round.
fn run_where_nothing_is_kept(
    ran: &[LayerTokens],
    planned: Vec<LayerTokens>,
    block: &BlockShape,
) -> Vec<LayerTokens> {
    if ran.len() != planned.len() {
        return planned;
    }
    let given = |layers: &[LayerTokens]| -> Vec<(bool, bool)> {
        layers.iter().map(|layer| (layer.self_attention == 0, layer.cross_attention == 0)).collect()
    };
    let (whole, other_maps) = (block.grid.tokens(), given(ran) != given(&planned));
    let or = |planned: usize, ran: usize| match (planned, ran) {
        (0, ran) | (_, ran @ 0) => ran,
        (planned, ran) if other_maps && (planned == whole || ran == whole) => ran,
        (planned, _) => planned,
    };
    let layer = |(planned, ran): (LayerTokens, &LayerTokens)| LayerTokens {
        self_attention: or(planned.self_attention, ran.self_attention),
        self_keys: or(planned.self_keys, ran.self_keys),
        cross_attention: or(planned.cross_attention, ran.cross_attention),
        feed_forward: or(planned.feed_forward, ran.feed_forward),
    };
    planned.into_iter().zip(ran).map(layer).collect()
}

/// Every sublayer runs on as many tokens as were planned, in a U-Net's blocks and in a transformer's.
pub fn counts_are_those_planned<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let transformer = Machine::<B>::of_transformer(&subject.device, subject.dtype)?;
    let Some(counts) = &subject.counts else { return Ok(()) };
    let check = |evaluations: &[Evaluation]| {
        for evaluation in evaluations {
            let step = StepOf { index: evaluation.step.index, total: evaluation.step.total };
            let of_run = |other: &&Evaluation| other.run == evaluation.run;
            let late = evaluations.iter().find(of_run).is_some_and(|first| first.step.index > 0);
            for (index, block) in evaluation.blocks.iter().enumerate() {
                // a block does not run where a nest that holds it does not
                if evaluation.replaced.iter().any(|nest| nest.contains(NestId(index))) {
                    continue;
                }
                let Some(planned) = counts(block, step) else { continue };
                let ran = &evaluation.trace[&block.id];
                let planned = if late { run_where_nothing_is_kept(ran, planned, block) } else { planned };
                let what =
                    format!("{} on {:?} at step {} of {}", block.id, block.grid, step.index, step.total);
                assert_eq!(*ran, planned, "{what}: what runs, and what was planned");
            }
        }
    };
    let machine = subject.machine()?;
    forall(RUNS, lives(), |life| {
        check(&finished(subject.play(&machine, &life)?)?.evaluations);
        check(&subject.play(&transformer, &life)?.unless_refused()?.0);
        Ok(())
    });
    Ok(())
}

/// The nests that do not run are those planned, in runs of the full schedule.
pub fn nests_are_those_planned<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let Some(replaced) = &subject.replaced else { return Ok(()) };
    forall(RUNS, pictures(), |picture| {
        let picture = Picture { first: 0, ..picture };
        let count = picture.steps * picture.evaluations;
        let played = finished(subject.play(&machine, &evaluations(&picture, count))?)?;
        for evaluation in &played.evaluations {
            let (index, total) = (evaluation.step.index, evaluation.step.total);
            let planned: Vec<NestId> = replaced(StepOf { index, total }).into_iter().collect();
            let got: Vec<NestId> = evaluation.replaced.iter().copied().collect();
            assert_eq!(got, planned, "step {index} of {total}: what does not run, and what was planned");
        }
        Ok(())
    });
    Ok(())
}

/// Guidance ends at the steps planned, in guided runs of the full schedule.
pub fn guidance_ends_as_planned<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    let Some(guidance) = &subject.guidance else { return Ok(()) };
    forall(RUNS, pictures(), |picture| {
        let picture = Picture { first: 0, guided: true, ..picture };
        let count = picture.steps * picture.evaluations;
        let played = finished(subject.play(&machine, &evaluations(&picture, count))?)?;
        for evaluation in &played.evaluations {
            let (index, total) = (evaluation.step.index, evaluation.step.total);
            let (planned, got) = (guidance(StepOf { index, total }), evaluation.guided);
            assert_eq!(got, planned, "step {index} of {total}: whether it is guided, and what was planned");
        }
        Ok(())
    });
    Ok(())
}
